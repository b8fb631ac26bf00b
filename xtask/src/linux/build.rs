// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Building what the host runs: kernel modules, the program, and the initramfs around them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel::{Architecture, Kit};
use crate::command::{cargo, loudly, quietly, root, target};
use crate::toolchain;

/// The program that checks the host's view.
const PROGRAM: &str = "portcullis-host-check";
/// Sources of the modules; they include what is in `host/include`.
const MODULE: &str = "host/linux/module";

/// Builds everything; returns the initramfs.
///
/// # Errors
///
/// If something does not build.
pub fn initramfs(kit: &Kit, architecture: &Architecture) -> Result<PathBuf> {
    let program = program(architecture)?;
    let modules = modules(kit)?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "lib", "proc", "sys"] {
        archive.folder(folder);
    }
    // The kernel opens it before /init mounts anything.
    archive.device("dev/console", 5, 1);
    archive.file("init", &fs::read(root().join("host/linux/init"))?);
    let mut add = |name: &str, path: &Path| -> Result<()> {
        let data = fs::read(path).with_context(|| path.display().to_string())?;
        archive.file(name, &data);
        Ok(())
    };
    add("bin/busybox", &kit.busybox)?;
    add(&format!("bin/{PROGRAM}"), &program)?;
    let mut order = String::new();
    for module in kit.modules.iter().chain(&modules) {
        let name = module.file_name().unwrap_or_default().display().to_string();
        add(&format!("lib/{name}"), module)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("lib/order", order.as_bytes());
    let file = target()
        .join("linux")
        .join(architecture.name)
        .join("initramfs");
    fs::write(&file, archive.finish())?;
    Ok(file)
}

/// Builds the program, statically and with the linker that Rust brings.
fn program(architecture: &Architecture) -> Result<PathBuf> {
    let triple = architecture.triple;
    toolchain::prepare_target(triple)?;
    let variable = triple.to_uppercase().replace('-', "_");
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--target", triple]);
    build.args(["-p", PROGRAM]);
    build.env(format!("CARGO_TARGET_{variable}_LINKER"), "rust-lld");
    loudly(&mut build).with_context(|| format!("{PROGRAM} does not build"))?;
    Ok(target().join(triple).join("release").join(PROGRAM))
}

/// Builds our modules in a copy of their sources, with the tools of the kit as root of all files.
fn modules(kit: &Kit) -> Result<Vec<PathBuf>> {
    let tools = &kit.tools;
    let copy = tools.join("src");
    let _ = fs::remove_dir_all(&copy);
    for part in [MODULE, "host/include"] {
        let folder = copy.join(part);
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(root().join(part))? {
            let entry = entry?;
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    link_applets(tools)?;
    let script = format!(
        "mount --rbind /proc '{place}/proc' && mount --rbind /dev '{place}/dev' && \
         exec chroot '{place}' /usr/bin/busybox env -i PATH=/usr/bin \
         make -s -C /usr/src/linux-headers-{version} M=/src/{MODULE} modules",
        place = tools.display(),
        version = kit.version,
    );
    // A name space of users gives the rights to do so; with those of root, one of mounts is enough.
    let build = |space: &str| quietly(Command::new("unshare").args([space, "sh", "-c", &script]));
    if let Err(error) = build("-Urm") {
        if quietly(Command::new("unshare").args(["-Urm", "true"])).is_ok() {
            return Err(error.context("the kernel modules do not build"));
        }
        build("-m").context(
            "the kernel modules do not build: their compiler needs user name spaces, or root",
        )?;
    }
    // `Kbuild` says which there are for this processor.
    let order = fs::read_to_string(copy.join(MODULE).join("modules.order"))?;
    let built = order
        .lines()
        .map(|name| copy.join(MODULE).join(name).with_extension("ko"));
    Ok(built.collect())
}

/// Makes busybox all the small programs that make and its scripts call, where no package has them.
fn link_applets(tools: &Path) -> Result<()> {
    let folder = tools.join("usr/bin");
    let applets = quietly(Command::new(folder.join("busybox")).arg("--list"))?;
    for applet in applets.lines() {
        let link = folder.join(applet);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink("busybox", link)?;
        }
    }
    for folder in ["proc", "dev"] {
        fs::create_dir_all(tools.join(folder))?;
    }
    Ok(())
}
