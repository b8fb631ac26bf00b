// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The end of a program.

use core::cell::Cell;

use crate::arch;

struct Slot(Cell<Option<fn()>>);

// SAFETY: Payloads run on one CPU with interrupts masked.
unsafe impl Sync for Slot {}

static OFF: Slot = Slot(Cell::new(None));

/// PSCI's function that turns the machine, or a guest, off.
pub const SYSTEM_OFF: u64 = 0x8400_0008;

/// Sets how the machine is turned off, where the firmware does not offer PSCI.
pub fn set_off(off: fn()) {
    OFF.0.set(Some(off));
}

/// Turns the machine, or this guest, off.
pub fn off() -> ! {
    if let Some(off) = OFF.0.get() {
        off();
    }
    let _ = arch::call(SYSTEM_OFF, &[]);
    arch::halt()
}
