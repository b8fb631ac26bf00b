// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

// Saving and loading what the worlds share below EL2, in straight lines. The order is that of
// `El1State` in `guest.rs`.

    .macro save a, b
    mrs     x1, \a
    mrs     x2, \b
    stp     x1, x2, [x0], #16
    .endm
    .macro load a, b
    ldp     x1, x2, [x0], #16
    msr     \a, x1
    msr     \b, x2
    .endm

    .macro el1_registers action
    \action sp_el0, sp_el1
    \action elr_el1, spsr_el1
    \action esr_el1, far_el1
    \action vbar_el1, sctlr_el1
    \action ttbr0_el1, ttbr1_el1
    \action tcr_el1, mair_el1
    \action amair_el1, cpacr_el1
    \action contextidr_el1, par_el1
    \action tpidr_el1, tpidr_el0
    \action tpidrro_el0, cntkctl_el1
    \action afsr0_el1, afsr1_el1
    \action csselr_el1, mdscr_el1
    // A compare value is in place before the timer that uses it is enabled.
    \action cntp_cval_el0, cntp_ctl_el0
    \action cntv_cval_el0, cntv_ctl_el0
    .endm

    // Keys of pointer authentication: IA, IB, DA, DB, GA.
    .macro key_registers action
    \action s3_0_c2_c1_0, s3_0_c2_c1_1
    \action s3_0_c2_c1_2, s3_0_c2_c1_3
    \action s3_0_c2_c2_0, s3_0_c2_c2_1
    \action s3_0_c2_c2_2, s3_0_c2_c2_3
    \action s3_0_c2_c3_0, s3_0_c2_c3_1
    .endm

    .section .text.state, "ax"

// extern "C" fn el1_save(state: *mut El1State), and so on.
    .global el1_save
el1_save:
    el1_registers save
    ret
    .global el1_load
el1_load:
    el1_registers load
    ret
    .global keys_save
keys_save:
    key_registers save
    ret
    .global keys_load
keys_load:
    key_registers load
    ret

    .arch_extension fp
    .arch_extension simd

// extern "C" fn vectors_save(state: *mut Vectors)
    .global vectors_save
vectors_save:
    stp     q0, q1, [x0], #32
    stp     q2, q3, [x0], #32
    stp     q4, q5, [x0], #32
    stp     q6, q7, [x0], #32
    stp     q8, q9, [x0], #32
    stp     q10, q11, [x0], #32
    stp     q12, q13, [x0], #32
    stp     q14, q15, [x0], #32
    stp     q16, q17, [x0], #32
    stp     q18, q19, [x0], #32
    stp     q20, q21, [x0], #32
    stp     q22, q23, [x0], #32
    stp     q24, q25, [x0], #32
    stp     q26, q27, [x0], #32
    stp     q28, q29, [x0], #32
    stp     q30, q31, [x0], #32
    save    fpcr, fpsr
    ret
    .global vectors_load
vectors_load:
    ldp     q0, q1, [x0], #32
    ldp     q2, q3, [x0], #32
    ldp     q4, q5, [x0], #32
    ldp     q6, q7, [x0], #32
    ldp     q8, q9, [x0], #32
    ldp     q10, q11, [x0], #32
    ldp     q12, q13, [x0], #32
    ldp     q14, q15, [x0], #32
    ldp     q16, q17, [x0], #32
    ldp     q18, q19, [x0], #32
    ldp     q20, q21, [x0], #32
    ldp     q22, q23, [x0], #32
    ldp     q24, q25, [x0], #32
    ldp     q26, q27, [x0], #32
    ldp     q28, q29, [x0], #32
    ldp     q30, q31, [x0], #32
    load    fpcr, fpsr
    ret

    .arch_extension sve

// extern "C" fn scalable_save(z: *mut u8, p: *mut u8)
// Z0 to Z31 at `z`; P0 to P15 and FFR at `p`, all as long as ZCR_EL2 lets them be.
    .macro for_z action
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    \action z\n, [x0, #\n, mul vl]
    .endr
    .endm
    .macro for_p action
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    \action p\n, [x1, #\n, mul vl]
    .endr
    .endm
    .global scalable_save
scalable_save:
    for_z   str
    for_p   str
    rdffr   p0.b
    str     p0, [x1, #16, mul vl]
    ldr     p0, [x1]
    ret
    .global scalable_load
scalable_load:
    for_z   ldr
    ldr     p0, [x1, #16, mul vl]
    wrffr   p0.b
    for_p   ldr
    ret
