// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's own page tables (AMD64 APM volume 2, 5.3), to find the bytes of an instruction.
//!
//! The instruction has run to its fault, so its page was there and allowed. If the host changes its
//! tables since, it gets another instruction of its own.

use crate::arch::vmcb::control_register::{CR0_PG, CR4_LA57};
use crate::arch::vmcb::{Save, efer};

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Returns the guest physical address behind `linear`. `read` reads eight bytes of host memory.
///
/// Paging without long mode is not walked.
pub fn translate(
    save: &Save,
    linear: u64,
    mut read: impl FnMut(u64) -> Option<u64>,
) -> Option<u64> {
    if save.cr0 & CR0_PG == 0 {
        return Some(linear & 0xffff_ffff);
    }
    if save.efer & efer::LMA == 0 {
        return None;
    }
    let levels: u32 = if save.cr4 & CR4_LA57 == 0 { 4 } else { 5 };
    let mut table = save.cr3 & ADDRESS;
    for level in (0..levels).rev() {
        // At most 48.
        let shift = level.wrapping_mul(9).wrapping_add(12) & 0x3f;
        let index = linear >> shift & 0x1ff;
        let entry = read(table | index << 3)?;
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || level <= 2 && entry & LARGE != 0 {
            let inside = (1 << shift) - 1;
            return Some(entry & ADDRESS & !inside | linear & inside);
        }
        table = entry & ADDRESS;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{CR0_PG, CR4_LA57, translate};
    use crate::arch::vmcb::{Save, efer};

    fn host(la57: bool) -> Save {
        let mut save = Save::ZERO;
        save.cr0 = CR0_PG;
        save.cr3 = 0x1018;
        save.cr4 = if la57 { CR4_LA57 } else { 0 };
        save.efer = efer::LMA;
        save
    }

    fn tables() -> HashMap<u64, u64> {
        HashMap::from([
            (0x1000 + 8, 0x2003),
            (0x2000 + 2 * 8, 0x3003),
            (0x3000 + 3 * 8, 0x4003),
            (0x4000 + 4 * 8, 1 << 63 | 0x5_6003),
            // A page of 2 MiB, one of 1 GiB, and none.
            (0x3000 + 5 * 8, 0x8060_0083),
            (0x2000 + 6 * 8, 0xc000_0083),
            (0x3000 + 7 * 8, 0x9002),
            // A root that leads to the first one.
            (0x7000, 0x1003),
        ])
    }

    #[test]
    fn pages_of_each_size_are_found() {
        let tables = tables();
        let read = |at| tables.get(&at).copied();
        let at = |b: u64, c: u64, d: u64| 1 << 39 | b << 30 | c << 21 | d << 12 | 0x123;
        let walk = |linear| translate(&host(false), linear, read);
        assert_eq!(walk(at(2, 3, 4)), Some(0x5_6123));
        assert_eq!(walk(at(2, 5, 4)), Some(0x8060_4123));
        assert_eq!(walk(at(6, 1, 4)), Some(0xc020_4123));
        assert_eq!(walk(at(2, 7, 0)), None);
        assert_eq!(walk(at(2, 3, 5)), None);
    }

    #[test]
    fn the_fifth_level_is_walked_when_the_host_has_it() {
        let tables = tables();
        let read = |at| tables.get(&at).copied();
        let mut save = host(true);
        save.cr3 = 0x7000;
        let linear = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x456;
        assert_eq!(translate(&save, linear, read), Some(0x5_6456));
    }

    #[test]
    fn without_paging_addresses_are_physical_ones() {
        let mut save = Save::ZERO;
        assert_eq!(translate(&save, 0x1_0000_7c00, |_| None), Some(0x7c00));
        save.cr0 = CR0_PG;
        assert_eq!(translate(&save, 0x7c00, |_| Some(3)), None);
    }
}
