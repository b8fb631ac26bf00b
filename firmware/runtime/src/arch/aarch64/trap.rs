// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest's exception means, and exceptions given to a guest. No hardware is touched here.

use tsm_platform::{Access, FaultSyndrome, Ipa, MemoryFault, Transfer};

/// Why a guest left, from ESR_EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// WFI or WFE.
    Wait,
    /// Floating point or SIMD.
    Vectors,
    /// SMC from AArch64.
    Call,
    /// Access to a system register or a trapped system instruction.
    Register(RegisterAccess),
    /// A refused access to memory.
    Memory,
    /// An access that the granule protection check refused, or an external abort on a table.
    Protection,
    /// Anything that a guest has no business with.
    Undefined,
}

/// A trapped access to a system register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterAccess {
    /// The register: op0, op1, CRn, CRm, op2.
    pub register: [u8; 5],
    /// General-purpose register, 31 for none.
    pub transfer: usize,
    /// Whether the guest reads.
    pub read: bool,
}

const fn field(word: u64, shift: u32, bits: u32) -> u64 {
    word >> shift & ((1 << bits) - 1)
}

/// Decodes the exception class and, where it matters, the syndrome.
pub fn cause(esr: u64) -> Cause {
    match field(esr, 26, 6) {
        0x01 => Cause::Wait,
        0x07 => Cause::Vectors,
        0x17 => Cause::Call,
        0x18 => Cause::Register(RegisterAccess {
            register: [
                field(esr, 20, 2) as u8,
                field(esr, 14, 3) as u8,
                field(esr, 10, 4) as u8,
                field(esr, 1, 4) as u8,
                field(esr, 17, 3) as u8,
            ],
            transfer: field(esr, 5, 5) as usize,
            read: esr & 1 == 1,
        }),
        0x20 | 0x24 => match field(esr, 0, 6) {
            // Address size, translation, access flag and permission faults.
            0x00..=0x0f => Cause::Memory,
            _ => Cause::Protection,
        },
        _ => Cause::Undefined,
    }
}

/// Decodes a refused access (Arm ARM D24.2.40, data and instruction aborts).
pub fn memory_fault(esr: u64, far: u64, hpfar: u64) -> MemoryFault {
    let instruction = field(esr, 26, 6) == 0x20;
    let access = if instruction {
        Access::Execute
    } else if field(esr, 6, 1) == 1 {
        Access::Write
    } else {
        Access::Read
    };
    let described = !instruction && field(esr, 24, 1) == 1;
    MemoryFault {
        // HPFAR_EL2.FIPA is bits 43:4 for address bits 51:12.
        ipa: Ipa(field(hpfar, 4, 40) << 12 | far & 0xfff),
        access,
        transfer: described.then(|| Transfer {
            register: field(esr, 16, 5) as u8,
            bytes: 1 << field(esr, 22, 2),
            sign_extend: field(esr, 21, 1) == 1,
            sixty_four: field(esr, 15, 1) == 1,
        }),
        syndrome: FaultSyndrome { esr, far, hpfar },
    }
}

/// What the runtime answers for a trapped register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read gives the hardware's value of the identification register, masked and raised.
    Identification {
        /// Fields that the guest sees as they are.
        keep: u64,
        /// What is added.
        add: u64,
    },
    /// A read gives zero and a write has no effect.
    Zero,
    /// The register does not exist for the guest.
    Undefined,
}

/// Decides what the guest sees of a trapped register.
///
/// Identification registers show what a guest may use: no virtualization, no SVE or SME, no memory
/// tagging, no performance monitors, no RAS registers, no GIC registers, no AArch32.
pub fn answer(access: &RegisterAccess) -> Answer {
    let identification = |keep, add| match access.read {
        true => Answer::Identification { keep, add },
        false => Answer::Undefined,
    };
    match access.register {
        // AArch32 identification.
        [3, 0, 0, 1..=3, _] => identification(0, 0),
        // ID_AA64PFR0_EL1: EL0 and EL1 AArch64 only; FP, SIMD, DIT, CSV2 (at most 1), CSV3.
        [3, 0, 0, 4, 0] => identification(0xf1ff_0000_00ff_0000 & !(0xff << 52), 0x11),
        // ID_AA64PFR1_EL1: BTI, SSBS.
        [3, 0, 0, 4, 1] => identification(0xff, 0),
        [3, 0, 0, 4, _] => identification(0, 0),
        // ID_AA64DFR0_EL1: the least debug architecture.
        [3, 0, 0, 5, 0] => identification(0, 6),
        [3, 0, 0, 5, _] => identification(0, 0),
        // ID_AA64ISAR0_EL1: all but TME.
        [3, 0, 0, 6, 0] => identification(!(0xf << 24), 0),
        // ID_AA64ISAR1_EL1: all but LS64.
        [3, 0, 0, 6, 1] => identification(!(0xf << 60), 0),
        // ID_AA64ISAR2_EL1: RPRES, GPA3, APA3, BC, PAC_frac, CLRBHB; not WFxT, not MOPS.
        [3, 0, 0, 6, 2] => identification(0xfff0_fff0, 0),
        [3, 0, 0, 6, _] => identification(0, 0),
        // ID_AA64MMFR0_EL1: not SNSMem, ECV, FGT.
        [3, 0, 0, 7, 0] => identification(0x0000_ffff_ffff_0fff, 0),
        // ID_AA64MMFR1_EL1: not VH, LO, HCX, CMOW.
        [3, 0, 0, 7, 1] => identification(!(0xf << 8 | 0xf << 16 | 0xf << 40 | 0xf << 56), 0),
        // ID_AA64MMFR2_EL1: not NV, FWB, EVT.
        [3, 0, 0, 7, 2] => identification(!(0xf << 24 | 0xf << 40 | 0xf << 56), 0),
        [3, 0, 0, 7, _] => identification(0, 0),
        // ACTLR_EL1.
        [3, 0, 1, 0, 1] => Answer::Zero,
        // DC ISW, CSW, CISW: caches are coherent, and by set and way they are the TSM's.
        [1, 0, 7, 6 | 10 | 14, 2] => Answer::Zero,
        // Self-hosted debug: the OS lock and breakpoints are there and do nothing.
        [2, 0, _, _, _] => Answer::Zero,
        _ => Answer::Undefined,
    }
}

/// The part of a guest's state that taking an exception to EL1 changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct El1Exception {
    /// Program counter.
    pub pc: u64,
    /// PSTATE in the format of SPSR.
    pub pstate: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

const IL: u64 = 1 << 25;
const UNDEFINED: u64 = IL;
const PAN: u64 = 1 << 22;
const DIT: u64 = 1 << 24;
const SSBS: u64 = 1 << 12;
const TCO: u64 = 1 << 25;
const DAIF: u64 = 0xf << 6;
const EL1H: u64 = 0b0101;
const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;

impl El1Exception {
    /// Takes an exception with syndrome `esr` to the vectors at `vbar` (Arm ARM D1.3).
    pub fn take(&mut self, esr: u64, far: Option<u64>, vbar: u64, sctlr: u64) {
        let offset = match self.pstate & 0x1f {
            EL1H => 0x200,
            0b00100 => 0x000,
            mode if mode & 0x10 == 0 => 0x400,
            _ => 0x600,
        };
        self.elr = self.pc;
        self.spsr = self.pstate;
        self.esr = esr;
        if let Some(far) = far {
            self.far = far;
        }
        let flags = self.pstate & (0xf << 28 | DIT | PAN | TCO);
        let pan = if sctlr & SCTLR_SPAN == 0 { PAN } else { 0 };
        let ssbs = if sctlr & SCTLR_DSSBS != 0 { SSBS } else { 0 };
        self.pstate = flags | pan | ssbs | DAIF | EL1H;
        self.pc = (vbar & !0x7ff) + offset;
    }

    /// Takes an undefined instruction at the present program counter.
    pub fn take_undefined(&mut self, vbar: u64, sctlr: u64) {
        self.take(UNDEFINED, None, vbar, sctlr);
    }

    /// Takes a synchronous external abort for the access that `fault` describes.
    pub fn take_abort(&mut self, fault: &MemoryFault, vbar: u64, sctlr: u64) {
        let same_level = self.pstate & 0xc == 0x4;
        let class: u64 = match (fault.access == Access::Execute, same_level) {
            (true, false) => 0x20,
            (true, true) => 0x21,
            (false, false) => 0x24,
            (false, true) => 0x25,
        };
        let il = fault.syndrome.esr & IL;
        let write = if fault.access == Access::Write {
            1 << 6
        } else {
            0
        };
        let esr = class << 26 | il | write | 0x10;
        self.take(esr, Some(fault.syndrome.far), vbar, sctlr);
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Cause, El1Exception, RegisterAccess, answer, cause, memory_fault};
    use tsm_platform::{Access, Ipa, Transfer};

    fn read(register: [u8; 5]) -> RegisterAccess {
        RegisterAccess {
            register,
            transfer: 0,
            read: true,
        }
    }

    #[test]
    fn a_data_abort_tells_address_register_and_width() {
        // Stage 2 translation fault, level 3; 4-byte store of x5.
        let esr = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 5 << 16 | 1 << 6 | 0x07;
        assert_eq!(cause(esr), Cause::Memory);
        let fault = memory_fault(esr, 0xffff_0000_0000_1234, 0x1000_0000 >> 8);
        assert_eq!(fault.ipa, Ipa(0x1000_0234));
        assert_eq!(fault.access, Access::Write);
        let word = Transfer {
            register: 5,
            bytes: 4,
            sign_extend: false,
            sixty_four: false,
        };
        assert_eq!(fault.transfer, Some(word));
        let fetch = memory_fault(0x20 << 26 | 0x07, 0, 0);
        assert_eq!((fetch.access, fetch.transfer), (Access::Execute, None));
    }

    #[test]
    fn a_signed_load_tells_that_it_is_and_how_wide_its_register_is() {
        // LDRSB x7, LDRSB w7, LDRSW x7.
        for (bytes, sixty_four) in [(0, true), (0, false), (2, true)] {
            let target = u64::from(sixty_four) << 15;
            let esr = 0x24 << 26 | 1 << 24 | bytes << 22 | 1 << 21 | 7 << 16 | target | 0x07;
            let signed = Transfer {
                register: 7,
                bytes: 1 << bytes,
                sign_extend: true,
                sixty_four,
            };
            assert_eq!(memory_fault(esr, 0, 0).transfer, Some(signed));
        }
    }

    #[test]
    fn a_granule_protection_fault_is_not_a_translation_fault() {
        assert_eq!(cause(0x9200_0028), Cause::Protection);
        assert_eq!(cause(0x8200_0025), Cause::Protection);
    }

    #[test]
    fn system_register_traps_name_the_register() {
        // MRS x3, ID_AA64PFR0_EL1.
        let esr = 0x18 << 26 | 3 << 20 | 3 << 5 | 4 << 1 | 1;
        let access = RegisterAccess {
            transfer: 3,
            ..read([3, 0, 0, 4, 0])
        };
        assert_eq!(cause(esr), Cause::Register(access));
    }

    #[test]
    fn a_guest_sees_no_feature_that_it_may_not_use() {
        let Answer::Identification { keep, add } = answer(&read([3, 0, 0, 4, 0])) else {
            panic!("PFR0 is an identification register");
        };
        // The value that QEMU's maximal CPU has.
        let seen = 0x1311_0011_2111_2222 & keep | add;
        let nibble = |place: u32| seen >> (4 * place) & 0xf;
        assert_eq!([nibble(0), nibble(1), nibble(2), nibble(3)], [1, 1, 0, 0]);
        assert_eq!([nibble(4), nibble(5)], [1, 1], "FP and SIMD");
        for hidden in [6, 7, 8, 9, 10, 11, 13] {
            assert_eq!(nibble(hidden), 0, "field {hidden}");
        }
        let write = RegisterAccess {
            read: false,
            ..read([3, 0, 0, 4, 0])
        };
        assert_eq!(answer(&write), Answer::Undefined);
        // ICC_IAR1_EL1 and PMCR_EL0.
        assert_eq!(answer(&read([3, 0, 12, 12, 0])), Answer::Undefined);
        assert_eq!(answer(&read([3, 3, 9, 12, 0])), Answer::Undefined);
    }

    #[test]
    fn an_exception_goes_to_the_vector_of_its_origin() {
        for (pstate, offset) in [(0x5, 0x200), (0x4, 0), (0, 0x400), (0x10, 0x600)] {
            let mut state = El1Exception {
                pc: 0x4000,
                pstate: pstate | 1 << 31,
                ..El1Exception::default()
            };
            state.take_undefined(0x8000, 1 << 23);
            assert_eq!(state.pc, 0x8000 + offset);
            assert_eq!((state.elr, state.spsr), (0x4000, pstate | 1 << 31));
            assert_eq!(state.pstate, 1 << 31 | 0x3c5);
            assert_eq!(state.esr, 1 << 25);
        }
    }

    #[test]
    fn an_injected_abort_is_synchronous_external_with_the_guests_address() {
        let fault = memory_fault(0x24 << 26 | 1 << 25 | 1 << 6 | 0x07, 0xabcd, 0);
        let mut state = El1Exception {
            pstate: 0x5,
            ..El1Exception::default()
        };
        state.take_abort(&fault, 0, 0);
        assert_eq!(state.esr, 0x25 << 26 | 1 << 25 | 1 << 6 | 0x10);
        assert_eq!(state.far, 0xabcd);
        assert_ne!(state.pstate & 1 << 22, 0, "PAN is set when SPAN is clear");
    }
}
