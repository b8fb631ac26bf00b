// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Start of an image that a loader takes for a Linux kernel.

/// Defines the start of an image by the Linux x86 boot protocol (2.15), which calls `$main(rsi)`,
/// the address of the boot parameters, on a clean stack.
///
/// The file begins with two sectors of setup: only the header (`Documentation/arch/x86/boot.rst`) is
/// there, no real-mode code. What follows is loaded to the preferred address and entered 0x200 bytes
/// behind its start in 64-bit mode. The linker script places `.header` and `.text.entry`, and defines
/// `__load_address`, `__image_paragraphs`, `__memory_bytes`, `__bss_start`, `__bss_end` (both aligned to
/// 16) and `__stack_top`. `$main` must be `extern "C" fn(u64) -> !`.
#[macro_export]
macro_rules! linux_entry {
    ($main:path) => {
        core::arch::global_asm!(
            ".section .header, \"a\"",
            "header_start:",
            ".org header_start + 0x1f1",
            // Sectors of setup after the first; size of the rest in 16 bytes.
            ".byte 1",
            ".word 0",
            ".long __image_paragraphs",
            ".org header_start + 0x1fe",
            ".word 0xaa55",
            // A jump over the header, whose displacement tells its length.
            ".byte 0xeb, header_end - header_magic",
            "header_magic:",
            ".ascii \"HdrS\"",
            ".word 0x020f",
            ".org header_start + 0x211",
            // Loaded high.
            ".byte 1",
            ".org header_start + 0x214",
            ".long __load_address",
            ".org header_start + 0x22c",
            ".long 0x7fffffff",
            // Alignment; not relocatable; minimum alignment as a power of two.
            ".long 0x200000",
            ".byte 0, 21",
            // It has a 64-bit entry.
            ".word 1",
            ".long 2047",
            ".org header_start + 0x258",
            ".quad __load_address",
            ".long __memory_bytes",
            ".long 0",
            ".long 0",
            "header_end:",
            ".org header_start + 0x400",
            ".section .text.entry, \"ax\"",
            "entry_32:",
            "cli",
            "hlt",
            "jmp entry_32",
            ".org entry_32 + 0x200",
            ".globl _start",
            "_start:",
            "cli",
            "cld",
            "lea rsp, [rip + __stack_top]",
            "mov r12, rsi",
            "lea rdi, [rip + __bss_start]",
            "lea rcx, [rip + __bss_end]",
            "sub rcx, rdi",
            "shr rcx, 3",
            "xor eax, eax",
            "rep stosq",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call {main}",
            "3:",
            "hlt",
            "jmp 3b",
            ".text",
            main = sym $main,
        );
    };
}

/// Defines `_start`, the first instruction of an image that is linked below 1 GiB, which calls
/// `$main(rax)` on a clean stack.
///
/// The processor is in 32-bit mode with flat segments, translation off, and interrupts masked. The
/// linker script places `.text.entry` first and defines `__bss_start`, `__bss_end` (both aligned to
/// 16) and `__stack_top`. `$main` must be `extern "C" fn(u64) -> !`.
#[macro_export]
macro_rules! payload_entry {
    ($main:path) => {
        core::arch::global_asm!(
            ".section .text.entry, \"ax\"",
            ".code32",
            ".globl _start",
            "_start:",
            "cli",
            "cld",
            "mov ebx, eax",
            // PAE, tables, LME, then protection and paging.
            "mov eax, 0x20",
            "mov cr4, eax",
            "mov eax, offset entry_root",
            "mov cr3, eax",
            "mov ecx, 0xc0000080",
            "rdmsr",
            "or eax, 0x100",
            "wrmsr",
            "lgdt [entry_segments_end]",
            "mov eax, 0x80000011",
            "mov cr0, eax",
            // A far jump to 64-bit code.
            ".byte 0xea",
            ".long entry_64",
            ".word 0x10",
            ".code64",
            "entry_64:",
            "mov eax, 0x18",
            "mov ds, eax",
            "mov es, eax",
            "mov ss, eax",
            "lea rsp, [rip + __stack_top]",
            "lea rdi, [rip + __bss_start]",
            "lea rcx, [rip + __bss_end]",
            "sub rcx, rdi",
            "shr rcx, 3",
            "xor eax, eax",
            "rep stosq",
            "xor ebp, ebp",
            "mov edi, ebx",
            "call {main}",
            "3:",
            "hlt",
            "jmp 3b",
            // The first gigabyte at its own address, until the program has its own tables.
            ".section .data.entry, \"aw\"",
            ".balign 4096",
            "entry_root:",
            ".quad entry_gigabytes + 3",
            ".balign 4096",
            "entry_gigabytes:",
            ".quad 0x83",
            ".balign 4096",
            "entry_segments:",
            ".quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
            "entry_segments_end:",
            ".word 4 * 8 - 1",
            ".long entry_segments",
            ".text",
            main = sym $main,
        );
    };
}
