// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Stand-ins for unit tests on the development machine.

use tsm_platform::{GRANULE_SIZE, HostFault};

/// Copies `length` bytes.
///
/// # Safety
///
/// Both pointers must be valid for `length` bytes that do not overlap.
pub unsafe fn copy(to: *mut u8, from: *const u8, length: usize) -> Result<(), HostFault> {
    // SAFETY: the caller promises it.
    unsafe { to.copy_from_nonoverlapping(from, length) };
    Ok(())
}

/// Zeroes one granule.
///
/// # Safety
///
/// `granule` must be valid for writes of one granule.
pub unsafe fn zero_granule(granule: *mut u8) {
    // SAFETY: the caller promises it.
    unsafe { granule.write_bytes(0, GRANULE_SIZE as usize) };
}

/// Makes earlier table writes visible to walkers.
pub fn publish_table() {}

/// Makes earlier memory writes visible to a device.
pub fn publish_to_device() {}
