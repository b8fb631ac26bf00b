// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Links the image at the address where the host puts it in the realm.

use std::env;
use std::path::Path;

const LOAD_ADDRESS: &str = "0x0";
const STACK_SIZE: &str = "0x80000";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let manifest = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = Path::new(&manifest).join("../../linker/payload.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    for argument in [
        &format!("-T{}", script.display()),
        &format!("--defsym=__load_address={LOAD_ADDRESS}"),
        &format!("--defsym=__stack_size={STACK_SIZE}"),
        "-znorelro",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        println!("cargo:rustc-link-arg-bins=--no-pie");
    }
}
