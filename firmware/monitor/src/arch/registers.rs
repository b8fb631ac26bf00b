// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! System register access.

/// Reads a system register, named as the assembler names it.
#[macro_export]
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading the register has no effect on memory; the caller runs at EL3, where it exists.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register, named as the assembler names it. Takes effect at the next [`isb`] or
/// exception return.
#[macro_export]
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the registers written here configure lower exception levels, or the monitor's own
        // memory in a way that the caller has prepared; no Rust object moves.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

/// Makes the effects of earlier register writes visible to later instructions.
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) }
}

/// Waits until earlier memory accesses and maintenance are complete on all processors.
pub fn dsb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Stops until an interrupt is pending.
pub fn wait_for_interrupt() {
    // SAFETY: only waits.
    unsafe { core::arch::asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}
