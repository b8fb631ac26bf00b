// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Exceptions, and accesses that may fail.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt;

/// What the handler and [`read`]/[`write`] share.
#[repr(C)]
struct Probe {
    /// Whether an abort is expected.
    armed: u64,
    /// Syndrome of the abort that came, or zero.
    syndrome: u64,
}

struct ProbeCell(UnsafeCell<Probe>);

// SAFETY: One CPU; the handler runs only between `arm` and the end of the probing access.
unsafe impl Sync for ProbeCell {}

static PROBE: ProbeCell = ProbeCell(UnsafeCell::new(Probe {
    armed: 0,
    syndrome: 0,
}));

global_asm!(
    ".macro unexpected",
    ".balign 128",
    "mrs x0, esr_el2",
    "mrs x1, elr_el2",
    "mrs x2, far_el2",
    "b {unexpected}",
    ".endm",
    ".section .text.vectors, \"ax\"",
    ".balign 2048",
    "host_vectors:",
    ".rept 4",
    "unexpected",
    ".endr",
    // Synchronous exception of this level on its own stack pointer.
    ".balign 128",
    "stp x0, x1, [sp, #-16]!",
    "adrp x0, {probe}",
    "add x0, x0, :lo12:{probe}",
    "ldr x1, [x0]",
    "cbz x1, 1f",
    "str xzr, [x0]",
    "mrs x1, esr_el2",
    "str x1, [x0, #8]",
    "mrs x1, elr_el2",
    "add x1, x1, #4",
    "msr elr_el2, x1",
    "ldp x0, x1, [sp], #16",
    "eret",
    "1:",
    "mrs x0, esr_el2",
    "mrs x1, elr_el2",
    "mrs x2, far_el2",
    "b {unexpected}",
    ".rept 11",
    "unexpected",
    ".endr",
    ".text",
    probe = sym PROBE,
    unexpected = sym unexpected,
);

extern "C" fn unexpected(syndrome: u64, address: u64, fault: u64) -> ! {
    panic!("exception {syndrome:#x} at {address:#x}, fault address {fault:#x}");
}

/// Installs the vectors.
pub fn install() {
    // SAFETY: The vectors are aligned and complete; interrupts stay masked.
    unsafe {
        asm!(
            "adrp {scratch}, host_vectors",
            "add {scratch}, {scratch}, :lo12:host_vectors",
            "msr vbar_el2, {scratch}",
            "isb",
            scratch = out(reg) _,
            options(nostack),
        );
    }
}

/// An abort that an access took, by its syndrome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(u64);

impl Fault {
    /// Returns whether it is the data abort of a granule protection fault.
    #[must_use]
    pub const fn is_protection(self) -> bool {
        self.0 >> 26 == 0x25 && self.0 & 0x3f == 0x28
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "data abort, ESR {:#x}", self.0)
    }
}

fn probing(access: impl FnOnce()) -> Result<(), Fault> {
    let probe = PROBE.0.get();
    // SAFETY: One CPU; no reference to the cell is kept.
    unsafe {
        core::ptr::write_volatile(
            probe,
            Probe {
                armed: 1,
                syndrome: 0,
            },
        );
    }
    access();
    // SAFETY: As above; the abort, if any, has been taken.
    let Probe { syndrome, .. } = unsafe { core::ptr::read_volatile(probe) };
    // SAFETY: As above.
    unsafe {
        core::ptr::write_volatile(
            probe,
            Probe {
                armed: 0,
                syndrome: 0,
            },
        );
    }
    if syndrome == 0 {
        Ok(())
    } else {
        Err(Fault(syndrome))
    }
}

/// Loads a word, or returns the abort that the load took.
pub fn read(address: u64) -> Result<u32, Fault> {
    let mut value = 0_u64;
    probing(|| {
        // SAFETY: The load may abort, and the handler skips it then. Callers name memory that is
        // not theirs, so no Rust object lives there.
        unsafe {
            asm!("ldr {value:w}, [{address}]", "dsb sy", value = inout(reg) value, address = in(reg) address, options(nostack));
        }
    })?;
    Ok(value as u32)
}

/// Stores a word, or returns the abort that the store took.
///
/// The address must not hold an object of this program.
pub fn write(address: u64, value: u32) -> Result<(), Fault> {
    probing(|| {
        // SAFETY: As in `read`; the memory belongs to someone else or to nobody.
        unsafe {
            asm!("str {value:w}, [{address}]", "dsb sy", value = in(reg) value, address = in(reg) address, options(nostack));
        }
    })
}
