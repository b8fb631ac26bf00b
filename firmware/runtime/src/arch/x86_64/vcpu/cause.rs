// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a virtual CPU left, and what to do about it.

use tsm_platform::{Access, FaultSyndrome, Ipa, MemoryFault};

use crate::arch::vmcb::{Control, Intercept1, Intercept2, NP_ENABLE, V_INTR_MASKING, exit};
use crate::syndrome::{self, CLASS_FETCH, CLASS_SYSTEM_ERROR, CLASS_WAIT, WRITE};

/// Why a virtual CPU left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A physical interrupt or INIT: for the host.
    Interrupt,
    /// A non-maskable interrupt: for the host, or from another CPU of the TSM.
    NonMaskable,
    /// A refused access to memory.
    Memory(MemoryFault),
    /// VMMCALL.
    Call,
    /// HLT.
    Wait,
    /// CPUID.
    Identify,
    /// RDMSR, or WRMSR if true.
    Register(bool),
    /// XSETBV.
    ExtendedControl,
    /// An instruction that does nothing for a realm.
    Nothing,
    /// An exception that is intercepted only so that its delivery cannot go on for ever without the
    /// host.
    Exception {
        /// Its vector.
        vector: u64,
        /// Its error code.
        error: Option<u32>,
    },
    /// An instruction that is not there for a realm.
    Undefined,
    /// An access that the realm may not make.
    Protection,
    /// The virtual CPU cannot go on.
    Death,
}

/// An exit code beside those of `vmcb`.
const EXIT_WBINVD: u64 = 0x89;

const DEBUG: u64 = 1;
const ALIGNMENT_CHECK: u64 = 17;
const MACHINE_CHECK: u64 = 18;

/// Decodes an exit.
pub fn cause(control: &Control) -> Cause {
    match control.exit_code {
        exit::INTR | exit::INIT => Cause::Interrupt,
        exit::NMI => Cause::NonMaskable,
        exit::NPF => Cause::Memory(memory_fault(control.exit_info_1, Ipa(control.exit_info_2))),
        exit::VMMCALL => Cause::Call,
        exit::HLT => Cause::Wait,
        exit::CPUID => Cause::Identify,
        exit::MSR => Cause::Register(control.exit_info_1 & 1 == 1),
        exit::XSETBV => Cause::ExtendedControl,
        exit::INVD | EXIT_WBINVD => Cause::Nothing,
        exit::IOIO | exit::RDPMC => Cause::Protection,
        code if code == exit::EXCEPTION + DEBUG => Cause::Exception {
            vector: DEBUG,
            error: None,
        },
        code if code == exit::EXCEPTION + ALIGNMENT_CHECK => Cause::Exception {
            vector: ALIGNMENT_CHECK,
            error: Some(0),
        },
        code if code == exit::EXCEPTION + MACHINE_CHECK => Cause::Death,
        exit::SHUTDOWN | exit::INVALID => Cause::Death,
        // RSM, INVLPGA, those of SVM, MONITOR, MWAIT, RDPRU, INVLPGB, TLBSYNC, and what there is not
        // yet.
        _ => Cause::Undefined,
    }
}

/// Returns the length of the instruction that caused an exit, in bytes. A processor that saves the
/// address of the next instruction makes it known itself; QEMU does not.
pub const fn length(exit_code: u64) -> u64 {
    match exit_code {
        exit::HLT => 1,
        exit::VMMCALL | exit::XSETBV => 3,
        // CPUID, RDMSR, WRMSR, INVD, WBINVD.
        _ => 2,
    }
}

/// Decodes a nested page fault (AMD64 APM volume 2, 15.25.6).
fn memory_fault(info: u64, ipa: Ipa) -> MemoryFault {
    const INFO_WRITE: u64 = 1 << 1;
    const INFO_FETCH: u64 = 1 << 4;
    let read = syndrome::missing_memory(ipa, 3);
    let with = |esr| FaultSyndrome { esr, ..read };
    let (access, syndrome) = if info & INFO_FETCH != 0 {
        (
            Access::Execute,
            with(CLASS_FETCH | read.esr & !syndrome::CLASS),
        )
    } else if info & INFO_WRITE != 0 {
        (Access::Write, with(read.esr | WRITE))
    } else {
        (Access::Read, read)
    };
    MemoryFault {
        ipa,
        access,
        // The processor does not say, and the realm's code is not read.
        transfer: None,
        syndrome,
    }
}

/// Returns the syndrome of a virtual CPU that waits for an interrupt.
pub fn wait() -> FaultSyndrome {
    FaultSyndrome {
        esr: CLASS_WAIT,
        ..FaultSyndrome::default()
    }
}

/// Returns the syndrome of a virtual CPU that cannot go on.
pub fn death() -> FaultSyndrome {
    FaultSyndrome {
        esr: CLASS_SYSTEM_ERROR,
        ..FaultSyndrome::default()
    }
}

/// RSM, which `vmcb` does not name.
const INTERCEPT_RSM: u32 = 1 << 19;
/// RDPRU.
const INTERCEPT_RDPRU: u32 = 1 << 14;
/// INVLPGB, legal or not, MCOMMIT and TLBSYNC.
const INTERCEPT_OTHERS: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4;
/// Debug and alignment exceptions, which a realm could have raised again and again while they are
/// delivered, without room for an interrupt; and machine checks.
const INTERCEPT_EXCEPTIONS: u32 = 1 << DEBUG | 1 << ALIGNMENT_CHECK | 1 << MACHINE_CHECK;

/// Sets what the processor does with a realm: everything that is not its own leaves it.
///
/// A realm that waits keeps its CPU until an interrupt comes for the host, unless `trap_wait`.
pub fn confine(control: &mut Control, trap_wait: bool) {
    let wait = if trap_wait {
        Intercept1::HLT
    } else {
        Intercept1::empty()
    };
    let first = Intercept1::INTR
        | Intercept1::NMI
        | Intercept1::INIT
        | Intercept1::RDPMC
        | Intercept1::CPUID
        | Intercept1::INVD
        | Intercept1::INVLPGA
        | Intercept1::IOIO
        | Intercept1::MSR
        | Intercept1::SHUTDOWN
        | wait;
    let second = Intercept2::VMRUN
        | Intercept2::VMMCALL
        | Intercept2::VMLOAD
        | Intercept2::VMSAVE
        | Intercept2::STGI
        | Intercept2::CLGI
        | Intercept2::SKINIT
        | Intercept2::WBINVD
        | Intercept2::MONITOR
        | Intercept2::MWAIT
        | Intercept2::XSETBV;
    control.intercept_cr = 0;
    control.intercept_dr = 0;
    control.intercept_exceptions = INTERCEPT_EXCEPTIONS;
    control.intercept_1 = first.bits() | INTERCEPT_RSM;
    control.intercept_2 = second.bits() | INTERCEPT_RDPRU;
    control.intercept_3 = INTERCEPT_OTHERS;
    control.int_ctl = V_INTR_MASKING;
    control.nested_ctl = NP_ENABLE;
    control.tsc_offset = 0;
    control.lbr_ctl = 0;
    control.clean = 0;
}

#[cfg(test)]
mod tests {
    use super::{Cause, cause, confine, death, length, wait};
    use crate::arch::vmcb::Vmcb;
    use crate::syndrome::{conceal, reveal};
    use tsm_platform::{Access, Ipa, MemoryFault};

    fn exit(code: u64, info_1: u64, info_2: u64) -> Cause {
        let mut control = Vmcb::ZERO.control;
        control.exit_code = code;
        control.exit_info_1 = info_1;
        control.exit_info_2 = info_2;
        cause(&control)
    }

    fn fault(info: u64) -> MemoryFault {
        match exit(0x400, info, 0x1_2345_6789) {
            Cause::Memory(fault) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_nested_page_fault_says_where_and_how_and_not_what() {
        // Absent: read, write by the user, fetch, and a walk of the guest's tables.
        for (info, access) in [
            (1 << 32, Access::Read),
            (1 << 32 | 1 << 1 | 1 << 2, Access::Write),
            (1 << 32 | 1 << 4, Access::Execute),
            (1 << 33 | 1 << 2, Access::Read),
        ] {
            let fault = fault(info);
            assert_eq!(
                (fault.ipa, fault.access),
                (Ipa(0x1_2345_6789), access),
                "{info:#x}"
            );
            assert_eq!(fault.transfer, None);
            assert_eq!(
                (fault.syndrome.far, fault.syndrome.hpfar),
                (0, 0x12_3456 << 4)
            );
        }
    }

    #[test]
    fn the_host_learns_of_a_private_fault_that_memory_is_missing() {
        let seen = conceal(&fault(1 << 32 | 1 << 1).syndrome);
        assert_eq!(seen.esr, 0x24 << 26 | 1 << 10 | 7);
        assert_eq!(
            conceal(&fault(1 << 32 | 1 << 4).syndrome).esr,
            0x20 << 26 | 1 << 10 | 7
        );
        let shared = reveal(&fault(1 << 32 | 1 << 1).syndrome);
        assert_eq!(
            shared.esr,
            0x24 << 26 | 1 << 10 | 1 << 6 | 7,
            "direction, no transfer"
        );
    }

    #[test]
    fn what_comes_from_outside_is_the_hosts() {
        assert_eq!(exit(0x60, 0, 0), Cause::Interrupt);
        assert_eq!(exit(0x63, 0, 0), Cause::Interrupt);
        assert_eq!(exit(0x61, 0, 0), Cause::NonMaskable);
    }

    #[test]
    fn instructions_of_svm_and_unknown_exits_are_undefined_for_a_realm() {
        // RSM, INVLPGA, VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, MONITOR, MWAIT, RDPRU, INVLPGB.
        for code in [
            0x73, 0x7a, 0x80, 0x82, 0x83, 0x84, 0x85, 0x86, 0x8a, 0x8b, 0x8c, 0x8e, 0xa0, 0x3ff,
        ] {
            assert_eq!(exit(code, 0, 0), Cause::Undefined, "{code:#x}");
        }
    }

    #[test]
    fn ports_and_counters_are_refused_and_caches_are_left_alone() {
        assert_eq!(exit(0x7b, 0, 0), Cause::Protection);
        assert_eq!(exit(0x6f, 0, 0), Cause::Protection);
        assert_eq!(exit(0x76, 0, 0), Cause::Nothing);
        assert_eq!(exit(0x89, 0, 0), Cause::Nothing);
    }

    #[test]
    fn a_triple_fault_a_refused_block_and_a_machine_check_are_the_end() {
        for code in [0x7f, u64::MAX, 0x52] {
            assert_eq!(exit(code, 0, 0), Cause::Death, "{code:#x}");
        }
        assert_eq!(conceal(&death()).esr, 0x2f << 26);
        assert_eq!(conceal(&wait()).esr, 0x01 << 26);
    }

    #[test]
    fn exceptions_that_can_repeat_for_ever_are_given_back() {
        assert_eq!(
            exit(0x41, 0, 0),
            Cause::Exception {
                vector: 1,
                error: None
            }
        );
        assert_eq!(
            exit(0x51, 0, 0),
            Cause::Exception {
                vector: 17,
                error: Some(0)
            }
        );
    }

    #[test]
    fn calls_and_registers_are_told_apart() {
        assert_eq!((exit(0x81, 0, 0), length(0x81)), (Cause::Call, 3));
        assert_eq!((exit(0x78, 0, 0), length(0x78)), (Cause::Wait, 1));
        assert_eq!((exit(0x72, 0, 0), length(0x72)), (Cause::Identify, 2));
        assert_eq!(
            (exit(0x7c, 0, 0), length(0x7c)),
            (Cause::Register(false), 2)
        );
        assert_eq!(exit(0x7c, 1, 0), Cause::Register(true));
        assert_eq!(
            (exit(0x8d, 0, 0), length(0x8d)),
            (Cause::ExtendedControl, 3)
        );
    }

    #[test]
    fn interrupts_of_the_host_stop_a_realm_and_a_wait_only_if_asked() {
        let mut control = Vmcb::ZERO.control;
        confine(&mut control, false);
        assert_eq!(control.int_ctl, 1 << 24);
        assert_eq!(control.intercept_1 & 0b1011, 0b1011, "INTR, NMI, INIT");
        assert_eq!(control.intercept_1 & 1 << 24, 0, "HLT");
        assert_eq!(control.intercept_2 & 0x7f, 0x7f, "all of SVM");
        assert_eq!(control.nested_ctl, 1);
        confine(&mut control, true);
        assert_ne!(control.intercept_1 & 1 << 24, 0, "HLT");
    }
}
