// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's own memory by physical address, which is also its virtual address.

use tsm_payload_support::mmio::Mmio;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::board::FREE;

/// Size of a page, in bytes.
pub const PAGE: usize = 4096;

/// Returns memory for single accesses.
pub fn words(address: u64) -> Mmio {
    let address = address as usize;
    assert!(FREE.contains(&address));
    // SAFETY: Outside the image, so no Rust object lives there.
    unsafe { Mmio::new(address) }
}

/// Copies from `address`.
pub fn read(address: u64, out: &mut [u8]) {
    let memory = words(address);
    for (offset, byte) in out.iter_mut().enumerate() {
        *byte = memory.read8(offset);
    }
}

/// Copies to `address`.
pub fn write(address: u64, data: &[u8]) {
    let memory = words(address);
    for (offset, byte) in data.iter().enumerate() {
        memory.write8(offset, *byte);
    }
}

/// Fills a page with zeros.
pub fn zero_page(address: u64) {
    let memory = words(address);
    for offset in (0..PAGE).step_by(8) {
        memory.write64(offset, 0);
    }
}

/// Reads a structure at `address`.
pub fn load<T: FromBytes + FromZeros + IntoBytes>(address: u64) -> T {
    let mut value = T::new_zeroed();
    read(address, value.as_mut_bytes());
    value
}

/// Zeroes the page at `address` and writes a structure to its start.
pub fn store<T: IntoBytes + Immutable>(address: u64, value: &T) {
    zero_page(address);
    write(address, value.as_bytes());
}
