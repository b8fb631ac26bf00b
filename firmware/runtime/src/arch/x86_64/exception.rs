// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Exceptions of the TSM itself. A few are survived: a guarded copy that touched what is not there, work
//! that ran out of its stack, an NMI. Anything else, and a panic outside of isolated work, ends the TSM: one
//! that has lost its way must not answer calls. The board is asked to turn the machine off; if it does not,
//! no CPU returns to a host or a guest with what it held.

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use ::x86_64::registers::control::Cr2;

use super::{isolation, smp, svm};

const NMI: u64 = 2;
const PAGE_FAULT: u64 = 14;

/// The registers of what was interrupted, as `vectors.S` and the processor leave them.
#[repr(C)]
pub struct Frame {
    gprs: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
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
extern "C" fn tsm_exception(frame: &mut Frame) {
    match frame.vector {
        // It was sent to bring this CPU out of a guest, which it has left.
        NMI => frame.rip = svm::continue_after_nmi(frame.rip),
        PAGE_FAULT => {
            let address = Cr2::read_raw();
            if let Some(rip) = super::recovery(frame.rip) {
                frame.rip = rip;
            } else if let Some((rip, rsp)) = isolation::overflow(address, frame.rsp) {
                frame.rip = rip;
                frame.rsp = rsp;
            } else {
                fatal(frame);
            }
        }
        _ => fatal(frame),
    }
}

fn fatal(frame: &Frame) -> ! {
    // One report is enough, and making it may be what fails.
    if STOPPED.swap(true, Ordering::Relaxed) {
        stop();
    }
    defmt::error!(
        "exception {=u64} error {=u64:#x} rip {=u64:#x} rsp {=u64:#x} cr2 {=u64:#x}",
        frame.vector,
        frame.error,
        frame.rip,
        frame.rsp,
        Cr2::read_raw(),
    );
    for (index, pair) in frame.gprs.chunks(3).enumerate() {
        let [first, second, third] = *pair else { break };
        defmt::error!(
            "registers {=usize}..: {=u64:#x} {=u64:#x} {=u64:#x}",
            3 * index,
            first,
            second,
            third
        );
    }
    stop()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if isolation::is_isolated() {
        isolation::abandon(info);
    }
    if STOPPED.swap(true, Ordering::Relaxed) {
        stop();
    }
    if let Some(place) = info.location() {
        defmt::error!("panic at {=str}:{=u32}", place.file(), place.line());
    }
    stop()
}

/// Ends the TSM on all CPUs.
pub fn stop() -> ! {
    STOPPED.store(true, Ordering::Relaxed);
    smp::kick_others();
    crate::board::board().power_off();
    park()
}

/// Stops this CPU alone.
pub fn park() -> ! {
    loop {
        // SAFETY: waiting has no effect on memory. Interrupts are off, and an NMI is survived.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
