// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What cannot be survived: an exception of the TSM itself, or a panic outside of isolated work.
//!
//! EL3 is asked to turn the machine off, because a TSM that has lost its way must not answer calls.
//! If it does not, this CPU stays here, and every other one at its next call: neither returns to a
//! host or a guest with what it held.

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::{isolation, monitor, read_register};

const SYSTEM_OFF: u64 = 0x8400_0008;

/// Registers at an unexpected exception; one more word keeps the size a multiple of 16.
#[repr(C)]
pub struct Frame {
    gprs: [u64; 31],
    unused: u64,
}

/// Set when the TSM must not be entered again.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Stops this CPU if the TSM has failed.
pub fn stay_if_stopped() {
    if STOPPED.load(Ordering::Relaxed) {
        park();
    }
}

#[unsafe(no_mangle)]
extern "C" fn tsm_fatal(slot: u64, frame: &Frame) -> ! {
    STOPPED.store(true, Ordering::Relaxed);
    defmt::error!(
        "exception {=u64} esr {=u64:#x} elr {=u64:#x} far {=u64:#x}",
        slot,
        read_register!("esr_el2"),
        read_register!("elr_el2"),
        read_register!("far_el2"),
    );
    for (index, pair) in frame.gprs.chunks(2).enumerate() {
        let [low, high] = *pair else { break };
        defmt::error!("x{=usize}.. {=u64:#x} {=u64:#x}", 2 * index, low, high);
    }
    stop()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if isolation::is_isolated() {
        isolation::abandon(info);
    }
    STOPPED.store(true, Ordering::Relaxed);
    if let Some(place) = info.location() {
        defmt::error!("panic at {=str}:{=u32}", place.file(), place.line());
    }
    stop()
}

fn stop() -> ! {
    monitor::call(SYSTEM_OFF, &[]);
    park()
}

fn park() -> ! {
    loop {
        // SAFETY: waiting has no effect on memory.
        unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
    }
}
