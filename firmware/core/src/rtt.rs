// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Stage 2 translation tables of a realm. The realm's lock is the lock of its whole tree.

use tsm_platform::Platform;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::realm::Realm;

/// Which output addresses a range call names: the raw `flags` and `oaddr` arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Bits 1:0 kind, bits 15:2 list length.
    pub flags: u64,
    /// A range descriptor, or the address of a list of them.
    pub address: u64,
}

/// Maps delegated device granules at `[base, top)`, RIPAS unchanged, and returns the next address.
/// `allowed` says whether `bytes` bytes at a physical address belong to the interface.
pub(crate) fn map_device<P: Platform>(
    _context: &Context<'_, P>,
    _realm: &mut Realm,
    _range: (u64, u64),
    _output: Output,
    _allowed: impl Fn(u64, u64) -> bool,
) -> Result<u64> {
    Err(Error::NotSupported)
}

/// Gives the guest access to device granules that are mapped at `[base, top)`, if the first is
/// mapped to `physical` and the others follow it. Returns the end of what was done.
pub(crate) fn validate_device<P: Platform>(
    _context: &Context<'_, P>,
    _realm: &mut Realm,
    _range: (u64, u64),
    _physical: u64,
) -> Result<u64> {
    Err(Error::NotSupported)
}
