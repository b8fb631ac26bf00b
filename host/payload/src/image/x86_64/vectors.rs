// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Accesses that may fail.

use core::fmt;

use tsm_payload_support::attempt;
use tsm_payload_support::x86_64::exception::{self, Exception};

/// An exception that an access took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub Exception);

impl Fault {
    /// Returns whether it is what the TSM makes of a nested page fault: general protection, not the
    /// page fault of this program's own tables.
    #[must_use]
    pub const fn is_protection(self) -> bool {
        self.0.vector == Exception::GENERAL_PROTECTION && self.0.code == 0
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Installs the handlers.
pub fn install() {
    exception::install();
}

/// Loads a word, or returns the exception that the load took.
pub fn read(address: u64) -> Result<u32, Fault> {
    let mut value = 0_u32;
    // SAFETY: The load may fault, and is left out then. Callers name memory that is not theirs, so
    // no Rust object lives there.
    unsafe {
        attempt!(
            ["mov {value:e}, [{address}]"],
            value = inout(reg) value,
            address = in(reg) address,
            options(nostack)
        )
    }
    .map_err(Fault)?;
    Ok(value)
}

/// Stores a word, or returns the exception that the store took.
///
/// The address must not hold an object of this program.
pub fn write(address: u64, value: u32) -> Result<(), Fault> {
    // SAFETY: As in `read`; the memory belongs to someone else or to nobody.
    unsafe {
        attempt!(
            ["mov [{address}], {value:e}"],
            value = in(reg) value,
            address = in(reg) address,
            options(nostack)
        )
    }
    .map_err(Fault)
}
