// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The realm's address space, as the owner expects the host to build it.

use tsm_payload_support::console;
use tsm_payload_support::dma::DmaRange;
use tsm_payload_support::mmio::Mmio;

use super::rhi;

/// Width of guest addresses, in bits. The upper half is shared.
pub const IPA_BITS: u64 = 39;
/// Private memory from address 0, in bytes: image, stack, policy, DMA.
pub const MEMORY: u64 = 0x40_0000;
/// The owner's policy page.
const POLICY: usize = 0x20_0000;
/// Private pages that the disk reads and writes.
const DMA: usize = 0x30_0000;
const DMA_TOP: usize = 0x31_0000;
/// Where the disk's registers are mapped.
pub const DEVICE: u64 = 0x1000_0000;
/// Bytes of address space kept for them.
pub const DEVICE_WINDOW: u64 = 0x20_0000;
/// First byte that the host can read and write too.
pub const SHARED: u64 = 1 << (IPA_BITS - 1);

/// Sets up the console.
pub fn set_up() {
    console::set_sink(rhi::print);
}

/// Returns the page that the host shares for objects and parameters.
pub fn shared() -> Mmio {
    // SAFETY: Memory outside the image that only single loads and stores touch.
    unsafe { Mmio::new(SHARED as usize) }
}

/// Returns the policy page.
pub fn policy() -> Mmio {
    // SAFETY: Measured memory outside the image that nothing writes.
    unsafe { Mmio::new(POLICY) }
}

/// Returns the disk's registers. Touched only after their mapping was validated.
pub fn disk() -> Mmio {
    // SAFETY: Device registers; no Rust object is there.
    unsafe { Mmio::new(DEVICE as usize) }
}

/// Returns the private pages for the disk. Called once.
pub fn dma() -> DmaRange {
    // SAFETY: Private memory above the image and the policy; the flow takes it once.
    unsafe { DmaRange::new(DMA, DMA_TOP, 0) }
}
