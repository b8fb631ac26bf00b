// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The stack on which cryptography runs.
//!
//! It is one stack for all CPUs, with nothing mapped below it. Work on it that panics or runs off its
//! end is abandoned: this CPU goes on where it left its own stack. Every frame of the work is zeroed
//! afterwards, however it ended, because moved values leave copies behind.

use core::mem::{ManuallyDrop, MaybeUninit};
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};

use tsm_platform::{Abandoned, GRANULE_SIZE};
use zerocopy::{FromBytes, IntoBytes};

use crate::arch;
use crate::layout::{ISOLATED_BASE, ISOLATED_SIZE};
use crate::log::warning;

/// Whether the stack is in use.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// One piece of work and where its result goes. It has no destructor: after the work was abandoned
/// nothing in it counts.
struct Call<'a, P, S, B, R, W> {
    platform: &'a P,
    state: *mut S,
    bytes: *mut B,
    work: ManuallyDrop<W>,
    result: MaybeUninit<R>,
}

/// Runs `work` on the stack; see [`tsm_platform::Processor::isolated`].
pub fn isolated<P, S, B, R, W>(
    platform: &P,
    state: &mut S,
    bytes: &mut B,
    otherwise: fn() -> S,
    work: W,
) -> Result<R, Abandoned>
where
    S: Send + 'static,
    B: FromBytes + IntoBytes,
    R: Send + 'static,
    W: FnOnce(&P, &mut S, &mut B) -> R + Send + 'static,
{
    let mut call = Call {
        platform,
        state: ptr::from_mut(state),
        bytes: ptr::from_mut(bytes),
        work: ManuallyDrop::new(work),
        result: MaybeUninit::uninit(),
    };
    if !TAKEN.swap(true, Ordering::Acquire) {
        let top = ISOLATED_BASE + ISOLATED_SIZE;
        // SAFETY: `begin` is given the call that it was made for. The stack is mapped, and `TAKEN`
        // makes it this CPU's alone.
        let end =
            unsafe { arch::enter_isolation(begin::<P, S, B, R, W>, (&raw mut call).cast(), top) };
        wipe();
        TAKEN.store(false, Ordering::Release);
        match end {
            // SAFETY: `begin` returned, and wrote the result before it did.
            0 => return Ok(unsafe { call.result.assume_init() }),
            1 => warning!("isolated work ran out of stack"),
            _ => {}
        }
    }
    // SAFETY: the work has ended or never began, so nothing but `state` and `bytes` leads to the two
    // values. The state may be half written: it is overwritten and not dropped, which at most leaks
    // what it owned. Any content is good for `bytes`.
    unsafe {
        erase(call.state);
        call.state.write(otherwise());
        erase(call.bytes);
    }
    Err(Abandoned)
}

/// Runs the work of the call at `call`.
extern "C" fn begin<P, S, B, R, W>(call: *mut u8)
where
    W: FnOnce(&P, &mut S, &mut B) -> R,
{
    let call = call.cast::<Call<'_, P, S, B, R, W>>();
    // SAFETY: `isolated` made the call and waits. It holds the references behind `state` and `bytes`
    // and does not use them before this ends. The work is taken once, because this runs once.
    unsafe {
        let work = ManuallyDrop::take(&mut (*call).work);
        let result = work((*call).platform, &mut *(*call).state, &mut *(*call).bytes);
        (*call).result.write(result);
    }
}

/// Zeroes the memory of a value.
///
/// # Safety
///
/// The value must not be used before it is written again, unless all zeros is one.
unsafe fn erase<T>(value: *mut T) {
    let bytes = value.cast::<u8>();
    for index in 0..size_of::<T>() {
        // SAFETY: inside the value. Volatile, so that it happens whatever is written next.
        unsafe { bytes.add(index).write_volatile(0) };
    }
    compiler_fence(Ordering::SeqCst);
}

/// Zeroes the whole stack: with whole blocks that is cheaper than to find out what was used.
fn wipe() {
    let top = ISOLATED_BASE + ISOLATED_SIZE;
    for page in (ISOLATED_BASE..top).step_by(GRANULE_SIZE as usize) {
        // SAFETY: the stack is mapped, and the work that ran on it has ended or is abandoned.
        unsafe { arch::zero_granule(page as *mut u8) };
    }
}

/// Tells where isolated work panicked, on this CPU's own stack.
#[unsafe(no_mangle)]
extern "C" fn tsm_isolated_panic(info: &PanicInfo<'_>) {
    if let Some(place) = info.location() {
        warning!(
            "isolated work panicked at {=str}:{=u32}",
            place.file(),
            place.line()
        );
    }
}
