// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The other CPU.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use tsm_payload_support::attempt;
use tsm_payload_support::mmio::Mmio;
use tsm_payload_support::time::delay_us;
use tsm_payload_support::x86_64::exception::KERNEL_CODE;

use super::super::cpus::{Mailbox, Work};

/// Page below 1 MiB at which the CPU starts, and what the code there finds at its end.
const PAGE: usize = 0x8000;
const SEGMENTS: usize = 0xfe0;
const ENTRY: usize = 0xfe8;
const SELECTOR: usize = 0xfec;
const ROOT: usize = 0xff0;
const MAILBOX: usize = 0xff8;
/// Interrupt command register, and the messages to CPU 1.
const ICR: u32 = 0x830;
const INIT: u64 = 1 << 32 | 0x4500;
const STARTUP: u64 = 1 << 32 | 0x4600 | PAGE as u64 >> 12;

#[repr(C, align(16))]
struct Gates(UnsafeCell<[[u64; 2]; 32]>);

// SAFETY: Written before the other CPU is started, which only reads them.
unsafe impl Sync for Gates {}

static GATES: Gates = Gates(UnsafeCell::new([[0; 2]; 32]));

// The other CPU calls nothing; rbx is the mailbox and rbp its page. It shares whole words only. It
// goes from real mode to 64-bit mode at once.
global_asm!(
    ".section .rodata.other_cpu, \"a\"",
    ".code16",
    "other_cpu_real:",
    "cli",
    "xor ax, ax",
    "mov ds, ax",
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov eax, dword ptr ds:[0x8ff0]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    // LGDT with a 32-bit base, and a far jump through memory to a 32-bit offset.
    ".byte 0x66, 0x0f, 0x01, 0x16, 0xe0, 0x8f",
    "mov eax, 0x80000011",
    "mov cr0, eax",
    ".byte 0x66, 0xff, 0x2e, 0xe8, 0x8f",
    "other_cpu_real_end:",
    ".code64",
    ".macro other_cpu_off state",
    "mov qword ptr [rbx + 8], \\state",
    "9:",
    "cli",
    "hlt",
    "jmp 9b",
    ".endm",
    ".macro other_cpu_on",
    // Room for the frame of an exception, behind the code of real mode.
    "mov esp, 0x8f00",
    "mov rbx, qword ptr ds:[0x8ff8]",
    "lidt [rip + other_cpu_gates]",
    "mov rbp, [rbx]",
    "mov qword ptr [rbx + 8], 1",
    ".endm",
    // A call on one page that must succeed or be told to try again (10).
    ".macro other_cpu_call function",
    "7:",
    "mov eax, \\function",
    "mov rdi, rbp",
    "lea rsi, [rbp + 0x1000]",
    "vmmcall",
    "test rax, rax",
    "jz 8f",
    "cmp rax, 10",
    "je 7b",
    "add qword ptr [rbx + 24], 1",
    "8:",
    ".endm",
    ".section .text.other_cpu, \"ax\"",
    "other_cpu_gates:",
    ".word 32 * 16 - 1",
    ".quad {gates}",
    "other_cpu_faulted:",
    "other_cpu_off 2",
    "other_cpu_loads:",
    "other_cpu_on",
    "3:",
    "mov eax, [rbp]",
    "add qword ptr [rbx + 16], 1",
    "jmp 3b",
    "other_cpu_calls:",
    "other_cpu_on",
    "4:",
    "other_cpu_call 0xc40001f1",
    "other_cpu_call 0xc40001f2",
    "add qword ptr [rbx + 16], 1",
    "cmp qword ptr [rbx + 32], 0",
    "je 4b",
    "other_cpu_off 3",
    ".text",
    gates = sym GATES,
);

unsafe extern "C" {
    static other_cpu_real: u8;
    static other_cpu_real_end: u8;
    fn other_cpu_faulted();
    fn other_cpu_loads();
    fn other_cpu_calls();
}

/// Starts the other CPU; returns zero, or the vector of the exception that sending the messages
/// raised.
pub fn start(work: Work, mailbox: &'static Mailbox) -> u64 {
    let entry = match work {
        Work::Loads => other_cpu_loads as *const () as u64,
        Work::Calls => other_cpu_calls as *const () as u64,
    };
    prepare(entry, (&raw const *mailbox) as u64);
    let sent = send(INIT).and_then(|()| {
        delay_us(10_000);
        send(STARTUP)
    });
    sent.err().unwrap_or(0)
}

/// Returns whether the other CPU is off: it is when it says so.
pub fn is_off() -> bool {
    true
}

/// Writes the page at which the CPU starts.
fn prepare(entry: u64, mailbox: u64) {
    let handler = other_cpu_faulted as *const () as u64;
    let low = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | 0x8e00 << 32;
    // SAFETY: The other CPU does not run; no other reference exists.
    unsafe { &mut *GATES.0.get() }.fill([low | (handler >> 16 & 0xffff) << 48, handler >> 32]);
    let mut segments = [0_u16; 5];
    let root: u64;
    // SAFETY: Stores ten bytes, and reads the address of the tables.
    unsafe {
        asm!("sgdt [{}]", "mov {}, cr3", in(reg) &raw mut segments, out(reg) root, options(nostack));
    }
    // SAFETY: Conventional memory that nothing else in this program uses.
    let page = unsafe { Mmio::new(PAGE) };
    let (start, end) = (&raw const other_cpu_real, &raw const other_cpu_real_end);
    // SAFETY: The code's own bytes.
    let code = unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) };
    for (offset, byte) in code.iter().enumerate() {
        page.write8(offset, *byte);
    }
    for (index, half) in segments.iter().take(3).enumerate() {
        page.write16(SEGMENTS + 2 * index, *half);
    }
    page.write32(ENTRY, entry as u32);
    page.write16(SELECTOR, KERNEL_CODE);
    page.write32(ROOT, root as u32);
    page.write64(MAILBOX, mailbox);
}

fn send(message: u64) -> Result<(), u64> {
    // SAFETY: Interrupts the other CPU only; one that the firmware refuses raises an exception.
    let sent = unsafe {
        attempt!(
            ["wrmsr"],
            in("ecx") ICR,
            in("eax") message as u32,
            in("edx") (message >> 32) as u32,
            options(nostack)
        )
    };
    sent.map_err(|exception| u64::from(exception.vector))
}
