// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Model-specific registers that decide who is below whom.

use crate::arch::vmcb::efer;

/// Extended features.
pub const EFER: u32 = 0xc000_0080;
/// Where the local APIC is, and its mode.
pub const APIC_BASE: u32 = 0x1b;
/// The interrupt command register of x2APIC mode.
pub const X2APIC_ICR: u32 = 0x830;

/// The local vector table of x2APIC mode, which every local APIC has.
const LOCAL_VECTORS: core::ops::RangeInclusive<u32> = 0x832..=0x837;
/// AMD's extension of it. Not every local APIC has it, and a write that the processor refuses to the TSM
/// would be the end of it: so it is not there for the host.
const MORE_LOCAL_VECTORS: core::ops::RangeInclusive<u32> = 0x850..=0x853;

/// Bytes of a permission map.
pub const MAP_BYTES: usize = 8192;

/// First of 0x2000 registers that a range of the map is for, and its byte.
const RANGES: [(u32, usize); 3] = [(0, 0), (0xc000_0000, 0x800), (0xc001_0000, 0x1000)];
const RANGE: u32 = 0x2000;

/// Registers whose reads and writes leave the guest: SVM's own, which it does not have.
const HIDDEN: core::ops::RangeInclusive<u32> = 0xc001_0114..=0xc001_0119;

/// Registers that move memory or registers about below nested paging, or change the processor
/// itself: their writes are refused (AMD64 APM volume 2, appendix A).
const FIXED: [(u32, u32); 6] = [
    // Update of microcode.
    (0xc001_0020, 0xc001_0020),
    // SYSCFG.
    (0xc001_0010, 0xc001_0010),
    // I/O ranges and the tops of memory.
    (0xc001_0016, 0xc001_001d),
    // Where configuration space is in memory.
    (0xc001_0058, 0xc001_0058),
    // Base, range and mask of system management mode.
    (0xc001_0111, 0xc001_0113),
    // Virtualization of encrypted memory.
    (0xc001_0130, 0xc001_0132),
];

/// Scale of the time stamp counter, which belongs to SVM.
const TSC_RATIO: u32 = 0xc000_0104;

/// Sets the bits of the registers that are filtered; the rest is the host's.
pub fn fill(map: &mut [u8; MAP_BYTES]) {
    const READ: u8 = 1;
    const WRITE: u8 = 2;
    map.fill(0);
    let mut set = |register: u32, bits: u8| {
        if let Some((byte, shift)) = place(register)
            && let Some(byte) = map.get_mut(byte)
        {
            *byte |= bits << shift;
        }
    };
    set(EFER, READ | WRITE);
    set(TSC_RATIO, READ | WRITE);
    set(APIC_BASE, WRITE);
    set(X2APIC_ICR, WRITE);
    let vectors = LOCAL_VECTORS.chain(MORE_LOCAL_VECTORS);
    vectors.for_each(|register| set(register, WRITE));
    HIDDEN.for_each(|register| set(register, READ | WRITE));
    for (first, last) in FIXED {
        (first..=last).for_each(|register| set(register, WRITE));
    }
}

/// Returns byte and shift of the two bits of a register, if the map has them.
fn place(register: u32) -> Option<(usize, u32)> {
    RANGES.into_iter().find_map(|(first, byte)| {
        let index = register.checked_sub(first).filter(|at| *at < RANGE)?;
        Some((byte.checked_add((index / 4) as usize)?, index % 4 * 2))
    })
}

/// What the TSM answers to a filtered access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read gives this; of a write there is nothing left to do.
    Done(u64),
    /// EFER becomes this.
    Efer(u64),
    /// A command for the local APIC.
    Command(u64),
    /// It is written to the register.
    Forward(u64),
    /// General protection.
    Refuse,
}

/// What the answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// EFER in the control block.
    pub efer: u64,
    /// Bits of EFER that this processor has, without SVME.
    pub efer_bits: u64,
    /// Whether the host has paging on.
    pub paging: bool,
    /// APIC_BASE of this processor.
    pub apic_base: u64,
}

/// Returns the bits of EFER, without SVME, of a processor with these words of leaf 0x8000_0001.
pub const fn efer_bits(ecx: u32, edx: u32) -> u64 {
    let mut bits = efer::LMA;
    let known = [
        (edx >> 11 & 1, efer::SCE),
        (edx >> 29 & 1, efer::LME),
        (edx >> 20 & 1, efer::NXE),
        // Fast FXSAVE.
        (edx >> 25 & 1, 1 << 14),
        // Translation cache extension.
        (ecx >> 17 & 1, 1 << 15),
    ];
    let mut at = 0;
    while at < known.len() {
        if known[at].0 != 0 {
            bits |= known[at].1;
        }
        at += 1;
    }
    bits
}

/// Answers a read of `register`.
pub fn read(register: u32, state: &State) -> Answer {
    match register {
        EFER => Answer::Done(state.efer & !efer::SVME),
        _ => Answer::Refuse,
    }
}

/// Answers a write of `value` to `register`.
pub fn write(register: u32, value: u64, state: &State) -> Answer {
    match register {
        EFER => write_efer(value, state),
        // Out of x2APIC mode and at another address the interrupt commands would not be seen.
        APIC_BASE if value == state.apic_base => Answer::Done(0),
        X2APIC_ICR => Answer::Command(value),
        _ if LOCAL_VECTORS.contains(&register) => local_vector(value),
        _ => Answer::Refuse,
    }
}

/// The local sources of interrupts may not send what no command may: neither INIT nor management
/// interrupts.
const fn local_vector(value: u64) -> Answer {
    /// All but the vector, delivery mode and status, polarity, remote request, trigger mode, mask and
    /// timer mode.
    const RESERVED: u64 = !0x7_f7ff;
    match value >> 8 & 7 {
        0 | 4 | 7 if value & RESERVED == 0 => Answer::Forward(value),
        _ => Answer::Refuse,
    }
}

/// SVME stays set, which VMRUN demands. LMA is the processor's to change.
fn write_efer(value: u64, state: &State) -> Answer {
    let changed = value ^ state.efer;
    if value & !state.efer_bits != 0 || changed & efer::LME != 0 && state.paging {
        return Answer::Refuse;
    }
    let kept = state.efer & (efer::LMA | efer::SVME);
    Answer::Efer(value & !efer::LMA | kept)
}

#[cfg(test)]
mod tests {
    use super::{
        APIC_BASE, Answer, EFER, MAP_BYTES, State, X2APIC_ICR, efer_bits, fill, read, write,
    };

    const STATE: State = State {
        efer: 0x1d00,
        efer_bits: 0x4d01,
        paging: true,
        apic_base: 0xfee0_0d00,
    };

    fn bits(map: &[u8; MAP_BYTES], byte: usize, shift: u32) -> u8 {
        map[byte] >> shift & 3
    }

    #[test]
    fn the_map_has_the_bits_where_the_manual_says() {
        let mut map = [0xff; MAP_BYTES];
        fill(&mut map);
        assert_eq!(bits(&map, 0x06, 6), 2, "APIC_BASE");
        assert_eq!(bits(&map, 0x20c, 0), 2, "ICR");
        assert_eq!(bits(&map, 0x820, 0), 3, "EFER");
        assert_eq!(bits(&map, 0x1045, 0), 3, "VM_CR");
        assert_eq!(bits(&map, 0x1045, 6), 3, "VM_HSAVE_PA");
        assert_eq!(bits(&map, 0x1004, 0), 2, "SYSCFG");
        assert_eq!(bits(&map, 0x820, 2), 0, "STAR");
        let set: u32 = map.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(set, 1 + 1 + 6 + 4 + 2 + 2 + 12 + 1 + 1 + 8 + 1 + 3 + 3);
    }

    #[test]
    fn svme_is_hidden_and_stays_set() {
        assert_eq!(read(EFER, &STATE), Answer::Done(0xd00));
        // As Linux does: what it read, and more.
        assert_eq!(write(EFER, 0xd01, &STATE), Answer::Efer(0x1d01));
        assert_eq!(write(EFER, 0x901, &STATE), Answer::Efer(0x1d01));
        assert_eq!(write(EFER, 0x1d01, &STATE), Answer::Refuse);
        assert_eq!(write(EFER, 0xd01 | 1 << 2, &STATE), Answer::Refuse);
    }

    #[test]
    fn long_mode_is_switched_while_paging_is_off_only() {
        assert_eq!(write(EFER, 0x801, &STATE), Answer::Refuse);
        let off = State {
            efer: 0x1000,
            paging: false,
            ..STATE
        };
        assert_eq!(write(EFER, 0x901, &off), Answer::Efer(0x1901));
    }

    #[test]
    fn the_local_apic_neither_moves_nor_changes_its_mode() {
        assert_eq!(write(APIC_BASE, 0xfee0_0d00, &STATE), Answer::Done(0));
        for value in [0xfee0_0900, 0xfee0_0100, 0x1000_0d00, 0xfee0_0c00] {
            assert_eq!(
                write(APIC_BASE, value, &STATE),
                Answer::Refuse,
                "{value:#x}"
            );
        }
        assert_eq!(write(X2APIC_ICR, 5, &STATE), Answer::Command(5));
    }

    #[test]
    fn a_local_source_sends_no_init_and_no_management_interrupt() {
        // As Linux writes them: timer, external interrupts, non-maskable interrupts, masked.
        for value in [0x4_00ec, 0x700, 0x400, 0x1_00ff] {
            assert_eq!(write(0x835, value, &STATE), Answer::Forward(value));
        }
        for value in [0x200, 0x500, 0x600, 0x100, 1 << 20, 1 << 32, 0x800] {
            assert_eq!(write(0x832, value, &STATE), Answer::Refuse, "{value:#x}");
        }
        assert_eq!(write(0x838, 0, &STATE), Answer::Refuse);
    }

    #[test]
    fn what_a_local_apic_may_not_have_is_not_written_for_the_host() {
        let mut map = [0; MAP_BYTES];
        fill(&mut map);
        for register in 0x850..=0x853 {
            let (byte, shift) = (register / 4, register % 4 * 2);
            assert_eq!(bits(&map, byte, shift as u32), 2, "{register:#x}");
            assert_eq!(write(register as u32, 1 << 16, &STATE), Answer::Refuse);
        }
    }

    #[test]
    fn registers_of_svm_are_not_there() {
        for register in 0xc001_0114..=0xc001_0119 {
            assert_eq!(read(register, &STATE), Answer::Refuse);
            assert_eq!(write(register, 0, &STATE), Answer::Refuse);
        }
        assert_eq!(write(0xc001_0010, 0, &STATE), Answer::Refuse);
    }

    #[test]
    fn efer_has_the_bits_that_the_processor_has() {
        assert_eq!(efer_bits(0, 1 << 11 | 1 << 20 | 1 << 29), 0xd01);
        assert_eq!(efer_bits(1 << 17, 1 << 25), 1 << 10 | 1 << 14 | 1 << 15);
    }
}
