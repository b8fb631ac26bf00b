// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Key configuration unit: the IDE streams of root ports, their keys, and which packets take them.
//!
//! A 1 MiB window of little-endian 32-bit registers that only trusted firmware reaches: the monitor
//! where there is one, the TSM elsewhere. It has room for 256 streams of any root ports; a stream takes
//! an entry with its first register or key and leaves it with the last. The link's other half reads the
//! entries and reports the state of each stream.

use tsm_abi::el3::{
    STREAM_RANGES, STREAM_REGISTER_PAIR, STREAM_REGISTER_STREAM, StreamAssociation,
};
use zeroize::Zeroizing;

/// Bytes of the window that hold registers.
pub const SIZE: u32 = ENTRIES + ENTRY_COUNT * ENTRY_SIZE;

const MAGIC: (u32, u32) = (0x000, 0x5543_4b50);
const VERSION: (u32, u32) = (0x004, 2);
const COUNT: (u32, u32) = (0x008, ENTRY_COUNT);
const ENTRIES: u32 = 0x1000;
const ENTRY_COUNT: u32 = 256;
const ENTRY_SIZE: u32 = 0x800;

/// Owner of an entry: bits 15:0 the port, 23:16 the stream, bit 31 set while the entry is taken.
const OWNER: u32 = 0x00;
const IN_USE: u32 = 1 << 31;
/// Requester ids of the stream: a [`StreamAssociation`] in two words.
const ASSOCIATION: u32 = 0x10;
const SLOTS: u32 = 0x40;
const SLOT_SIZE: u32 = 0x40;
const SLOTS_A_STREAM: u32 = 12;
/// Address ranges of the stream, each of two addresses of two words.
const RANGES: u32 = 0x400;
const RANGE_SIZE: u32 = 16;
const RANGE_COUNT: u32 = 16;
const RANGES_END: u32 = RANGES + RANGE_COUNT * RANGE_SIZE;
const _: () = assert!(RANGE_COUNT as u64 == STREAM_RANGES);

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
    /// An argument names nothing, or is no value of what it names.
    Argument,
    /// The slot is not in the state that the operation needs, or there is no room for the stream.
    State,
}

/// One stream of one root port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    port: u16,
    id: u8,
}

impl Stream {
    /// Decodes root port and stream id.
    pub fn decode(port: u64, id: u64) -> Result<Self, KeyError> {
        Ok(Self {
            port: u16::try_from(port).map_err(|_| KeyError::Argument)?,
            id: u8::try_from(id).map_err(|_| KeyError::Argument)?,
        })
    }

    /// Decodes root port and stream register (`tsm_abi::el3::stream_register`), and returns the
    /// number of the register pair as well.
    pub fn decode_register(port: u64, register: u64) -> Result<(Self, u64), KeyError> {
        let named = STREAM_REGISTER_STREAM.mask() | STREAM_REGISTER_PAIR.mask();
        if register & !named != 0 {
            return Err(KeyError::Argument);
        }
        let stream = Self::decode(port, STREAM_REGISTER_STREAM.of(register))?;
        Ok((stream, STREAM_REGISTER_PAIR.of(register)))
    }

    fn owner(self) -> u32 {
        IN_USE | u32::from(self.id) << 16 | u32::from(self.port)
    }

    fn entry_with(unit: &impl Registers, owner: u32) -> Option<u32> {
        (0..ENTRY_COUNT)
            .map(|index| part(ENTRIES, index, ENTRY_SIZE))
            .find(|entry| unit.read(at(*entry, OWNER)) == owner)
    }

    /// Returns the offset of the stream's entry.
    fn find(self, unit: &impl Registers) -> Option<u32> {
        Self::entry_with(unit, self.owner())
    }

    /// Returns the offset of the stream's entry, which it takes if it has none.
    fn take(self, unit: &impl Registers) -> Result<u32, KeyError> {
        if let Some(entry) = self.find(unit) {
            return Ok(entry);
        }
        let entry = Self::entry_with(unit, 0).ok_or(KeyError::State)?;
        unit.write(at(entry, OWNER), self.owner());
        Ok(entry)
    }
}

/// Returns the offset `offset` behind `base`. Nothing here wraps: offsets are below [`SIZE`].
const fn at(base: u32, offset: u32) -> u32 {
    base.wrapping_add(offset)
}

/// Returns the offset of part `index` of those of `size` bytes that start at `base`.
const fn part(base: u32, index: u32, size: u32) -> u32 {
    at(base, index.wrapping_mul(size))
}

/// Returns the offset of the range of register pair `pair`, which is not 0.
const fn range(entry: u32, pair: u32) -> u32 {
    part(at(entry, RANGES), pair.wrapping_sub(1), RANGE_SIZE)
}

/// Frees the entry if the stream has neither a key nor a register.
fn settle(unit: &impl Registers, entry: u32) {
    let is_keyless = (0..SLOTS_A_STREAM)
        .all(|index| unit.read(at(part(at(entry, SLOTS), index, SLOT_SIZE), CONTROL)) == 0);
    let mut registers = (ASSOCIATION..ASSOCIATION + 8)
        .chain(RANGES..RANGES_END)
        .step_by(4);
    if is_keyless && registers.all(|offset| unit.read(at(entry, offset)) == 0) {
        // With what the other half reported of it.
        unit.zero(entry, at(entry, ASSOCIATION));
    }
}

fn read_wide(unit: &impl Registers, offset: u32) -> u64 {
    u64::from(unit.read(at(offset, 4))) << 32 | u64::from(unit.read(offset))
}

fn write_wide(unit: &impl Registers, offset: u32, value: u64) {
    let [a, b, c, d, high @ ..] = value.to_le_bytes();
    unit.write(offset, u32::from_le_bytes([a, b, c, d]));
    unit.write(at(offset, 4), u32::from_le_bytes(high));
}

/// Writes register pair `pair` of a stream: 0 is its association and zero, the others are ranges of
/// addresses, first and after the last, or zeros.
pub fn write_pair(
    unit: &impl Registers,
    stream: Stream,
    pair: u64,
    words: [u64; 2],
) -> Result<(), KeyError> {
    let [first, second] = words;
    let pair = u32::try_from(pair).map_err(|_| KeyError::Argument)?;
    let is_value = match pair {
        0 => StreamAssociation::from_word(first).is_some() && second == 0,
        1..=RANGE_COUNT => words == [0; 2] || first < second,
        _ => false,
    };
    if !is_value {
        return Err(KeyError::Argument);
    }
    let entry = stream.take(unit)?;
    if pair == 0 {
        write_wide(unit, at(entry, ASSOCIATION), first);
    } else {
        let range = range(entry, pair);
        write_wide(unit, range, first);
        write_wide(unit, at(range, 8), second);
        settle(unit, entry);
    }
    Ok(())
}

/// Reads register pair `pair` of a stream. All is zero of a stream that has no entry.
pub fn read_pair(unit: &impl Registers, stream: Stream, pair: u64) -> Result<[u64; 2], KeyError> {
    let pair = u32::try_from(pair).map_err(|_| KeyError::Argument)?;
    if pair > RANGE_COUNT {
        return Err(KeyError::Argument);
    }
    let Some(entry) = stream.find(unit) else {
        return Ok([0; 2]);
    };
    if pair == 0 {
        return Ok([read_wide(unit, at(entry, ASSOCIATION)), 0]);
    }
    let range = range(entry, pair);
    Ok([read_wide(unit, range), read_wide(unit, at(range, 8))])
}

/// Disables a stream and clears its registers. One that has none is clear already.
pub fn clear(unit: &impl Registers, stream: Stream) {
    if let Some(entry) = stream.find(unit) {
        unit.zero(at(entry, ASSOCIATION), at(entry, ASSOCIATION + 8));
        unit.zero(at(entry, RANGES), at(entry, RANGES_END));
        settle(unit, entry);
    }
}

/// One key slot of a root port, decoded from the stream information of the RMM-EL3 interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    stream: Stream,
    index: u32,
}

impl Slot {
    /// Decodes the root port and the stream information: stream id in bits 7:0, sub-stream in 10:8,
    /// direction in 11, key set in 12.
    pub fn decode(port: u64, info: u64) -> Result<Self, KeyError> {
        let [id, slot, rest @ ..] = info.to_le_bytes();
        let sub_stream = slot & 7;
        if rest != [0; 6] || slot >> 5 != 0 || sub_stream > 2 {
            return Err(KeyError::Argument);
        }
        let direction = slot >> 3 & 1;
        let key_set = slot >> 4;
        let stream = Stream::decode(port, id.into())?;
        // Neither part reaches into another's, and the whole is below `SLOTS_A_STREAM`.
        let index = key_set
            .wrapping_mul(6)
            .wrapping_add(sub_stream << 1 | direction);
        Ok(Self {
            stream,
            index: index.into(),
        })
    }

    const fn within(self, entry: u32) -> u32 {
        part(at(entry, SLOTS), self.index, SLOT_SIZE)
    }
}

/// Forgets every stream and names the unit's layout.
pub fn reset(unit: &impl Registers) {
    unit.zero(ENTRIES, SIZE);
    for (offset, value) in [COUNT, VERSION, MAGIC] {
        unit.write(offset, value);
    }
}

/// Returns `key` as the words that [`program`] takes. They are erased when they are dropped.
#[must_use]
pub fn key_words(key: &[u8; 32]) -> Zeroizing<[u64; 4]> {
    let mut words = Zeroizing::new([0; 4]);
    for (word, bytes) in words.iter_mut().rev().zip(key.as_chunks::<8>().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    words
}

/// Programs a slot. `key` is bits 63:0 to 255:192 of the key and `iv` bits 63:0 and 95:64 of the
/// invocation field, as the RMM-EL3 interface numbers them: bits 255:224 of the key are its first
/// four bytes in AES order. The slot must not be in use.
pub fn program(
    unit: &impl Registers,
    slot: Slot,
    key: &[u64; 4],
    iv: [u64; 2],
) -> Result<(), KeyError> {
    // The invocation field of IDE is 64 bits; the fixed field above it is zero.
    if iv[1] != 0 {
        return Err(KeyError::Argument);
    }
    let base = slot.within(slot.stream.take(unit)?);
    if unit.read(at(base, CONTROL)) & GO != 0 {
        return Err(KeyError::State);
    }
    let mut offset = base;
    for word in key.iter().chain([&iv[0]]) {
        write_wide(unit, offset, *word);
        offset = at(offset, 8);
    }
    unit.write(at(base, CONTROL), PROGRAMMED);
    Ok(())
}

/// Starts using the key of a slot. It must be programmed; going twice is not an error.
pub fn go(unit: &impl Registers, slot: Slot) -> Result<(), KeyError> {
    let base = slot.within(slot.stream.find(unit).ok_or(KeyError::State)?);
    let control = unit.read(at(base, CONTROL));
    if control & PROGRAMMED == 0 {
        return Err(KeyError::State);
    }
    unit.write(at(base, CONTROL), control | GO);
    Ok(())
}

/// Stops using a slot and forgets its key. Stopping an empty slot is not an error.
pub fn stop(unit: &impl Registers, slot: Slot) {
    let Some(entry) = slot.stream.find(unit) else {
        return;
    };
    let base = slot.within(entry);
    // First the control register, so that no half of a key is ever used.
    unit.write(at(base, CONTROL), 0);
    unit.zero(base, at(base, IFV + 8));
    settle(unit, entry);
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
