// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a handler works with: the TSM, the platform of this CPU, and the locks of this call.

use tsm_platform::{Granule, Object, Platform};

use crate::Tsm;
use crate::error::Result;
use crate::granule::{Guard, Locks, State};

/// One call in progress.
pub(crate) struct Context<'a, P: Platform> {
    /// Global state.
    pub tsm: &'a Tsm,
    /// The machine, as this CPU sees it.
    pub platform: &'a P,
    /// Locks that this call holds.
    pub locks: &'a Locks,
}

impl<'a, P: Platform> Context<'a, P> {
    /// Locks the granule at `address`, which must be in `state`. See [`Locks::lock`].
    pub fn lock(&self, address: u64, state: State) -> Result<Guard<'a>> {
        self.locks.lock(&self.tsm.granules, address, state)
    }

    /// Locks two granules in the lock order. See [`Locks::lock_two`].
    pub fn lock_two(
        &self,
        first: (u64, State),
        second: (u64, State),
    ) -> Result<(Guard<'a>, Guard<'a>)> {
        self.locks.lock_two(&self.tsm.granules, first, second)
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
}
