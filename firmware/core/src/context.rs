// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a handler works with: the TSM, the platform of this CPU, and the locks of this call.

use spin::MutexGuard;
use tsm_iommu::Stage2Format;
use tsm_platform::{Granule, HostPa, Object, Platform};
use zerocopy::{FromBytes, IntoBytes};

use crate::Tsm;
use crate::device::Registry;
use crate::error::{Error, Result};
use crate::granule::{Guard, Kind, Locks, State};
use crate::realm::Realm;

/// What a board gives to the TSM: its platform, and how its processors and IOMMU read stage 2.
pub trait Machine: Platform {
    /// The format of stage 2 tables.
    type Stage2: Stage2Format;
}

/// One call in progress.
pub(crate) struct Context<'a, P: Machine> {
    /// Global state.
    pub tsm: &'a Tsm,
    /// The machine, as this CPU sees it.
    pub platform: &'a P,
    /// Locks that this call holds.
    pub locks: &'a Locks,
}

impl<'a, P: Machine> Context<'a, P> {
    /// Locks the granule at `address`, which must be in `state`. See [`Locks::lock`].
    pub fn lock(&self, address: u64, state: State) -> Result<Guard<'a>> {
        self.locks
            .lock(&self.tsm.granules, address, state, || self.platform.relax())
    }

    /// Locks two granules in the lock order. See [`Locks::lock_two`].
    pub fn lock_two(
        &self,
        first: (u64, State),
        second: (u64, State),
    ) -> Result<(Guard<'a>, Guard<'a>)> {
        self.locks
            .lock_two(&self.tsm.granules, first, second, || self.platform.relax())
    }

    /// Takes the device lock. No granule lock may be held.
    pub fn devices(&self) -> MutexGuard<'a, Registry> {
        self.tsm.devices.lock(|| self.platform.relax())
    }

    /// Moves `value` into a locked, delegated granule, which takes `state`.
    pub fn place<T: Object>(&self, guard: &Guard<'_>, state: State, value: T) -> Result<()> {
        self.platform.place(guard.granule(), value)?;
        guard.set_state(state);
        Ok(())
    }

    /// Drops and zeroes the object in a locked granule, which becomes delegated.
    pub fn discard<T: Object>(&self, guard: &Guard<'_>) -> Result<()> {
        self.platform.discard::<T>(guard.granule())?;
        guard.set_state(State::Delegated);
        Ok(())
    }

    /// Runs `work` on the object in `granule`, whose lock (or a reference that pins it) the caller
    /// holds. An error of `work` is passed on.
    pub fn with<T: Object, R>(
        &self,
        granule: Granule,
        work: impl FnOnce(&mut T) -> Result<R>,
    ) -> Result<R> {
        self.platform.with::<T, Result<R>>(granule, work)?
    }

    /// Locks the realm at `rd` and runs `work` on it.
    pub fn with_realm<R>(&self, rd: u64, work: impl FnOnce(&mut Realm) -> Result<R>) -> Result<R> {
        let guard = self.lock(rd, State::Rd)?;
        self.with(guard.granule(), work)
    }

    /// Returns whether memory, not a device, is at `address`.
    pub fn is_memory(&self, address: u64) -> bool {
        let region = self.tsm.granules.region(address);
        region.is_some_and(|region| region.kind() == Kind::Memory)
    }

    /// Returns the granule at `address` if it is memory that belongs to the host now.
    ///
    /// The host can take it back at any time, so copies can fail all the same.
    pub fn host_granule(&self, address: u64) -> Result<Granule> {
        let undelegated = self.tsm.granules.state(address)? == State::Undelegated;
        if !undelegated || !self.is_memory(address) {
            return Err(Error::Input);
        }
        Granule::new(address).ok_or(Error::Input)
    }

    /// Copies `out.len()` bytes at `from` in, once. They must lie in one granule of the host.
    pub fn host_read(&self, from: HostPa, out: &mut [u8]) -> Result<()> {
        self.check_host_range(from, out.len())?;
        Ok(self.platform.host_read(from, out)?)
    }

    /// Copies `data` out to `to`. It must lie in one granule of the host.
    pub fn host_write(&self, to: HostPa, data: &[u8]) -> Result<()> {
        self.check_host_range(to, data.len())?;
        Ok(self.platform.host_write(to, data)?)
    }

    fn check_host_range(&self, at: HostPa, length: usize) -> Result<()> {
        let granule = Granule::containing(at.0);
        let last = u64::try_from(length)
            .ok()
            .and_then(|length| at.0.checked_add(length));
        let last = last
            .and_then(|end| end.checked_sub(1))
            .ok_or(Error::Input)?;
        if Granule::containing(last) != granule {
            return Err(Error::Input);
        }
        self.host_granule(granule.address()).map(|_| ())
    }

    /// Copies a parameter structure in from the start of the host's page at `address`.
    pub fn host_structure<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T> {
        let mut value = T::new_zeroed();
        let page = self.host_granule(address)?;
        self.host_read(HostPa(page.address()), value.as_mut_bytes())?;
        Ok(value)
    }
}
