// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What CPUID tells a realm (AMD64 APM volume 3, appendix E).
//!
//! Features are a list of what a realm may have: those that the processor has and that need no state
//! or MSR which is not switched. What describes the machine, its caches and its other processors is
//! not told: each virtual CPU is a package with one core and one thread.

use crate::arch::vmcb::control_register::CR4_OSXSAVE;

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

const fn bits<const N: usize>(list: [u32; N]) -> u32 {
    let mut mask = 0;
    let mut index = 0;
    while index < N {
        mask |= 1 << list[index];
        index += 1;
    }
    mask
}

/// Leaf 1, ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE,
/// AVX, F16C, RDRAND.
const LEAF_1_ECX: u32 = bits([0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Leaf 1, ECX: the operating system has turned XSAVE on.
const OSXSAVE: u32 = 1 << 27;
/// Leaf 1, ECX: there is a hypervisor, and leaf 0x4000_0000.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, CMPXCHG8B, SEP, PGE, CMOV, PAT, PSE36, CLFLUSH,
/// MMX, FXSR, SSE, SSE2. No machine check, APIC, MTRR.
const LEAF_1_EDX: u32 = bits([
    0, 1, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26,
]);
/// Leaf 7, EBX: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
const LEAF_7_EBX: u32 = bits([0, 3, 5, 7, 8, 9, 18, 19, 20, 23, 24, 29]);
/// Leaf 7, ECX: UMIP, VAES, VPCLMULQDQ, RDPID.
const LEAF_7_ECX: u32 = bits([2, 9, 10, 22]);
/// Leaf 7, EDX: FSRM.
const LEAF_7_EDX: u32 = bits([4]);
/// Leaf 0xd, subleaf 1, EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1. No XSAVES: no supervisor state.
const LEAF_D_1_EAX: u32 = bits([0, 1, 2]);
/// Leaf 0x8000_0001, ECX: LAHF and SAHF, ABM, SSE4A, misaligned SSE, 3DNow! prefetch.
const EXTENDED_1_ECX: u32 = bits([0, 5, 6, 7, 8]);
/// Leaf 0x8000_0001, EDX: what leaf 1 has in the same places, SYSCALL, NX, MMX extensions, 1 GiB pages,
/// RDTSCP, long mode.
const EXTENDED_1_EDX: u32 = LEAF_1_EDX & bits([0, 1, 2, 3, 4, 5, 6, 8, 13, 15, 16, 17, 23, 24])
    | bits([11, 20, 22, 26, 27, 29]);
/// Leaf 0x8000_0007, EDX: the time stamp counter has one rate.
const EXTENDED_7_EDX: u32 = bits([8]);
/// Leaf 0x8000_0008, EBX: CLZERO, FXRSTOR restores the FPU's error pointers.
const EXTENDED_8_EBX: u32 = bits([0, 2]);

/// Highest leaves.
const HIGHEST: u32 = 0xd;
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
const HIGHEST_EXTENDED: u32 = 0x8000_0008;

/// "Portcullis" and two zero bytes, as EBX, ECX and EDX hold it.
pub const SIGNATURE: [u32; 3] = [
    u32::from_le_bytes(*b"Port"),
    u32::from_le_bytes(*b"cull"),
    u32::from_le_bytes(*b"is\0\0"),
];

/// The processor's name for a realm: three leaves of 16 bytes.
const NAME: &[u8; 48] =
    b"Portcullis virtual CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// x87, SSE and AVX state: what of XCR0 a realm may set.
pub const XCR0_X87: u64 = 1 << 0;
/// SSE state.
pub const XCR0_SSE: u64 = 1 << 1;
/// AVX state.
pub const XCR0_AVX: u64 = 1 << 2;

/// Bytes of the XSAVE area without and with AVX state, which is at the end of the first.
const AREA_SSE: u32 = 576;
const AREA_AVX: u32 = AREA_SSE + AVX_BYTES;
const AVX_BYTES: u32 = 256;

/// What a virtual CPU is told of its processor. It stays as it was when the virtual CPU was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    vendor: [u32; 3],
    signature: u32,
    /// CLFLUSH line in bits 15:8.
    line: u32,
    leaf_1: [u32; 2],
    leaf_7: [u32; 3],
    extended_state: u32,
    extended_1: [u32; 2],
    extended_7: u32,
    extended_8: [u32; 2],
    /// Number of the virtual CPU.
    index: u32,
}

impl Offer {
    /// Returns what virtual CPU `index` is told of a processor whose CPUID is `processor`, when its
    /// physical addresses have at most `ipa_bits` bits.
    pub fn new(processor: impl Fn(u32, u32) -> Leaf, index: u32, ipa_bits: u8) -> Self {
        let zero = processor(0, 0);
        let one = processor(1, 0);
        let seven = processor(7, 0);
        let extended_1 = processor(0x8000_0001, 0);
        let extended_8 = processor(0x8000_0008, 0);
        let physical = (extended_8.eax & 0xff).min(ipa_bits.into());
        /// 48-bit linear addresses.
        const LINEAR: u32 = 48 << 8;
        Self {
            vendor: [zero.ebx, zero.ecx, zero.edx],
            signature: one.eax,
            line: one.ebx & 0xff00,
            leaf_1: [one.ecx & LEAF_1_ECX, one.edx & LEAF_1_EDX],
            leaf_7: [
                seven.ebx & LEAF_7_EBX,
                seven.ecx & LEAF_7_ECX,
                seven.edx & LEAF_7_EDX,
            ],
            extended_state: processor(0xd, 1).eax & LEAF_D_1_EAX,
            extended_1: [
                extended_1.ecx & EXTENDED_1_ECX,
                extended_1.edx & EXTENDED_1_EDX,
            ],
            extended_7: processor(0x8000_0007, 0).edx & EXTENDED_7_EDX,
            extended_8: [physical | LINEAR, extended_8.ebx & EXTENDED_8_EBX],
            index,
        }
    }

    /// Returns what of XCR0 the virtual CPU may set.
    pub const fn xcr0(&self) -> u64 {
        const AVX: u32 = 1 << 28;
        if self.leaf_1[0] & AVX != 0 {
            XCR0_X87 | XCR0_SSE | XCR0_AVX
        } else {
            XCR0_X87 | XCR0_SSE
        }
    }

    /// Returns whether the virtual CPU may set XCR0 to `value`.
    pub const fn allows_xcr0(&self, value: u64) -> bool {
        value & XCR0_X87 != 0
            && value & !self.xcr0() == 0
            && (value & XCR0_AVX == 0 || value & XCR0_SSE != 0)
    }

    /// Answers CPUID with EAX `leaf` and ECX `subleaf`, for a virtual CPU with these CR4 and XCR0.
    pub fn answer(&self, leaf: u32, subleaf: u32, cr4: u64, xcr0: u64) -> Leaf {
        let [basic_ebx, basic_ecx, basic_edx] = self.vendor;
        match (leaf, subleaf) {
            (0, _) => Leaf {
                eax: HIGHEST,
                ebx: basic_ebx,
                ecx: basic_ecx,
                edx: basic_edx,
            },
            (1, _) => self.leaf_1(cr4),
            (7, 0) => {
                let [ebx, ecx, edx] = self.leaf_7;
                Leaf {
                    eax: 0,
                    ebx,
                    ecx,
                    edx,
                }
            }
            // One thread; there is no second level.
            (0xb, 0) => Leaf {
                eax: 0,
                ebx: 1,
                ecx: 1 << 8,
                edx: self.index,
            },
            (0xb, _) => Leaf {
                ecx: subleaf & 0xff,
                edx: self.index,
                ..Leaf::default()
            },
            (0xd, _) => self.extended_state(subleaf, xcr0),
            (HYPERVISOR_LEAF, _) => {
                let [ebx, ecx, edx] = SIGNATURE;
                Leaf {
                    eax: HYPERVISOR_LEAF,
                    ebx,
                    ecx,
                    edx,
                }
            }
            (0x8000_0000, _) => Leaf {
                eax: HIGHEST_EXTENDED,
                ebx: basic_ebx,
                ecx: basic_ecx,
                edx: basic_edx,
            },
            (0x8000_0001, _) => {
                let [ecx, edx] = self.extended_1;
                Leaf {
                    eax: self.signature,
                    ebx: 0,
                    ecx,
                    edx,
                }
            }
            (0x8000_0002..=0x8000_0004, _) => name(leaf - 0x8000_0002),
            (0x8000_0007, _) => Leaf {
                edx: self.extended_7,
                ..Leaf::default()
            },
            (0x8000_0008, _) => {
                let [eax, ebx] = self.extended_8;
                Leaf {
                    eax,
                    ebx,
                    ..Leaf::default()
                }
            }
            _ => Leaf::default(),
        }
    }

    fn leaf_1(&self, cr4: u64) -> Leaf {
        let [ecx, edx] = self.leaf_1;
        let osxsave = if cr4 & CR4_OSXSAVE != 0 { OSXSAVE } else { 0 };
        Leaf {
            eax: self.signature,
            ebx: self.line | self.index << 24,
            ecx: ecx | osxsave | HYPERVISOR,
            edx,
        }
    }

    fn extended_state(&self, subleaf: u32, xcr0: u64) -> Leaf {
        let area = |state: u64| {
            if state & XCR0_AVX != 0 {
                AREA_AVX
            } else {
                AREA_SSE
            }
        };
        match subleaf {
            0 => Leaf {
                eax: self.xcr0() as u32,
                ebx: area(xcr0),
                ecx: area(self.xcr0()),
                edx: 0,
            },
            1 => Leaf {
                eax: self.extended_state,
                // Without supervisor state the compact form has the same size.
                ebx: area(xcr0),
                ..Leaf::default()
            },
            2 if self.xcr0() & XCR0_AVX != 0 => Leaf {
                eax: AVX_BYTES,
                ebx: AREA_SSE,
                ..Leaf::default()
            },
            _ => Leaf::default(),
        }
    }
}

fn name(part: u32) -> Leaf {
    let word = |index: u32| {
        let from = (part * 16 + index * 4) as usize;
        let bytes = NAME.get(from..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    Leaf {
        eax: word(0),
        ebx: word(1),
        ecx: word(2),
        edx: word(3),
    }
}

#[cfg(test)]
mod tests {
    use super::{Leaf, Offer};

    /// A processor that has everything.
    fn all(_: u32, _: u32) -> Leaf {
        Leaf {
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
        }
    }

    fn offer() -> Offer {
        Offer::new(all, 5, 39)
    }

    #[test]
    fn a_realm_sees_no_feature_whose_state_is_not_its_own() {
        let answer = |leaf, subleaf| offer().answer(leaf, subleaf, 0, 1);
        // MONITOR, VMX, PCID, x2APIC, TSC deadline, OSXSAVE.
        assert_eq!(
            answer(1, 0).ecx & (1 << 3 | 1 << 5 | 1 << 17 | 1 << 21 | 1 << 24 | 1 << 27),
            0
        );
        // Machine check, APIC, MTRR, MCA, debug store, threads.
        assert_eq!(
            answer(1, 0).edx & (1 << 7 | 1 << 9 | 1 << 12 | 1 << 14 | 1 << 21 | 1 << 28),
            0
        );
        // MPX, AVX-512, processor trace.
        assert_eq!(
            answer(7, 0).ebx & (1 << 14 | 1 << 16 | 1 << 25 | 1 << 30 | 1 << 31),
            0
        );
        // Protection keys, LA57, shadow stacks; speculation control, IBT, AMX.
        assert_eq!(answer(7, 0).ecx & (1 << 3 | 1 << 4 | 1 << 7 | 1 << 16), 0);
        assert_eq!(answer(7, 0).edx & (7 << 26 | 1 << 20 | 7 << 22), 0);
        assert_eq!(answer(7, 1), Leaf::default());
        // SVM, extended APIC space, OSVW, instruction based sampling, LWP, counters.
        assert_eq!(
            answer(0x8000_0001, 0).ecx & (1 << 2 | 1 << 3 | 3 << 9 | 1 << 15 | 3 << 23),
            0
        );
        assert_eq!(answer(0xd, 0).eax, 7);
        assert_eq!(answer(0xd, 0).edx, 0);
        assert_eq!(answer(0xd, 1).eax & 1 << 3, 0, "XSAVES");
        for subleaf in 3..64 {
            assert_eq!(answer(0xd, subleaf), Leaf::default());
        }
    }

    #[test]
    fn a_realm_sees_nothing_of_the_machine_beyond_its_features() {
        // Caches, MONITOR, power, counters, SVM, caches again, topology, memory encryption.
        let hidden = [
            2,
            3,
            4,
            5,
            6,
            8,
            9,
            0xa,
            0xc,
            0xe,
            0xf,
            0x10,
            0x12,
            0x14,
            0x15,
            0x16,
            0x17,
            0x1a,
            0x1f,
            0x4000_0001,
            0x4000_0100,
            0x8000_0005,
            0x8000_0006,
            0x8000_0009,
            0x8000_000a,
            0x8000_0019,
            0x8000_001a,
            0x8000_001b,
            0x8000_001d,
            0x8000_001e,
            0x8000_001f,
            0x8000_0021,
            u32::MAX,
        ];
        for leaf in hidden {
            assert_eq!(
                offer().answer(leaf, 0, u64::MAX, 7),
                Leaf::default(),
                "{leaf:#x}"
            );
        }
        assert_eq!(
            offer().answer(0x8000_0008, 0, 0, 1).ecx,
            0,
            "number of cores"
        );
        assert_eq!(offer().answer(0x8000_0008, 0, 0, 1).eax, 48 << 8 | 39);
    }

    #[test]
    fn each_virtual_cpu_is_a_package_with_its_own_number() {
        assert_eq!(offer().answer(1, 0, 0, 1).ebx, 5 << 24 | 0xff00);
        assert_eq!(
            offer().answer(0xb, 0, 0, 1),
            Leaf {
                eax: 0,
                ebx: 1,
                ecx: 0x100,
                edx: 5
            }
        );
        assert_eq!(
            offer().answer(0xb, 1, 0, 1),
            Leaf {
                eax: 0,
                ebx: 0,
                ecx: 1,
                edx: 5
            }
        );
    }

    #[test]
    fn only_the_state_of_the_virtual_cpu_itself_changes_an_answer() {
        let leaf_1 = |cr4| offer().answer(1, 0, cr4, 1).ecx;
        assert_eq!(leaf_1(1 << 18) ^ leaf_1(0), 1 << 27, "OSXSAVE");
        assert_eq!(offer().answer(0xd, 0, 0, 3).ebx, 576);
        assert_eq!(offer().answer(0xd, 0, 0, 7).ebx, 832);
    }

    #[test]
    fn a_feature_that_the_processor_lacks_is_not_offered() {
        let none = Offer::new(|_, _| Leaf::default(), 0, 48);
        assert_eq!(none.answer(1, 0, 0, 1).ecx, 1 << 31);
        assert_eq!(none.answer(1, 0, 0, 1).edx, 0);
        assert_eq!(
            (none.xcr0(), none.answer(0xd, 2, 0, 1)),
            (3, Leaf::default())
        );
        assert_eq!(none.answer(0xd, 0, 0, 3).ecx, 576);
    }

    #[test]
    fn the_extended_state_that_a_realm_may_turn_on_is_what_is_switched() {
        for (value, allowed) in [
            (1, true),
            (3, true),
            (7, true),
            (0, false),
            (5, false),
            (6, false),
        ] {
            assert_eq!(offer().allows_xcr0(value), allowed, "{value}");
        }
        for bit in 3..64 {
            assert!(!offer().allows_xcr0(7 | 1 << bit), "{bit}");
        }
        let sse = Offer::new(|_, _| Leaf::default(), 0, 48);
        assert!(sse.allows_xcr0(3) && !sse.allows_xcr0(7));
    }

    #[test]
    fn a_realm_is_told_who_runs_it() {
        let leaf = offer().answer(0x4000_0000, 0, 0, 1);
        let text = [leaf.ebx, leaf.ecx, leaf.edx]
            .map(u32::to_le_bytes)
            .concat();
        assert_eq!(text, b"Portcullis\0\0");
        let name: Vec<u8> = (0x8000_0002..=0x8000_0004)
            .flat_map(|leaf| {
                let Leaf { eax, ebx, ecx, edx } = offer().answer(leaf, 0, 0, 1);
                [eax, ebx, ecx, edx].map(u32::to_le_bytes).concat()
            })
            .collect();
        assert!(name.starts_with(b"Portcullis virtual CPU\0"));
    }
}
