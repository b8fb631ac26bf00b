// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Log frames on the secure UART: a tag (`M` monitor, `T` TSM), a 16-bit little-endian length, and that
//! many bytes of the stream of that tag. The host cannot reach this UART.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use tsm_monitor::Board;

use crate::boot::MONITOR;
use crate::mmio::Mmio;

/// PL011, UART 1.
// SAFETY: secure UART registers, mapped as device memory; only this module uses them.
const UART: Mmio = unsafe { Mmio::new(0x0904_0000, 0x1000) };
const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const TRANSMIT_FULL: u32 = 1 << 5;
const LINE_CONTROL: u64 = 0x2c;
const CONTROL: u64 = 0x30;
const MONITOR_TAG: u8 = b'M';
const REALM_TAG: u8 = b'T';

/// Bytes of the monitor's stream that wait for the end of their frame.
struct Pending {
    bytes: [u8; 128],
    used: usize,
}

struct Logger {
    locked: AtomicBool,
    pending: UnsafeCell<Pending>,
}

// SAFETY: `pending` is touched only while `locked` is held.
unsafe impl Sync for Logger {}

static LOGGER: Logger = Logger {
    locked: AtomicBool::new(false),
    pending: UnsafeCell::new(Pending {
        bytes: [0; 128],
        used: 0,
    }),
};

/// Makes the UART ready: 8 bits, FIFO on, transmitter on.
pub fn start() {
    UART.write(CONTROL, 0);
    UART.write(LINE_CONTROL, 0x70);
    UART.write(CONTROL, 0x101);
}

fn send(byte: u8) {
    // A UART that is stuck loses bytes; it does not stop the monitor.
    let _ready = UART.poll(FLAGS, |flags| flags & TRANSMIT_FULL == 0);
    UART.write(DATA, u32::from(byte));
}

fn frame(tag: u8, bytes: &[u8]) {
    let [low, high, ..] = bytes.len().to_le_bytes();
    for byte in [tag, low, high].into_iter().chain(bytes.iter().copied()) {
        send(byte);
    }
}

impl Logger {
    fn lock(&self) {
        while self.locked.swap(true, Ordering::Acquire) {
            spin_loop();
        }
    }

    fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
    }
}

impl Pending {
    fn flush(&mut self) {
        if let Some(bytes) = self.bytes.get(..self.used)
            && !bytes.is_empty()
        {
            frame(MONITOR_TAG, bytes);
        }
        self.used = 0;
    }
}

/// Sends bytes of R-EL2's stream.
pub fn realm(bytes: &[u8]) {
    LOGGER.lock();
    frame(REALM_TAG, bytes);
    LOGGER.unlock();
}

#[defmt::global_logger]
struct Stream;

// SAFETY: `acquire` takes the lock that `release` gives back, on one processor at a time. A panic while it
// is held breaks the lock first and never returns.
unsafe impl defmt::Logger for Stream {
    fn acquire() {
        LOGGER.lock();
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: between `acquire` and `release` the lock is held.
        unsafe { (*LOGGER.pending.get()).flush() };
        LOGGER.unlock();
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: as in `release`.
        let pending = unsafe { &mut *LOGGER.pending.get() };
        for byte in bytes {
            if pending.used == pending.bytes.len() {
                pending.flush();
            }
            if let Some(slot) = pending.bytes.get_mut(pending.used) {
                *slot = *byte;
                pending.used += 1;
            }
        }
    }
}

/// Ends everything because of `what`, which the machine lacks or has wrong.
pub fn stop(what: &'static str) -> ! {
    defmt::error!("cannot boot: {=str}", what);
    MONITOR.board().power_off()
}

/// Takes what the boot cannot go on without.
pub trait OrStop<T> {
    /// Returns the value, or ends everything because of `what`.
    fn or_stop(self, what: &'static str) -> T;
}

impl<T> OrStop<T> for Option<T> {
    fn or_stop(self, what: &'static str) -> T {
        match self {
            Some(value) => value,
            None => stop(what),
        }
    }
}

impl<T, E> OrStop<T> for Result<T, E> {
    fn or_stop(self, what: &'static str) -> T {
        self.ok().or_stop(what)
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    // Whoever holds the lock has panicked or will wait until the power is gone.
    LOGGER.unlock();
    match info.location() {
        Some(place) => defmt::error!("panic in {=str} line {=u32}", place.file(), place.line()),
        None => defmt::error!("panic"),
    }
    MONITOR.board().power_off()
}
