// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Taking a protection away, to see that an attack would work without it.

use crate::{Fake, lock};

/// A protection of the hardware that the TSM relies on. Without it, the hardware does as it is told
/// and says that it did, to no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// The granule protection table, as far as it stops the host's CPUs.
    GranuleProtection,
    /// The tables through which host streams translate.
    HostTranslation,
    /// Blocking a stream.
    StreamBlock,
    /// Forgetting translations in the IOMMU.
    IommuInvalidation,
    /// Forgetting translations on CPUs.
    CpuInvalidation,
    /// Checking the owner of memory on every access of a CPU. The platform says so.
    OwnerOnAccess,
    /// Passing the host's accesses to configuration space through the TSM. The platform says so.
    Mediation,
}

impl Fake {
    /// Takes `guard` away.
    pub fn remove_guard(&self, guard: Guard) {
        lock(&self.removed).insert(guard);
    }

    pub(crate) fn has(&self, guard: Guard) -> bool {
        !lock(&self.removed).contains(&guard)
    }

    /// Returns whether the host's CPUs reach `address`, be it memory or a device.
    #[must_use]
    pub fn host_reaches(&self, address: u64) -> bool {
        self.owner(address) == crate::Owner::Host || !self.has(Guard::GranuleProtection)
    }
}
