// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

    .section .text.svm, "ax"

// extern "C" fn svm_enter(vmcb, gprs, own)
// Runs the guest of the control block at `vmcb` until it leaves. `gprs` is `vmcb::Gprs`; `own` is the
// page with the state of this CPU that VMSAVE put there at its start (APM volume 2, 15.5.2: VMRUN
// moves neither FS, GS, TR, LDTR nor the registers of system calls). All three addresses are physical
// ones, and mapped at the same virtual address.
//
// The global interrupt flag is clear outside the guest, so the interrupt flag set here lets nothing
// in: it says that physical interrupts may stop a guest that has V_INTR_MASKING (15.21.1).
    .global svm_enter
svm_enter:
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    push    rdx
    push    rsi
    mov     rax, rdi
    vmload  rax
    mov     rbx, [rsi]
    mov     rcx, [rsi + 0x08]
    mov     rdx, [rsi + 0x10]
    mov     rdi, [rsi + 0x20]
    mov     rbp, [rsi + 0x28]
    mov     r8,  [rsi + 0x30]
    mov     r9,  [rsi + 0x38]
    mov     r10, [rsi + 0x40]
    mov     r11, [rsi + 0x48]
    mov     r12, [rsi + 0x50]
    mov     r13, [rsi + 0x58]
    mov     r14, [rsi + 0x60]
    mov     r15, [rsi + 0x68]
    mov     rsi, [rsi + 0x18]
    sti
    vmrun   rax
    cli
    // RAX, RSP and RFLAGS are those from before; all else is the guest's.
    vmsave  rax
    push    rsi
    mov     rsi, [rsp + 8]
    mov     [rsi], rbx
    mov     [rsi + 0x08], rcx
    mov     [rsi + 0x10], rdx
    mov     [rsi + 0x20], rdi
    mov     [rsi + 0x28], rbp
    mov     [rsi + 0x30], r8
    mov     [rsi + 0x38], r9
    mov     [rsi + 0x40], r10
    mov     [rsi + 0x48], r11
    mov     [rsi + 0x50], r12
    mov     [rsi + 0x58], r13
    mov     [rsi + 0x60], r14
    mov     [rsi + 0x68], r15
    pop     rax
    mov     [rsi + 0x18], rax
    pop     rsi
    pop     rax
    vmload  rax
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    // Nothing of the guest is left in a register that the caller may read.
    xor     eax, eax
    xor     ecx, ecx
    xor     edx, edx
    xor     edi, edi
    xor     r8d, r8d
    xor     r9d, r9d
    xor     r10d, r10d
    xor     r11d, r11d
    ret

// extern "C" fn svm_take_nmi()
// Takes a non-maskable interrupt that made a guest leave: it is still pending.
    .global svm_take_nmi
svm_take_nmi:
    stgi
    nop
    clgi
    ret

// extern "C" fn svm_wait()
// Waits for a non-maskable interrupt. One that comes before the processor waits must not be lost: its
// handler continues at the end (`svm::continue_after_nmi`).
    .global svm_wait
svm_wait:
    stgi
    .global svm_wait_first
svm_wait_first:
    hlt
    .global svm_wait_end
svm_wait_end:
    clgi
    ret
