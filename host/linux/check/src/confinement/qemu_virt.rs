// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! QEMU's `virt` machine, with the granule protection of FEAT_RME.

use std::io::Result;

use crate::report::Tally;
use crate::sys::{Door, Mapping};

/// First granule of the TSM.
pub const TSM: u64 = 0x7f00_0000;
/// The second flash bank: nobody needs it.
pub const UNPROTECTED: u64 = 0x0400_0000;
/// What must not be read.
pub const READS: &[(&str, &str, u64)] = &[
    ("read-tsm", "load from the TSM's memory", TSM),
    ("read-smmu", "load from the SMMU's registers", 0x0905_0000),
    (
        "read-key-unit",
        "load from the key configuration unit",
        0x3e00_0000,
    ),
    (
        "read-its",
        "load from the interrupt translation service",
        0x0808_0000,
    ),
    ("read-virtio-mmio", "load from a virtio window", 0x0a00_0000),
];
/// What must not be written.
pub const WRITES: &[(&str, &str, u64)] = &[
    ("write-tsm", "store to the TSM's memory", TSM),
    (
        "fw-cfg-dma",
        "store to the DMA register of fw_cfg",
        0x0902_0010,
    ),
];
/// The function that the key configuration unit is.
pub const KEY_UNIT_FUNCTION: &str = "0000:00:10.0";
/// A function whose BAR 0 nobody uses: the root port.
pub const MOVED_FUNCTION: &str = "0000:00:02.0";
/// Address space of BARs in which nothing is.
pub const FREE_MMIO: u32 = 0x1200_0000;
/// Where no BAR may go.
pub const BAR_TARGETS: &[(&str, &str, u32)] = &[(
    "overlap-key-unit",
    "move a BAR over the key configuration unit",
    0x3e00_0000,
)];

/// Nothing more on this board.
pub fn check(_tally: &mut Tally, _door: &Door) {}

/// Nothing more while memory is the TSM's: this board has no device that copies where it is told.
pub fn while_delegated(
    _tally: &mut Tally,
    _door: &Door,
    _mapping: &Mapping,
    _addresses: (u64, u64),
) -> Result<()> {
    Ok(())
}
