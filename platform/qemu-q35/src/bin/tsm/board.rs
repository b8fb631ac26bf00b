// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! QEMU's q35 machine.

use tsm_platform::{GranuleRange, Rid};
use tsm_runtime::{Board, File};
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

/// Ports that a host must not reach.
const PRIVATE: &[(u16, u16)] = &[
    // The log of the TSM.
    (LOG, LOG),
    // fw_cfg, whose DMA engine writes anywhere.
    (configuration::FIRST_PORT, configuration::LAST_PORT),
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

    fn private_ports(&self) -> &'static [(u16, u16)] {
        PRIVATE
    }

    fn key_unit(&self) -> Rid {
        Rid(0x10 << 3)
    }
}
