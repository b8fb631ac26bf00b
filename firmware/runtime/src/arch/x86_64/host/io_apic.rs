// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Writes of the host to I/O APICs.

use spin::Mutex;

use super::super::boot;
use crate::arch::acpi::MOST_IO_APICS;
use crate::arch::confine::io_apic::IoApic;
use crate::layout::DEVICE_WINDOW;

static IO_APICS: [Mutex<IoApic>; MOST_IO_APICS] =
    [const { Mutex::new(IoApic::new()) }; MOST_IO_APICS];

/// Performs or drops a write of four bytes to the page of I/O APIC `number`.
pub fn write(number: usize, offset: u16, value: u32) {
    let found = boot::findings().and_then(|found| found.tables.io_apics.get(number));
    let (Some(physical), Some(apic)) = (found, IO_APICS.get(number)) else {
        return;
    };
    let page = DEVICE_WINDOW.wrapping_add(*physical) as *mut u8;
    // Index and window belong together, whichever CPU writes them.
    apic.lock().write(offset, value, |offset, value| {
        // SAFETY: boot has mapped the page in the window. Offsets are multiples of four inside it, and
        // what passes the filter has no effect on memory.
        unsafe {
            page.add(usize::from(offset))
                .cast::<u32>()
                .write_volatile(value)
        };
    });
}
