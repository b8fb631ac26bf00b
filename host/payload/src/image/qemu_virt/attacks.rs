// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a hostile host tries on this board only.

use super::super::attacks::{Disturbance, faults};
use super::super::flow::Host;
use super::super::processor::vectors;
use super::FW_CFG;

/// Everything that must fail without harm while the guest uses its device.
pub fn while_running(_host: &mut Host) {
    faults(
        "fw-cfg-dma",
        "store to the DMA register of fw_cfg",
        vectors::write(FW_CFG + 0x10, 0),
    );
}

/// Returns ways to change a device under its guest that only this board has.
pub fn disturbances(_host: &Host) -> [Disturbance; 0] {
    []
}
