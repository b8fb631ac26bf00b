// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where things are in `qemu-virt`, and what this program uses each piece of memory for.

use tsm_payload_support::aarch64::mmu::{self, Kind, Table};
use tsm_payload_support::console::{self, Pl011};
use tsm_payload_support::mmio::Mmio;

/// First serial port.
const UART: usize = 0x0900_0000;
/// The IOMMU, as the host names it to the TSM.
pub const SMMU: u64 = 0x0905_0000;
/// The firmware configuration device, which the monitor keeps.
pub const FW_CFG: usize = 0x0902_0000;
/// Configuration space of bus 0.
pub const ECAM: usize = 0x40_1000_0000;

/// Device memory window that this program gives out.
pub const PCI_WINDOW: u32 = 0x1000_0000;

/// The guest's image, as the loader left it.
pub const GUEST_IMAGE: usize = 0x4c00_0000;
/// Largest guest image, in bytes: what lies below the policy page in the guest.
pub const GUEST_IMAGE_MAX: usize = 0x20_0000;
/// The guest owner's policy page.
pub const POLICY: usize = 0x4e00_0000;
/// The word that says what to run.
const MODE: usize = 0x4e00_1000;

/// Memory that the realm's private pages come from: 4 MiB.
pub const REALM_DATA: u64 = 0x5800_0000;
/// Memory that tables and objects come from, behind the data.
pub const OBJECTS: u64 = 0x5840_0000;
/// End of what is ever given to the TSM.
pub const DONATED_TOP: u64 = 0x5844_0000;
/// Host pages that the guest shares.
pub const SHARED: u64 = 0x5a00_0000;
/// Number of shared pages.
pub const SHARED_PAGES: u64 = 16;
/// Host pages for structures that the TSM reads and writes.
const PARAMETERS: u64 = 0x5b00_0000;
/// Pages that the plain host's NVMe drivers use.
pub const HOST_DMA: usize = 0x5b10_0000;
/// End of those.
pub const HOST_DMA_TOP: usize = 0x5b20_0000;
/// Where the host keeps device evidence.
pub const CACHES: usize = 0x5b20_0000;

/// Pages for structures, by use.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Page {
    /// Parameters of a call.
    Parameters = 0,
    /// The run page of the virtual CPU.
    Run = 1,
    /// Exchange page.
    Comm = 2,
    /// Requests from the TSM: two pages.
    Request = 3,
    /// Responses from a device: two pages.
    Response = 5,
}

impl Page {
    /// Returns the address of the page.
    #[must_use]
    pub const fn address(self) -> u64 {
        PARAMETERS + self as u64 * 0x1000
    }
}

/// Granules that hold tables and objects, by use.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Slot {
    /// Realm descriptor.
    Rd = 0,
    /// Start-level table.
    RttRoot = 1,
    /// Level 2 table of the private memory.
    RttLow = 2,
    /// Level 3 tables of the private memory.
    RttMemory0 = 3,
    /// The second of them.
    RttMemory1 = 4,
    /// Level 3 table of the device memory.
    RttDevice = 5,
    /// Level 2 table of the shared half.
    RttHigh = 6,
    /// Level 3 table of the shared half.
    RttShared = 7,
    /// Virtual CPU.
    Rec = 8,
    /// Root port object.
    RootPort = 9,
    /// Device object.
    Endpoint = 10,
    /// Device interface object.
    Vdev = 11,
    /// Never used by the TSM, for attacks and tests.
    Spare = 12,
    /// First of four granules of the device object's memory.
    EndpointMemory = 16,
}

impl Slot {
    /// Returns the address of the granule.
    #[must_use]
    pub const fn address(self) -> u64 {
        OBJECTS + self as u64 * 0x1000
    }
}

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

/// Returns what to run.
pub fn mode() -> u32 {
    // SAFETY: A word of DRAM that only the loader writes.
    unsafe { Mmio::new(MODE) }.read32(0)
}
