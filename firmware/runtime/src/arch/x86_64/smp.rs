// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Other CPUs: forgetting translations of guests on all of them, and bringing them out of guests.

use core::array;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{apic, cpu, exception, start};
use crate::arch::generation::Generations;
use crate::layout::MAX_CPUS;
use crate::log::warning;

static GENERATIONS: Generations<MAX_CPUS> = Generations::new();

/// What is in [`IDS`] for a CPU that has not started.
const NONE: u64 = u64::MAX;
/// The APIC id of each CPU that has started.
static IDS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(NONE) }; MAX_CPUS];

/// Notes the APIC id of this CPU. It can be interrupted from now on, and may interrupt others.
pub fn join(id: u32) {
    if let Some(place) = IDS.get(cpu::index()) {
        place.store(u64::from(id), Ordering::SeqCst);
    }
}

/// Returns the APIC id of CPU `cpu`, if it has joined.
pub fn id(cpu: usize) -> Option<u32> {
    let id = IDS.get(cpu)?.load(Ordering::SeqCst);
    u32::try_from(id).ok()
}

/// Marks this CPU as inside a guest. Returns whether the entry must forget translations.
pub fn before_entry() -> bool {
    GENERATIONS.enter(cpu::index())
}

/// Marks this CPU as outside of a guest.
pub fn after_exit() {
    GENERATIONS.leave(cpu::index());
}

/// Returns when no CPU can use translations of a guest that are older than this call. CPUs outside of
/// guests are not waited for, so whoever calls this may hold locks. A CPU that does not leave its guest
/// for an NMI is out of control, and ends the TSM.
pub fn shootdown() {
    let generation = GENERATIONS.renew();
    let mut waiting = GENERATIONS.behind(generation);
    for (cpu, behind) in waiting.iter().enumerate() {
        if *behind {
            kick(cpu);
        }
    }
    let begin = start::ticks();
    while waiting.contains(&true) {
        if start::ticks().wrapping_sub(begin) > start::LONG {
            warning!("a CPU does not leave its guest");
            exception::stop();
        }
        spin_loop();
        let behind = GENERATIONS.behind(generation);
        waiting =
            array::from_fn(|cpu| waiting.get(cpu) == Some(&true) && behind.get(cpu) == Some(&true));
    }
}

/// Brings a CPU out of its guest, or wakes it if it waits. One that is outside leaves the next guest that
/// it enters at once.
pub fn kick(cpu: usize) {
    if cpu == cpu::index() || id(cpu::index()).is_none() {
        return;
    }
    if let Some(id) = id(cpu) {
        // SAFETY: this CPU has joined, so its APIC is enabled.
        unsafe { apic::interrupt(id) };
    }
}

/// Brings all other CPUs out of their guests.
pub fn kick_others() {
    if id(cpu::index()).is_some() {
        // SAFETY: as in `kick`.
        unsafe { apic::interrupt_others() };
    }
}
