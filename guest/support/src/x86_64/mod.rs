// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The processor.

pub mod clock;
pub mod entry;
pub mod exception;
pub mod paging;
pub mod port;
pub mod registers;

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Number of registers that [`call`] passes and returns.
pub const CALL_REGISTERS: usize = 11;

/// Calls the firmware with registers 0 to 10 and returns them: RAX, RDI, RSI, RDX, RCX, R8 to R13.
#[must_use]
fn vmmcall(registers: [u64; CALL_REGISTERS]) -> [u64; CALL_REGISTERS] {
    let [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10] = registers;
    let mut out = [0; CALL_REGISTERS];
    let [o0, o1, o2, o3, o4, o5, o6, o7, o8, o9, o10] = &mut out;
    // SAFETY: The firmware preserves RBX, RBP and the stack. What the call does to memory is up to
    // it; the compiler assumes that any memory may have changed.
    unsafe {
        asm!(
            "vmmcall",
            inout("rax") x0 => *o0,
            inout("rdi") x1 => *o1,
            inout("rsi") x2 => *o2,
            inout("rdx") x3 => *o3,
            inout("rcx") x4 => *o4,
            inout("r8") x5 => *o5,
            inout("r9") x6 => *o6,
            inout("r10") x7 => *o7,
            inout("r11") x8 => *o8,
            inout("r12") x9 => *o9,
            inout("r13") x10 => *o10,
            lateout("r14") _,
            lateout("r15") _,
            options(nostack),
        );
    }
    out
}

/// Calls the firmware with a function and arguments; the other registers are zero.
///
/// Arguments past register 10 are dropped.
#[must_use]
pub fn call(function: u64, arguments: &[u64]) -> [u64; CALL_REGISTERS] {
    let mut registers = [0; CALL_REGISTERS];
    for (register, value) in registers
        .iter_mut()
        .zip(core::iter::once(&function).chain(arguments))
    {
        *register = *value;
    }
    vmmcall(registers)
}

/// Waits until all memory accesses so far are complete.
pub fn barrier() {
    // SAFETY: A barrier has no effect on memory contents or registers.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) }
}

/// Returns the time-stamp counter.
#[must_use]
pub fn counter() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: Reads a counter; the fence keeps the read in program order.
    unsafe {
        asm!("lfence", "rdtsc", out("rax") low, out("rdx") high, options(nostack, nomem));
    }
    high << 32 | low
}

/// Ticks per second, once somebody has measured them.
static FREQUENCY: AtomicU64 = AtomicU64::new(FASTEST);
/// No counter ticks faster. A wait that takes longer than asked for is harmless.
const FASTEST: u64 = 5_000_000_000;

/// Returns the frequency of the counter, in ticks per second: what [`set_counter_frequency`] was
/// told, and before that more than it is.
#[must_use]
pub fn counter_frequency() -> u64 {
    FREQUENCY.load(Ordering::Relaxed)
}

/// Sets what [`counter_frequency`] returns.
pub fn set_counter_frequency(ticks_per_second: u64) {
    FREQUENCY.store(ticks_per_second, Ordering::Relaxed);
}

/// Stops for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: Waits for an interrupt; none is unmasked.
        unsafe { asm!("hlt", options(nostack, nomem)) }
    }
}
