// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the monitor does on PCI before anybody else: it takes the key configuration unit, and finds the
//! root ports.

use tsm_monitor::keys::{self, Registers};
use tsm_monitor::manifest::Region;

use crate::board;
use crate::mmio::Mmio;
use crate::translation::ECAM_WINDOW;

/// Function of the key configuration unit: 00:10.0.
pub const KEY_UNIT: u16 = 0x10 << 3;
/// An `ivshmem-plain` device: vendor 0x1af4, device 0x1110.
const KEY_UNIT_ID: u32 = 0x1110_1af4;

const COMMAND: u64 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const HEADER_TYPE: u64 = 0x0c;
const BAR0: u64 = 0x10;
const BAR2: u64 = 0x18;
const BAR3: u64 = 0x1c;
const CAPABILITIES: u64 = 0x34;
const CAPABILITY_PCIE: u32 = 0x10;
const PORT_TYPE_ROOT: u32 = 4;

/// Configuration space of bus 0, as the Realm world sees it.
// SAFETY: mapped as device memory; only the monitor runs when this is used.
const BUS0: Mmio = unsafe { Mmio::new(ECAM_WINDOW, 256 << 12) };

fn read(rid: u16, offset: u64) -> u32 {
    BUS0.read(u64::from(rid) << 12 | offset)
}

fn write(rid: u16, offset: u64, value: u32) {
    BUS0.write(u64::from(rid) << 12 | offset, value);
}

/// Registers of the key configuration unit.
pub struct KeyUnit(());

/// The one there may be.
pub static KEYS: KeyUnit = KeyUnit(());

impl KeyUnit {
    // SAFETY: the unit's window, mapped as device memory; only the monitor can reach it.
    const WINDOW: Mmio = unsafe { Mmio::new(board::KEY_UNIT.base, keys::SIZE as u64) };
}

impl Registers for KeyUnit {
    fn read(&self, offset: u32) -> u32 {
        Self::WINDOW.read(u64::from(offset))
    }

    fn write(&self, offset: u32, value: u32) {
        Self::WINDOW.write(u64::from(offset), value);
    }

    fn zero(&self, first: u32, end: u32) {
        Self::WINDOW.zero(u64::from(first), u64::from(end.saturating_sub(first)));
    }
}

/// Maps the key configuration unit and empties it; returns false if it is not there.
pub fn take_key_unit() -> bool {
    const UNIT: Region = board::KEY_UNIT;
    if read(KEY_UNIT, 0) != KEY_UNIT_ID {
        return false;
    }
    // BAR 2 and 3 are the shared memory, BAR 0 has registers that nobody needs.
    write(KEY_UNIT, BAR2, UNIT.base as u32);
    write(KEY_UNIT, BAR3, 0);
    write(KEY_UNIT, BAR0, board::KEY_UNIT_REGISTERS as u32);
    write(KEY_UNIT, COMMAND, COMMAND_MEMORY);
    keys::reset(&KEYS);
    true
}

/// Writes the requester ids of the root ports of bus 0 to `ports`, and returns how many there are.
pub fn root_ports(ports: &mut [u16]) -> usize {
    const NO_FUNCTION: u32 = 0xffff_ffff;
    let mut count = 0;
    for rid in 0..256 {
        if read(rid, 0) != NO_FUNCTION
            && is_root_port(rid)
            && let Some(port) = ports.get_mut(count)
        {
            *port = rid;
            count += 1;
        }
    }
    count
}

fn is_root_port(rid: u16) -> bool {
    const BRIDGE: u32 = 1;
    /// A list longer than configuration space has a loop.
    const LONGEST: usize = 48;
    if read(rid, HEADER_TYPE) >> 16 & 0x7f != BRIDGE {
        return false;
    }
    let mut pointer = read(rid, CAPABILITIES) & 0xfc;
    for _ in 0..LONGEST {
        if pointer == 0 {
            return false;
        }
        let capability = read(rid, u64::from(pointer));
        if capability & 0xff == CAPABILITY_PCIE {
            return capability >> 20 & 0xf == PORT_TYPE_ROOT;
        }
        pointer = capability >> 8 & 0xfc;
    }
    false
}
