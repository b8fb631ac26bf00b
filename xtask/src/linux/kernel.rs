// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The distribution's kernel, what builds modules for it, and busybox: fetched once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::board::Board;
use crate::command::target;
use crate::packages::Client;
use crate::toolchain::AARCH64;

/// The release whose kernels are taken, and where it has the newest.
const RELEASE: &str = "trixie";
const BACKPORTS: &str = "trixie-backports";
/// Major version of the kernels that this is made for.
const MAJOR: &str = "7.";
/// Modules of the disks: each needs those before it.
pub const DISK_MODULES: [&str; 4] = ["nvme-auth", "nvme-keyring", "nvme-core", "nvme"];

/// How the distribution names what Rust and we name otherwise.
pub struct Architecture {
    /// As in names of packages.
    pub name: &'static str,
    /// The target of static programs.
    pub triple: &'static str,
    /// The package of the compiler that its kernels are built with.
    compiler: &'static str,
}

const ARM64: Architecture = Architecture {
    name: "arm64",
    triple: "aarch64-unknown-linux-musl",
    compiler: "gcc-14-aarch64-linux-gnu",
};
const AMD64: Architecture = Architecture {
    name: "amd64",
    triple: "x86_64-unknown-linux-musl",
    compiler: "gcc-14",
};

/// Returns the architecture of a board's host.
pub fn architecture(board: &Board) -> &'static Architecture {
    if board.triple == AARCH64 {
        &ARM64
    } else {
        &AMD64
    }
}

/// What was fetched.
pub struct Kit {
    /// As the kernel names its version.
    pub version: String,
    /// The kernel, as the machine boots it.
    pub kernel: PathBuf,
    /// Static busybox for the host.
    pub busybox: PathBuf,
    /// Modules in the order in which they are loaded.
    pub modules: Vec<PathBuf>,
    /// The tree of the compiler, make and headers, all for this machine.
    pub tools: PathBuf,
}

/// Returns the kit of a board's host, fetching it first if it is not there.
///
/// # Errors
///
/// If there is no package client, or it has no such kernel.
pub fn kit(board: &Board) -> Result<Kit> {
    let architecture = architecture(board);
    let place = target().join("linux").join(architecture.name);
    // Written last, so that a fetch that was cut short starts over.
    let mark = place.join("version");
    if !mark.exists() {
        let version = fetch(&place, architecture)
            .context("Linux as host needs the package client and the suites of Debian")?;
        fs::write(&mark, version)?;
    }
    let version = fs::read_to_string(&mark)?;
    let root = place.join("host");
    let own = root.join("usr/lib/modules").join(&version);
    let driver = own.join("kernel/drivers/nvme");
    let modules = DISK_MODULES.map(|name| {
        let folder = match name {
            "nvme-auth" | "nvme-keyring" => "common",
            _ => "host",
        };
        driver.join(folder).join(format!("{name}.ko.xz"))
    });
    Ok(Kit {
        kernel: own.join("vmlinuz"),
        busybox: root.join("usr/bin/busybox"),
        modules: modules.into(),
        tools: place.join("tools"),
        version,
    })
}

fn fetch(place: &Path, architecture: &'static Architecture) -> Result<String> {
    let Architecture { name, compiler, .. } = architecture;
    let _ = fs::remove_dir_all(place);
    fs::create_dir_all(place)?;
    let architectures: &[&str] = if *name == AMD64.name {
        &["amd64"]
    } else {
        &["amd64", "arm64"]
    };
    let client = Client::open(place, &[RELEASE, BACKPORTS], architectures)?;
    let names = client.names("linux-binary-")?;
    let version = newest(&names, name)
        .with_context(|| format!("no linux-binary-{MAJOR}* for {name} in {BACKPORTS}"))?;
    println!("fetching Linux {version} and what builds its modules (once)");
    let host = place.join("host");
    let package = |kind: &str| format!("linux-{kind}-{version}:{name}");
    client.take(&package("binary"), &host, &["*/vmlinuz"])?;
    let disks = ["*/drivers/nvme/common/*", "*/drivers/nvme/host/nvme*"];
    client.take(&package("modules"), &host, &disks)?;
    client.take(
        &format!("busybox-static:{name}"),
        &host,
        &["./usr/bin/busybox"],
    )?;
    let tools = place.join("tools");
    // As a distribution with merged folders has it; packages unpack through these links.
    fs::create_dir_all(tools.join("usr"))?;
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(tools.join("usr").join(folder))?;
        std::os::unix::fs::symlink(format!("usr/{folder}"), tools.join(folder))?;
    }
    let headers = package("headers");
    client.unpack(
        None,
        &[*compiler, "make", &*headers, "busybox-static"],
        &tools,
    )?;
    client.close()?;
    Ok(version)
}

/// Returns the newest version of which there is a kernel of the usual flavor: `7.2.12+deb13-arm64`.
fn newest(names: &[String], architecture: &str) -> Option<String> {
    let versions = names.iter().filter_map(|name| {
        let version = name.strip_prefix("linux-binary-")?;
        let (number, release) = version
            .strip_suffix(architecture)?
            .strip_suffix('-')?
            .split_once("+deb")?;
        let plain = release.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Option<Vec<u32>> = number.split('.').map(|part| part.parse().ok()).collect();
        (plain && number.starts_with(MAJOR)).then_some((parts?, version.to_owned()))
    });
    versions.max().map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_kernel_is_that_of_the_highest_number_and_the_usual_flavor() {
        let names = [
            "linux-binary-7.2.9+deb13-arm64",
            "linux-binary-7.2.12+deb13-arm64",
            "linux-binary-7.2.13+deb13-cloud-arm64",
            "linux-binary-7.2.13+deb13-amd64",
            "linux-binary-7.2.13+deb13-arm64-16k",
            "linux-binary-6.12.107+deb13-arm64",
            "linux-binary-arm64",
        ]
        .map(String::from);
        let found = newest(&names, "arm64");
        assert_eq!(found.as_deref(), Some("7.2.12+deb13-arm64"));
        assert_eq!(newest(&names, "riscv64"), None);
    }
}
