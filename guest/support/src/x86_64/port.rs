// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! I/O ports, and the serial port behind some of them.

use core::arch::asm;

/// Reads a byte.
#[must_use]
pub fn read8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: Ports are not memory; what a device does on a read is the caller's business.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) }
    value
}

/// Writes a byte.
pub fn write8(port: u16, value: u8) {
    // SAFETY: As in `read8`; no payload gives a device an address that it does not own.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

/// Writes two bytes.
pub fn write16(port: u16, value: u16) {
    // SAFETY: As in `write8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) }
}

/// Reads four bytes.
#[must_use]
pub fn read32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: As in `read8`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags))
    }
    value
}

/// Writes four bytes.
pub fn write32(port: u16, value: u32) {
    // SAFETY: As in `write8`.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags))
    }
}

/// Sends `bytes` through the 16550 at `base`, which needs no set-up (QEMU), waiting for room with a
/// bound.
pub fn send(base: u16, bytes: &[u8]) {
    const LINE_STATUS: u16 = 5;
    const HOLDING_EMPTY: u8 = 1 << 5;
    for &byte in bytes {
        for _ in 0..1_000_000 {
            if read8(base + LINE_STATUS) & HOLDING_EMPTY != 0 {
                break;
            }
        }
        write8(base, byte);
    }
}
