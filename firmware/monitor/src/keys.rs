// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Key configuration unit: where the keys of a root port's IDE streams go.
//!
//! A 1 MiB window of little-endian 32-bit registers that only the monitor reaches. The link's other
//! half reads the slots and reports the state of each stream.

/// Bytes of the window that hold registers.
pub const SIZE: u32 = STREAMS + 256 * STREAM_SIZE;

const MAGIC: (u32, u32) = (0x000, 0x5543_4b50);
const VERSION: (u32, u32) = (0x004, 1);
const STREAM_COUNT: (u32, u32) = (0x008, 256);
const STREAMS: u32 = 0x1000;
const STREAM_SIZE: u32 = 0x400;
const SLOTS: u32 = 0x40;
const SLOT_SIZE: u32 = 0x40;
const SLOTS_A_STREAM: u32 = 12;

/// Root port register of a stream: bits 15:0 the port, bit 31 set while a key is programmed.
const PORT: u32 = 0x00;
const IN_USE: u32 = 1 << 31;
/// Initial invocation field of a slot.
const IFV: u32 = 0x20;
/// Control register of a slot.
const CONTROL: u32 = 0x28;
const PROGRAMMED: u32 = 1;
const GO: u32 = 2;

/// Registers of the unit. Offsets are below [`SIZE`] and multiples of four.
pub trait Registers {
    /// Reads one register.
    fn read(&self, offset: u32) -> u32;
    /// Writes one register. Writes arrive in order.
    fn write(&self, offset: u32, value: u32);
    /// Zeroes the registers from `first` to before `end`, both multiples of eight.
    fn zero(&self, first: u32, end: u32);
}

/// Why the unit did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// An argument names no slot.
    Argument,
    /// The slot is not in the state that the operation needs.
    State,
}

/// One key slot of a root port, decoded from the stream information of the RMM-EL3 interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    port: u16,
    stream: u8,
    index: u32,
}

impl Slot {
    /// Decodes the root port and the stream information: stream id in bits 7:0, sub-stream in 10:8,
    /// direction in 11, key set in 12.
    pub const fn decode(port: u64, info: u64) -> Result<Self, KeyError> {
        let sub_stream = info >> 8 & 7;
        if port > 0xffff || info >> 13 != 0 || sub_stream > 2 {
            return Err(KeyError::Argument);
        }
        let direction = info >> 11 & 1;
        let key_set = info >> 12 & 1;
        let index = (key_set * 6 + sub_stream * 2 + direction) as u32;
        Ok(Self {
            port: port as u16,
            stream: info as u8,
            index,
        })
    }

    const fn stream_base(self) -> u32 {
        STREAMS + self.stream as u32 * STREAM_SIZE
    }

    /// Returns where the slots of the stream are. Nothing here wraps: 256 streams of a page each.
    const fn slots(self) -> u32 {
        self.stream_base().wrapping_add(SLOTS)
    }

    const fn base(self) -> u32 {
        let slot = self.index.wrapping_mul(SLOT_SIZE);
        self.slots().wrapping_add(slot)
    }

    const fn control(self) -> u32 {
        self.base().wrapping_add(CONTROL)
    }

    /// Checks that the stream is free or this port's.
    fn check_port(self, unit: &impl Registers) -> Result<(), KeyError> {
        let owner = unit.read(self.stream_base() + PORT);
        if owner & IN_USE != 0 && owner & 0xffff != u32::from(self.port) {
            return Err(KeyError::State);
        }
        Ok(())
    }
}

/// Forgets every key and names the unit's layout.
pub fn reset(unit: &impl Registers) {
    unit.zero(STREAMS, SIZE);
    for (offset, value) in [STREAM_COUNT, VERSION, MAGIC] {
        unit.write(offset, value);
    }
}

/// Programs a slot. `key` is bits 63:0 to 255:192 of the key and `iv` bits 63:0 and 95:64 of the
/// invocation field, as the RMM-EL3 interface numbers them: bits 255:224 of the key are its first
/// four bytes in AES order. The slot must not be in use.
pub fn program(
    unit: &impl Registers,
    slot: Slot,
    key: [u64; 4],
    iv: [u64; 2],
) -> Result<(), KeyError> {
    // The invocation field of IDE is 64 bits; the fixed field above it is zero.
    if iv[1] != 0 {
        return Err(KeyError::Argument);
    }
    slot.check_port(unit)?;
    if unit.read(slot.control()) & GO != 0 {
        return Err(KeyError::State);
    }
    unit.write(slot.stream_base() + PORT, IN_USE | u32::from(slot.port));
    let mut offset = slot.base();
    for word in key.into_iter().chain([iv[0]]) {
        unit.write(offset, word as u32);
        unit.write(offset.wrapping_add(4), (word >> 32) as u32);
        offset = offset.wrapping_add(8);
    }
    unit.write(slot.control(), PROGRAMMED);
    Ok(())
}

/// Starts using the key of a slot. It must be programmed; going twice is not an error.
pub fn go(unit: &impl Registers, slot: Slot) -> Result<(), KeyError> {
    slot.check_port(unit)?;
    let control = unit.read(slot.control());
    if control & PROGRAMMED == 0 {
        return Err(KeyError::State);
    }
    unit.write(slot.control(), control | GO);
    Ok(())
}

/// Stops using a slot and forgets its key. Stopping an empty slot is not an error.
pub fn stop(unit: &impl Registers, slot: Slot) -> Result<(), KeyError> {
    slot.check_port(unit)?;
    // First the control register, so that no half of a key is ever used.
    unit.write(slot.control(), 0);
    unit.zero(slot.base(), slot.base().wrapping_add(IFV + 8));
    let mut slots = (0..SLOTS_A_STREAM).map(|index| Slot { index, ..slot });
    if slots.all(|slot| unit.read(slot.control()) == 0) {
        unit.write(slot.stream_base() + PORT, 0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{KeyError, Registers, SIZE, Slot, go, program, reset, stop};
    use std::{cell::RefCell, vec, vec::Vec};

    struct Unit(RefCell<Vec<u32>>);

    impl Registers for Unit {
        fn read(&self, offset: u32) -> u32 {
            self.0.borrow()[offset as usize / 4]
        }
        fn write(&self, offset: u32, value: u32) {
            self.0.borrow_mut()[offset as usize / 4] = value;
        }
        fn zero(&self, first: u32, end: u32) {
            self.0.borrow_mut()[first as usize / 4..end as usize / 4].fill(0);
        }
    }

    fn unit() -> Unit {
        let unit = Unit(RefCell::new(vec![0xdead_beef; SIZE as usize / 4]));
        reset(&unit);
        unit
    }

    const PORT: u64 = 0x10;
    /// Stream 3, completions, transmit, key set 1.
    const INFO: u64 = 3 | 2 << 8 | 1 << 11 | 1 << 12;
    const STREAM: u32 = 0x1000 + 3 * 0x400;
    const SLOT: u32 = STREAM + 0x40 + (6 + 4 + 1) * 0x40;

    /// The key whose bytes in AES order are 0, 1, 2, ... 31.
    const COUNTING: [u64; 4] = [
        0x1819_1a1b_1c1d_1e1f,
        0x1011_1213_1415_1617,
        0x0809_0a0b_0c0d_0e0f,
        0x0001_0203_0405_0607,
    ];

    #[test]
    fn reset_forgets_all_and_names_the_layout() {
        let unit = unit();
        assert_eq!(
            [unit.read(0), unit.read(4), unit.read(8)],
            [0x5543_4b50, 1, 256]
        );
        assert_eq!(
            unit.read(0xc),
            0xdead_beef,
            "the counter is not the monitor's"
        );
        assert!(
            (0x1000..SIZE)
                .step_by(4)
                .all(|offset| unit.read(offset) == 0)
        );
    }

    #[test]
    fn a_key_lands_with_its_first_bytes_in_the_last_word() {
        let unit = unit();
        let slot = Slot::decode(PORT, INFO).unwrap();
        program(&unit, slot, COUNTING, [0x1_0000_0002, 0]).unwrap();
        assert_eq!(unit.read(STREAM), 0x8000_0010);
        assert_eq!(unit.read(SLOT + 0x1c), 0x0001_0203);
        assert_eq!(unit.read(SLOT), 0x1c1d_1e1f);
        assert_eq!([unit.read(SLOT + 0x20), unit.read(SLOT + 0x24)], [2, 1]);
        assert_eq!(unit.read(SLOT + 0x28), 1);
        go(&unit, slot).unwrap();
        assert_eq!(unit.read(SLOT + 0x28), 3);
    }

    #[test]
    fn a_key_in_use_is_not_replaced() {
        let unit = unit();
        let slot = Slot::decode(PORT, INFO).unwrap();
        assert_eq!(go(&unit, slot), Err(KeyError::State));
        program(&unit, slot, COUNTING, [1, 0]).unwrap();
        go(&unit, slot).unwrap();
        assert_eq!(program(&unit, slot, [0; 4], [1, 0]), Err(KeyError::State));
        assert_eq!(unit.read(SLOT + 0x1c), 0x0001_0203);
    }

    #[test]
    fn stop_forgets_the_key_and_the_last_one_frees_the_stream() {
        let unit = unit();
        let one = Slot::decode(PORT, INFO).unwrap();
        let other = Slot::decode(PORT, 3).unwrap();
        for slot in [one, other] {
            program(&unit, slot, COUNTING, [1, 0]).unwrap();
            go(&unit, slot).unwrap();
        }
        stop(&unit, one).unwrap();
        assert!(
            (SLOT..SLOT + 0x40)
                .step_by(4)
                .all(|offset| unit.read(offset) == 0)
        );
        assert_eq!(unit.read(STREAM), 0x8000_0010);
        stop(&unit, other).unwrap();
        stop(&unit, other).unwrap();
        assert_eq!(unit.read(STREAM), 0);
    }

    #[test]
    fn a_stream_belongs_to_one_port() {
        let unit = unit();
        let slot = Slot::decode(PORT, INFO).unwrap();
        program(&unit, slot, COUNTING, [1, 0]).unwrap();
        let thief = Slot::decode(0x18, INFO).unwrap();
        assert_eq!(program(&unit, thief, [0; 4], [1, 0]), Err(KeyError::State));
        assert_eq!(go(&unit, thief), Err(KeyError::State));
        assert_eq!(stop(&unit, thief), Err(KeyError::State));
        assert_eq!(unit.read(SLOT + 0x28), 1);
    }

    #[test]
    fn an_argument_that_names_no_slot_is_refused() {
        assert_eq!(Slot::decode(0x1_0000, 0), Err(KeyError::Argument));
        assert_eq!(Slot::decode(PORT, 3 << 8), Err(KeyError::Argument));
        assert_eq!(Slot::decode(PORT, 1 << 13), Err(KeyError::Argument));
        let slot = Slot::decode(PORT, INFO).unwrap();
        assert_eq!(
            program(&unit(), slot, COUNTING, [1, 1]),
            Err(KeyError::Argument)
        );
    }
}
