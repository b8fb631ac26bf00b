// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a realm may do to model-specific registers.
//!
//! Those that VMLOAD and VMSAVE move, and the one that is switched besides, are the realm's own. EFER
//! and PAT are answered from the control block. Every other one is not there for a realm.

use crate::arch::vmcb::{Save, control_register, efer};

/// Time stamp counter.
const TSC: u32 = 0x10;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// What RDTSCP and RDPID return besides. Not in the control block.
pub const TSC_AUX: u32 = 0xc000_0103;

/// Registers that a realm reads and writes without an exit.
const OWN: [u32; 11] = [
    SYSENTER_CS,
    SYSENTER_ESP,
    SYSENTER_EIP,
    STAR,
    LSTAR,
    CSTAR,
    SFMASK,
    FS_BASE,
    GS_BASE,
    KERNEL_GS_BASE,
    TSC_AUX,
];

/// An MSR permission map (AMD64 APM volume 2, 15.11): two bits for each register, for reads and for
/// writes; one that is set stops the access.
#[repr(C, align(4096))]
pub struct Permissions([u8; 8192]);

impl Permissions {
    /// Returns the map of a realm.
    pub const fn realm() -> Self {
        const READ: u8 = 1;
        const WRITE: u8 = 2;
        let mut map = [u8::MAX; 8192];
        let mut index = 0;
        while index < OWN.len() {
            map = open(map, OWN[index], READ | WRITE);
            index += 1;
        }
        Self(open(map, TSC, READ))
    }

    /// Returns the address of the map.
    pub const fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

/// Clears bits for register `msr`, which is in one of the three ranges that the map covers.
const fn open(mut map: [u8; 8192], msr: u32, bits: u8) -> [u8; 8192] {
    let number = (msr & 0x1fff) as usize;
    let base = match msr >> 13 {
        0 => 0,
        0x6_0000 => 0x800,
        0x6_0008 => 0x1000,
        _ => panic!("not in the map"),
    };
    map[base + number / 4] &= !(bits << (number % 4 * 2));
    map
}

/// Answers a read of `msr`, or `None` if it is not there for a realm.
pub const fn read(msr: u32, save: &Save) -> Option<u64> {
    match msr {
        EFER => Some(save.efer & !efer::SVME),
        PAT => Some(save.g_pat),
        _ => None,
    }
}

/// Carries out a write of `value` to `msr`. Returns `None` if the realm may not.
pub fn write(msr: u32, value: u64, save: &mut Save) -> Option<()> {
    match msr {
        EFER => save.efer = next_efer(value, save)?,
        PAT if is_pat(value) => save.g_pat = value,
        _ => return None,
    }
    Some(())
}

/// Returns what EFER becomes when a realm writes `value` (AMD64 APM volume 2, 3.1.7): LMA is the
/// processor's, LME stays as it is while paging is on, and SVME has to be set for VMRUN.
const fn next_efer(value: u64, save: &Save) -> Option<u64> {
    const OFFERED: u64 = efer::SCE | efer::LME | efer::NXE;
    let paging = save.cr0 & control_register::CR0_PG != 0;
    let is_reserved = value & !(OFFERED | efer::LMA) != 0;
    if is_reserved || paging && (value ^ save.efer) & efer::LME != 0 {
        return None;
    }
    Some(value & OFFERED | save.efer & efer::LMA | efer::SVME)
}

/// Returns whether each field of a page attribute table names a memory type.
const fn is_pat(value: u64) -> bool {
    let bytes = value.to_le_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if !matches!(bytes[index], 0 | 1 | 4..=7) {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{EFER, OWN, PAT, Permissions, TSC, read, write};
    use crate::arch::vmcb::Save;

    /// Returns whether the map stops a read and a write; registers outside of it are always stopped.
    fn stops(msr: u32) -> (bool, bool) {
        let Permissions(map) = Permissions::realm();
        let base = match msr {
            0..=0x1fff => 0,
            0xc000_0000..=0xc000_1fff => 0x2000,
            0xc001_0000..=0xc001_1fff => 0x4000,
            _ => return (true, true),
        };
        let bit = (base + msr % 0x2000) * 2;
        let stop = |bit: u32| map[bit as usize / 8] >> (bit % 8) & 1 == 1;
        (stop(bit), stop(bit + 1))
    }

    #[test]
    fn a_realm_reaches_its_own_registers_and_no_other() {
        let ranges = [
            0..0x2000,
            0xc000_0000..0xc000_2000,
            0xc001_0000..0xc001_2000,
        ];
        for msr in ranges.into_iter().flatten() {
            let own = OWN.contains(&msr);
            assert_eq!(stops(msr), (!own && msr != TSC, !own), "{msr:#x}");
        }
        let Permissions(map) = Permissions::realm();
        assert!(map[0x1800..].iter().all(|byte| *byte == u8::MAX));
    }

    #[test]
    fn what_is_trapped_and_not_answered_is_not_there() {
        let mut save = Save::ZERO;
        // APIC base, speculation control, MTRR, machine check, DebugCtl, counters, VM_CR, HSAVE.
        let others = [
            0x1b,
            0x48,
            0x49,
            0x8b,
            0xc1,
            0xfe,
            0x179,
            0x186,
            0x1d9,
            0x2ff,
            0x400,
            0x6a0,
            0x802,
            0xda0,
            0xc000_0104,
            0xc001_0000,
            0xc001_0010,
            0xc001_0114,
            0xc001_0117,
            0xc001_1020,
        ];
        for msr in others {
            assert_eq!(read(msr, &save), None, "{msr:#x}");
            assert_eq!(write(msr, 0, &mut save), None, "{msr:#x}");
        }
    }

    #[test]
    fn a_realm_neither_sees_nor_clears_svme() {
        let mut save = Save::ZERO;
        save.efer = 1 << 12;

        assert_eq!(read(EFER, &save), Some(0));
        assert_eq!(write(EFER, 1 << 8 | 1 << 11 | 1, &mut save), Some(()));
        assert_eq!(save.efer, 1 << 12 | 1 << 8 | 1 << 11 | 1);
        assert_eq!(write(EFER, 1 << 12, &mut save), None);
        assert_eq!(write(EFER, 1 << 13, &mut save), None, "LMSLE");
        assert_eq!(write(EFER, 1 << 14, &mut save), None, "FFXSR");
        assert_eq!(save.efer, 1 << 12 | 1 << 8 | 1 << 11 | 1);
    }

    #[test]
    fn long_mode_is_neither_left_nor_entered_while_paging_is_on() {
        let long = 1 << 12 | 1 << 10 | 1 << 8;
        let mut save = Save::ZERO;
        save.efer = long;
        save.cr0 = 1 << 31 | 1;

        assert_eq!(write(EFER, 0, &mut save), None);
        assert_eq!(write(EFER, 1 << 8 | 1, &mut save), Some(()));
        assert_eq!(save.efer, long | 1, "LMA stays");
        let mut legacy = Save::ZERO;
        legacy.efer = 1 << 12;
        legacy.cr0 = 1 << 31 | 1;

        assert_eq!(write(EFER, 1 << 8, &mut legacy), None);
        assert_eq!(legacy.efer, 1 << 12);
    }

    #[test]
    fn the_attribute_table_is_the_realms_and_has_no_unknown_type() {
        let mut save = Save::ZERO;
        let table = 0x0007_0406_0007_0406;
        assert_eq!(write(PAT, table, &mut save), Some(()));
        assert_eq!((save.g_pat, read(PAT, &save)), (table, Some(table)));
        for wrong in [2, 3, 8, 0x200, 8 << 56] {
            assert_eq!(write(PAT, wrong, &mut save), None, "{wrong:#x}");
        }
        assert_eq!(save.g_pat, table);
    }
}
