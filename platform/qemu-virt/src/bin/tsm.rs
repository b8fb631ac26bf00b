// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The TSM image. Everything about the machine comes from the monitor's manifest.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
use tsm_runtime as _;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image is built for aarch64-unknown-none-softfloat");
}
