// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From registers to a handler and back.

use tsm_platform::{Platform, Rid, TraceRecord};

use crate::context::Context;
use crate::device::{self, Devices};
use crate::error::{Error, Result};
use crate::granule::{Locks, Region, Table};

/// The state of the TSM that is not in donated granules.
pub struct Tsm {
    pub(crate) granules: Table,
    pub(crate) devices: Devices,
}

impl Tsm {
    /// Makes a TSM that owns nothing yet.
    #[must_use]
    pub const fn new(regions: &'static [Region]) -> Self {
        Self {
            granules: Table::new(regions),
            devices: Devices::new(),
        }
    }

    /// Returns the table of granules.
    #[must_use]
    pub const fn granules(&self) -> &Table {
        &self.granules
    }

    /// Answers one call of the host. The first register returned is the status word.
    pub fn host_call<P: Platform>(
        &self,
        platform: &P,
        function: u64,
        arguments: &[u64; 7],
    ) -> [u64; 8] {
        let locks = Locks::default();
        let context = Context {
            tsm: self,
            platform,
            locks: &locks,
        };
        let outcome = dispatch(&context, function, arguments);
        let answer = if locks.is_empty() {
            outcome
        } else {
            Err(Error::Global)
        };
        let registers = answer.map_or_else(Error::registers, crate::error::Reply::registers);
        let [a, b, c, ..] = *arguments;
        let [status, ..] = registers;
        platform.call(TraceRecord {
            function,
            arguments: [a, b, c],
            status,
        });
        registers
    }

    /// Performs a host access of `width` bytes (1, 2 or 4) to configuration space and returns the
    /// value read (zero for a write). A refused read is all ones; a refused write has no effect.
    pub fn host_config_access<P: Platform>(
        &self,
        platform: &P,
        rid: Rid,
        offset: u16,
        width: u8,
        write: Option<u32>,
    ) -> u32 {
        let locks = Locks::default();
        let context = Context {
            tsm: self,
            platform,
            locks: &locks,
        };
        device::config_access(&context, rid, offset, width, write)
    }
}

fn dispatch<P: Platform>(_: &Context<'_, P>, _: u64, _: &[u64; 7]) -> Result {
    Err(Error::NotSupported)
}
