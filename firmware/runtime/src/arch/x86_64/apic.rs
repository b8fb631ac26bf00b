// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The local APIC in x2APIC mode, in which its commands are in a register that can be kept from the host.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use ::x86_64::registers::model_specific::Msr;

// Registers (AMD APM vol 2, 16.3 and 16.11).
const BASE: u32 = 0x1b;
const ID: u32 = 0x802;
const COMMAND: u32 = 0x830;

/// Bits of the base register: the APIC is on, and in x2APIC mode.
const ON: u64 = 1 << 11;
const EXTENDED: u64 = 1 << 10;
/// Bit of CPUID leaf 1, register ECX.
const HAS_X2APIC: u32 = 1 << 21;

// Fields of a command.
const NMI: u64 = 4 << 8;
const INIT: u64 = 5 << 8;
const STARTUP: u64 = 6 << 8;
const ASSERT: u64 = 1 << 14;
const ALL_OTHERS: u64 = 3 << 18;

/// Puts the APIC of this CPU into x2APIC mode, and returns its id, or `None` if it has no such mode.
pub fn enable() -> Option<u32> {
    if __cpuid(1).ecx & HAS_X2APIC == 0 {
        return None;
    }
    let mut base = Msr::new(BASE);
    // SAFETY: the mode of the APIC has no effect on memory; one goes from off to on to x2APIC.
    unsafe {
        let value = base.read();
        base.write(value | ON);
        base.write(value | ON | EXTENDED);
        Some(Msr::new(ID).read() as u32)
    }
}

/// Sends a command, after all stores before it.
///
/// # Safety
///
/// [`enable`] must have succeeded on this CPU, and the targets must be ready for what is sent.
unsafe fn send(command: u64) {
    // SAFETY: the caller promises it. Writing the register waits for no store (AMD APM vol 2, 16.11.2).
    unsafe {
        asm!("mfence", "lfence", options(nostack, preserves_flags));
        Msr::new(COMMAND).write(command);
    }
}

/// Resets all other CPUs, which then wait for [`start_up`].
///
/// # Safety
///
/// As for the first CPU while no other does anything that counts, with its APIC enabled.
pub unsafe fn reset_others() {
    // SAFETY: the caller promises it.
    unsafe { send(INIT | ASSERT | ALL_OTHERS) };
}

/// Starts the CPU with APIC `id` in real mode at the page at physical address `page`.
///
/// # Safety
///
/// The page must hold code for it. It must wait for this after [`reset_others`].
pub unsafe fn start_up(id: u32, page: u64) {
    // SAFETY: the caller promises it.
    unsafe { send(u64::from(id) << 32 | ASSERT | STARTUP | page >> 12 & 0xff) };
}

/// Sends the CPU with APIC `id` an NMI. A CPU that runs a guest leaves it.
///
/// # Safety
///
/// [`enable`] must have succeeded on this CPU.
pub unsafe fn interrupt(id: u32) {
    // SAFETY: an NMI is held while a CPU is not in a guest, and survived if it is taken.
    unsafe { send(u64::from(id) << 32 | ASSERT | NMI) };
}

/// Sends all other CPUs an NMI.
///
/// # Safety
///
/// As for [`interrupt`].
pub unsafe fn interrupt_others() {
    // SAFETY: as in `interrupt`.
    unsafe { send(NMI | ASSERT | ALL_OTHERS) };
}
