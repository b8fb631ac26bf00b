// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Instructions that a process may have, if the kernel lets it.

use std::arch::asm;
use std::io::{Error, Result};

/// Lets this process use all ports.
pub fn allow_ports() -> Result<()> {
    // SAFETY: changes what this process may do, and no memory.
    match unsafe { libc::iopl(3) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Reads a byte of a port.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: no memory of this process is behind a port.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// Writes a byte to a port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Writes a word of two bytes to a port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) };
}

/// Reads a word of four bytes of a port.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
    value
}

/// Writes a word of four bytes to a port. Devices behind some read memory of this process then.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as above; memory that is given to a device is a mapping, which is read as volatile.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// Makes the call that only the kernel may make; returns its first result.
pub fn vmmcall(argument: u64) -> u64 {
    let mut value = 0xc400_0150_u64;
    // SAFETY: RMI_VERSION, which reads and writes no memory; all registers of a result are named.
    unsafe {
        asm!(
            "push rbx", "push rbp", "vmmcall", "pop rbp", "pop rbx",
            inout("rax") value,
            inout("rdi") argument => _,
            out("rsi") _, out("rdx") _, out("rcx") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        )
    };
    value
}
