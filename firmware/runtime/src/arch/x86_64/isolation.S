// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

    .section .text.isolation, "ax"

// extern "C" fn isolation_enter(work: extern "C" fn(*mut u8), call: *mut u8, top: u64, keep: *mut u64) -> u64
// Runs `work(call)` on the stack that ends at `top`. Returns 0 when it returns, 1 if it ran into the
// guard below its stack, 2 if it panicked. `keep` is where this CPU's stack pointer is meanwhile.
    .global isolation_enter
isolation_enter:
    push    rbp
    push    rbx
    push    r12
    push    r13
    push    r14
    push    r15
    push    rcx
    mov     [rcx], rsp
    mov     rsp, rdx
    mov     rax, rdi
    mov     rdi, rsi
    mov     rbx, rcx
    xor     ebp, ebp
    call    rax
    mov     rsp, [rbx]
    xor     eax, eax

// Returns rax from `isolation_enter`. RSP is the CPU's own stack, as `isolation_enter` left it.
isolation_leave:
    pop     rcx
    mov     qword ptr [rcx], 0
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbx
    pop     rbp
    ret

// Reports the panic at rdi, on this CPU's own stack at rsi, and leaves the work where it is.
    .global isolation_panicked
isolation_panicked:
    mov     rsp, rsi
    call    tsm_isolated_panic
    mov     eax, 2
    jmp     isolation_leave

// Where the handler of page faults returns to when work has run into the guard.
    .global isolation_overflowed
isolation_overflowed:
    mov     eax, 1
    jmp     isolation_leave
