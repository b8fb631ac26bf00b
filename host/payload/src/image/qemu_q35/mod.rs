// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where things are in `qemu-q35`.

pub mod attacks;
mod edu;
mod ports;
pub mod tests;

use tsm_payload_support::x86_64::{clock, paging, port};
use tsm_payload_support::{console, power};

/// First serial port.
const UART: u16 = 0x3f8;
/// Control register of the power management, and the word that turns the machine off.
const POWER_CONTROL: u16 = 0x604;
const SOFT_OFF: u16 = 1 << 13;
/// The IOMMU, as the host names it to the TSM.
pub const IOMMU: u64 = 0xfed9_0000;
/// Configuration space of bus 0.
pub const ECAM: usize = 0xb000_0000;

/// Device memory window that this program gives out.
pub const PCI_WINDOW: u32 = 0xc000_0000;

/// First granule of the TSM's own memory.
pub const TSM: u64 = 0x1000_0000;
/// The address after the TSM's last granule.
pub const TSM_TOP: u64 = 0x1400_0000;
/// The key configuration unit, where SeaBIOS places it.
pub const KEY_UNIT: u64 = 0xfea0_0000;

/// The function behind which the key configuration unit is.
pub const KEY_UNIT_RID: u16 = 0x10 << 3;

/// The guest's image, as the loader left it.
pub const GUEST_IMAGE: usize = 0x2000_0000;
/// The guest owner's policy page.
pub const POLICY: usize = 0x2200_0000;
/// The word that says what to run.
pub const MODE: usize = 0x2200_1000;
/// First of the memory that the layout divides.
pub const DATA: u64 = 0x2800_0000;
/// A GiB of memory that nobody uses, if the machine has 2.5 GiB.
pub const SPARE_GIB: u64 = 0x4000_0000;
/// The part of memory that this program may touch freely: neither its image nor what the firmware
/// of the machine left at its end.
pub const FREE: core::ops::Range<usize> = 0x2000_0000..0x3000_0000;

/// Masks of the interrupt controllers. SeaBIOS leaves its timer on; no interrupt is taken here, and one
/// that stays pending would bring a guest back at each entry.
const INTERRUPT_MASKS: [u16; 2] = [0x21, 0xa1];

/// Sets up translation, the console and the clock, and turns interrupts off.
pub fn set_up() {
    for port in INTERRUPT_MASKS {
        port::write8(port, 0xff);
    }
    // SAFETY: The loader entered the image at its own address, and so are its stack and its data.
    unsafe { paging::enable() };
    console::set_sink(|text| port::send(UART, text));
    power::set_off(|| port::write16(POWER_CONTROL, SOFT_OFF));
    clock::calibrate();
}
