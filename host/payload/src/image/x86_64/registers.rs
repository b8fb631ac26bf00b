// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registers that a call must preserve.

use tsm_payload_support::x86_64::registers;

pub use registers::WHICH;

/// What is in them. The guest has another pattern.
const PATTERN: u16 = 0x5aa5;

/// Makes a call with a pattern in the registers that it must preserve; returns the bits that
/// changed.
pub fn changed_by(function: u64, [first, second]: [u64; 2]) -> u64 {
    registers::changed_by(&mut [function, first, second, 0], PATTERN)
}
