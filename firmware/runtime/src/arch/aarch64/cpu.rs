// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Data of each CPU, found through TPIDR_EL2.

use core::cell::UnsafeCell;

use super::guest::{Context, HostState};
use super::read_register;
use crate::layout::MAX_CPUS;

/// What one CPU needs for itself.
#[repr(C, align(64))]
pub struct Cpu {
    /// The guest that runs or ran last, for the exit path.
    pub running: *mut Context,
    /// Linear index.
    pub index: u64,
    /// The guest whose registers this CPU has now, or null.
    pub loaded: *const Context,
    /// Whether the vector registers are the guest's, too.
    pub vectors: bool,
    /// Stack for the report of a stack overflow.
    pub emergency: [u64; 256],
    /// State of the host while a guest runs.
    pub host: HostState,
}

/// The data of all CPUs.
#[repr(transparent)]
pub struct Cpus([UnsafeCell<Cpu>; MAX_CPUS]);

// SAFETY: each CPU uses its own element only: TPIDR_EL2, set on entry, names it.
unsafe impl Sync for Cpus {}

#[unsafe(no_mangle)]
static tsm_cpus: Cpus = Cpus(
    [const {
        UnsafeCell::new(Cpu {
            running: core::ptr::null_mut(),
            index: 0,
            loaded: core::ptr::null(),
            vectors: false,
            emergency: [0; 256],
            host: HostState::ZERO,
        })
    }; MAX_CPUS],
);

/// Returns the data of this CPU.
pub fn this() -> *mut Cpu {
    read_register!("tpidr_el2") as *mut Cpu
}

/// Records the index of this CPU.
pub fn start(index: u64) {
    // SAFETY: entry code set TPIDR_EL2 to the element of this CPU, which nothing else uses.
    unsafe { (*this()).index = index };
}

/// Returns the index of this CPU.
pub fn index() -> usize {
    // SAFETY: as in `start`; the field is written at boot only.
    unsafe { (*this()).index as usize }
}
