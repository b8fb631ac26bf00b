// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Gives each image its linker script.

use std::env;
use std::path::Path;

/// Binaries of this package that are images; each has a linker script of its name.
const IMAGES: &[&str] = &["monitor", "tsm"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../linker");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let package = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let linker = Path::new(&package).join("../../linker");
    // Log levels are chosen when an image is compiled; without a choice one sees more than errors.
    println!("cargo:rerun-if-env-changed=DEFMT_LOG");
    if env::var_os("DEFMT_LOG").is_none() {
        println!("cargo:rustc-env=DEFMT_LOG=info");
    }
    for image in IMAGES {
        let script = linker.join(image).with_extension("ld");
        println!("cargo:rustc-link-arg-bin={image}=-T{}", script.display());
        println!("cargo:rustc-link-arg-bin={image}=-Tdefmt.x");
        println!("cargo:rustc-link-arg-bin={image}=-zmax-page-size=4096");
    }
}
