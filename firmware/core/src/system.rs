// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Version, features, configuration and activation of the TSM.

use tsm_abi::rmi::{RmmConfig, TeardownOrder, VERSION, features};
use tsm_platform::HostPa;
use zerocopy::{FromZeros, IntoBytes};

use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::realm::{MAX_IPA_BITS, MAX_RECS_ORDER};
use crate::sync::{AtomicU8, Ordering};

/// Order of the largest number of device interfaces of a physical device.
const MAX_VDEVS_ORDER: u64 = 4;

/// Whether the host has activated the TSM.
pub(crate) struct Activation(AtomicU8);

const CONFIGURABLE: u8 = 0;
const ACTIVE: u8 = 1;

impl Activation {
    /// Makes the state before activation.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(AtomicU8::new(CONFIGURABLE))
    }

    /// Makes the state before activation, outside constants.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU8::new(CONFIGURABLE))
    }

    /// Returns whether the TSM is active.
    pub fn is_active(&self) -> bool {
        self.0.load(Ordering::Acquire) == ACTIVE
    }

    /// Activates, once.
    pub(crate) fn activate(&self) -> Result<()> {
        let order = Ordering::AcqRel;
        match self
            .0
            .compare_exchange(CONFIGURABLE, ACTIVE, order, Ordering::Acquire)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Global),
        }
    }
}

/// Answers whether version `requested` is implemented; it and 2.0 are the range in both cases.
pub(crate) const fn version(requested: u64) -> Reply {
    if requested == VERSION {
        Reply::two(VERSION, VERSION)
    } else {
        Reply::failure(Error::Input, [VERSION, VERSION])
    }
}

/// Returns feature register `index`; one that does not exist is zero.
pub(crate) const fn feature(index: u64) -> Reply {
    use features as f;
    Reply::one(match index {
        0 => f::R0_S2SZ.place(MAX_IPA_BITS as u64),
        1 => {
            f::R1_GRANULE_4K.place(1)
                | f::R1_HASH_SHA_256.place(1)
                | f::R1_HASH_SHA_384.place(1)
                | f::R1_HASH_SHA_512.place(1)
                | f::R1_MAX_RECS_ORDER.place(MAX_RECS_ORDER)
        }
        2 => f::R2_DA.place(1) | f::R2_MAX_VDEVS_ORDER.place(MAX_VDEVS_ORDER),
        f::TEARDOWN => f::TEARDOWN_ORDERS.place(
            1 << TeardownOrder::UnmapFirst as u64
                | 1 << TeardownOrder::StopFirst as u64
                | 1 << TeardownOrder::MaskAndReap as u64,
        ),
        _ => 0,
    })
}

/// Sets the configuration, of which only one exists: 4 KiB granules, tracked in regions of 1 GiB.
pub(crate) fn set_config<P: Machine>(context: &Context<'_, P>, address: u64) -> Result {
    let config: RmmConfig = context.host_structure(address)?;
    if config.tracking_region_size.get() != 0 || config.granule_size.get() != 0 {
        return Err(Error::Input);
    }
    if context.tsm.activation.is_active() {
        return Err(Error::Global);
    }
    Ok(Reply::NONE)
}

/// Writes the configuration to a page of the host.
pub(crate) fn get_config<P: Machine>(context: &Context<'_, P>, address: u64) -> Result {
    let page = context.host_granule(address)?;
    let config = RmmConfig::new_zeroed();
    context.host_write(HostPa(page.address()), config.as_bytes())?;
    Ok(Reply::NONE)
}

/// Makes the other calls available. Succeeds once.
pub(crate) fn activate<P: Machine>(context: &Context<'_, P>) -> Result {
    context.tsm.activation.activate().map(|()| Reply::NONE)
}
