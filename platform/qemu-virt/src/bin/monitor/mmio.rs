// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Device registers and memory of other worlds.

use core::ptr;

/// A range of device registers, or of another world's memory.
#[derive(Clone, Copy)]
pub struct Mmio {
    base: u64,
    size: u64,
}

impl Mmio {
    /// Names `size` bytes at the virtual address `base`.
    ///
    /// # Safety
    /// The range is mapped writable, holds no Rust object, and is one of devices or of memory that
    /// other worlds may change at any time.
    pub const unsafe fn new(base: u64, size: u64) -> Self {
        Self { base, size }
    }

    /// Returns the address of `bytes` bytes at `offset`, if that is aligned and they are in the range.
    fn at(self, offset: u64, bytes: u64) -> Option<u64> {
        let inside = bytes <= self.size && offset <= self.size.wrapping_sub(bytes);
        let aligned = offset & bytes.wrapping_sub(1) == 0;
        (inside && aligned).then(|| self.base.wrapping_add(offset))
    }

    /// Reads 32 bits at an aligned offset; all ones where there is nothing.
    pub fn read(self, offset: u64) -> u32 {
        let Some(address) = self.at(offset, 4) else {
            return u32::MAX;
        };
        // SAFETY: `at` keeps the access inside the range that `new` was promised, and aligned.
        unsafe { ptr::read_volatile(address as *const u32) }
    }

    /// Writes 32 bits at an aligned offset, unless there is nothing.
    pub fn write(self, offset: u64, value: u32) {
        if let Some(address) = self.at(offset, 4) {
            // SAFETY: as in `read`.
            unsafe { ptr::write_volatile(address as *mut u32, value) }
        }
    }

    /// Zeroes `bytes` bytes at an offset, both multiples of eight.
    pub fn zero(self, offset: u64, bytes: u64) {
        for word in (offset..offset.saturating_add(bytes)).step_by(8) {
            if let Some(address) = self.at(word, 8) {
                // SAFETY: as in `read`.
                unsafe { ptr::write_volatile(address as *mut u64, 0) }
            }
        }
    }

    /// Reads 8 bits; all ones where there is nothing.
    pub fn read_byte(self, offset: u64) -> u8 {
        let Some(address) = self.at(offset, 1) else {
            return u8::MAX;
        };
        // SAFETY: as in `read`.
        unsafe { ptr::read_volatile(address as *const u8) }
    }

    /// Writes 8 bits, unless there is nothing.
    pub fn write_byte(self, offset: u64, value: u8) {
        if let Some(address) = self.at(offset, 1) {
            // SAFETY: as in `read`.
            unsafe { ptr::write_volatile(address as *mut u8, value) }
        }
    }

    /// Polls a register until `done` accepts it; returns false if it does not within a bounded time.
    #[must_use]
    pub fn poll(self, offset: u64, done: impl Fn(u32) -> bool) -> bool {
        const ATTEMPTS: u32 = 1_000_000;
        (0..ATTEMPTS).any(|_| done(self.read(offset)))
    }
}
