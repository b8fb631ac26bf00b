// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Building the images that the machines boot, and the device process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::board::{Board, Load};
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

fn build_images(board: &Board) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--target", board.triple]);
    for image in board.images {
        build.args(["-p", image.package, "--bin", image.name]);
    }
    loudly(&mut build).with_context(|| format!("the images of {} do not build", board.name))?;
    fs::create_dir_all(board.folder())?;
    for image in board.images {
        if !matches!(image.load, Load::Kernel) {
            flatten(&board.elf(image), &board.binary(image))?;
        }
    }
    Ok(())
}

/// Builds the TSM that fails on request, for tests; returns the file that is loaded.
pub fn build_failing(board: &Board) -> Result<PathBuf> {
    prepare()?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--target", board.triple]);
    build.args(["-p", board.name, "--bin", "tsm"]);
    build.args(["--features", "isolation-tests"]);
    // Apart from the images that are run and analyzed otherwise.
    let place = target().join("failing");
    loudly(build.arg("--target-dir").arg(&place)).context("the image for tests does not build")?;
    let linked = place.join(board.triple).join("release/tsm");
    if board
        .image("tsm")
        .is_some_and(|tsm| matches!(tsm.load, Load::Kernel))
    {
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
