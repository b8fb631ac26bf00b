// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Virtual CPUs of guests.

use tsm_platform::{
    FaultSyndrome, GuestEntry, GuestExit, Ipa, MemoryFault, Object, Stage2, VcpuParams,
};

/// What one CPU needs to run realms.
pub struct RealmCpu;

impl RealmCpu {
    /// The state before first use.
    pub const NEW: Self = Self;
}

/// The saved state of a virtual CPU.
pub struct Context {
    gprs: [u64; 15],
}

impl Object for Context {}

impl Context {
    /// Returns general-purpose register `index`.
    pub fn gpr(&self, index: usize) -> u64 {
        self.gprs.get(index).copied().unwrap_or(0)
    }

    /// Writes general-purpose register `index`.
    pub fn set_gpr(&mut self, index: usize, value: u64) {
        if let Some(gpr) = self.gprs.get_mut(index) {
            *gpr = value;
        }
    }

    /// Moves past the present instruction.
    pub fn skip(&mut self) {}

    /// Makes the guest take a fault.
    pub fn inject_abort(&mut self, _fault: &MemoryFault) {}

    /// Returns the timers.
    pub fn timers(&self) -> [u64; 4] {
        [0; 4]
    }
}

/// Makes the initial state of a virtual CPU.
pub fn new_context(_params: &VcpuParams, _stage2: &Stage2) -> Context {
    Context { gprs: [0; 15] }
}

/// Runs the guest that `select` finds in `owner` until `handle` returns false for an exit.
pub fn run_while<T>(
    owner: &mut T,
    _select: impl Fn(&mut T) -> &mut Context,
    _entry: &GuestEntry,
    mut handle: impl FnMut(&mut T, GuestExit) -> bool,
) {
    handle(owner, GuestExit::SystemError(FaultSyndrome::default()));
}

/// Forgets the translations of `bytes` bytes at `base`, on all CPUs.
pub fn invalidate_range(_stage2: &Stage2, _base: Ipa, _bytes: u64) {
    super::smp::shootdown();
}

/// Forgets all translations of a guest, on all CPUs.
pub fn invalidate_all(_stage2: &Stage2) {
    super::smp::shootdown();
}
