// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! QEMU's educational device: it copies between memory and a page of its own at whatever address it
//! is told.

use tsm_payload_support::mmio::Mmio;
use tsm_payload_support::time::wait_until;

use super::super::pci::{COMMAND, Function, ID, MEMORY_AND_MASTER};

const VENDOR_AND_DEVICE: u32 = 0x11e8_1234;
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const CONTROL: usize = 0x98;
const START: u64 = 1;
const TO_MEMORY: u64 = 1 << 1;
/// Where the device's own page is, as its DMA engine names it.
const OWN: u64 = 0x4_0000;
/// A copy takes a tenth of a second.
const LIMIT_MS: u64 = 5000;

/// The device.
#[derive(Clone, Copy, Debug)]
pub struct Edu {
    /// Which function it is.
    pub function: Function,
    registers: Mmio,
}

impl Edu {
    /// Finds the device on bus 0 and lets it access memory.
    pub fn find() -> Option<Self> {
        let function = (0..32)
            .map(|device| Function::new(0, device))
            .find(|function| function.config().read32(ID) == VENDOR_AND_DEVICE)?;
        let config = function.config();
        config.write16(COMMAND, MEMORY_AND_MASTER);
        // Its only BAR is 32 bits wide; the machine's firmware has given it an address.
        let base = config.read32(super::super::pci::BAR0) & !0xf;
        // SAFETY: The device's registers; no Rust object is there.
        let registers = unsafe { Mmio::new(base as usize) };
        Some(Self {
            function,
            registers,
        })
    }

    /// Copies `bytes` bytes of memory to the device's page; returns whether it ended.
    pub fn load(self, address: u64, bytes: u64) -> bool {
        self.copy(address, OWN, bytes, START)
    }

    /// Copies `bytes` bytes of the device's page to memory; returns whether it ended.
    pub fn store(self, address: u64, bytes: u64) -> bool {
        self.copy(OWN, address, bytes, START | TO_MEMORY)
    }

    fn copy(self, source: u64, destination: u64, bytes: u64, control: u64) -> bool {
        self.registers.write64(SOURCE, source);
        self.registers.write64(DESTINATION, destination);
        self.registers.write64(COUNT, bytes);
        self.registers.write64(CONTROL, control);
        wait_until(LIMIT_MS, || self.registers.read64(CONTROL) & START == 0)
    }
}
