// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The dependency rule: crates depend downwards only, and versions live in one place.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::{cargo, quietly, root};

/// What each of our crates may depend on among ours. A crate that is not listed is refused.
const ALLOWED: &[(&str, &[&str])] = &[
    ("tsm-abi", &[]),
    ("tsm-platform", &["tsm-abi"]),
    ("tsm-spdm", &[]),
    // Address types, and the words in which keys and streams of root ports are named.
    ("tsm-ide", &["tsm-abi", "tsm-platform"]),
    ("tsm-iommu", &["tsm-platform"]),
    (
        "tsm-core",
        &[
            "tsm-abi",
            "tsm-ide",
            "tsm-iommu",
            "tsm-platform",
            "tsm-spdm",
        ],
    ),
    // The key configuration unit only.
    ("tsm-monitor", &["tsm-abi", "tsm-ide"]),
    (
        "tsm-runtime",
        &[
            "tsm-abi",
            "tsm-core",
            "tsm-ide",
            "tsm-iommu",
            "tsm-platform",
        ],
    ),
    ("qemu-q35", &["tsm-platform", "tsm-runtime"]),
    (
        "qemu-virt",
        &[
            "tsm-abi",
            "tsm-core",
            "tsm-monitor",
            "tsm-platform",
            "tsm-runtime",
        ],
    ),
    (
        "tsm-platform-fake",
        &[
            "tsm-abi",
            "tsm-core",
            "tsm-devices",
            "tsm-ide",
            "tsm-iommu",
            "tsm-platform",
            "tsm-spdm",
        ],
    ),
    ("tsm-devices", &["tsm-ide", "tsm-spdm"]),
    // A device is what its tests judge.
    ("tsm-evidence", &["tsm-devices"]),
    ("tsm-payload-support", &["tsm-abi"]),
    ("host-payload", &["tsm-abi", "tsm-payload-support"]),
    ("portcullis-host-check", &["tsm-abi"]),
    // The guest reads the device's report and certificates itself, with the same wire formats.
    (
        "guest-payload",
        &["tsm-abi", "tsm-payload-support", "tsm-spdm"],
    ),
    (
        "tsm-tests",
        &[
            "tsm-abi",
            "tsm-core",
            "tsm-devices",
            "tsm-ide",
            "tsm-iommu",
            "tsm-platform",
            "tsm-platform-fake",
            "tsm-spdm",
        ],
    ),
    (
        "tsm-fuzz",
        &[
            "tsm-abi",
            "tsm-core",
            "tsm-devices",
            "tsm-evidence",
            "tsm-platform",
            "tsm-platform-fake",
            "tsm-spdm",
        ],
    ),
    ("xtask", &["tsm-abi", "tsm-core", "tsm-evidence"]),
];

/// Crates that forbid unsafe code and know no architecture.
const PURE: &[&str] = &["firmware/abi", "firmware/core", "spdm", "ide", "iommu"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<String>,
}

/// Checks the rule; lists every breach.
///
/// # Errors
///
/// If there is a breach, or cargo cannot tell the dependencies.
pub fn check() -> Result<()> {
    let text = quietly(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut breaches = Vec::new();
    for package in &metadata.packages {
        let Some(may) = allowed.get(package.name.as_str()) else {
            breaches.push(format!("{} is not in the dependency rule", package.name));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|one| one.path.is_some()) {
            if !may.contains(&dependency.name.as_str()) {
                breaches.push(format!(
                    "{} must not depend on {}",
                    package.name, dependency.name
                ));
            }
        }
    }
    breaches.extend(versions_outside_the_workspace()?);
    breaches.extend(impure_crates()?);
    if !breaches.is_empty() {
        bail!("dependency rule:\n  {}", breaches.join("\n  "));
    }
    println!(
        "dependency rule: {} crates, no breach",
        metadata.packages.len()
    );
    Ok(())
}

/// Every dependency takes its version from the workspace manifest.
fn versions_outside_the_workspace() -> Result<Vec<String>> {
    let manifest: toml::Table = toml::from_str(&fs::read_to_string(root().join("Cargo.toml"))?)?;
    let members = manifest["workspace"]["members"]
        .as_array()
        .context("the workspace has no members")?;
    let mut breaches = Vec::new();
    for member in members.iter().filter_map(toml::Value::as_str) {
        let table: toml::Table =
            toml::from_str(&fs::read_to_string(root().join(member).join("Cargo.toml"))?)?;
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(list) = table.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, value) in list {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    breaches.push(format!(
                        "{member}: {name} takes no version from the workspace"
                    ));
                }
            }
        }
    }
    Ok(breaches)
}

/// The pure crates forbid unsafe code and have no code for one architecture.
fn impure_crates() -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for member in PURE {
        let source = root().join(member).join("src");
        if !fs::read_to_string(source.join("lib.rs"))?.contains("#![forbid(unsafe_code)]") {
            breaches.push(format!("{member} does not forbid unsafe code"));
        }
        let mut folders = vec![source];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if fs::read_to_string(&path)?.contains("target_arch") {
                    breaches.push(format!("{} names an architecture", path.display()));
                }
            }
        }
    }
    Ok(breaches)
}
