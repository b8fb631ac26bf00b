// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Start of an image.

/// Defines `_start`, the first instruction of an image, which calls `$main(x0)` on a clean stack.
///
/// The linker script places `.text.entry` first and defines `__bss_start`, `__bss_end` (both
/// aligned to 16) and `__stack_top`. The processor is at EL1 or EL2 with translation off, and
/// interrupts masked; `x0` is what the loader or the TSM put there. `$main` must be
/// `extern "C" fn(u64) -> !`.
///
/// Word 2 of the image (at offset 8) is its load address, for tools.
#[macro_export]
macro_rules! payload_entry {
    ($main:path) => {
        core::arch::global_asm!(
            ".section .text.entry, \"ax\"",
            ".globl _start",
            "_start:",
            "b 1f",
            ".balign 8",
            ".quad _start",
            "1:",
            "adrp x1, __stack_top",
            "add x1, x1, :lo12:__stack_top",
            "mov sp, x1",
            "adrp x1, __bss_start",
            "add x1, x1, :lo12:__bss_start",
            "adrp x2, __bss_end",
            "add x2, x2, :lo12:__bss_end",
            "2:",
            "cmp x1, x2",
            "b.hs 3f",
            "stp xzr, xzr, [x1], #16",
            "b 2b",
            "3:",
            "mov x29, xzr",
            "mov x30, xzr",
            "bl {main}",
            "4:",
            "wfi",
            "b 4b",
            main = sym $main,
        );
    };
}
