// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Devices, their interfaces, and configuration space.

use tsm_platform::{Platform, Rid};

use crate::context::Context;

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
pub(crate) fn config_access<P: Platform>(
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
