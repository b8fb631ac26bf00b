// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a board has the TSM filter of its host: ways past nested paging and IOMMU, and ways to start
//! the machine again with memory as it is.

use tsm_platform::Rid;

/// What the TSM makes of a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortUse {
    /// Nothing is there: reads give ones, writes have no effect.
    Nothing,
    /// The address register of configuration space, and the reset register inside it (0xcf9).
    ConfigAddress,
    /// The data register of configuration space.
    ConfigData,
    /// System control port A: fast reset (bit 0) and the A20 gate (bit 1).
    SystemControl,
    /// The command register of the keyboard controller.
    KeyboardCommand,
    /// The data register of the keyboard controller.
    KeyboardData,
    /// The index register of the clock's memory.
    ClockIndex,
    /// The data register of the clock's memory. Byte 0x0f says where firmware continues when a processor
    /// was reset.
    ClockData,
    /// The power management control register (ACPI 6.5, 4.8.3.2.1), two bytes.
    PowerControl,
}

/// A range of ports that the board has the TSM filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// What it is.
    pub usage: PortUse,
}

impl PortRule {
    /// Names a range of ports.
    #[must_use]
    pub const fn new(first: u16, last: u16, usage: PortUse) -> Self {
        Self { first, last, usage }
    }
}

/// A function that the host may write in part only: the platform's own, whose registers move memory or
/// other registers about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigRule {
    /// The function.
    pub rid: Rid,
    /// First and last byte of each range that may be written.
    pub writable: &'static [(u16, u16)],
}
