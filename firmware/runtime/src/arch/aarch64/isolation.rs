// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Isolated work on AArch64: it runs on SP_EL0, so the processor itself changes to this CPU's own stack
//! for an exception.

use core::arch::asm;
use core::panic::PanicInfo;
use core::ptr;

use super::read_register;

unsafe extern "C" {
    fn isolation_enter(work: extern "C" fn(*mut u8), call: *mut u8, top: u64) -> u64;
}

/// Runs `work(call)` on the stack that ends at `top`. Returns 0 when it returned, 1 if it ran out of
/// stack, 2 if it panicked.
///
/// # Safety
///
/// The stack must be mapped and nobody else's, and `work` must take `call`.
pub unsafe fn enter(work: extern "C" fn(*mut u8), call: *mut u8, top: u64) -> u64 {
    // SAFETY: the caller promises it.
    unsafe { isolation_enter(work, call, top) }
}

/// Returns whether this CPU runs isolated work.
pub fn is_isolated() -> bool {
    read_register!("spsel") & 1 == 0
}

/// Abandons the work that panicked. Runs on the stack of the work.
pub fn abandon(info: &PanicInfo<'_>) -> ! {
    // SAFETY: this CPU is inside `isolation_enter`, whose frame is at the top of SP_EL2. The frames of
    // the work are never gone on with, and their memory is used again without their destructors. That
    // is sound because nothing refers to them: the work is `'static` and was lent nothing but `state`
    // and `bytes`, which outlive it, so no borrow of a frame can have got out of it. What a panic in
    // the middle of a change leaves behind is in `state` or `bytes`, which `isolated` erases unread,
    // in a lock that stays taken, or in an atomic. The panic is noted while its frames still exist.
    unsafe {
        asm!(
            "b isolation_panicked",
            in("x0") ptr::from_ref(info),
            options(noreturn),
        );
    }
}
