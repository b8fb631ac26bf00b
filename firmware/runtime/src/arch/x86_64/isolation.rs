// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Isolated work on x86_64. Page faults have a stack of their own, so work that runs into the guard below
//! its stack is found out there.

use core::arch::asm;
use core::panic::PanicInfo;
use core::ptr;

use super::cpu;
use crate::layout::{ISOLATED_BASE, ISOLATED_GUARD, ISOLATED_GUARD_SIZE, ISOLATED_SIZE};

unsafe extern "C" {
    fn isolation_enter(
        work: extern "C" fn(*mut u8),
        call: *mut u8,
        top: u64,
        keep: *mut u64,
    ) -> u64;
    static isolation_overflowed: u8;
}

/// Runs `work(call)` on the stack that ends at `top`. Returns 0 when it returned, 1 if it ran out of
/// stack, 2 if it panicked.
///
/// # Safety
///
/// The stack must be mapped and nobody else's, and `work` must take `call`.
pub unsafe fn enter(work: extern "C" fn(*mut u8), call: *mut u8, top: u64) -> u64 {
    // SAFETY: the caller promises it; the word in which the stack pointer is kept is this CPU's.
    unsafe { isolation_enter(work, call, top, &raw mut (*cpu::this()).isolated) }
}

/// Returns whether this CPU runs isolated work.
pub fn is_isolated() -> bool {
    let rsp: u64;
    // SAFETY: reading the stack pointer has no effect.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    (ISOLATED_BASE..ISOLATED_BASE + ISOLATED_SIZE).contains(&rsp)
}

/// Returns where this CPU goes on, and with which stack pointer, if the page fault at `address` with stack
/// pointer `rsp` is isolated work that has run out of its stack.
pub fn overflow(address: u64, rsp: u64) -> Option<(u64, u64)> {
    let guard = ISOLATED_GUARD..ISOLATED_GUARD + ISOLATED_GUARD_SIZE;
    let stack = ISOLATED_GUARD..ISOLATED_BASE + ISOLATED_SIZE;
    // SAFETY: the field is this CPU's.
    let own = unsafe { (*cpu::this()).isolated };
    (guard.contains(&address) && stack.contains(&rsp) && own != 0)
        .then_some(((&raw const isolation_overflowed) as u64, own))
}

/// Abandons the work that panicked. Runs on the stack of the work.
pub fn abandon(info: &PanicInfo<'_>) -> ! {
    // SAFETY: this CPU is inside `isolation_enter`, which left its stack pointer in `isolated`. The frames
    // of the work are never gone on with, and their memory is used again without their destructors. That
    // is sound because nothing refers to them: the work is `'static` and was lent nothing but `state`
    // and `bytes`, which outlive it, so no borrow of a frame can have got out of it. What a panic in
    // the middle of a change leaves behind is in `state` or `bytes`, which `isolated` erases unread,
    // in a lock that stays taken, or in an atomic. The panic is noted while its frames still exist.
    unsafe {
        asm!(
            "jmp isolation_panicked",
            in("rdi") ptr::from_ref(info),
            in("rsi") (*cpu::this()).isolated,
            options(noreturn),
        );
    }
}
