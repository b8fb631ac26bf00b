// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Devices, their interfaces, and configuration space.

use tsm_abi::rmi::{Call, RecEnterFlags, RecExit};
use tsm_abi::{RSI_NOT_SUPPORTED, rsi};
use tsm_platform::Rid;

use crate::context::{Context, Machine};
use crate::error::{Error, Result};
use crate::rec::{Flow, Rec};
use crate::rsi::Answer;

/// State of devices that is not in donated granules.
pub(crate) struct Devices;

impl Devices {
    /// Makes the state: no device is known.
    pub const fn new() -> Self {
        Self
    }
}

/// A device request of a guest that waits for the host.
pub(crate) enum Request {}

/// Performs or refuses a host access to configuration space.
pub(crate) fn config_access<P: Machine>(
    context: &Context<'_, P>,
    rid: Rid,
    offset: u16,
    width: u8,
    write: Option<u32>,
) -> u32 {
    match write {
        None => context.platform.config_read(rid, offset, width),
        Some(value) => {
            context.platform.config_write(rid, offset, width, value);
            0
        }
    }
}

/// Answers a call of the host about devices.
pub(crate) fn host_call<P: Machine>(_context: &Context<'_, P>, _call: Call) -> Result {
    Err(Error::NotSupported)
}

/// Answers a call of the guest about devices.
pub(crate) fn guest_call<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    _call: rsi::Call,
    _exit: &mut RecExit,
) -> Answer {
    context.platform.set_gpr(&mut rec.cpu, 0, RSI_NOT_SUPPORTED);
    Ok(Flow::Resume)
}

/// Goes on with a device request after the host has answered it.
pub(crate) fn resume<P: Machine>(
    _context: &Context<'_, P>,
    _rec: &mut Rec<P::Context>,
    request: Request,
    _flags: RecEnterFlags,
    _exit: &mut RecExit,
) -> Flow {
    match request {}
}
