// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host is told of a guest's exit. The format is that of ESR_EL2, FAR_EL2 and HPFAR_EL2 for
//! every processor: RMI calls have no other.

use tsm_platform::{FaultSyndrome, Ipa};

/// Exception class: which kind of exit it is.
pub const CLASS: u64 = 0x3f << 26;
/// ISS of an abort: severity of an external abort (SET), FAR not valid (FnV), external abort type
/// (EA) and fault status code.
const ABORT: u64 = 0b11 << 11 | FAR_NOT_VALID | 1 << 9 | 0x3f;
const FAR_NOT_VALID: u64 = 1 << 10;
/// ISS of an abort that can be emulated: valid (ISV), width (SAS), register width (SF) and direction
/// (WnR). Not the register, nor how what is read extends: the TSM completes the load.
const EMULATION: u64 = 1 << 24 | 0b11 << 22 | 1 << 15 | WRITE;
/// ISS of a WFI or WFE: which of them.
const WAIT: u64 = 1;
/// ISS of an SError: its format is the implementation's.
const UNKNOWN_FORMAT: u64 = 1 << 24;
/// ISS of an SError: type (AET), external abort type and status code.
const SYSTEM_ERROR: u64 = 0b111 << 10 | 1 << 9 | 0x3f;

/// Exception class of WFI and WFE.
pub const CLASS_WAIT: u64 = 0x01 << 26;
/// Exception class of a refused instruction fetch.
pub const CLASS_FETCH: u64 = 0x20 << 26;
/// Exception class of a refused load or store.
pub const CLASS_ACCESS: u64 = 0x24 << 26;
/// Exception class of SError.
pub const CLASS_SYSTEM_ERROR: u64 = 0x2f << 26;
/// ISS of an abort: a write (WnR).
pub const WRITE: u64 = 1 << 6;
/// ISS of an abort: translation fault at level 0.
const TRANSLATION_FAULT: u64 = 4;

/// Returns what the host may know of an exit that it does not emulate: what kind it is, and the page
/// of a fault, but not the virtual address or what would have been moved.
pub fn conceal(syndrome: &FaultSyndrome) -> FaultSyndrome {
    let esr = syndrome.esr;
    let told = match esr & CLASS {
        CLASS_WAIT => esr & WAIT,
        CLASS_FETCH | CLASS_ACCESS => esr & ABORT | FAR_NOT_VALID,
        CLASS_SYSTEM_ERROR if esr & UNKNOWN_FORMAT != 0 => UNKNOWN_FORMAT,
        CLASS_SYSTEM_ERROR => esr & SYSTEM_ERROR,
        _ => 0,
    };
    FaultSyndrome {
        esr: esr & CLASS | told,
        far: 0,
        hpfar: syndrome.hpfar,
    }
}

/// Returns what the host may know of an abort on shared memory, so that it can emulate the access.
pub fn reveal(syndrome: &FaultSyndrome) -> FaultSyndrome {
    FaultSyndrome {
        esr: syndrome.esr & (CLASS | ABORT | EMULATION),
        // Where in the page the access was, not where the guest has mapped the page.
        far: syndrome.far & 0xfff,
        hpfar: syndrome.hpfar,
    }
}

/// Returns the fault of a load at `ipa` whose stage 2 walk ended at `level`.
pub fn missing_memory(ipa: Ipa, level: u8) -> FaultSyndrome {
    FaultSyndrome {
        esr: CLASS_ACCESS | FAR_NOT_VALID | TRANSLATION_FAULT | u64::from(level & 3),
        far: 0,
        hpfar: ipa.0 >> 12 << 4,
    }
}

#[cfg(test)]
mod tests {
    use super::{conceal, missing_memory, reveal};
    use tsm_platform::{FaultSyndrome, Ipa};

    fn syndrome(esr: u64, far: u64, hpfar: u64) -> FaultSyndrome {
        FaultSyndrome { esr, far, hpfar }
    }

    #[test]
    fn the_host_learns_the_page_of_a_private_fault_and_no_more() {
        let esr = 0x24 << 26 | 1 << 24 | 3 << 22 | 7 << 16 | 1 << 6 | 0x07;
        let seen = conceal(&syndrome(esr, 0xabc_d123, 0x40));
        assert_eq!(seen.esr, 0x24 << 26 | 1 << 10 | 0x07);
        assert_eq!((seen.far, seen.hpfar), (0, 0x40));
        let made = missing_memory(Ipa(0x4000), 3);
        assert_eq!((made.esr, made.hpfar), (seen.esr, seen.hpfar));
    }

    #[test]
    fn the_host_learns_what_it_needs_to_emulate_an_access_and_not_the_register() {
        // Translation fault, level 3, of a signed 2-byte load of x7 with acquire semantics.
        let esr = 0x24 << 26 | 0x0360_0000 | 7 << 16 | 3 << 14 | 0x07;
        let seen = reveal(&syndrome(esr, 0xabc_d123, 0x40));
        assert_eq!(seen.esr, 0x24 << 26 | 1 << 24 | 1 << 22 | 1 << 15 | 0x07);
        assert_eq!((seen.far, seen.hpfar), (0x123, 0x40));
    }

    #[test]
    fn the_host_learns_the_kind_of_another_exit_and_no_register() {
        let cases = [
            // WFE; WFIT of x7; SError; SError of a format that nobody knows; SMC.
            (0x01 << 26 | 1 << 25 | 1, 0x01 << 26 | 1),
            (0x01 << 26 | 1 << 25 | 7 << 5 | 1 << 2 | 2, 0x01 << 26),
            (0x2f << 26 | 1 << 25 | 0x211, 0x2f << 26 | 0x211),
            (0x2f << 26 | 1 << 24 | 0x1234, 0x2f << 26 | 1 << 24),
            (0x17 << 26 | 1 << 25 | 0x1234, 0x17 << 26),
        ];
        for (esr, expected) in cases {
            let seen = conceal(&syndrome(esr, 0xabc_d123, 0));
            assert_eq!((seen.esr, seen.far), (expected, 0), "{esr:#x}");
        }
    }
}
