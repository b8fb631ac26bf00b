// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Exception vectors of EL3, world switch, and the one load that may fault.
//!
//! While a lower exception level runs, the monitor's stack pointer is the [`Context`] of its world, so
//! that the vector can store registers before it has any to spare. TPIDR_EL3 is the processor's
//! [`Cpu`], and the stack that Rust code runs on ends where that begins.
//!
//! A board defines two functions that do not unwind:
//! `monitor_exception(cpu: &mut Cpu, esr: u64) -> *mut Context`, which returns the context to go on with,
//! and `monitor_unexpected(vector: u64) -> !`.

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use crate::context::{COMMON_BITS, Context, Cpu, common_registers, el2_registers, rare_registers};

macro_rules! save_el2 {
    ($(($a:ident, $a_name:literal, $b:ident, $b_name:literal))*) => {
        concat!($("mrs x2, ", $a_name, "\n", "mrs x3, ", $b_name, "\n", "stp x2, x3, [x4], #16\n"),*)
    };
}
macro_rules! restore_el2 {
    ($(($a:ident, $a_name:literal, $b:ident, $b_name:literal))*) => {
        concat!($("ldp x2, x3, [x4], #16\n", "msr ", $a_name, ", x2\n", "msr ", $b_name, ", x3\n"),*)
    };
}
macro_rules! save_common {
    (($bit:literal, $a:ident, $a_name:literal, $b:ident, $b_name:literal)) => {
        concat!(
            "tbz x5, #",
            $bit,
            ", 1f\n",
            "mrs x2, ",
            $a_name,
            "\n",
            "mrs x3, ",
            $b_name,
            "\n",
            "stp x2, x3, [x4]\n",
            "1:\n"
        )
    };
}
macro_rules! restore_common {
    (($bit:literal, $a:ident, $a_name:literal, $b:ident, $b_name:literal)) => {
        concat!(
            "tbz x5, #",
            $bit,
            ", 1f\n",
            "ldp x2, x3, [x4]\n",
            "msr ",
            $a_name,
            ", x2\n",
            "msr ",
            $b_name,
            ", x3\n",
            "1:\n"
        )
    };
}
// A register of an absent extension keeps its place in the context.
macro_rules! save_optional {
    ($(($bit:literal, $field:ident, $name:literal))*) => {
        concat!($("tbz x5, #", $bit, ", 1f\n", "mrs x2, ", $name, "\n", "str x2, [x4]\n", "1: add x4, x4, #8\n"),*)
    };
}
macro_rules! restore_optional {
    ($(($bit:literal, $field:ident, $name:literal))*) => {
        concat!($("tbz x5, #", $bit, ", 1f\n", "ldr x2, [x4]\n", "msr ", $name, ", x2\n", "1: add x4, x4, #8\n"),*)
    };
}

global_asm!(
    r#"
    .section .text.vectors, "ax"

    // An exception that the monitor itself must not cause: the vector's number goes to the board.
    .macro unexpected number
    .balign 0x80
    mov     x0, #\number
    b       monitor_unexpected
    .endm

    // Stores the registers of the world that was left and calls the board.
    .macro from_lower
    .balign 0x80
    stp     x0, x1, [sp, #16 * 0]
    stp     x2, x3, [sp, #16 * 1]
    stp     x4, x5, [sp, #16 * 2]
    stp     x6, x7, [sp, #16 * 3]
    stp     x8, x9, [sp, #16 * 4]
    stp     x10, x11, [sp, #16 * 5]
    stp     x12, x13, [sp, #16 * 6]
    stp     x14, x15, [sp, #16 * 7]
    stp     x16, x17, [sp, #16 * 8]
    stp     x18, x19, [sp, #16 * 9]
    stp     x20, x21, [sp, #16 * 10]
    stp     x22, x23, [sp, #16 * 11]
    stp     x24, x25, [sp, #16 * 12]
    stp     x26, x27, [sp, #16 * 13]
    stp     x28, x29, [sp, #16 * 14]
    mrs     x2, elr_el3
    mrs     x3, spsr_el3
    stp     x30, x2, [sp, #{x} + 8 * 30]
    str     x3, [sp, #{spsr}]
    mov     x19, sp
    mrs     x0, tpidr_el3
    mrs     x1, esr_el3
    mov     sp, x0
    adr     x30, monitor_resume
    b       monitor_exception
    .endm

    .balign 0x800
    .global monitor_vectors
monitor_vectors:
    unexpected 0
    unexpected 1
    unexpected 2
    unexpected 3

    // Synchronous, from EL3 itself: only the guarded load may fault.
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    mrs     x0, elr_el3
    adr     x1, monitor_guarded_load
    cmp     x0, x1
    b.ne    5f
    adr     x1, monitor_guarded_fault
    msr     elr_el3, x1
    ldp     x0, x1, [sp], #16
    eret
    dsb     nsh
    isb
5:  mov     x0, #4
    b       monitor_unexpected
    unexpected 5
    unexpected 6
    unexpected 7

    from_lower
    unexpected 9
    unexpected 10
    unexpected 11
    from_lower
    unexpected 13
    unexpected 14
    unexpected 15
    .balign 0x80

    // x0: context to go on with. x19: context that was left.
monitor_resume:
    cmp     x0, x19
    b.eq    monitor_return
    mrs     x1, tpidr_el3
    ldr     x5, [x1, #{extensions}]
    add     x4, x19, #{el2}
"#,
    el2_registers!(save_el2),
    r#"
"#,
    common_registers!(save_common),
    r#"
    lsr     x6, x5, #{common}
    cbz     x6, 2f
    add     x4, x4, #16
"#,
    rare_registers!(save_optional),
    r#"
    // x0: context to go on with. x5: extensions.
2:
    add     x4, x0, #{el2}
"#,
    el2_registers!(restore_el2),
    r#"
"#,
    common_registers!(restore_common),
    r#"
    lsr     x6, x5, #{common}
    cbz     x6, 3f
    add     x4, x4, #16
"#,
    rare_registers!(restore_optional),
    r#"
3:  ldr     x2, [x0, #{scr}]
    msr     scr_el3, x2
    // The return makes it take effect.

monitor_return:
    mov     sp, x0
    ldp     x1, x2, [x0, #{elr}]
    msr     elr_el3, x1
    msr     spsr_el3, x2
    ldp     x2, x3, [x0, #16 * 1]
    ldp     x4, x5, [x0, #16 * 2]
    ldp     x6, x7, [x0, #16 * 3]
    ldp     x8, x9, [x0, #16 * 4]
    ldp     x10, x11, [x0, #16 * 5]
    ldp     x12, x13, [x0, #16 * 6]
    ldp     x14, x15, [x0, #16 * 7]
    ldp     x16, x17, [x0, #16 * 8]
    ldp     x18, x19, [x0, #16 * 9]
    ldp     x20, x21, [x0, #16 * 10]
    ldp     x22, x23, [x0, #16 * 11]
    ldp     x24, x25, [x0, #16 * 12]
    ldp     x26, x27, [x0, #16 * 13]
    ldp     x28, x29, [x0, #16 * 14]
    ldr     x30, [x0, #8 * 30]
    ldp     x0, x1, [x0]
    eret
    // Nothing past the return may be executed speculatively.
    dsb     nsh
    isb

    // Enters the context x0 for the first time; nothing is saved.
    .global monitor_enter
monitor_enter:
    mrs     x1, tpidr_el3
    ldr     x5, [x1, #{extensions}]
    b       2b

    .global monitor_guarded_load
monitor_guarded_load:
    ldr     w0, [x0]
    ret
monitor_guarded_fault:
    mov     x0, #-1
    ret
"#,
    x = const offset_of!(Context, x),
    elr = const offset_of!(Context, elr),
    spsr = const offset_of!(Context, spsr),
    scr = const offset_of!(Context, scr),
    el2 = const offset_of!(Context, el2),
    common = const COMMON_BITS,
    extensions = const offset_of!(Cpu, extensions),
);

// The stores above assume these.
const _: () = assert!(offset_of!(Context, x) == 0);
const _: () = assert!(offset_of!(Context, elr) == 8 * 31);
const _: () = assert!(offset_of!(Context, spsr) == offset_of!(Context, elr) + 8);
const _: () =
    assert!(offset_of!(Context, common) == offset_of!(Context, el2) + size_of::<crate::El2>());
const _: () =
    assert!(offset_of!(Context, rare) == offset_of!(Context, common) + size_of::<crate::Common>());

unsafe extern "C" {
    static monitor_vectors: [u8; 0x800];
    fn monitor_guarded_load(address: u64) -> u64;
}

/// Returns the address for VBAR_EL3.
#[must_use]
pub fn vector_table() -> u64 {
    &raw const monitor_vectors as u64
}

/// Enters a world on a processor for the first time since it was started.
///
/// # Safety
/// TPIDR_EL3 is the [`Cpu`] that holds `context`, the stack below it is the caller's and holds nothing
/// that is still needed, and `context` is complete.
pub unsafe fn enter(context: *mut Context) -> ! {
    // SAFETY: the caller's promise is what the code at this label needs.
    unsafe { asm!("b monitor_enter", in("x0") context, options(noreturn)) }
}

/// Reads a word that may not be there: an access that faults returns none.
#[must_use]
pub(super) fn guarded_read(address: u64) -> Option<u32> {
    // SAFETY: the function is a single load, and the vector recovers if it faults. The monitor's window
    // on the host's memory, which is all this is used for, holds no Rust object.
    let value = unsafe { monitor_guarded_load(address) };
    u32::try_from(value).ok()
}
