// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registers that a call must preserve.

use core::arch::global_asm;

/// Which registers [`changed_by`] looks at.
pub const WHICH: &str = "general, vector, debug and system";

// Makes the call in rdi and rsi with a pattern in registers that it has to preserve, and returns the
// bits that changed in rax. The registers have no use in this program. The machine registers are
// TSC_AUX, STAR, LSTAR, SFMASK, the bases of FS and GS, and the system-call registers of 32-bit code.
global_asm!(
    ".section .text.call_with_pattern, \"ax\"",
    "call_with_pattern:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "mov rax, cr0",
    "and rax, ~0xc",
    "mov cr0, rax",
    "mov rax, cr4",
    "or rax, 0x600",
    "mov cr4, rax",
    "mov eax, 0x5aa5",
    ".irp register, xmm0, xmm7, xmm8, xmm15",
    "movq \\register, rax",
    ".endr",
    ".irp register, dr0, dr1, dr2, dr3",
    "mov \\register, rax",
    ".endr",
    "mov cr2, rax",
    "xor edx, edx",
    ".irp number, 0xc0000103, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000102, 0x174, 0x175, 0x176",
    "mov ecx, \\number",
    "wrmsr",
    ".endr",
    "mov rbx, rax",
    "mov rbp, rax",
    "pop rax",
    "mov rdi, rsi",
    "vmmcall",
    "mov r8d, 0x5aa5",
    "xor rbx, r8",
    "xor rbp, r8",
    "or rbx, rbp",
    ".irp register, xmm0, xmm7, xmm8, xmm15",
    "movq rdx, \\register",
    "xor rdx, r8",
    "or rbx, rdx",
    ".endr",
    ".irp register, dr0, dr1, dr2, dr3, cr2",
    "mov rdx, \\register",
    "xor rdx, r8",
    "or rbx, rdx",
    ".endr",
    ".irp number, 0xc0000103, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000102, 0x174, 0x175, 0x176",
    "mov ecx, \\number",
    "rdmsr",
    "xor rax, r8",
    "or rbx, rax",
    "or rbx, rdx",
    ".endr",
    "mov rax, rbx",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".text",
);

unsafe extern "C" {
    fn call_with_pattern(function: u64, argument: u64) -> u64;
}

/// Makes a call with a pattern in the registers that it must preserve; returns the bits that
/// changed.
pub fn changed_by(function: u64, argument: u64) -> u64 {
    // SAFETY: The function keeps to the procedure call standard; see its comment.
    unsafe { call_with_pattern(function, argument) }
}
