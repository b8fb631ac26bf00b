// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Logging through the monitor's console: the raw `defmt` stream in pieces that fit into
//! registers. Addresses and ids are logged, never contents.

/// Logs what happens once or rarely.
macro_rules! info {
    ($format:literal $(, $argument:expr)* $(,)?) => {{
        #[cfg(all(target_os = "none", feature = "log-info"))]
        defmt::println!($format $(, $argument)*);
        #[cfg(not(all(target_os = "none", feature = "log-info")))]
        { $(let _ = &$argument;)* }
    }};
}
pub(crate) use info;

/// Logs what should not happen.
macro_rules! warning {
    ($format:literal $(, $argument:expr)* $(,)?) => {{
        #[cfg(target_os = "none")]
        defmt::error!($format $(, $argument)*);
        #[cfg(not(target_os = "none"))]
        { $(let _ = &$argument;)* }
    }};
}
pub(crate) use warning;

#[cfg(target_os = "none")]
mod logger {
    use core::cell::UnsafeCell;
    use core::sync::atomic::{AtomicBool, Ordering};

    use tsm_abi::el3::CONSOLE_BYTES;

    use crate::arch;

    /// Attempts to get the logger before a line is logged without it. Only a CPU that stopped
    /// while it logged keeps it that long.
    const ATTEMPTS: u32 = 10_000_000;

    struct Stream {
        encoder: defmt::Encoder,
        bytes: [u8; CONSOLE_BYTES],
        length: usize,
    }

    struct Shared {
        taken: AtomicBool,
        silent: AtomicBool,
        stream: UnsafeCell<Stream>,
    }

    // SAFETY: `stream` is touched between `acquire` and `release` only, and `taken` lets one CPU
    // at a time be there.
    unsafe impl Sync for Shared {}

    static SHARED: Shared = Shared {
        taken: AtomicBool::new(false),
        silent: AtomicBool::new(false),
        stream: UnsafeCell::new(Stream {
            encoder: defmt::Encoder::new(),
            bytes: [0; CONSOLE_BYTES],
            length: 0,
        }),
    };

    impl Stream {
        fn put(bytes: &mut [u8; CONSOLE_BYTES], length: &mut usize, data: &[u8]) {
            for byte in data {
                if let Some(place) = bytes.get_mut(*length) {
                    *place = *byte;
                }
                *length = length.saturating_add(1);
                if *length >= CONSOLE_BYTES {
                    Self::flush(bytes, length);
                }
            }
        }

        fn flush(bytes: &[u8; CONSOLE_BYTES], length: &mut usize) {
            if *length > 0 && !SHARED.silent.load(Ordering::Relaxed) {
                let data = bytes.get(..*length).unwrap_or(bytes);
                if !arch::console_write(data) {
                    // The monitor has no console.
                    SHARED.silent.store(true, Ordering::Relaxed);
                }
            }
            *length = 0;
        }
    }

    #[defmt::global_logger]
    struct Logger;

    // SAFETY: `acquire` waits until no other CPU is between it and `release`; interrupts are
    // masked, and an exception that logs never returns.
    unsafe impl defmt::Logger for Logger {
        fn acquire() {
            for _ in 0..ATTEMPTS {
                if !SHARED.taken.swap(true, Ordering::Acquire) {
                    break;
                }
                core::hint::spin_loop();
            }
            // SAFETY: this CPU holds the stream.
            let Stream {
                encoder,
                bytes,
                length,
            } = unsafe { &mut *SHARED.stream.get() };
            encoder.start_frame(|data| Stream::put(bytes, length, data));
        }

        unsafe fn flush() {}

        unsafe fn release() {
            // SAFETY: as in `acquire`.
            let Stream {
                encoder,
                bytes,
                length,
            } = unsafe { &mut *SHARED.stream.get() };
            encoder.end_frame(|data| Stream::put(bytes, length, data));
            Stream::flush(bytes, length);
            SHARED.taken.store(false, Ordering::Release);
        }

        unsafe fn write(data: &[u8]) {
            // SAFETY: as in `acquire`.
            let Stream {
                encoder,
                bytes,
                length,
            } = unsafe { &mut *SHARED.stream.get() };
            encoder.write(data, |data| Stream::put(bytes, length, data));
        }
    }
}
