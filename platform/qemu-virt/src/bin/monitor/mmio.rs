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

    /// Returns the address of `bytes` bytes at `offset`.
    fn at(self, offset: u64, bytes: u64) -> u64 {
        assert!(offset.is_multiple_of(bytes) && offset < self.size);
        self.base + offset
    }

    /// Reads 32 bits at an aligned offset.
    pub fn read(self, offset: u64) -> u32 {
        // SAFETY: `at` keeps the access inside the range that `new` was promised, and aligned.
        unsafe { ptr::read_volatile(self.at(offset, 4) as *const u32) }
    }

    /// Writes 32 bits at an aligned offset.
    pub fn write(self, offset: u64, value: u32) {
        // SAFETY: as in `read`.
        unsafe { ptr::write_volatile(self.at(offset, 4) as *mut u32, value) }
    }

    /// Zeroes `bytes` bytes at an offset, both multiples of eight.
    pub fn zero(self, offset: u64, bytes: u64) {
        assert!(bytes.is_multiple_of(8) && bytes <= self.size - offset);
        let first = self.at(offset, 8) as *mut u64;
        for index in 0..bytes as usize / 8 {
            // SAFETY: inside the range that `new` was promised, as checked above, and aligned.
            unsafe { ptr::write_volatile(first.add(index), 0) }
        }
    }

    /// Reads 8 bits.
    pub fn read_byte(self, offset: u64) -> u8 {
        // SAFETY: as in `read`.
        unsafe { ptr::read_volatile(self.at(offset, 1) as *const u8) }
    }

    /// Writes 8 bits.
    pub fn write_byte(self, offset: u64, value: u8) {
        // SAFETY: as in `read`.
        unsafe { ptr::write_volatile(self.at(offset, 1) as *mut u8, value) }
    }

    /// Polls a register until `done` accepts it; returns false if it does not within a bounded time.
    #[must_use]
    pub fn poll(self, offset: u64, done: impl Fn(u32) -> bool) -> bool {
        const ATTEMPTS: u32 = 1_000_000;
        (0..ATTEMPTS).any(|_| done(self.read(offset)))
    }
}
