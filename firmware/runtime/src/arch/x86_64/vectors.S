// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

// Entries of the exceptions that the processor makes. Each leaves an error code, zero where the processor
// gives none, and its number on the stack.

    .section .text.vectors, "ax"
    .balign {vector_bytes}
    .global tsm_vectors
tsm_vectors:
    // Double fault, invalid TSS, segment, stack, protection, page, alignment, control flow, VMM and
    // security exceptions have an error code (AMD APM vol 2, table 8-1).
    .irp    number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign {vector_bytes}
    .if     !((0x60227d00 >> \number) & 1)
    push    0
    .endif
    push    \number
    jmp     exception
    .endr

exception:
    push    r15
    push    r14
    push    r13
    push    r12
    push    r11
    push    r10
    push    r9
    push    r8
    push    rbp
    push    rdi
    push    rsi
    push    rdx
    push    rcx
    push    rbx
    push    rax
    cld
    mov     rdi, rsp
    mov     rbx, rsp
    and     rsp, -16
    call    tsm_exception
    mov     rsp, rbx
    pop     rax
    pop     rbx
    pop     rcx
    pop     rdx
    pop     rsi
    pop     rdi
    pop     rbp
    pop     r8
    pop     r9
    pop     r10
    pop     r11
    pop     r12
    pop     r13
    pop     r14
    pop     r15
    add     rsp, 16
    iretq
