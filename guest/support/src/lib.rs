// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the bare-metal host and guest payloads share: start-up code, translation, calls, console,
//! memory-mapped registers, DMA pages and an NVMe driver.
//!
//! Payloads are test programs on one CPU with interrupts masked. They trust themselves; what they
//! must not do is crash before they have printed a verdict.

#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64 as arch;
pub mod certificate;
pub mod console;
pub mod dma;
pub mod mmio;
pub mod nvme;
pub mod power;
pub mod time;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64 as arch;

#[cfg(target_os = "none")]
mod panic;
