// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What this program uses each piece of memory for.

use tsm_payload_support::mmio::Mmio;

use super::board::{DATA, MODE};

/// Largest guest image, in bytes: what lies below the policy page in the guest.
pub const GUEST_IMAGE_MAX: usize = 0x20_0000;

/// Memory that the realm's private pages come from: 4 MiB.
pub const REALM_DATA: u64 = DATA;
/// Memory that tables and objects come from, behind the data.
pub const OBJECTS: u64 = DATA + 0x40_0000;
/// End of what is ever given to the TSM.
pub const DONATED_TOP: u64 = DATA + 0x44_0000;
/// Host pages that the guest shares.
pub const SHARED: u64 = DATA + 0x200_0000;
/// Number of shared pages.
pub const SHARED_PAGES: u64 = 16;
/// Host pages for structures that the TSM reads and writes.
const PARAMETERS: u64 = DATA + 0x300_0000;
/// Pages that the plain host's NVMe drivers use.
pub const HOST_DMA: usize = DATA as usize + 0x310_0000;
/// End of those.
pub const HOST_DMA_TOP: usize = DATA as usize + 0x320_0000;
/// Where the host keeps device evidence.
pub const CACHES: usize = DATA as usize + 0x320_0000;

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
    /// Level 1 table, where the start level is 0.
    RttTop = 13,
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

/// Returns what to run.
pub fn mode() -> u32 {
    // SAFETY: A word of DRAM that only the loader writes.
    unsafe { Mmio::new(MODE) }.read32(0)
}
