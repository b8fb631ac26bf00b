// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Register offsets, and the values that bring the unit up (VT-d, register descriptions).

/// Capabilities, 64 bits.
pub const CAP: u64 = 0x08;
/// More capabilities, 64 bits.
pub const ECAP: u64 = 0x10;
/// Commands; [`GSTS`] follows them.
pub const GCMD: u64 = 0x18;
/// Which commands have taken effect.
pub const GSTS: u64 = 0x1c;
/// Address of the root table, 64 bits.
pub const RTADDR: u64 = 0x20;
/// What went wrong.
pub const FSTS: u64 = 0x34;
/// Interrupts on faults.
pub const FECTL: u64 = 0x38;
/// Head of the invalidation queue, 64 bits.
pub const IQH: u64 = 0x80;
/// Tail of the invalidation queue, 64 bits.
pub const IQT: u64 = 0x88;
/// Address and size of the invalidation queue, 64 bits.
pub const IQA: u64 = 0x90;

/// GCMD and GSTS: translate.
pub const TRANSLATE: u32 = 1 << 31;
/// GCMD and GSTS: take the root table from [`RTADDR`]. A command only, not a state.
pub const SET_ROOT: u32 = 1 << 30;
/// GCMD and GSTS: read the invalidation queue.
pub const QUEUE: u32 = 1 << 26;

/// FSTS: a record was lost.
pub const FSTS_OVERFLOW: u32 = 1 << 0;
/// FSTS: the queue stopped: bad descriptor, or an invalidation of a device that failed or took too
/// long.
pub const FSTS_QUEUE: u32 = 7 << 4;
/// FECTL: no interrupts.
pub const FECTL_MASK: u32 = 1 << 31;

/// What a unit can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest [`Command::ForgetPages`](super::Command::ForgetPages), as a power of two of pages.
    pub most_pages: u8,
    /// What is not present may be cached.
    pub caches_faults: bool,
    /// Offset of the fault records.
    pub faults: u64,
    /// Number of fault records.
    pub fault_count: usize,
}

impl Capabilities {
    /// Reads [`CAP`] and [`ECAP`]. `None` if the unit lacks what the TSM needs: 39-bit and 48-bit
    /// tables with blocks of 2 MiB and 1 GiB, invalidation of pages, coherent walks or a unit that
    /// needs no flushes, 16-bit domains, the queue.
    #[must_use]
    pub const fn new(cap: u64, ecap: u64) -> Option<Self> {
        const WIDTHS: u64 = 0b110 << 8;
        const BLOCKS: u64 = 0b11 << 34;
        const BY_PAGE: u64 = 1 << 39;
        const DOMAINS_16_BITS: u64 = 6;
        const NEEDS_WRITE_FLUSH: u64 = 1 << 4;
        const QUEUE: u64 = 1 << 1;
        let needed = WIDTHS | BLOCKS | BY_PAGE;
        let domains = cap & 7 >= DOMAINS_16_BITS;
        if cap & needed != needed || !domains || cap & NEEDS_WRITE_FLUSH != 0 || ecap & QUEUE == 0 {
            return None;
        }
        let [_, _, _, _, _, count, most_pages, _] = cap.to_le_bytes();
        Some(Self {
            most_pages: most_pages & 0x3f,
            caches_faults: cap >> 7 & 1 == 1,
            faults: (cap >> 24 & 0x3ff) << 4,
            fault_count: (count as usize).saturating_add(1),
        })
    }
}

/// Returns the value of [`IQA`] for a queue of 2^`log2_pages` pages, with descriptors of 16 bytes.
#[must_use]
pub const fn queue_address(queue: u64, log2_pages: u8) -> u64 {
    queue & 0x000f_ffff_ffff_f000 | (log2_pages & 7) as u64
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, QUEUE, TRANSLATE, queue_address};

    /// The registers of QEMU's unit, without and with caching mode.
    const CAPS: [(u64, bool); 2] = [
        (0x00d2_008c_222f_0606, false),
        (0x80d2_008c_222f_0686, true),
    ];
    const ECAP: u64 = 0xf42;

    #[test]
    fn the_unit_that_was_seen_is_understood() {
        for (cap, caches_faults) in CAPS {
            let capabilities = Capabilities {
                most_pages: 18,
                caches_faults,
                faults: 0x220,
                fault_count: 1,
            };
            assert_eq!(Capabilities::new(cap, ECAP), Some(capabilities));
        }
    }

    #[test]
    fn a_unit_that_lacks_something_is_refused() {
        let (cap, _) = CAPS[0];
        for missing in [1 << 9, 1 << 10, 1 << 34, 1 << 35, 1 << 39, 1 << 2] {
            assert_eq!(
                Capabilities::new(cap & !missing, ECAP),
                None,
                "{missing:#x}"
            );
        }
        assert_eq!(Capabilities::new(cap | 1 << 4, ECAP), None);
        assert_eq!(Capabilities::new(cap, ECAP & !2), None);
    }

    #[test]
    fn the_values_are_the_ones_that_worked() {
        assert_eq!(TRANSLATE | QUEUE, 0x8400_0000);
        assert_eq!(queue_address(0x1200_0000, 0), 0x1200_0000);
    }
}
