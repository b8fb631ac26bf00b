// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Start of an image.

/// Defines `_start`, the first instruction of an image, which calls `$main(x0)` on a clean stack.
///
/// The linker script places `.text.entry` first and defines `__bss_start`, `__bss_end` (both
/// aligned to 16) and `__stack_top`. The processor is at EL1 or EL2 with translation off, and
/// interrupts masked; `x0` is what the loader or the TSM put there. `$main` must be
/// `extern "C" fn(u64) -> !`.
#[macro_export]
macro_rules! payload_entry {
    ($main:path) => {
        core::arch::global_asm!(
            ".section .text.entry, \"ax\"",
            ".globl _start",
            "_start:",
            "adrp x1, __stack_top",
            "add x1, x1, :lo12:__stack_top",
            "mov sp, x1",
            "adrp x1, __bss_start",
            "add x1, x1, :lo12:__bss_start",
            "adrp x2, __bss_end",
            "add x2, x2, :lo12:__bss_end",
            "1:",
            "cmp x1, x2",
            "b.hs 2f",
            "stp xzr, xzr, [x1], #16",
            "b 1b",
            "2:",
            "mov x29, xzr",
            "mov x30, xzr",
            "bl {main}",
            "3:",
            "wfi",
            "b 3b",
            main = sym $main,
        );
    };
}
