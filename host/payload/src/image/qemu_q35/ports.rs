// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Configuration space by I/O ports.

use tsm_payload_support::x86_64::port;

use super::super::pci::Function;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

fn select(function: Function, offset: usize) {
    let register = offset as u32 & 0xfc;
    port::write32(ADDRESS, ENABLE | u32::from(function.0) << 8 | register);
}

/// Reads the 4-byte register at `offset`, below 256.
pub fn read(function: Function, offset: usize) -> u32 {
    select(function, offset);
    port::read32(DATA)
}

/// Writes the 4-byte register at `offset`, below 256.
pub fn write(function: Function, offset: usize, value: u32) {
    select(function, offset);
    port::write32(DATA, value);
}
