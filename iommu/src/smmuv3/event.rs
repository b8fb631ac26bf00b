// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Event records (IHI 0070, 7.3).

use tsm_platform::{Ipa, StreamId};

/// Size of a record in bytes.
pub const EVENT_BYTES: usize = 32;

/// Why a transaction was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The stream id is outside the table.
    UnknownStream,
    /// The stream's entry could not be read, is not valid or makes no sense.
    StreamEntry,
    /// A table could not be read.
    WalkAbort,
    /// Nothing is mapped at the address.
    Translation,
    /// The address is too wide.
    AddressSize,
    /// The mapping forbids the access.
    Permission,
    /// Any other record, by its number.
    Other(u8),
}

/// One refused transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Why.
    pub kind: EventKind,
    /// Whose transaction.
    pub stream: StreamId,
    /// Whether it was a read. Counts for faults on addresses only.
    pub read: bool,
    /// Whether stage 2 refused it. Counts for faults on addresses only.
    pub stage_2: bool,
    /// The address that the device used.
    pub input: u64,
    /// The address that stage 2 refused, to a granule.
    pub ipa: Ipa,
}

impl Event {
    /// Decodes a record of four 64-bit words, lowest first.
    #[must_use]
    pub const fn decode(words: [u64; 4]) -> Self {
        let [head, flags, input, ipa] = words;
        let [kind, _, _, _, s0, s1, s2, s3] = head.to_le_bytes();
        let kind = match kind {
            0x02 => EventKind::UnknownStream,
            0x03 | 0x04 => EventKind::StreamEntry,
            0x0b => EventKind::WalkAbort,
            0x10 => EventKind::Translation,
            0x11 => EventKind::AddressSize,
            0x13 => EventKind::Permission,
            other => EventKind::Other(other),
        };
        Self {
            kind,
            stream: StreamId(u32::from_le_bytes([s0, s1, s2, s3])),
            read: flags >> 35 & 1 == 1,
            stage_2: flags >> 39 & 1 == 1,
            input,
            ipa: Ipa(ipa & 0x000f_ffff_ffff_f000),
        }
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Ipa, StreamId};

    use super::{Event, EventKind};

    #[test]
    fn a_translation_fault_tells_who_and_where() {
        let words = [
            0x100 << 32 | 0x10,
            1 << 39 | 1 << 35,
            0x4321_0040,
            0x4321_0000,
        ];
        let event = Event::decode(words);
        assert_eq!(event.kind, EventKind::Translation);
        assert_eq!(event.stream, StreamId(0x100));
        assert!(event.read && event.stage_2);
        assert_eq!((event.input, event.ipa), (0x4321_0040, Ipa(0x4321_0000)));
    }

    #[test]
    fn every_kind_is_told_apart() {
        let kind = |number| Event::decode([number, 0, 0, 0]).kind;
        assert_eq!(kind(0x02), EventKind::UnknownStream);
        assert_eq!(kind(0x04), EventKind::StreamEntry);
        assert_eq!(kind(0x13), EventKind::Permission);
        assert_eq!(kind(0xe0), EventKind::Other(0xe0));
    }
}
