// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

    .section .text.copy, "ax"

// extern "C" fn guarded_copy(to, from, length) -> u64
// Copies forward and returns 0, or 1 if an access faulted; `own_sync` in vectors.S does that. Each
// byte of the source is read once.
    .global guarded_copy
guarded_copy:
1:  subs    x2, x2, #64
    b.lo    2f
    ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    ldp     x8, x9, [x1], #16
    ldp     x10, x11, [x1], #16
    stp     x4, x5, [x0], #16
    stp     x6, x7, [x0], #16
    stp     x8, x9, [x0], #16
    stp     x10, x11, [x0], #16
    b       1b
2:  add     x2, x2, #64
21: subs    x2, x2, #8
    b.lo    22f
    ldr     x4, [x1], #8
    str     x4, [x0], #8
    b       21b
22: add     x2, x2, #8
3:  cbz     x2, 4f
    ldrb    w4, [x1], #1
    strb    w4, [x0], #1
    sub     x2, x2, #1
    b       3b
4:  mov     x0, #0
    ret
    .global guarded_copy_end
guarded_copy_end:

    .global guarded_copy_failed
guarded_copy_failed:
    mov     x0, #1
    ret

// extern "C" fn zero_page(page, line)
// Zeroes 4 KiB, `line` bytes at a time: what DC ZVA writes, a power of two, 256 at most.
    .global zero_page
zero_page:
    add     x2, x0, #4096
1:  .rept 16
    dc      zva, x0
    add     x0, x0, x1
    .endr
    cmp     x0, x2
    b.lo    1b
    ret
