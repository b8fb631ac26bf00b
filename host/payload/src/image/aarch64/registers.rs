// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registers that a call must preserve.

use core::arch::global_asm;

/// Which registers [`changed_by`] looks at.
pub const WHICH: &str = "general, vector, EL1 and EL2";

// Makes the call in x0 to x2 with a pattern in registers that it has to preserve, and returns the
// bits that changed in x0. The system registers have no use in this program.
global_asm!(
    ".arch_extension fp",
    ".section .text.call_with_pattern, \"ax\"",
    "call_with_pattern:",
    "stp x29, x30, [sp, #-32]!",
    "stp x19, x28, [sp, #16]",
    "movz x19, #0x5aa5",
    "mov x28, x19",
    ".irp register, tpidr_el2, vttbr_el2, cntvoff_el2, tpidr_el1, elr_el1",
    "msr \\register, x19",
    ".endr",
    ".irp register, d0, d7, d15, d31",
    "fmov \\register, x19",
    ".endr",
    "smc #0",
    "movz x1, #0x5aa5",
    "eor x0, x19, x1",
    "eor x2, x28, x1",
    "orr x0, x0, x2",
    ".irp register, tpidr_el2, vttbr_el2, cntvoff_el2, tpidr_el1, elr_el1",
    "mrs x2, \\register",
    "eor x2, x2, x1",
    "orr x0, x0, x2",
    ".endr",
    ".irp register, d0, d7, d15, d31",
    "fmov x2, \\register",
    "eor x2, x2, x1",
    "orr x0, x0, x2",
    ".endr",
    "msr cntvoff_el2, xzr",
    "ldp x19, x28, [sp, #16]",
    "ldp x29, x30, [sp], #32",
    "ret",
    ".text",
);

unsafe extern "C" {
    fn call_with_pattern(function: u64, first: u64, second: u64) -> u64;
}

/// Makes a call with a pattern in the registers that it must preserve; returns the bits that
/// changed.
pub fn changed_by(function: u64, [first, second]: [u64; 2]) -> u64 {
    // SAFETY: The function keeps to the procedure call standard; see its comment.
    unsafe { call_with_pattern(function, first, second) }
}
