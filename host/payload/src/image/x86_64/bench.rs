// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Counting the ticks of calls.

use core::arch::{asm, global_asm};

/// A function that nobody has.
pub const NULL_CALL: u64 = 0x8000_0000;

global_asm!(
    // A guest that counts two of its own calls, tells the counts, and then only calls the host. It
    // begins in 32-bit mode and stays there.
    ".section .rodata.bench_guest, \"a\"",
    ".balign 4096",
    ".code32",
    "bench_guest:",
    ".irp call, 0, 1",
    "mov dword ptr ds:[0x1804], 8",
    "1:",
    "rdtsc",
    "mov dword ptr ds:[0x1800], eax",
    "mov eax, 0xc4000190 + 8 * \\call",
    "mov edi, (1 - \\call) * 0x10000",
    "mov esi, \\call * 0x1000",
    "vmmcall",
    "rdtsc",
    "sub eax, dword ptr ds:[0x1800]",
    "mov dword ptr ds:[0x1010 + 8 * \\call], eax",
    "dec dword ptr ds:[0x1804]",
    "jnz 1b",
    ".endr",
    "2:",
    "mov eax, 0xc4000199",
    "mov edi, 0x1000",
    "vmmcall",
    "jmp 2b",
    ".code64",
    ".balign 4096",
    ".text",
);

unsafe extern "C" {
    static bench_guest: u8;
}

/// The function of the image for tests that enters a bare guest.
const BARE_LOOP: u64 = 0xc400_02ce;

/// Returns the ticks of one turn of a loop that enters and leaves a guest with nothing around it.
pub fn bare_turn() -> Option<u64> {
    const TURNS: u64 = 1000;
    let least = |turns| {
        let counts = (0..5).map(|_| timed(BARE_LOOP, [turns, 0, 0, 0, 0, 0, 0]));
        let whole = counts.filter(|counted| counted.status == 0 && counted.result == turns);
        whole.map(|counted| counted.ticks).min()
    };
    // What surrounds the loop is in both.
    let (one, many) = (least(1)?, least(1 + TURNS)?);
    Some(many.saturating_sub(one) / TURNS)
}

/// What one counted call returned.
pub struct Counted {
    /// Ticks from before the call to after it.
    pub ticks: u64,
    /// Register 0.
    pub status: u64,
    /// Register 1.
    pub result: u64,
}

/// Makes a call and counts its ticks.
pub fn timed(function: u64, arguments: [u64; 7]) -> Counted {
    let (ticks, status, result): (u64, u64, u64);
    let [x1, x2, x3, x4, x5, x6, x7] = arguments;
    // SAFETY: As `arch::call`; r14 and r15 are the call's to change, the stack keeps the counter.
    unsafe {
        asm!(
            "mov r15, rax",
            "mov r14, rdx",
            "lfence",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "push rax",
            "mov rax, r15",
            "mov rdx, r14",
            "vmmcall",
            "mov r8, rax",
            "lfence",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "pop rdx",
            "sub rax, rdx",
            inout("rax") function => ticks,
            inout("rdi") x1 => result,
            inout("rsi") x2 => _,
            inout("rdx") x3 => _,
            inout("rcx") x4 => _,
            inout("r8") x5 => status,
            inout("r9") x6 => _,
            inout("r10") x7 => _,
            out("r11") _,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
        );
    }
    Counted {
        ticks,
        status,
        result,
    }
}

/// Returns the address of the guest's code: one page.
pub fn guest_code() -> u64 {
    (&raw const bench_guest) as u64
}
