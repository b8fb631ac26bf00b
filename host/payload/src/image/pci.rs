// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Configuration space and a small enumeration.

use tsm_payload_support::mmio::Mmio;
use tsm_payload_support::println;

use super::board::{ECAM, PCI_WINDOW};

/// Vendor and device id register.
pub const ID: usize = 0x00;
/// Command register.
pub const COMMAND: usize = 0x04;
/// First base address register.
pub const BAR0: usize = 0x10;
/// Command: memory decoding and bus mastering.
pub const MEMORY_AND_MASTER: u16 = 6;

const CLASS: usize = 0x08;
const HEADER_TYPE: usize = 0x0e;
const BUSES: usize = 0x18;
const IO_WINDOW: usize = 0x1c;
const MEMORY_WINDOW: usize = 0x20;
const PREFETCHABLE_WINDOW: usize = 0x24;
const CLASS_NVME: u32 = 0x01_08_02;
const MIB: u32 = 1 << 20;
/// Extended capabilities that fit into 4 KiB: no walk is longer.
const MOST_CAPABILITIES: usize = 48;

/// One function, by requester id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(pub u16);

impl Function {
    /// Returns the function `device`.0 on `bus`.
    pub const fn new(bus: u8, device: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16) << 3)
    }

    /// Returns the function's 4 KiB of configuration space.
    pub fn config(self) -> Mmio {
        // SAFETY: The window belongs to configuration space as a whole; Rust objects are elsewhere.
        unsafe { Mmio::new(ECAM + ((self.0 as usize) << 12)) }
    }

    fn present(self) -> bool {
        self.config().read16(ID) != 0xffff
    }

    fn class(self) -> u32 {
        self.config().read32(CLASS) >> 8
    }

    fn is_bridge(self) -> bool {
        self.config().read8(HEADER_TYPE) & 0x7f == 1
    }

    /// Returns the size of the memory behind base address register `index`, zero if there is none.
    fn bar_size(self, index: usize) -> u32 {
        let config = self.config();
        let offset = BAR0 + 4 * index;
        config.write32(offset, u32::MAX);
        let mask = config.read32(offset);
        config.write32(offset, 0);
        if mask & 1 != 0 {
            return 0;
        }
        (!(mask & !0xf)).wrapping_add(1)
    }

    /// Gives addresses from `next` to the function's memory BARs; returns the next free address.
    fn assign_bars(self, mut next: u32, count: usize) -> u32 {
        let config = self.config();
        let mut index = 0;
        while index < count {
            let offset = BAR0 + 4 * index;
            let wide = config.read32(offset) & 0x7 == 0x4;
            let size = self.bar_size(index);
            if size != 0 {
                // A granule at least: pages are what changes hands.
                let size = size.max(0x1000);
                next = next.next_multiple_of(size);
                config.write32(offset, next);
                next += size;
            }
            if wide {
                config.write32(offset + 4, 0);
                index += 1;
            }
            index += 1;
        }
        next
    }

    /// Returns the address of the memory behind base address register 0.
    pub fn bar0(self) -> u64 {
        let config = self.config();
        u64::from(config.read32(BAR0) & !0xf) | u64::from(config.read32(BAR0 + 4)) << 32
    }

    /// Returns the offset of extended capability `id`.
    pub fn extended_capability(self, id: u16) -> Option<usize> {
        let config = self.config();
        let mut offset = 0x100;
        for _ in 0..MOST_CAPABILITIES {
            let header = config.read32(offset);
            if header == 0 || header == u32::MAX {
                return None;
            }
            if header as u16 == id {
                return Some(offset);
            }
            offset = (header >> 20) as usize & 0xffc;
            if offset < 0x100 {
                return None;
            }
        }
        None
    }
}

/// What the enumeration found.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// The root port above the disk.
    pub root_port: Function,
    /// The disk.
    pub disk: Function,
    /// Another disk, an ordinary DMA master.
    pub other_disk: Option<Function>,
    /// First address behind the root port.
    pub window_base: u64,
    /// Address after the last.
    pub window_top: u64,
}

/// Finds root port and disks, gives them bus numbers and addresses, and enables them.
///
/// The memory behind the root port is 1 MiB of its own, as a bridge window must be.
pub fn enumerate() -> Option<Topology> {
    let mut root_port = None;
    let mut other_disk = None;
    let mut next = PCI_WINDOW + MIB;
    for device in 0..32 {
        let function = Function::new(0, device);
        if !function.present() {
            continue;
        }
        println!(
            "NOTE 00:{device:02x}.0 {:08x} class {:06x}",
            function.config().read32(ID),
            function.class()
        );
        if function.is_bridge() && root_port.is_none() {
            function.config().write32(BUSES, 0x0001_0100);
            next = function.assign_bars(next, 2);
            root_port = Some(function);
        } else if function.class() == CLASS_NVME && other_disk.is_none() {
            next = function.assign_bars(next, 6);
            function.config().write16(COMMAND, MEMORY_AND_MASTER);
            other_disk = Some(function);
        }
    }
    let root_port = root_port?;
    let config = root_port.config();
    let base = u32::from((PCI_WINDOW >> 16) as u16);
    // Base and limit are the same: the window is one MiB. The others are closed.
    config.write32(MEMORY_WINDOW, base << 16 | base);
    config.write32(PREFETCHABLE_WINDOW, 0x0000_fff0);
    config.write16(IO_WINDOW, 0x00f0);
    config.write16(COMMAND, MEMORY_AND_MASTER);
    let disk = Function::new(1, 0);
    if !disk.present() || disk.class() != CLASS_NVME {
        return None;
    }
    disk.assign_bars(PCI_WINDOW, 6);
    disk.config().write16(COMMAND, MEMORY_AND_MASTER);
    Some(Topology {
        root_port,
        disk,
        other_disk,
        window_base: u64::from(PCI_WINDOW),
        window_top: u64::from(PCI_WINDOW + MIB),
    })
}
