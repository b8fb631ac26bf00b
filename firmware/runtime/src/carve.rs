// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory for tables whose size depends on the machine: carved once at boot, never freed.

use tsm_platform::{GRANULE_SIZE, GranuleRange};

/// The rest of the TSM's region.
pub struct Carver {
    next: u64,
    top: u64,
}

impl Carver {
    /// Takes `range`, which nothing else uses.
    pub const fn new(range: GranuleRange) -> Self {
        Self {
            next: range.base(),
            top: range.top(),
        }
    }

    /// Takes `size` bytes (rounded up to whole granules) aligned to `align`, a power of two not
    /// below the granule. Their content is undefined. Returns the address, or `None` if not
    /// enough is left.
    pub fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let base = self
            .next
            .checked_next_multiple_of(align.max(GRANULE_SIZE))?;
        let size = size.checked_next_multiple_of(GRANULE_SIZE)?;
        let end = base.checked_add(size)?;
        if end > self.top {
            return None;
        }
        self.next = end;
        Some(base)
    }

    /// Returns the bytes that are left.
    pub const fn left(&self) -> u64 {
        self.top.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::Carver;
    use tsm_platform::GranuleRange;

    #[test]
    fn pieces_are_aligned_disjoint_and_inside() {
        let mut carver = Carver::new(GranuleRange::new(0x1000, 0x9000).unwrap());
        assert_eq!(carver.take(1, 1), Some(0x1000));
        assert_eq!(carver.take(0x1001, 0x4000), Some(0x4000));
        assert_eq!(carver.take(0x4000, 1), None);
        assert_eq!(carver.take(u64::MAX, 1), None);
        assert_eq!(carver.left(), 0x3000);
        assert_eq!(carver.take(0x3000, 1), Some(0x6000));
        assert_eq!(carver.take(1, 1), None);
    }
}
