// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! QEMU's q35 machine.

use tsm_platform::{GranuleRange, Rid};
use tsm_runtime::{Board, ConfigRule, File, PortRule, PortUse};
use x86_64::instructions::port::PortWriteOnly;

use crate::configuration;

/// Where QEMU's debug console takes bytes (`-global isa-debugcon.iobase`).
const LOG: u16 = 0xe9;
/// PM1a control of the ICH9 where SeaBIOS places it, and the value that turns the machine off: sleep
/// type 0, which is S5 on this board, and sleep enable.
const PM1A_CONTROL: u16 = 0x604;
const OFF: u16 = 1 << 13;

/// The PCI hole below the I/O APIC. Above a gigabyte of memory and the configuration window, all of it
/// is the root complex's.
const DEVICES: GranuleRange = match GranuleRange::new(0xc000_0000, 0xfec0_0000) {
    Some(range) => range,
    None => panic!("the window is made of granules"),
};

/// Ports that the host reaches by way of the TSM, or not at all.
const PORTS: &[PortRule] = &[
    // ISA DMA, which writes memory past the IOMMU.
    PortRule::new(0x00, 0x0f, PortUse::Nothing),
    PortRule::new(0x60, 0x60, PortUse::KeyboardData),
    PortRule::new(0x64, 0x64, PortUse::KeyboardCommand),
    PortRule::new(0x70, 0x70, PortUse::ClockIndex),
    PortRule::new(0x71, 0x71, PortUse::ClockData),
    PortRule::new(0x92, 0x92, PortUse::SystemControl),
    // Requests of system management mode, which the machine does not have.
    PortRule::new(0xb2, 0xb3, PortUse::Nothing),
    PortRule::new(0xc0, 0xdf, PortUse::Nothing),
    // The log of the TSM.
    PortRule::new(LOG, LOG, PortUse::Nothing),
    // fw_cfg, whose DMA engine writes anywhere.
    PortRule::new(
        configuration::FIRST_PORT,
        configuration::LAST_PORT,
        PortUse::Nothing,
    ),
    PortRule::new(PM1A_CONTROL, PM1A_CONTROL + 1, PortUse::PowerControl),
    // The watchdog, which resets the machine.
    PortRule::new(0x660, 0x67f, PortUse::Nothing),
    PortRule::new(0xcf8, 0xcfb, PortUse::ConfigAddress),
    PortRule::new(0xcfc, 0xcff, PortUse::ConfigData),
];

/// Functions of the chipset. What the host needs of them is the routing of interrupts.
const CHIPSET: &[ConfigRule] = &[
    // The host bridge: PCIEXBAR, PAM, SMRAM and TSEG move memory.
    ConfigRule {
        rid: Rid(0),
        writable: &[],
    },
    // The LPC bridge: PMBASE and RCBA move registers; PIRQ routing is the host's, and its command and
    // status registers.
    ConfigRule {
        rid: Rid(0x1f << 3),
        writable: &[(0x04, 0x07), (0x60, 0x63), (0x68, 0x6b)],
    },
];

/// The board.
pub struct Q35;

impl Board for Q35 {
    fn log(&self, bytes: &[u8]) {
        for byte in bytes {
            // SAFETY: the console takes bytes and does nothing else.
            unsafe { PortWriteOnly::new(LOG).write(*byte) };
        }
    }

    fn processors(&self) -> usize {
        configuration::processors()
    }

    fn file(&self, name: &str) -> Option<File> {
        configuration::file(name)
    }

    unsafe fn load(&self, file: File, offset: u32, to: u64, bytes: u32) -> bool {
        // SAFETY: the caller promises it.
        unsafe { configuration::load(file, offset, to, bytes) }
    }

    fn power_off(&self) {
        // SAFETY: nothing is to go on after this.
        unsafe { PortWriteOnly::new(PM1A_CONTROL).write(OFF) };
    }

    fn device_window(&self) -> GranuleRange {
        DEVICES
    }

    fn port_rules(&self) -> &'static [PortRule] {
        PORTS
    }

    fn config_rules(&self) -> &'static [ConfigRule] {
        CHIPSET
    }

    fn key_unit(&self) -> (Rid, u32) {
        // An `ivshmem-plain` device.
        (Rid(0x10 << 3), 0x1110_1af4)
    }
}
