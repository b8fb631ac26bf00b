// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory that a device accesses.

use crate::mmio::Mmio;

/// Size of a page, in bytes.
pub const PAGE: usize = 4096;

/// One page that a device accesses. Only single volatile loads and stores touch it.
#[derive(Clone, Copy, Debug)]
pub struct DmaPage {
    memory: Mmio,
    device: u64,
}

impl DmaPage {
    /// Returns the page at `address`, which the device reaches at `device`.
    ///
    /// # Safety
    /// The page is memory that nothing else in the program uses.
    #[must_use]
    pub const unsafe fn new(address: usize, device: u64) -> Self {
        Self {
            // SAFETY: The caller promises that the page is unused memory.
            memory: unsafe { Mmio::new(address) },
            device,
        }
    }

    /// Returns the address by which the device reaches the page.
    #[must_use]
    pub const fn device(&self) -> u64 {
        self.device
    }

    /// Returns the address by which the program reaches the page.
    #[must_use]
    pub const fn address(&self) -> usize {
        self.memory.base()
    }

    /// Reads the word at `offset` (multiple of 4); zero outside the page.
    #[must_use]
    pub fn read32(&self, offset: usize) -> u32 {
        if offset.checked_add(4).is_some_and(|end| end <= PAGE) {
            self.memory.read32(offset)
        } else {
            0
        }
    }

    /// Writes the word at `offset` (multiple of 4); ignored outside the page.
    pub fn write32(&self, offset: usize, value: u32) {
        if offset.checked_add(4).is_some_and(|end| end <= PAGE) {
            self.memory.write32(offset, value);
        }
    }

    /// Fills the page with zeros.
    pub fn zero(&self) {
        for offset in (0..PAGE).step_by(8) {
            self.memory.write64(offset, 0);
        }
    }

    /// Copies the start of the page to `out`, at most a page.
    pub fn copy_out(&self, out: &mut [u8]) {
        for (chunk, offset) in out.chunks_mut(8).zip((0..PAGE).step_by(8)) {
            let bytes = self.memory.read64(offset).to_le_bytes();
            chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or(&[]));
        }
    }

    /// Copies `data` (at most a page, a multiple of 8 bytes) to the start of the page.
    pub fn copy_in(&self, data: &[u8]) {
        for (chunk, offset) in data.as_chunks::<8>().0.iter().zip((0..PAGE).step_by(8)) {
            self.memory.write64(offset, u64::from_le_bytes(*chunk));
        }
    }
}

/// Where a driver gets pages from. They are never given back.
pub trait DmaMemory {
    /// Returns a zeroed page, or none if there is no more.
    fn page(&mut self) -> Option<DmaPage>;
}

/// Pages of a range that the device reaches at a fixed distance.
#[derive(Debug)]
pub struct DmaRange {
    next: usize,
    top: usize,
    offset: u64,
}

impl DmaRange {
    /// Returns the pages from `base` up to `top`, both aligned; the device's addresses are the
    /// program's plus `offset` (wrapping).
    ///
    /// # Safety
    /// The range is memory that nothing else in the program uses.
    #[must_use]
    pub const unsafe fn new(base: usize, top: usize, offset: u64) -> Self {
        Self {
            next: base,
            top,
            offset,
        }
    }
}

impl DmaMemory for DmaRange {
    fn page(&mut self) -> Option<DmaPage> {
        let address = self.next;
        let end = address.checked_add(PAGE)?;
        if end > self.top {
            return None;
        }
        self.next = end;
        // SAFETY: `new` promises that the range is unused, and each page is handed out once.
        let page = unsafe { DmaPage::new(address, (address as u64).wrapping_add(self.offset)) };
        page.zero();
        Some(page)
    }
}
