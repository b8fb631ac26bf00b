// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The TSM image. QEMU loads it as a kernel with a PVH entry.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod configuration;

#[cfg(target_os = "none")]
tsm_runtime::export_board!(board::Q35);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image is built for x86_64-unknown-none");
}
