// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A host access to configuration space on its way to the TSM and back.

use crate::decode::{Direction, Transfer};

/// Widest access that the TSM performs at once, in bytes.
const WIDEST: u8 = 4;

/// A host access that R-EL2 performs piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mediation {
    transfer: Transfer,
    rid: u16,
    offset: u16,
    /// Bytes already performed.
    done: u8,
    /// What a store writes, or what a load has brought so far.
    value: u64,
}

impl Mediation {
    /// Starts an access at `offset` in the configuration window, storing `value` if it stores.
    ///
    /// Returns none if it is not naturally aligned: such an access is not one of PCI.
    #[must_use]
    pub fn new(transfer: Transfer, offset: u64, value: u64) -> Option<Self> {
        if !offset.is_multiple_of(u64::from(transfer.bytes)) {
            return None;
        }
        let rid = u16::try_from(offset >> 12).ok()?;
        let offset = (offset & 0xfff) as u16;
        let value = if transfer.direction == Direction::Store {
            value
        } else {
            0
        };
        Some(Self {
            transfer,
            rid,
            offset,
            done: 0,
            value,
        })
    }

    /// Returns the instruction that caused the access.
    #[must_use]
    pub const fn transfer(&self) -> Transfer {
        self.transfer
    }

    /// Returns x1 to x3 of PORTCULLIS_CONFIG_ACCESS for the next piece, none when all is done.
    #[must_use]
    pub fn next(&self) -> Option<[u64; 3]> {
        if self.done >= self.transfer.bytes {
            return None;
        }
        let width = self.width();
        let store = self.transfer.direction == Direction::Store;
        let piece = self.value.wrapping_shr(bits(self.done)) & ones(width);
        let offset = u64::from(self.offset) + u64::from(self.done);
        let place = offset | (u64::from(width) << 16) | (u64::from(store) << 24);
        Some([u64::from(self.rid), place, if store { piece } else { 0 }])
    }

    /// Takes the answer to the piece that [`Self::next`] named. A piece that was refused reads as
    /// all ones and writes nothing, as an absent function does.
    pub fn answer(&mut self, status: u64, value: u64) {
        let width = self.width();
        if self.transfer.direction != Direction::Store {
            let value = if status == 0 { value } else { u64::MAX };
            self.value |= (value & ones(width)).wrapping_shl(bits(self.done));
        }
        self.done = self.done.saturating_add(width);
    }

    /// Returns what a load has brought, or what a store wrote.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.value
    }

    fn width(&self) -> u8 {
        self.transfer.bytes.min(WIDEST)
    }
}

const fn bits(bytes: u8) -> u32 {
    8 * bytes as u32
}

/// Returns the lowest 1 to 8 `bytes` bytes set.
const fn ones(bytes: u8) -> u64 {
    u64::MAX.wrapping_shr(64_u32.wrapping_sub(bits(bytes)))
}

#[cfg(test)]
mod tests {
    use super::Mediation;
    use crate::decode::decode;

    const LDR_W: u32 = 0xb940_0020;
    const LDR_X: u32 = 0xf940_0020;
    const LDRSH_X: u32 = 0x7980_0020;
    const STR_X: u32 = 0xf900_0020;
    const STRB: u32 = 0x3900_0020;

    fn access(word: u32, offset: u64, value: u64) -> Option<Mediation> {
        Mediation::new(decode(word).unwrap(), offset, value)
    }

    #[test]
    fn a_load_names_function_offset_and_width() {
        let mut load = access(LDR_W, 0x8_3010, 0x55).unwrap();
        assert_eq!(load.next(), Some([0x83, 0x010 | 4 << 16, 0]));
        load.answer(0, 0x1234_5678_9abc_def0);
        assert_eq!(load.next(), None);
        assert_eq!(load.value(), 0x9abc_def0);
    }

    #[test]
    fn eight_bytes_are_two_accesses() {
        let mut load = access(LDR_X, 0x1_0008, 0).unwrap();
        assert_eq!(load.next(), Some([0x10, 0x008 | 4 << 16, 0]));
        load.answer(0, 0x1111_1111);
        assert_eq!(load.next(), Some([0x10, 0x00c | 4 << 16, 0]));
        load.answer(0, 0x2222_2222);
        assert_eq!(load.value(), 0x2222_2222_1111_1111);

        let mut store = access(STR_X, 0x1_0008, 0x2222_2222_1111_1111).unwrap();
        assert_eq!(
            store.next(),
            Some([0x10, 0x008 | 4 << 16 | 1 << 24, 0x1111_1111])
        );
        store.answer(0, 0);
        assert_eq!(
            store.next(),
            Some([0x10, 0x00c | 4 << 16 | 1 << 24, 0x2222_2222])
        );
        store.answer(0, 0);
        assert_eq!(store.next(), None);
    }

    #[test]
    fn a_store_carries_only_its_bytes() {
        let store = access(STRB, 0xfff, 0xffff_ff42).unwrap();
        assert_eq!(store.next(), Some([0, 0xfff | 1 << 16 | 1 << 24, 0x42]));
    }

    #[test]
    fn a_refused_load_reads_all_ones() {
        let mut load = access(LDRSH_X, 0x2, 0).unwrap();
        load.answer(5, 0x7fff);
        assert_eq!(load.value(), 0xffff);
        let mut load = access(LDRSH_X, 0x2, 0).unwrap();
        load.answer(0, 0x7fff);
        assert_eq!(load.value(), 0x7fff);
    }

    #[test]
    fn a_misaligned_or_distant_access_is_not_one() {
        assert_eq!(access(LDR_W, 2, 0), None);
        assert_eq!(access(LDR_X, 4, 0), None);
        assert!(access(LDR_W, 0x0fff_fffc, 0).is_some());
        assert_eq!(access(LDR_W, 0x1000_0000, 0), None);
    }
}
