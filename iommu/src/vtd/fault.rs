// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Fault records (VT-d, fault recording registers).

use tsm_platform::StreamId;

/// Bit 63 of the upper word: there is a record. Writing it as one frees the register.
pub const RECORD_VALID: u64 = 1 << 63;

/// One refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// Whose request.
    pub stream: StreamId,
    /// Why, by the numbers of VT-d, chapter 7: 5 is a write and 6 a read that no entry allows.
    pub reason: u8,
    /// Whether it was a read.
    pub read: bool,
    /// The page that the device used.
    pub page: u64,
}

impl FaultRecord {
    /// Decodes the two 64-bit words of a record register, lower first; `None` if it is free.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Option<Self> {
        let [low, high] = words;
        if high & RECORD_VALID == 0 {
            return None;
        }
        let [s0, s1, _, _, reason, ..] = high.to_le_bytes();
        Some(Self {
            stream: StreamId(u16::from_le_bytes([s0, s1]) as u32),
            reason,
            read: high >> 62 & 1 == 1,
            page: low & !0xfff,
        })
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::StreamId;

    use super::{FaultRecord, RECORD_VALID};

    #[test]
    fn a_record_tells_who_why_and_where() {
        let words = [0x1000_0000, RECORD_VALID | 1 << 62 | 6 << 32 | 0x20];
        let record = FaultRecord::decode(words).unwrap();
        assert_eq!(record.stream, StreamId(0x20));
        assert!(record.read);
        assert_eq!((record.reason, record.page), (6, 0x1000_0000));
        let record = FaultRecord::decode([0, RECORD_VALID | 5 << 32]).unwrap();
        assert!(!record.read);
    }

    #[test]
    fn a_free_register_is_no_record() {
        assert_eq!(FaultRecord::decode([0x1000, 6 << 32 | 0x20]), None);
    }
}
