// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

// Exception vectors of R-EL2, entry to a guest and exit from it.

    .macro fatal_slot number
    .balign 128
    sub     sp, sp, #{fatal_size}
    stp     x0, x1, [sp]
    mov     x0, #\number
    b       fatal
    .endm

    // x0 and x1 are on the stack; x1 becomes the kind of the exit.
    .macro exit_slot number
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mov     x1, #\number
    b       guest_exit
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global tsm_vectors
tsm_vectors:
    // Current EL with SP_EL0: isolated work.
    .balign 128
    b       isolated_sync
    fatal_slot 1
    fatal_slot 2
    fatal_slot 3

    // Current EL with SP_EL2, synchronous. Is the stack still inside its bounds? Below them the
    // bit of the stack's size is set, by the layout of the stack window. No register is free to
    // hold SP, hence the arithmetic.
    .balign 128
    add     sp, sp, x0
    sub     x0, sp, x0
    tbnz    x0, #{stack_bit}, stack_overflow
    sub     x0, sp, x0
    sub     sp, sp, x0
    b       own_sync

    fatal_slot 5
    fatal_slot 6
    fatal_slot 7

    // Lower EL, AArch64.
    exit_slot 0
    exit_slot 1
    exit_slot 2
    exit_slot 3
    // Lower EL, AArch32: only EL0 of a guest.
    exit_slot 0
    exit_slot 1
    exit_slot 2
    exit_slot 3
    .balign 128

// A fault inside the guarded copy returns from it; anything else is fatal.
own_sync:
    stp     x0, x1, [sp, #-16]!
    stp     x2, x3, [sp, #-16]!
    mrs     x0, esr_el2
    lsr     x1, x0, #26
    cmp     x1, #0x25               // Data abort from the current EL.
    b.ne    1f
    mrs     x1, elr_el2
    ldr     x2, =guarded_copy
    ldr     x3, =guarded_copy_end
    cmp     x1, x2
    ccmp    x1, x3, #2, hs
    b.hs    1f
    // Translation faults, external aborts and granule protection faults.
    and     x0, x0, #0x3f
    mov     x1, #1
    lsl     x1, x1, x0
    ldr     x2, ={recoverable}
    tst     x1, x2
    b.eq    1f
    ldr     x1, =guarded_copy_failed
    msr     elr_el2, x1
    ldp     x2, x3, [sp], #16
    ldp     x0, x1, [sp], #16
    eret
1:  ldp     x2, x3, [sp], #16
    ldp     x0, x1, [sp], #16
    sub     sp, sp, #{fatal_size}
    stp     x0, x1, [sp]
    mov     x0, #4
    b       fatal

// Isolated work that runs into the guard below its stack is abandoned; anything else is fatal. This is
// the CPU's own stack, as `isolation_enter` left it.
isolated_sync:
    stp     x0, x1, [sp, #-16]!
    mrs     x0, esr_el2
    lsr     x1, x0, #26
    cmp     x1, #0x25               // Data abort from the current EL.
    b.ne    1f
    and     x1, x0, #0x3c
    cmp     x1, #0x04               // Translation fault, any level.
    b.ne    1f
    mrs     x0, far_el2
    ldr     x1, ={guard}
    sub     x0, x0, x1
    ldr     x1, ={guard_size}
    cmp     x0, x1
    b.hs    1f
    add     sp, sp, #16
    mov     x0, #1
    b       isolation_leave
1:  ldp     x0, x1, [sp], #16
    sub     sp, sp, #{fatal_size}
    stp     x0, x1, [sp]
    mov     x0, #0
    b       fatal

// SP has left its stack. x0 was lost to the test; the report shows SP in its place.
stack_overflow:
    mrs     x1, tpidr_el2
    add     x1, x1, #{emergency_top}
    mov     sp, x1
    sub     sp, sp, #{fatal_size}
    stp     x0, xzr, [sp]
    mov     x0, #16

// x0 is the slot; the first two registers are on the stack already.
fatal:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    mov     x1, sp
    bl      tsm_fatal

// extern "C" fn guest_enter(context: *mut Context, cpu: *mut Cpu) -> u64
// Runs the guest until the next exception and returns the kind of exit (slot in its group).
    .global guest_enter
guest_enter:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [x1, #{running}]
    ldp     x2, x3, [x0, #{pc}]
    msr     elr_el2, x2
    msr     spsr_el2, x3
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    // Nothing is executed past an ERET, not even by speculation.
    dsb     nsh
    isb

guest_exit:
    mrs     x0, tpidr_el2
    ldr     x0, [x0, #{running}]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [x0, #{pc}]
    mov     x0, x1
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret

    .ltorg
