// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Text output.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};

use crate::mmio::Mmio;

/// Something that takes bytes of text.
pub type Sink = fn(&[u8]);

struct Slot(UnsafeCell<Option<Sink>>);

// SAFETY: Payloads run on one CPU with interrupts masked, and `Sink` is a plain function pointer.
unsafe impl Sync for Slot {}

static SINK: Slot = Slot(UnsafeCell::new(None));

/// Sets where text goes. Before that it is lost.
pub fn set_sink(sink: Sink) {
    // SAFETY: One CPU (see `Sync`); no reference to the contents is kept anywhere.
    unsafe { *SINK.0.get() = Some(sink) }
}

/// A line that is put together before it is printed: sinks may be expensive to call.
struct Line {
    bytes: [u8; 240],
    used: usize,
}

impl Line {
    const fn new() -> Self {
        Self {
            bytes: [0; 240],
            used: 0,
        }
    }

    fn flush(&mut self) {
        let text = self.bytes.get(..self.used).unwrap_or(&[]);
        // SAFETY: As in `set_sink`.
        if let Some(sink) = unsafe { *SINK.0.get() } {
            sink(text);
        }
        self.used = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            if let Some(slot) = self.bytes.get_mut(self.used) {
                *slot = byte;
                self.used = self.used.saturating_add(1);
            }
        }
        Ok(())
    }
}

/// Prints formatted text. Used by [`crate::print!`].
pub fn print(arguments: fmt::Arguments<'_>) {
    let mut line = Line::new();
    let _ = line.write_fmt(arguments);
    line.flush();
}

/// Prints formatted text and ends the line. Used by [`crate::println!`].
pub fn print_line(arguments: fmt::Arguments<'_>) {
    let mut line = Line::new();
    let _ = line.write_fmt(arguments);
    let _ = line.write_str("\n");
    line.flush();
}

/// Prints formatted text.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::console::print(core::format_args!($($argument)*))
    };
}

/// Prints formatted text and ends the line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::console::print_line(core::format_args!($($argument)*))
    };
}

/// A PL011 serial port that someone else has set up, or that needs no set-up (QEMU).
#[derive(Clone, Copy, Debug)]
pub struct Pl011(Mmio);

impl Pl011 {
    const DATA: usize = 0x00;
    const FLAGS: usize = 0x18;
    const TRANSMIT_FULL: u32 = 1 << 5;

    /// Returns the port whose registers are `registers`.
    #[must_use]
    pub const fn new(registers: Mmio) -> Self {
        Self(registers)
    }

    /// Sends `bytes`, waiting for room with a bound.
    pub fn send(&self, bytes: &[u8]) {
        for &byte in bytes {
            for _ in 0..1_000_000 {
                if self.0.read32(Self::FLAGS) & Self::TRANSMIT_FULL == 0 {
                    break;
                }
            }
            self.0.write32(Self::DATA, u32::from(byte));
        }
    }
}
