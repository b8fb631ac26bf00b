// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that an IOMMU refused, until the host asks for them.

use heapless::Deque;
use tsm_platform::{IommuFault, StreamId};

/// Records that are kept.
const RECORDS: usize = 32;
/// Streams that can be told apart: those of PCI buses 0 to 15.
const STREAMS: usize = 4096;

/// The records. Of a stream that a guest has they tell no address: which addresses a guest uses is
/// nothing that the host may learn.
#[derive(Debug)]
pub struct FaultLog {
    records: Deque<IommuFault, RECORDS>,
    lost: u32,
    of_guests: [u64; STREAMS / 64],
}

impl Default for FaultLog {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultLog {
    /// Starts empty, all streams being the host's.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            records: Deque::new(),
            lost: 0,
            of_guests: [0; STREAMS / 64],
        }
    }

    fn bit(stream: StreamId) -> Option<(usize, u64)> {
        let word = usize::try_from(stream.0 >> 6).ok()?;
        Some((word, 1 << (stream.0 & 63)))
    }

    /// Says whether a guest has `stream` from now on. To be called before the guest's tables are in
    /// use, and after all records of them were added.
    pub fn set_of_guest(&mut self, stream: StreamId, of_guest: bool) {
        let place =
            Self::bit(stream).and_then(|(word, bit)| Some((self.of_guests.get_mut(word)?, bit)));
        if let Some((word, bit)) = place {
            if of_guest {
                *word |= bit;
            } else {
                *word &= !bit;
            }
        }
    }

    /// Returns whether a guest has `stream`. What is not tracked is no one's.
    fn is_of_guest(&self, stream: StreamId) -> bool {
        Self::bit(stream)
            .and_then(|(word, bit)| Some(self.of_guests.get(word)? & bit != 0))
            .unwrap_or(false)
    }

    /// Adds a refused request. One that differs from an older one in nothing that the host may
    /// learn is counted there.
    pub fn add(&mut self, stream: StreamId, write: bool, page: u64) {
        let of_guest = self.is_of_guest(stream);
        let mut fault = IommuFault {
            stream,
            of_guest,
            write: write && !of_guest,
            page: if of_guest { 0 } else { page & !0xfff },
            count: 1,
            lost: 0,
        };
        let same = self.records.iter_mut().find(|record| {
            fault.count = record.count;
            fault.lost = record.lost;
            **record == fault
        });
        if let Some(record) = same {
            record.count = record.count.saturating_add(1);
            return;
        }
        (fault.count, fault.lost) = (1, 0);
        if self.records.push_back(fault).is_err() {
            self.lose(1);
        }
    }

    /// Counts requests of which no record was kept.
    pub const fn lose(&mut self, count: u32) {
        self.lost = self.lost.saturating_add(count);
    }

    /// Takes the oldest record.
    pub fn take(&mut self) -> Option<IommuFault> {
        let mut fault = self.records.pop_front()?;
        fault.lost = core::mem::take(&mut self.lost);
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{IommuFault, StreamId};

    use super::{FaultLog, RECORDS};

    const STREAM: StreamId = StreamId(0x20);

    fn fault(write: bool, page: u64, count: u32) -> IommuFault {
        IommuFault {
            stream: STREAM,
            of_guest: false,
            write,
            page,
            count,
            lost: 0,
        }
    }

    #[test]
    fn equal_requests_are_counted_and_others_kept_in_order() {
        let mut log = FaultLog::new();
        log.add(STREAM, true, 0x1008);
        log.add(STREAM, false, 0x1000);
        log.add(STREAM, true, 0x1000);
        assert_eq!(log.take(), Some(fault(true, 0x1000, 2)));
        assert_eq!(log.take(), Some(fault(false, 0x1000, 1)));
        assert_eq!(log.take(), None);
    }

    #[test]
    fn of_a_guests_stream_only_the_number_is_told() {
        let mut log = FaultLog::new();
        log.set_of_guest(STREAM, true);
        log.add(STREAM, true, 0x1000);
        log.add(STREAM, false, 0x7000);
        let expected = IommuFault {
            of_guest: true,
            ..fault(false, 0, 2)
        };
        assert_eq!(log.take(), Some(expected));
        log.add(StreamId(0x21), true, 0x2000);
        assert_eq!(log.take().map(|fault| fault.page), Some(0x2000));
        log.set_of_guest(STREAM, false);
        log.add(STREAM, true, 0x3000);
        assert_eq!(log.take(), Some(fault(true, 0x3000, 1)));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut log = FaultLog::new();
        for page in 0..RECORDS as u64 + 3 {
            log.add(STREAM, true, page << 12);
        }
        log.lose(2);
        assert_eq!(log.take().map(|fault| fault.lost), Some(5));
        assert_eq!(log.take().map(|fault| fault.lost), Some(0));
        let left = core::iter::from_fn(|| log.take()).count();
        assert_eq!(left, RECORDS - 2);
    }

    #[test]
    fn a_stream_that_is_not_tracked_is_recorded_too() {
        let mut log = FaultLog::new();
        let far = StreamId(u32::MAX);
        log.set_of_guest(far, true);
        log.add(far, true, 0x1000);
        assert_eq!(log.take().map(|fault| fault.stream), Some(far));
    }
}
