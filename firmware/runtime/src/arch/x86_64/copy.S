// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

    .section .text.copy, "ax"

// extern "C" fn guarded_copy(to, from, length) -> u64
// Copies forward and returns 0, or 1 if an access faulted; `exception::handle` does that. Each byte of
// the source is read once.
    .global guarded_copy
guarded_copy:
    mov     rcx, rdx
    shr     rcx, 3
    rep     movsq
    mov     ecx, edx
    and     ecx, 7
    rep     movsb
    xor     eax, eax
    ret
    .global guarded_copy_end
guarded_copy_end:

    .global guarded_copy_failed
guarded_copy_failed:
    mov     eax, 1
    ret
