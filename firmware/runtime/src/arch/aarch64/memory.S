// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

// The routines that the compiler calls for moving memory. Those of the compiler's library move a
// word at a time and never an unaligned one.
//
// Where addresses and length are multiples of 8, so is every access: these run before the MMU is on
// as well, when memory does not take others.

    .section .text.memory, "ax"

// extern "C" fn memcpy(to, from, length) -> to
    .global memcpy
memcpy:
    cmp     x2, #64
    b.hi    5f
    cmp     x2, #16
    b.lo    2f
    add     x9, x1, x2
    add     x10, x0, x2
    cmp     x2, #32
    b.hi    1f
    // 16 to 32: the first and the last 16, which may overlap.
    ldp     x3, x4, [x1]
    ldp     x5, x6, [x9, #-16]
    stp     x3, x4, [x0]
    stp     x5, x6, [x10, #-16]
    ret
1:  // 33 to 64: the first and the last 32.
    ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    ldp     x7, x8, [x9, #-32]
    ldp     x11, x12, [x9, #-16]
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    stp     x7, x8, [x10, #-32]
    stp     x11, x12, [x10, #-16]
    ret
2:  add     x9, x1, x2
    add     x10, x0, x2
    tbz     x2, #3, 3f
    ldr     x3, [x1]
    ldr     x4, [x9, #-8]
    str     x3, [x0]
    str     x4, [x10, #-8]
    ret
3:  tbz     x2, #2, 4f
    ldr     w3, [x1]
    ldr     w4, [x9, #-4]
    str     w3, [x0]
    str     w4, [x10, #-4]
    ret
4:  cbz     x2, 7f
    // 1 to 3: the first, the middle and the last.
    lsr     x8, x2, #1
    ldrb    w3, [x1]
    ldrb    w4, [x1, x8]
    ldrb    w5, [x9, #-1]
    strb    w3, [x0]
    strb    w4, [x0, x8]
    strb    w5, [x10, #-1]
    ret
5:  // More: 64 at a time, and the last 64, which may overlap what was done.
    add     x9, x1, x2
    add     x10, x0, x2
    mov     x8, x0
    sub     x13, x9, #64
6:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    ldp     x7, x11, [x1, #32]
    ldp     x12, x14, [x1, #48]
    add     x1, x1, #64
    stp     x3, x4, [x8]
    stp     x5, x6, [x8, #16]
    stp     x7, x11, [x8, #32]
    stp     x12, x14, [x8, #48]
    add     x8, x8, #64
    cmp     x1, x13
    b.lo    6b
    ldp     x3, x4, [x9, #-64]
    ldp     x5, x6, [x9, #-48]
    ldp     x7, x8, [x9, #-32]
    ldp     x11, x12, [x9, #-16]
    stp     x3, x4, [x10, #-64]
    stp     x5, x6, [x10, #-48]
    stp     x7, x8, [x10, #-32]
    stp     x11, x12, [x10, #-16]
7:  ret

// extern "C" fn memset(to, byte, length) -> to
    .global memset
memset:
    and     x1, x1, #0xff
    mov     x3, #0x0101010101010101
    mul     x1, x1, x3
    add     x9, x0, x2
    cmp     x2, #16
    b.lo    3f
    mov     x8, x0
    subs    x2, x2, #64
    b.lo    2f
1:  stp     x1, x1, [x8]
    stp     x1, x1, [x8, #16]
    stp     x1, x1, [x8, #32]
    stp     x1, x1, [x8, #48]
    add     x8, x8, #64
    subs    x2, x2, #64
    b.hs    1b
2:  // 0 to 63 are left, in a whole of at least 16.
    tbz     x2, #5, 21f
    stp     x1, x1, [x8]
    stp     x1, x1, [x8, #16]
    add     x8, x8, #32
21: tbz     x2, #4, 22f
    stp     x1, x1, [x8]
22: stp     x1, x1, [x9, #-16]
    ret
3:  tbz     x2, #3, 4f
    str     x1, [x0]
    str     x1, [x9, #-8]
    ret
4:  tbz     x2, #2, 5f
    str     w1, [x0]
    str     w1, [x9, #-4]
    ret
5:  cbz     x2, 6f
    lsr     x8, x2, #1
    strb    w1, [x0]
    strb    w1, [x0, x8]
    strb    w1, [x9, #-1]
6:  ret
