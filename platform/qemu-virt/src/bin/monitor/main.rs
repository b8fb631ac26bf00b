// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The monitor image. It lies in flash at physical address 0, where every processor starts.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod log;
#[cfg(target_os = "none")]
mod mmio;
#[cfg(target_os = "none")]
mod pci;
#[cfg(target_os = "none")]
mod reset;
#[cfg(target_os = "none")]
mod translation;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image is built for aarch64-unknown-none-softfloat");
}
