// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The other CPU.

use core::arch::global_asm;

use tsm_payload_support::arch;

use super::super::cpus::{Mailbox, Work};

// The other CPU has no stack and no translation; x19 is the mailbox. It shares whole words only.
global_asm!(
    ".macro other_cpu_off state",
    "mov x3, #\\state",
    "str x3, [x19, #8]",
    // PSCI CPU_OFF.
    "movz x0, #2",
    "movk x0, #0x8400, lsl #16",
    "smc #0",
    "b .",
    ".endm",
    ".macro other_cpu_on",
    "mov x19, x0",
    "adrp x1, other_vectors",
    "add x1, x1, :lo12:other_vectors",
    "msr vbar_el2, x1",
    "isb",
    "ldr x20, [x19]",
    "mov x3, #1",
    "str x3, [x19, #8]",
    ".endm",
    ".macro other_cpu_turn",
    "ldr x5, [x19, #16]",
    "add x5, x5, #1",
    "str x5, [x19, #16]",
    ".endm",
    // A call on one page that must succeed or be told to try again (10).
    ".macro other_cpu_call low",
    "1:",
    "movz x0, #\\low",
    "movk x0, #0xc400, lsl #16",
    "mov x1, x20",
    "add x2, x20, #0x1000",
    "smc #0",
    "cbz x0, 2f",
    "cmp x0, #10",
    "b.eq 1b",
    "ldr x5, [x19, #24]",
    "add x5, x5, #1",
    "str x5, [x19, #24]",
    "2:",
    ".endm",
    ".section .text.other_cpu, \"ax\"",
    ".balign 2048",
    "other_vectors:",
    ".rept 16",
    ".balign 128",
    "other_cpu_off 2",
    ".endr",
    ".balign 128",
    "other_cpu_loads:",
    "other_cpu_on",
    "3:",
    "ldr w4, [x20]",
    "other_cpu_turn",
    "b 3b",
    "other_cpu_calls:",
    "other_cpu_on",
    "4:",
    "other_cpu_call 0x1f1",
    "other_cpu_call 0x1f2",
    "other_cpu_turn",
    "ldr x5, [x19, #32]",
    "cbz x5, 4b",
    "other_cpu_off 3",
    ".text",
);

unsafe extern "C" {
    fn other_cpu_loads();
    fn other_cpu_calls();
}

/// Starts the other CPU; returns the firmware's answer, zero if it agreed.
pub fn start(work: Work, mailbox: &'static Mailbox) -> u64 {
    const CPU_ON: u64 = 0xc400_0003;
    let entry = match work {
        Work::Loads => other_cpu_loads as *const () as u64,
        Work::Calls => other_cpu_calls as *const () as u64,
    };
    arch::call(CPU_ON, &[1, entry, (&raw const *mailbox) as u64])[0]
}

/// Returns whether the other CPU is off.
pub fn is_off() -> bool {
    const AFFINITY_INFO: u64 = 0xc400_0004;
    const OFF: u64 = 1;
    arch::call(AFFINITY_INFO, &[1, 0])[0] == OFF
}
