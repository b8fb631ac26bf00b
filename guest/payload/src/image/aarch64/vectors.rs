// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Exceptions: none is expected.

use core::arch::{asm, global_asm};

global_asm!(
    ".section .text.vectors, \"ax\"",
    ".balign 2048",
    "guest_vectors:",
    ".rept 16",
    ".balign 128",
    "mrs x0, esr_el1",
    "mrs x1, elr_el1",
    "mrs x2, far_el1",
    "b {unexpected}",
    ".endr",
    ".text",
    unexpected = sym unexpected,
);

extern "C" fn unexpected(syndrome: u64, address: u64, fault: u64) -> ! {
    panic!("guest exception {syndrome:#x} at {address:#x}, fault address {fault:#x}");
}

/// Installs the vectors.
pub fn install() {
    // SAFETY: The vectors are aligned and complete, and lead to the end of the program.
    unsafe {
        asm!(
            "adrp {scratch}, guest_vectors",
            "add {scratch}, {scratch}, :lo12:guest_vectors",
            "msr vbar_el1, {scratch}",
            "isb",
            scratch = out(reg) _,
            options(nostack),
        );
    }
}
