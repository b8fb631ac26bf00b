// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The Rust toolchain: targets and LLVM tools.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, quietly, root};

/// Where the Arm firmware and payloads run.
pub const AARCH64: &str = "aarch64-unknown-none-softfloat";
/// Where the x86 firmware will run; the pure crates compile for it from the start.
pub const X86_64: &str = "x86_64-unknown-none";

/// Adds the targets and the component that the build needs, if they are missing.
pub fn prepare() -> Result<()> {
    for target in [AARCH64, X86_64] {
        prepare_target(target)?;
    }
    if tool("llvm-objcopy").is_err() {
        println!("adding the Rust component llvm-tools");
        quietly(rustup().args(["component", "add", "llvm-tools"]))?;
    }
    tool("llvm-objcopy").map(|_| ())
}

/// Adds a target, if it is missing.
pub fn prepare_target(target: &str) -> Result<()> {
    let installed = quietly(rustup().args(["target", "list", "--installed"]))?;
    if !installed.lines().any(|line| line == target) {
        println!("adding the Rust target {target}");
        quietly(rustup().args(["target", "add", target]))?;
    }
    Ok(())
}

/// Adds what only tests need, if it is missing: the formatter and the linter.
pub fn prepare_checks() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if quietly(cargo().args([subcommand, "--version"])).is_err() {
            println!("adding the Rust component {component}");
            quietly(rustup().args(["component", "add", component]))?;
        }
    }
    Ok(())
}

fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(root());
    command
}

/// Returns the path of an LLVM tool of the toolchain.
pub fn tool(name: &str) -> Result<PathBuf> {
    let rustc = || {
        let mut command = Command::new("rustc");
        command.current_dir(root());
        command
    };
    let sysroot = quietly(rustc().args(["--print", "sysroot"]))?;
    let version = quietly(rustc().arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not say its host")?;
    let path = PathBuf::from(sysroot.trim())
        .join("lib/rustlib")
        .join(host)
        .join("bin")
        .join(name);
    if !path.exists() {
        bail!("{name} is missing: run `rustup component add llvm-tools`");
    }
    Ok(path)
}
