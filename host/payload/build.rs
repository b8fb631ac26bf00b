// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Links the image at the address where it is loaded.

use std::env;
use std::path::Path;

const STACK_SIZE: &str = "0x40000";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let (script, load_address) = match arch.as_str() {
        // What Linux prefers; the TSM loads either.
        "x86_64" => ("payload-linux.ld", "0x1000000"),
        _ => ("payload.ld", "0x48000000"),
    };
    let manifest = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&manifest).join("../../linker").join(script);
    println!("cargo:rerun-if-changed={}", script.display());
    for argument in [
        &format!("-T{}", script.display()),
        &format!("--defsym=__load_address={load_address}"),
        &format!("--defsym=__stack_size={STACK_SIZE}"),
        "-znorelro",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    if arch == "x86_64" {
        println!("cargo:rustc-link-arg-bins=--no-pie");
    }
}
