// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where things are in `qemu-virt`.

pub mod attacks;
pub mod tests;

use tsm_payload_support::arch::mmu::{self, Kind, Table};
use tsm_payload_support::console::{self, Pl011};
use tsm_payload_support::mmio::Mmio;

/// First serial port.
const UART: usize = 0x0900_0000;
/// The IOMMU, as the host names it to the TSM.
pub const IOMMU: u64 = 0x0905_0000;
/// The firmware configuration device, which the monitor keeps.
pub const FW_CFG: u64 = 0x0902_0000;
/// Configuration space of bus 0.
pub const ECAM: usize = 0x40_1000_0000;

/// Device memory window that this program gives out.
pub const PCI_WINDOW: u32 = 0x1000_0000;

/// First granule of the TSM's own memory.
pub const TSM: u64 = 0x7f00_0000;
/// The key configuration unit.
pub const KEY_UNIT: u64 = 0x3e00_0000;

/// The function behind which the key configuration unit is.
pub const KEY_UNIT_RID: u16 = 0x10 << 3;

/// The guest's image, as the loader left it.
pub const GUEST_IMAGE: usize = 0x4c00_0000;
/// The guest owner's policy page.
pub const POLICY: usize = 0x4e00_0000;
/// The word that says what to run.
pub const MODE: usize = 0x4e00_1000;
/// First of the memory that the layout divides.
pub const DATA: u64 = 0x5800_0000;
/// A GiB of memory that nobody uses, if the machine has 2.5 GiB.
pub const SPARE_GIB: u64 = 0x8000_0000;
/// The part of DRAM that this program may touch freely: neither its image nor the device tree.
pub const FREE: core::ops::Range<usize> = 0x4c00_0000..0x7f00_0000;

static ROOT: Table = Table::new();

/// Sets up translation and the console.
pub fn set_up() {
    const GIB: u64 = 1 << 30;
    ROOT.block(0, 0, Kind::Device);
    ROOT.block(1, GIB, Kind::Memory);
    // Configuration space.
    ROOT.block(256, 256 * GIB, Kind::Device);
    // SAFETY: Block 1 is all of DRAM at its own address, where the image, its stack and its data
    // are.
    unsafe { mmu::enable_el2(&ROOT) };
    console::set_sink(|text| {
        // SAFETY: The serial port's page; nothing else uses it.
        Pl011::new(unsafe { Mmio::new(UART) }).send(text);
    });
}
