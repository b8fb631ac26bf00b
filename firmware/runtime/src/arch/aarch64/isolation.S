// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

    .section .text.isolation, "ax"

// extern "C" fn isolation_enter(work: extern "C" fn(*mut u8), call: *mut u8, top: u64) -> u64
// Runs `work(call)` on SP_EL0, which starts at `top`. Returns 0 when it returns, 1 if it ran into the
// guard below its stack, 2 if it panicked. Exceptions meanwhile use this CPU's own stack, SP_EL2,
// whose top is the frame that is made here.
    .global isolation_enter
isolation_enter:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    // It is the host's or a guest's.
    mrs     x9, sp_el0
    str     x9, [sp, #96]
    msr     sp_el0, x2
    mov     x9, x0
    mov     x0, x1
    mov     x29, xzr
    msr     spsel, #0
    blr     x9
    msr     spsel, #1
    mov     x0, #0
    b       isolation_leave

// Reports the panic at x0, on this CPU's own stack, and leaves the work where it is.
    .global isolation_panicked
isolation_panicked:
    msr     spsel, #1
    bl      tsm_isolated_panic
    mov     x0, #2

// Returns x0 from `isolation_enter`. SP_EL2 is in use, as `isolation_enter` left it.
    .global isolation_leave
isolation_leave:
    ldr     x9, [sp, #96]
    msr     sp_el0, x9
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret
