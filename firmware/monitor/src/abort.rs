// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Giving an exception to the exception level that would take it if the monitor were not there.
//!
//! With `SCR_EL3.GPF` set, the monitor sees every granule protection fault of the host. All but
//! those on configuration space go back as the abort that the host would see with the bit clear.

/// Syndrome of a granule protection check exception, as `ESR_EL3` holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpcSyndrome(pub u64);

impl GpcSyndrome {
    /// Exception class of granule protection checks.
    pub const CLASS: u64 = 0x1e;

    /// Returns whether an instruction fetch failed.
    #[must_use]
    pub const fn is_instruction(self) -> bool {
        self.0 & 1 << 20 != 0
    }

    /// Returns whether the access was part of a walk of stage 2 tables.
    #[must_use]
    pub const fn is_stage2_walk(self) -> bool {
        self.0 & 1 << 21 != 0
    }

    /// Returns whether a store failed (cache maintenance counts as one).
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.0 & 1 << 6 != 0
    }

    /// Returns whether a load or store failed on its own address: not a walk, not cache maintenance,
    /// and not an access to memory that stands for a register (VNCR).
    #[must_use]
    pub const fn is_plain_access(self) -> bool {
        const FAULT_STATUS: u64 = 0x3f;
        /// Granule protection fault, not on a walk.
        const GPF: u64 = 0x28;
        let other = 1 << 20 | 1 << 21 | 1 << 13 | 1 << 8 | 1 << 7;
        self.0 & other == 0 && self.0 & FAULT_STATUS == GPF
    }

    /// Returns the syndrome of the abort: fault status, write, walk, maintenance and VNCR bits.
    const fn abort_iss(self) -> u64 {
        let kept = if self.is_instruction() {
            0x3f | 1 << 7
        } else {
            0x3f | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 13
        };
        self.0 & kept
    }
}

/// An exception level that takes exceptions of its world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The operating system of a guest.
    El1,
    /// The host, or the TSM.
    El2,
}

/// Why the exception is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A granule protection check failed.
    Gpc(GpcSyndrome),
    /// The instruction is not one this world may use.
    Undefined,
}

/// Registers that decide where an exception goes and how its handler starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// `SPSR_EL3`: the state that was interrupted.
    pub spsr: u64,
    /// `HCR_EL2`.
    pub hcr: u64,
    /// `SCTLR` of the level that takes the exception.
    pub sctlr: u64,
    /// `VBAR` of the level that takes the exception.
    pub vbar: u64,
    /// Memory tagging is there (`PSTATE.TCO` exists).
    pub tagging: bool,
    /// Non-maskable interrupts are there (`PSTATE.ALLINT` exists).
    pub all_interrupts: bool,
}

/// What the handler finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Syndrome register of the level that takes the exception.
    pub esr: u64,
    /// First instruction of the handler.
    pub vector: u64,
    /// Processor state of the handler.
    pub spsr: u64,
}

const HCR_TGE: u64 = 1 << 27;
const HCR_RW: u64 = 1 << 31;
const HCR_E2H: u64 = 1 << 34;
const HCR_GPF: u64 = 1 << 48;
const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;
const SCTLR_SPINTMASK: u64 = 1 << 62;
const SPSR_AARCH32: u64 = 1 << 4;

/// Returns the exception level of a saved processor state: 0, 1 or 2.
#[must_use]
pub const fn source_level(spsr: u64) -> u64 {
    if spsr & SPSR_AARCH32 == 0 {
        spsr >> 2 & 3
    } else if spsr & 0xf == 0 {
        0
    } else {
        1
    }
}

/// Returns the level that takes the exception.
#[must_use]
pub const fn target(cause: Cause, spsr: u64, hcr: u64) -> Level {
    let source = source_level(spsr);
    if source >= 2 || source == 0 && hcr & HCR_TGE != 0 {
        return Level::El2;
    }
    // An AArch32 guest has no vectors that this could use; its host gets to know instead.
    if hcr & HCR_RW == 0 {
        return Level::El2;
    }
    match cause {
        Cause::Gpc(syndrome) if syndrome.is_stage2_walk() || hcr & HCR_GPF != 0 => Level::El2,
        _ => Level::El1,
    }
}

/// Returns how the handler at `level` starts.
#[must_use]
pub const fn deliver(cause: Cause, level: Level, state: &State) -> Delivery {
    let source = source_level(state.spsr);
    let own = match level {
        Level::El1 => 1,
        Level::El2 => 2,
    };
    let same = source == own;
    let offset = if !same {
        if state.spsr & SPSR_AARCH32 == 0 {
            0x400
        } else {
            0x600
        }
    } else if state.spsr & 1 == 0 {
        0
    } else {
        0x200
    };
    Delivery {
        esr: esr(cause, same),
        vector: (state.vbar & !0x7ff).wrapping_add(offset),
        spsr: handler_state(level, own, state),
    }
}

const fn esr(cause: Cause, same: bool) -> u64 {
    const IL: u64 = 1 << 25;
    let Cause::Gpc(syndrome) = cause else {
        return IL;
    };
    let class = match (syndrome.is_instruction(), same) {
        (true, false) => 0x20,
        (true, true) => 0x21,
        (false, false) => 0x24,
        (false, true) => 0x25,
    };
    class << 26 | IL | syndrome.abort_iss()
}

/// Processor state on entry of the handler (Arm ARM, AArch64.TakeException).
const fn handler_state(level: Level, own: u64, state: &State) -> u64 {
    // Condition flags, DIT and PAN stay as they are; D, A, I and F are masked; the handler's stack
    // pointer is its own.
    let mut new = state.spsr & (0xf000_0000 | 1 << 24 | 1 << 22) | 0x3c0 | own << 2 | 1;
    if state.spsr & SPSR_AARCH32 != 0 {
        // DIT of AArch32 is elsewhere.
        new = new & !(1 << 24) | (state.spsr >> 21 & 1) << 24;
    }
    let host = HCR_E2H | HCR_TGE;
    let has_user = matches!(level, Level::El1) || state.hcr & host == host;
    if has_user && state.sctlr & SCTLR_SPAN == 0 {
        new |= 1 << 22;
    }
    if state.sctlr & SCTLR_DSSBS != 0 {
        new |= 1 << 12;
    }
    if state.tagging {
        new |= 1 << 25;
    }
    if state.all_interrupts && state.sctlr & SCTLR_SPINTMASK == 0 {
        new |= 1 << 13;
    }
    new
}

#[cfg(test)]
mod tests {
    use super::{
        Cause, GpcSyndrome, HCR_E2H, HCR_GPF, HCR_RW, HCR_TGE, Level, SCTLR_SPAN, State, deliver,
        target,
    };

    /// As QEMU reports a host's read and write of a Realm granule.
    const READ: Cause = Cause::Gpc(GpcSyndrome(0x7a03_4028));
    const WRITE: Cause = Cause::Gpc(GpcSyndrome(0x7a03_4068));
    const FETCH: Cause = Cause::Gpc(GpcSyndrome(0x7a03_4028 | 1 << 20));
    const STAGE2_WALK: Cause = Cause::Gpc(GpcSyndrome(0x7a03_4025 | 1 << 21));
    const EL0: u64 = 0x0;
    const EL1H: u64 = 0x5;
    const EL2T: u64 = 0x8;
    const EL2H: u64 = 0x9;
    const USR32: u64 = 0x10;
    const SVC32: u64 = 0x13;

    fn state(spsr: u64, hcr: u64) -> State {
        State {
            spsr,
            hcr,
            vbar: 0x4800_0800,
            sctlr: SCTLR_SPAN,
            ..State::default()
        }
    }

    #[test]
    fn the_host_gets_the_abort_it_would_have_without_the_monitor() {
        let read = deliver(READ, Level::El2, &state(EL2H | 0x6000_0000, HCR_RW));
        assert_eq!(read.esr, 0x9600_0028);
        assert_eq!(read.vector, 0x4800_0a00);
        assert_eq!(read.spsr, 0x6000_03c9);
        let write = deliver(WRITE, Level::El2, &state(EL2T, HCR_RW));
        assert_eq!((write.esr, write.vector), (0x9600_0068, 0x4800_0800));
        let fetch = deliver(FETCH, Level::El2, &state(EL2H, HCR_RW));
        assert_eq!(fetch.esr, 0x8600_0028);
    }

    #[test]
    fn a_user_program_of_the_host_is_the_hosts_business() {
        let hcr = HCR_RW | HCR_TGE | HCR_E2H;
        assert_eq!(target(READ, EL0, hcr), Level::El2);
        let read = deliver(READ, Level::El2, &state(EL0, hcr));
        assert_eq!(
            (read.esr, read.vector, read.spsr),
            (0x9200_0028, 0x4800_0c00, 0x3c9)
        );
        let old = deliver(READ, Level::El2, &state(USR32, hcr));
        assert_eq!((old.esr, old.vector), (0x9200_0028, 0x4800_0e00));
    }

    #[test]
    fn a_guest_takes_its_own_abort_unless_the_host_asked_for_it() {
        assert_eq!(target(READ, EL1H, HCR_RW), Level::El1);
        assert_eq!(target(READ, EL0, HCR_RW), Level::El1);
        assert_eq!(target(READ, EL1H, HCR_RW | HCR_GPF), Level::El2);
        assert_eq!(target(STAGE2_WALK, EL1H, HCR_RW), Level::El2);
        assert_eq!(target(READ, SVC32, 0), Level::El2);
        let read = deliver(READ, Level::El1, &state(EL1H, HCR_RW));
        assert_eq!(
            (read.esr, read.vector, read.spsr),
            (0x9600_0028, 0x4800_0a00, 0x3c5)
        );
        let user = deliver(WRITE, Level::El1, &state(EL0, HCR_RW));
        assert_eq!((user.esr, user.vector), (0x9200_0068, 0x4800_0c00));
    }

    #[test]
    fn an_unknown_instruction_is_undefined_where_it_ran() {
        assert_eq!(target(Cause::Undefined, EL2H, HCR_RW), Level::El2);
        assert_eq!(target(Cause::Undefined, EL1H, HCR_RW | HCR_GPF), Level::El1);
        assert_eq!(
            deliver(Cause::Undefined, Level::El1, &state(EL1H, HCR_RW)).esr,
            1 << 25
        );
    }

    #[test]
    fn pan_is_set_when_the_handler_wants_it() {
        let mut at = state(EL1H, HCR_RW);
        at.sctlr = 0;
        assert_eq!(deliver(READ, Level::El1, &at).spsr & 1 << 22, 1 << 22);
        let mut at = state(EL2H, HCR_RW);
        at.sctlr = 0;
        assert_eq!(deliver(READ, Level::El2, &at).spsr & 1 << 22, 0);
        at.hcr |= HCR_E2H | HCR_TGE;
        assert_eq!(deliver(READ, Level::El2, &at).spsr & 1 << 22, 1 << 22);
    }

    #[test]
    fn only_a_load_or_store_of_its_own_address_is_a_plain_access() {
        let plain = |bits: u64| GpcSyndrome(0x7a03_4028 | bits).is_plain_access();
        assert!(plain(0) && plain(1 << 6));
        for bit in [7, 8, 13, 20, 21] {
            assert!(!plain(1 << bit), "bit {bit}");
        }
        assert!(!GpcSyndrome(0x7a03_4025).is_plain_access());
    }
}
