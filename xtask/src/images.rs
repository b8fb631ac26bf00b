// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Building the images that the machines boot, and the device process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::board::{Board, Image, Load};
use crate::command::{cargo, loudly, quietly, target};
use crate::toolchain::{prepare, tool};

/// Builds all images of `boards` and the device process; returns the path of the device process.
pub fn build_all(boards: &[&Board]) -> Result<PathBuf> {
    prepare()?;
    for board in boards {
        build_images(board)?;
    }
    loudly(cargo().args([
        "build",
        "--quiet",
        "-p",
        "tsm-devices",
        "--bin",
        "portcullis-dsm",
    ]))
    .context("the device process does not build")?;
    Ok(target().join("debug/portcullis-dsm"))
}

/// Builds the images of one board.
pub fn build_images(board: &Board) -> Result<()> {
    loudly(&mut compile(board, |_| true))
        .with_context(|| format!("the images of {} do not build", board.name))?;
    fs::create_dir_all(board.folder())?;
    for image in board.images {
        if !matches!(image.load, Load::Kernel) {
            flatten(&board.elf(image), &board.binary(image))?;
        }
    }
    Ok(())
}

/// Returns the build of the images that are `wanted`. All packages are named even so: cargo would
/// choose other features of what they share, and build all of it again.
fn compile(board: &Board, wanted: impl Fn(&Image) -> bool) -> Command {
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--target", board.triple]);
    for image in board.images {
        build.args(["-p", image.package]);
        if wanted(image) {
            build.args(["--bin", image.name]);
        }
    }
    build
}

/// Builds the TSM that fails on request, for tests; returns the file that is loaded. The images that
/// are shipped are built before.
pub fn build_failing(board: &Board) -> Result<PathBuf> {
    let image = board.image("tsm").context("no TSM")?;
    let is_tsm = |image: &Image| image.name == "tsm";
    let feature = format!("{}/isolation-tests", image.package);
    loudly(compile(board, is_tsm).args(["--features", &feature]))
        .context("the image for tests does not build")?;
    let linked = board.folder().join("failing.elf");
    fs::copy(board.elf(image), &linked)?;
    // The one that is shipped takes its place again.
    loudly(&mut compile(board, is_tsm))?;
    if matches!(image.load, Load::Kernel) {
        return Ok(linked);
    }
    let binary = linked.with_extension("bin");
    flatten(&linked, &binary)?;
    Ok(binary)
}

/// Writes the bytes of a linked image as they lie in memory.
fn flatten(linked: &Path, binary: &Path) -> Result<()> {
    let mut objcopy = Command::new(tool("llvm-objcopy")?);
    quietly(objcopy.args(["-O", "binary"]).arg(linked).arg(binary)).map(|_| ())
}
