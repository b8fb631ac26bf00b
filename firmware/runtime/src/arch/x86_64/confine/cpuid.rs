// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host sees of its processor: all but SVM.

use crate::arch::vmcb::control_register::{CR4_OSXSAVE, CR4_PKE};

/// Registers that CPUID gives: EAX, EBX, ECX and EDX.
pub type Words = [u32; 4];

/// First leaf that says who runs below an operating system.
pub const HYPERVISOR: u32 = 0x4000_0000;
/// Leaf with the features of what [`HYPERVISOR`] names.
const HYPERVISOR_FEATURES: u32 = 0x4000_0001;
/// The leaf of the TSM.
pub const TSM: u32 = 0x4000_0100;
/// Leaves that a processor leaves to what runs below an operating system.
const RESERVED: core::ops::RangeInclusive<u32> = HYPERVISOR..=0x4fff_ffff;

const FEATURES: u32 = 1;
const STRUCTURED_FEATURES: u32 = 7;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const SVM: u32 = 0x8000_000a;
const ENCRYPTED_MEMORY: u32 = 0x8000_001f;

/// Leaf 1, ECX.
const OSXSAVE: u32 = 1 << 27;
const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// Leaf 7, ECX.
const OSPKE: u32 = 1 << 4;
/// Leaf 0x8000_0001, ECX: SVM and SKINIT.
const SVM_AND_SKINIT: u32 = 1 << 2 | 1 << 12;

/// Returns a signature's three words behind the highest leaf.
const fn signature(highest: u32, name: &[u8; 12]) -> Words {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *name;
    [
        highest,
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u32::from_le_bytes([i, j, k, l]),
    ]
}

/// Returns what the host gets for a leaf that the processor answers with `raw`; `cr4` is the host's.
///
/// Linux leaves x2APIC mode when nothing remaps interrupts, unless what runs below it is known to
/// have no need of that. So the first signature is one that it knows, without any feature.
pub const fn answer(leaf: u32, subleaf: u32, raw: Words, cr4: u64) -> Words {
    let [a, b, c, d] = raw;
    match leaf {
        FEATURES => {
            let c = c & !OSXSAVE | HYPERVISOR_PRESENT;
            [
                a,
                b,
                if cr4 & CR4_OSXSAVE != 0 {
                    c | OSXSAVE
                } else {
                    c
                },
                d,
            ]
        }
        STRUCTURED_FEATURES if subleaf == 0 => {
            let c = c & !OSPKE;
            [a, b, if cr4 & CR4_PKE != 0 { c | OSPKE } else { c }, d]
        }
        EXTENDED_FEATURES => [a, b, c & !SVM_AND_SKINIT, d],
        SVM | ENCRYPTED_MEMORY => [0; 4],
        HYPERVISOR => signature(HYPERVISOR_FEATURES, b"KVMKVMKVM\0\0\0"),
        TSM => signature(TSM, b"Portcullis\0\0"),
        _ if leaf >= *RESERVED.start() && leaf <= *RESERVED.end() => [0; 4],
        _ => raw,
    }
}

#[cfg(test)]
mod tests {
    use super::{TSM, Words, answer};
    use crate::arch::vmcb::control_register::{CR4_OSXSAVE, CR4_PKE};

    const ONES: Words = [u32::MAX; 4];

    #[test]
    fn svm_is_not_there_for_the_host() {
        assert_eq!(answer(0x8000_0001, 0, ONES, 0)[2], !(1 << 2 | 1 << 12));
        assert_eq!(answer(0x8000_000a, 0, ONES, 0), [0; 4]);
        assert_eq!(answer(0x8000_001f, 0, ONES, 0), [0; 4]);
        assert_eq!(answer(0x8000_0008, 0, ONES, 0), ONES);
    }

    #[test]
    fn bits_that_mirror_control_register_4_are_those_of_the_host() {
        assert_eq!(answer(1, 0, ONES, 0)[2], !(1 << 27));
        assert_eq!(answer(1, 0, [0; 4], CR4_OSXSAVE)[2], 1 << 27 | 1 << 31);
        assert_eq!(answer(7, 0, ONES, 0)[2], !(1 << 4));
        assert_eq!(answer(7, 0, [0; 4], CR4_PKE)[2], 1 << 4);
        assert_eq!(answer(7, 1, ONES, 0), ONES);
    }

    #[test]
    fn a_host_finds_a_name_it_knows_first_and_the_tsm_behind_it() {
        let text = |leaf| {
            let words = answer(leaf, 0, ONES, 0);
            let name: Vec<u8> = words[1..].iter().flat_map(|w| w.to_le_bytes()).collect();
            (words[0], name)
        };
        assert_eq!(
            text(0x4000_0000),
            (0x4000_0001, b"KVMKVMKVM\0\0\0".to_vec())
        );
        assert_eq!(text(TSM), (TSM, b"Portcullis\0\0".to_vec()));
        for leaf in [0x4000_0001, 0x4000_0101, 0x4fff_ffff] {
            assert_eq!(answer(leaf, 0, ONES, 0), [0; 4], "{leaf:#x}");
        }
        assert_eq!(answer(0x5000_0000, 0, ONES, 0), ONES);
    }
}
