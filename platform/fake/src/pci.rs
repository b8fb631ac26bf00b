// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A small PCI tree: a root port, an endpoint below it, and a function that the platform hides.

use std::collections::BTreeMap;

use tsm_platform::{ConfigSpace, GranuleRange, Rid};

use crate::{Fake, Guard, lock};

/// The root port, 00:02.0.
pub const ROOT_PORT: Rid = Rid(0x0010);
/// The endpoint, 01:00.0.
pub const ENDPOINT: Rid = Rid(0x0100);
/// Where the endpoint's 64-bit BAR 0 is.
pub const ENDPOINT_BAR: u64 = 0x1010_0000;
/// Size of the endpoint's BAR 0.
pub const ENDPOINT_BAR_BYTES: u64 = 0x4000;

pub(crate) const HIDDEN: Rid = Rid(0x0080);
pub(crate) const RESERVED: GranuleRange = match GranuleRange::new(0x10e0_0000, 0x1100_0000) {
    Some(range) => range,
    None => panic!("aligned"),
};

/// Configuration space of one function.
#[derive(Clone, Debug)]
pub struct Function {
    bytes: Vec<u8>,
    writable: Vec<u8>,
}

impl Function {
    /// Makes a function that has only read-only zeros.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            bytes: vec![0; 4096],
            writable: vec![0; 4096],
        }
    }

    /// Sets the register at `offset` and the bits of it that a write changes.
    #[must_use]
    pub fn with(mut self, offset: usize, value: u32, writable: u32) -> Self {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        self.writable[offset..offset + 4].copy_from_slice(&writable.to_le_bytes());
        self
    }

    /// Returns the register at `offset`.
    #[must_use]
    pub fn register(&self, offset: usize) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|byte| self.bytes[offset + byte]))
    }
}

/// Express capability at 0x40: version 2, of a root port (type 4) or an endpoint (type 0).
const fn express(port_type: u32) -> u32 {
    0x0000_0010 | (2 | port_type << 4) << 16
}

pub(crate) fn tree() -> BTreeMap<Rid, Function> {
    let command = 0x0010_0000;
    let root_port = Function::empty()
        .with(0x00, 0x000c_1b36, 0)
        .with(0x04, command | 0x6, 0x0547)
        .with(0x08, 0x0604_0000, 0)
        .with(0x0c, 0x0001_0000, 0xff)
        // Primary 0, secondary 1, subordinate 1.
        .with(0x18, 0x0001_0100, 0x00ff_ffff)
        // Memory window 0x1010_0000 to 0x101f_ffff.
        .with(0x20, 0x1010_1010, 0xfff0_fff0)
        .with(0x34, 0x40, 0)
        .with(0x40, express(4), 0);
    let endpoint = Function::empty()
        .with(0x00, 0x0010_1b36, 0)
        .with(0x04, command | 0x6, 0x0547)
        .with(0x08, 0x0108_0202, 0)
        .with(0x10, ENDPOINT_BAR as u32 | 4, 0xffff_c000)
        .with(0x14, 0, 0xffff_ffff)
        .with(0x34, 0x40, 0)
        .with(0x40, express(0) | 0x6000, 0)
        // Device control: initiating a function level reset is bit 15.
        .with(0x48, 0x2810, 0xffff)
        // MSI-X: 65 vectors, table and pending bits in BAR 0.
        .with(0x60, 0x0040_0011, 0xc000_0000)
        .with(0x64, 0x2000, 0)
        .with(0x68, 0x3000, 0)
        // DOE mailbox.
        .with(0x100, 0x0001_002e, 0)
        .with(0x108, 0, 0xffff_ffff)
        .with(0x110, 0, 0xffff_ffff);
    BTreeMap::from([
        (ROOT_PORT, root_port),
        (ENDPOINT, endpoint),
        (HIDDEN, Function::empty().with(0, 0x1110_1af4, 0)),
    ])
}

impl Fake {
    /// Puts a function at `rid`, in place of what was there.
    pub fn set_function(&self, rid: Rid, function: Function) {
        lock(&self.functions).insert(rid, function);
    }

    /// Takes the function at `rid` away.
    pub fn remove_function(&self, rid: Rid) {
        lock(&self.functions).remove(&rid);
    }

    /// Returns configuration space as it is.
    #[must_use]
    pub fn function(&self, rid: Rid) -> Option<Function> {
        lock(&self.functions).get(&rid).cloned()
    }
}

impl Fake {
    /// Takes the list of writes to configuration space: function and offset of each.
    pub fn take_config_writes(&self) -> Vec<(Rid, u16)> {
        std::mem::take(&mut lock(&self.config_writes))
    }

    /// Returns the bytes of every function's configuration space.
    #[must_use]
    pub fn registers(&self) -> BTreeMap<u16, Vec<u8>> {
        let functions = lock(&self.functions);
        functions
            .iter()
            .map(|(rid, function)| (rid.0, function.bytes.clone()))
            .collect()
    }
}

fn place(offset: u16, width: u8) -> Option<std::ops::Range<usize>> {
    let (offset, width) = (usize::from(offset), usize::from(width));
    let legal = matches!(width, 1 | 2 | 4) && offset % width == 0 && offset + width <= 4096;
    legal.then_some(offset..offset + width)
}

impl ConfigSpace for Fake {
    fn config_read(&self, rid: Rid, offset: u16, width: u8) -> u32 {
        self.pause();
        let functions = lock(&self.functions);
        let bytes = functions.get(&rid).zip(place(offset, width));
        let Some((function, place)) = bytes else {
            return u32::MAX;
        };
        let mut word = [0; 4];
        word[..usize::from(width)].copy_from_slice(&function.bytes[place]);
        u32::from_le_bytes(word)
    }

    fn config_write(&self, rid: Rid, offset: u16, width: u8, value: u32) {
        self.pause();
        lock(&self.config_writes).push((rid, offset));
        let mut functions = lock(&self.functions);
        let function = functions.get_mut(&rid).zip(place(offset, width));
        let Some((function, place)) = function else {
            return;
        };
        for (at, new) in place.zip(value.to_le_bytes()) {
            let mask = function.writable[at];
            function.bytes[at] = function.bytes[at] & !mask | new & mask;
        }
    }

    fn buses(&self) -> u16 {
        256
    }

    fn reserved_mmio(&self) -> &[GranuleRange] {
        &self.reserved
    }

    fn is_hidden(&self, rid: Rid) -> bool {
        self.hidden.contains(&rid)
    }

    fn is_mediated(&self) -> bool {
        self.has(Guard::Mediation)
    }
}
