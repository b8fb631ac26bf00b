// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Counting the instructions of calls.

use core::arch::{asm, global_asm};

/// SMCCC_VERSION, answered by the monitor.
pub const NULL_CALL: u64 = 0x8000_0000;

global_asm!(
    // A guest that counts two of its own calls, tells the counts, and then only calls the host.
    ".section .rodata.bench_guest, \"a\"",
    ".balign 4096",
    "bench_guest:",
    "mov w20, #8",
    "1:",
    "movz x0, #0x0190",
    "movk x0, #0xc400, lsl #16",
    "movz x1, #1, lsl #16",
    "mrs x21, cntvct_el0",
    "smc #0",
    "mrs x22, cntvct_el0",
    "sub x22, x22, x21",
    "movz x0, #0x0198",
    "movk x0, #0xc400, lsl #16",
    "mov x1, #0",
    "mov x2, #0x1000",
    "mrs x21, cntvct_el0",
    "smc #0",
    "mrs x23, cntvct_el0",
    "sub x23, x23, x21",
    "sub w20, w20, #1",
    "cbnz w20, 1b",
    "mov x19, #0x1000",
    "stp x22, x23, [x19, #16]",
    "2:",
    "movz x0, #0x0199",
    "movk x0, #0xc400, lsl #16",
    "mov x1, #0x1000",
    "smc #0",
    "b 2b",
    ".balign 4096",
    ".text",
);

unsafe extern "C" {
    static bench_guest: u8;
}

/// A loop around nothing but entry and exit of a guest is measured on x86_64 only.
pub const fn bare_turn() -> Option<u64> {
    None
}

/// What one counted call returned.
pub struct Counted {
    /// Ticks from before the call to after it.
    pub ticks: u64,
    /// Register 0.
    pub status: u64,
    /// Register 1.
    pub result: u64,
}

/// Makes a call and counts its instructions.
pub fn timed(function: u64, arguments: [u64; 7]) -> Counted {
    let (before, after, status, result): (u64, u64, u64, u64);
    let [x1, x2, x3, x4, x5, x6, x7] = arguments;
    // SAFETY: As `arch::call`.
    unsafe {
        asm!(
            "mrs {before}, cntvct_el0",
            "smc #0",
            "mrs {after}, cntvct_el0",
            before = out(reg) before,
            after = out(reg) after,
            inout("x0") function => status,
            inout("x1") x1 => result,
            inout("x2") x2 => _,
            inout("x3") x3 => _,
            inout("x4") x4 => _,
            inout("x5") x5 => _,
            inout("x6") x6 => _,
            inout("x7") x7 => _,
            lateout("x8") _,
            lateout("x9") _,
            lateout("x10") _,
            lateout("x11") _,
            lateout("x12") _,
            lateout("x13") _,
            lateout("x14") _,
            lateout("x15") _,
            lateout("x16") _,
            lateout("x17") _,
            options(nostack),
        );
    }
    // The read of the counter itself is one.
    let ticks = (after - before).saturating_sub(1);
    Counted {
        ticks,
        status,
        result,
    }
}

/// Returns the address of the guest's code: one page.
pub fn guest_code() -> u64 {
    (&raw const bench_guest) as u64
}
