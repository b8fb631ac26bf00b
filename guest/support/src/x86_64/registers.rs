// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registers that a call must preserve, and that tell nobody else what was in them.

use core::arch::x86_64::__cpuid_count;
use core::arch::{asm, global_asm};

/// Which registers [`changed_by`] looks at.
pub const WHICH: &str = "general, FPU, vector, protection key, debug and system";

/// Machine registers that have no use in a program on one CPU: TSC_AUX, STAR, LSTAR, CSTAR, SFMASK,
/// bases of FS, GS and the kernel's GS, and those of system calls from 32-bit code.
const MACHINE: [u32; 11] = [
    0xc000_0103,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0x174,
    0x175,
    0x176,
];

// The program has no use for the registers below and is built without vector instructions.
//
// fn pattern_call(call: *mut [u64; 4], pattern: u32, xcr0: u64) -> u64
//
// Fills them with the pattern (and XCR0 with its own, if it is not zero), makes the call, stores what
// RAX returns, and returns the bits that changed.
global_asm!(
    ".section .text.pattern_call, \"ax\"",
    ".macro compare register",
    "xor \\register, r8",
    "or r9, \\register",
    ".endm",
    "pattern_call:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "mov ebx, esi",
    "push rbx",
    "mov rbp, rdx",
    "push rbp",
    "mov rax, cr0",
    "and rax, ~0xc",
    "mov cr0, rax",
    "mov rax, cr4",
    "or rax, 0x600",
    "mov cr4, rax",
    "test rbp, rbp",
    "jz 2f",
    "or rax, 0x40000",
    "mov cr4, rax",
    "mov eax, ebp",
    "xor ecx, ecx",
    "xor edx, edx",
    "xsetbv",
    "bt rbp, 9",
    "jnc 2f",
    // The key of all pages is 0, which stays open.
    "mov rax, cr4",
    "or rax, 0x400000",
    "mov cr4, rax",
    "mov eax, ebx",
    "and eax, ~3",
    "wrpkru",
    "2:",
    "fninit",
    "push rbx",
    ".rept 8",
    "fild dword ptr [rsp]",
    ".endr",
    "and dword ptr [rsp], 0x8040",
    "or dword ptr [rsp], 0x1f80",
    "ldmxcsr [rsp]",
    "pop rax",
    ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movq xmm\\number, rbx",
    ".endr",
    "test bpl, 4",
    "jz 3f",
    ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "vinsertf128 ymm\\number, ymm\\number, xmm\\number, 1",
    ".endr",
    "3:",
    ".irp register, dr0, dr1, dr2, dr3, cr2",
    "mov \\register, rbx",
    ".endr",
    "lea r10, [rip + {machine}]",
    "mov r11d, {machines}",
    "4:",
    "mov ecx, [r10]",
    "mov eax, ebx",
    "xor edx, edx",
    "wrmsr",
    "add r10, 4",
    "dec r11d",
    "jnz 4b",
    "mov r10, [rsp + 16]",
    "mov rax, [r10]",
    "mov rdi, [r10 + 8]",
    "mov rsi, [r10 + 16]",
    "mov rdx, [r10 + 24]",
    "vmmcall",
    "mov r10, [rsp + 16]",
    "mov [r10], rax",
    "mov r8, [rsp + 8]",
    "xor r9d, r9d",
    "compare rbx",
    "xor rbp, [rsp]",
    "or r9, rbp",
    "mov rbp, [rsp]",
    "push 0",
    ".rept 8",
    "fistp dword ptr [rsp]",
    "mov edx, [rsp]",
    "compare rdx",
    ".endr",
    "stmxcsr [rsp]",
    "pop rdx",
    "mov eax, r8d",
    "and eax, 0x8040",
    "or eax, 0x1f80",
    "xor edx, eax",
    "or r9, rdx",
    // Register 0 holds the upper half of the others, after it was looked at.
    ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movq rdx, xmm\\number",
    "compare rdx",
    "test bpl, 4",
    "jz 5f",
    "vextractf128 xmm0, ymm\\number, 1",
    "movq rdx, xmm0",
    "compare rdx",
    "5:",
    ".endr",
    "test rbp, rbp",
    "jz 6f",
    "xor ecx, ecx",
    "xgetbv",
    "xor eax, ebp",
    "or r9, rax",
    "or r9, rdx",
    "bt rbp, 9",
    "jnc 6f",
    "xor ecx, ecx",
    "rdpkru",
    "mov ecx, r8d",
    "and ecx, ~3",
    "xor eax, ecx",
    "or r9, rax",
    "6:",
    ".irp register, dr0, dr1, dr2, dr3, cr2",
    "mov rdx, \\register",
    "compare rdx",
    ".endr",
    "lea r10, [rip + {machine}]",
    "mov r11d, {machines}",
    "7:",
    "mov ecx, [r10]",
    "rdmsr",
    "compare rax",
    "or r9, rdx",
    "add r10, 4",
    "dec r11d",
    "jnz 7b",
    "mov rax, r9",
    "add rsp, 24",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".purgem compare",
    ".text",
    machine = sym MACHINE_REGISTERS,
    machines = const MACHINE.len(),
);

static MACHINE_REGISTERS: [u32; MACHINE.len()] = MACHINE;

unsafe extern "C" {
    fn pattern_call(call: *mut [u64; 4], pattern: u32, xcr0: u64) -> u64;
}

/// Returns what of XCR0 this program may set and looks at: FPU, SSE, AVX and protection keys.
fn extended_state() -> u64 {
    const XSAVE: u32 = 1 << 26;
    if __cpuid_count(1, 0).ecx & XSAVE == 0 {
        return 0;
    }
    u64::from(__cpuid_count(0xd, 0).eax) & 0x207
}

/// Makes a call (a function and three arguments) with `pattern` in the registers that it must
/// preserve; what it returns first takes the place of the function. Returns the bits that changed.
pub fn changed_by(call: &mut [u64; 4], pattern: u16) -> u64 {
    // SAFETY: The function keeps to the procedure call standard. The registers have no use in this
    // program, and only what the processor has is turned on.
    unsafe { pattern_call(call, pattern.into(), extended_state()) }
}

/// FPU and SSE state as FXSAVE stores it.
#[repr(C, align(16))]
struct Area([u64; 64]);

/// Returns the bits that are set in registers which are zero when a processor starts.
pub fn remains() -> u64 {
    let mut area = Area([0; 64]);
    let (dr0, dr1, dr2, dr3, cr2): (u64, u64, u64, u64, u64);
    // SAFETY: Turns SSE on, stores its state in a local area, and reads registers.
    unsafe {
        asm!(
            "mov {0}, cr0",
            "and {0}, ~0xc",
            "mov cr0, {0}",
            "mov {0}, cr4",
            "or {0}, 0x600",
            "mov cr4, {0}",
            "fxsave64 [{1}]",
            out(reg) _,
            in(reg) &raw mut area,
            options(nostack),
        );
        asm!(
            "mov {0}, dr0",
            "mov {1}, dr1",
            "mov {2}, dr2",
            "mov {3}, dr3",
            "mov {4}, cr2",
            out(reg) dr0,
            out(reg) dr1,
            out(reg) dr2,
            out(reg) dr3,
            out(reg) cr2,
            options(nomem, nostack, preserves_flags),
        );
    }
    // Error pointers, then the registers themselves; between them is MXCSR.
    let vectors = area
        .0
        .iter()
        .enumerate()
        .filter(|(index, _)| matches!(index, 1..=2 | 4..=51));
    let vectors = vectors.fold(0, |bits, (_, word)| bits | word);
    let machine = MACHINE.iter().fold(0, |bits, number| bits | read(*number));
    vectors | machine | dr0 | dr1 | dr2 | dr3 | cr2
}

/// Reads a machine register that this program may read.
fn read(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: Reads only.
    unsafe {
        asm!(
            "rdmsr",
            in("ecx") number,
            out("eax") low,
            out("edx") high,
            options(nomem, nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}
