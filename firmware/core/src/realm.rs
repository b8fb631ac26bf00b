// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Realms.

use tsm_platform::{Object, Stage2};

/// Life of a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Being built; nothing runs.
    New,
    /// May run.
    Active,
    /// Stopped by the host or the guest; being taken apart.
    Terminated,
}

/// A realm descriptor.
pub(crate) struct Realm {
    /// Life of the realm.
    pub life: Life,
    /// The stage 2 tables of CPUs and devices.
    pub stage2: Stage2,
    /// Root tables, which lie one after another.
    pub roots: u8,
    /// Whether device interfaces may be assigned.
    pub devices_allowed: bool,
    /// Device interfaces assigned at present.
    pub vdevs: u16,
}

impl Object for Realm {}

impl Realm {
    /// Returns whether `[base, top)` is granule-aligned, not empty and in the protected half.
    #[must_use]
    pub const fn is_protected(&self, base: u64, top: u64) -> bool {
        let half = 1_u64.wrapping_shl(self.stage2.ipa_bits.saturating_sub(1) as u32);
        base.is_multiple_of(4096) && top.is_multiple_of(4096) && base < top && top <= half
    }
}
