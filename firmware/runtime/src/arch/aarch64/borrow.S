// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

    .arch_extension fp
    .arch_extension simd
    .arch_extension sve

    .section .text.borrow, "ax"

// extern "C" fn borrow_vectors(area: *mut Borrowed), extern "C" fn return_vectors(area)
// V0 to V15; the next two: Z0 to Z15.
    .global borrow_vectors
borrow_vectors:
    stp     q0, q1, [x0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    ret
    .global return_vectors
return_vectors:
    ldp     q0, q1, [x0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ret
    .global borrow_scalable
borrow_scalable:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    str     z\n, [x0, #\n, mul vl]
    .endr
    ret
    .global return_scalable
return_scalable:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    ldr     z\n, [x0, #\n, mul vl]
    .endr
    ret
