// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Building the images that the machine boots, and the device process.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{cargo, loudly, quietly, target};
use crate::toolchain::{AARCH64, prepare, tool};

/// One bare-metal image.
pub struct Image {
    /// Name of the binary.
    pub name: &'static str,
    /// Package that builds it.
    package: &'static str,
    /// Where QEMU loads it; `None` for what is run from flash.
    pub address: Option<u64>,
}

/// The images of `qemu-virt`, in the order in which they run.
pub const IMAGES: &[Image] = &[
    Image {
        name: "monitor",
        package: "qemu-virt",
        address: None,
    },
    Image {
        name: "tsm",
        package: "qemu-virt",
        address: Some(0x7f00_0000),
    },
    Image {
        name: "host-payload",
        package: "host-payload",
        address: Some(0x4800_0000),
    },
    Image {
        name: "guest-payload",
        package: "guest-payload",
        address: Some(0x4c00_0000),
    },
];

impl Image {
    /// Returns the path of the linked image with its symbols.
    pub fn elf(&self) -> PathBuf {
        target().join(AARCH64).join("release").join(self.name)
    }

    /// Returns the path of the bytes that are loaded.
    pub fn binary(&self) -> PathBuf {
        target()
            .join("images")
            .join(self.name)
            .with_extension("bin")
    }
}

/// Builds the TSM that fails on request, for tests; returns the bytes that are loaded.
pub fn build_failing() -> Result<PathBuf> {
    prepare()?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--target", AARCH64]);
    build.args(["-p", "qemu-virt", "--bin", "tsm"]);
    build.args(["--features", "isolation-tests"]);
    // Apart from the images that are run and analyzed otherwise.
    let place = target().join("failing");
    loudly(build.arg("--target-dir").arg(&place)).context("the image for tests does not build")?;
    let binary = place.join("tsm.bin");
    quietly(
        Command::new(tool("llvm-objcopy")?)
            .args(["-O", "binary"])
            .arg(place.join(AARCH64).join("release/tsm"))
            .arg(&binary),
    )?;
    Ok(binary)
}

/// Builds all images and the device process; returns the path of the device process.
pub fn build_all() -> Result<PathBuf> {
    prepare()?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--target", AARCH64]);
    for image in IMAGES {
        build.args(["-p", image.package, "--bin", image.name]);
    }
    loudly(&mut build).context("the images do not build")?;
    let objcopy = tool("llvm-objcopy")?;
    fs::create_dir_all(target().join("images"))?;
    for image in IMAGES {
        quietly(
            Command::new(&objcopy)
                .args(["-O", "binary"])
                .arg(image.elf())
                .arg(image.binary()),
        )?;
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
