// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The processor.

pub mod entry;
pub mod mmu;

use core::arch::asm;

/// Number of registers that [`call`] passes and returns.
pub const CALL_REGISTERS: usize = 11;

/// Calls the firmware with x0 to x10 and returns x0 to x10.
#[must_use]
fn smc(registers: [u64; CALL_REGISTERS]) -> [u64; CALL_REGISTERS] {
    let [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10] = registers;
    let mut out = [0; CALL_REGISTERS];
    let [o0, o1, o2, o3, o4, o5, o6, o7, o8, o9, o10] = &mut out;
    // SAFETY: SMCCC preserves x18 to x30 and the stack. What the call does to memory is up to the
    // firmware; the compiler assumes that any memory may have changed.
    unsafe {
        asm!(
            "smc #0",
            inout("x0") x0 => *o0,
            inout("x1") x1 => *o1,
            inout("x2") x2 => *o2,
            inout("x3") x3 => *o3,
            inout("x4") x4 => *o4,
            inout("x5") x5 => *o5,
            inout("x6") x6 => *o6,
            inout("x7") x7 => *o7,
            inout("x8") x8 => *o8,
            inout("x9") x9 => *o9,
            inout("x10") x10 => *o10,
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
    out
}

/// Calls the firmware with a function and arguments; the other registers are zero.
///
/// Arguments past x10 are dropped.
#[must_use]
pub fn call(function: u64, arguments: &[u64]) -> [u64; CALL_REGISTERS] {
    let mut registers = [0; CALL_REGISTERS];
    for (register, value) in registers
        .iter_mut()
        .zip(core::iter::once(&function).chain(arguments))
    {
        *register = *value;
    }
    smc(registers)
}

/// Waits until all memory accesses so far are complete.
pub fn barrier() {
    // SAFETY: A barrier has no effect on memory contents or registers.
    unsafe { asm!("dsb sy", "isb", options(nostack, preserves_flags)) }
}

/// Returns the virtual counter.
#[must_use]
pub fn counter() -> u64 {
    let value: u64;
    // SAFETY: Reads a counter; the barrier keeps the read in program order.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack, nomem)) }
    value
}

/// Returns the frequency of the counter, in ticks per second.
#[must_use]
pub fn counter_frequency() -> u64 {
    let value: u64;
    // SAFETY: Reads a constant register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nostack, nomem)) }
    value
}

/// Stops for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: Waits for an interrupt; none is unmasked.
        unsafe { asm!("wfi", options(nostack, nomem)) }
    }
}
