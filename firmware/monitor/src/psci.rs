// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Power state coordination for the host (DEN0022, version 1.1) and the state of each processor.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Version that PSCI_VERSION answers: 1.1.
pub const VERSION: u64 = 0x0001_0001;

/// Status of a call, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Status {
    /// Done.
    Success = 0,
    /// No such function.
    NotSupported = -1,
    /// An argument has no meaning.
    InvalidParameters = -2,
    /// The processor runs already.
    AlreadyOn = -4,
    /// The processor is on its way.
    OnPending = -5,
    /// The entry point is not the host's memory.
    InvalidAddress = -9,
}

impl Status {
    /// Returns the value for the result register.
    #[must_use]
    pub const fn code(self) -> u64 {
        self as i64 as u64
    }
}

/// A call with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// PSCI_VERSION.
    Version,
    /// PSCI_FEATURES of one function id.
    Features(u32),
    /// CPU_ON.
    CpuOn {
        /// Affinity of the processor, as in MPIDR_EL1.
        target: u64,
        /// Physical address of its first instruction.
        entry: u64,
        /// What its x0 holds.
        context: u64,
    },
    /// CPU_OFF of the caller.
    CpuOff,
    /// CPU_SUSPEND of the caller; the argument is the power state.
    CpuSuspend(u32),
    /// AFFINITY_INFO of one processor at the lowest level, or of a level that is refused.
    AffinityInfo {
        /// Affinity of the processor.
        target: u64,
        /// Lowest affinity level that is meant.
        level: u64,
    },
    /// MIGRATE_INFO_TYPE: no trusted OS needs migration.
    MigrateInfoType,
    /// SYSTEM_OFF.
    SystemOff,
    /// SYSTEM_RESET.
    SystemReset,
}

/// Affinity fields of MPIDR_EL1: bits 39:32 and 23:0.
pub const AFFINITY_MASK: u64 = 0x00ff_00ff_ffff;
const SMC64: u32 = 1 << 30;
const BASE: u32 = 0x8400_0000;

/// Returns whether a function id is in the range of PSCI, so that [`decode`] is worth asking.
#[must_use]
pub const fn in_range(function: u32) -> bool {
    (function & !SMC64).wrapping_sub(BASE) < 0x20
}

/// Decodes a function id and its first three arguments.
#[must_use]
pub const fn decode(function: u32, arguments: [u64; 3]) -> Option<Call> {
    // A call by the 32-bit convention has 32-bit arguments.
    let wide = function & SMC64 != 0;
    let mask = if wide { u64::MAX } else { u32::MAX as u64 };
    let [a, b, c] = [
        arguments[0] & mask,
        arguments[1] & mask,
        arguments[2] & mask,
    ];
    match ((function & !SMC64).wrapping_sub(BASE), wide) {
        (0x0, false) => Some(Call::Version),
        (0x1, _) => Some(Call::CpuSuspend(a as u32)),
        (0x2, false) => Some(Call::CpuOff),
        (0x3, _) => Some(Call::CpuOn {
            target: a,
            entry: b,
            context: c,
        }),
        (0x4, _) => Some(Call::AffinityInfo {
            target: a,
            level: b,
        }),
        (0x6, false) => Some(Call::MigrateInfoType),
        (0x8, false) => Some(Call::SystemOff),
        (0x9, false) => Some(Call::SystemReset),
        (0xa, false) => Some(Call::Features(a as u32)),
        _ => None,
    }
}

/// Answers PSCI_FEATURES: no function has a feature flag set.
#[must_use]
pub const fn features(function: u32) -> Status {
    /// SMCCC_VERSION is discovered by PSCI_FEATURES.
    const SMCCC_VERSION: u32 = 0x8000_0000;
    if function == SMCCC_VERSION || decode(function, [0; 3]).is_some() {
        Status::Success
    } else {
        Status::NotSupported
    }
}

const OFF: u32 = 0;
const CLAIMED: u32 = 1;
const PENDING: u32 = 2;
const ON: u32 = 3;

/// Power state of one processor, shared by all.
pub struct Power {
    state: AtomicU32,
    entry: AtomicU64,
    context: AtomicU64,
}

/// Where the host wants a processor to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Physical address of the first instruction.
    pub entry: u64,
    /// What x0 holds.
    pub context: u64,
}

impl Power {
    /// Makes the state of a processor that is off.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self {
            state: AtomicU32::new(OFF),
            entry: AtomicU64::new(0),
            context: AtomicU64::new(0),
        }
    }

    /// Asks the processor to start. Only one caller of several succeeds.
    pub fn request(&self, start: Start) -> Status {
        match self
            .state
            .compare_exchange(OFF, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => {
                self.entry.store(start.entry, Ordering::Relaxed);
                self.context.store(start.context, Ordering::Relaxed);
                self.state.store(PENDING, Ordering::Release);
                Status::Success
            }
            Err(ON) => Status::AlreadyOn,
            Err(_) => Status::OnPending,
        }
    }

    /// Takes the request to start, if there is one: the processor itself asks, and is on then.
    pub fn take(&self) -> Option<Start> {
        if self.state.load(Ordering::Acquire) != PENDING {
            return None;
        }
        let start = Start {
            entry: self.entry.load(Ordering::Relaxed),
            context: self.context.load(Ordering::Relaxed),
        };
        self.state.store(ON, Ordering::Release);
        Some(start)
    }

    /// Marks the processor as on: for the one that boots the system.
    pub fn set_on(&self) {
        self.state.store(ON, Ordering::Release);
    }

    /// Marks the processor as off: it says so itself, on its way out.
    pub fn set_off(&self) {
        self.state.store(OFF, Ordering::Release);
    }

    /// Returns the answer of AFFINITY_INFO: 0 on, 1 off, 2 on its way.
    #[must_use]
    pub fn affinity_info(&self) -> u64 {
        match self.state.load(Ordering::Acquire) {
            ON => 0,
            OFF => 1,
            _ => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Power, Start, Status, decode, features};

    #[test]
    fn calls_decode_with_the_width_of_their_convention() {
        let arguments = [0x1_0000_0001, 0x1_4800_0000, u64::MAX];
        assert_eq!(
            decode(0xc400_0003, arguments),
            Some(Call::CpuOn {
                target: 0x1_0000_0001,
                entry: 0x1_4800_0000,
                context: u64::MAX
            })
        );
        assert_eq!(
            decode(0x8400_0003, arguments),
            Some(Call::CpuOn {
                target: 1,
                entry: 0x4800_0000,
                context: 0xffff_ffff
            })
        );
        assert_eq!(decode(0x8400_0000, arguments), Some(Call::Version));
        // These exist in the 32-bit convention only.
        for function in [0xc400_0000, 0xc400_0002, 0xc400_0008, 0xc400_000a] {
            assert_eq!(decode(function, arguments), None);
        }
        assert!(super::in_range(0x8400_000a) && super::in_range(0xc400_0003));
        assert!(!super::in_range(0xc400_0150) && !super::in_range(0x8000_0000));
        // MIGRATE and the Realm services.
        for function in [0x8400_0005, 0xc400_0150, 0xc400_01b0] {
            assert_eq!(decode(function, arguments), None);
        }
    }

    #[test]
    fn features_tells_what_decodes() {
        assert_eq!(features(0xc400_0003), Status::Success);
        assert_eq!(features(0x8000_0000), Status::Success);
        assert_eq!(features(0x8400_0005), Status::NotSupported);
    }

    #[test]
    fn a_processor_starts_once() {
        let power = Power::new();
        assert_eq!(power.affinity_info(), 1);
        assert_eq!(power.take(), None);
        let start = Start {
            entry: 0x4800_0000,
            context: 7,
        };
        assert_eq!(power.request(start), Status::Success);
        assert_eq!(power.affinity_info(), 2);
        assert_eq!(power.request(start), Status::OnPending);
        assert_eq!(power.take(), Some(start));
        assert_eq!(power.take(), None);
        assert_eq!(power.request(start), Status::AlreadyOn);
        assert_eq!(power.affinity_info(), 0);
        power.set_off();
        assert_eq!(power.request(start), Status::Success);
    }
}
