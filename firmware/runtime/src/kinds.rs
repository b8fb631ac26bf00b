// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What each granule holds at this moment, as far as memory safety is concerned.
//!
//! One byte for each granule: the kind in bits 2:0 and the number of shared users in bits 7:3.
//! Nothing else decides whether memory may be touched, so the core can be wrong without two
//! references ever meeting.

use core::sync::atomic::{AtomicU8, Ordering};

use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, MemoryError};

const KIND: u8 = 0b111;
const USER: u8 = 0b1000;

/// What a granule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Not the TSM's.
    Absent = 0,
    /// Bytes.
    Raw = 1,
    /// A value of some type.
    Object = 2,
    /// A translation table.
    Table = 3,
    /// In the hands of one caller, who alone may touch it.
    Exclusive = 4,
    /// A granule of a device: the TSM owns it but never touches it.
    Device = 5,
}

/// The granules of one range.
#[derive(Clone, Copy)]
pub struct Span {
    range: GranuleRange,
    bytes: &'static [AtomicU8],
    device: bool,
}

impl Span {
    /// Describes `range`, tracked by `bytes`, all zero, one for each granule.
    pub fn new(range: GranuleRange, bytes: &'static [AtomicU8], device: bool) -> Option<Self> {
        (bytes.len() as u64 == range.count()).then_some(Self {
            range,
            bytes,
            device,
        })
    }

    /// Returns whether devices answer there.
    pub const fn is_device(&self) -> bool {
        self.device
    }
}

/// The kinds of all granules.
pub struct Kinds {
    spans: &'static [Span],
}

/// A shared use of a granule, which keeps its kind while it lives.
pub struct Shared {
    byte: &'static AtomicU8,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.byte.fetch_sub(USER, Ordering::Release);
    }
}

/// The only use of a granule. What it becomes afterwards is said by [`Exclusive::become_kind`]; if
/// that is not called it stays out of use for ever.
#[must_use]
pub struct Exclusive {
    byte: &'static AtomicU8,
}

impl Exclusive {
    /// Ends the use; the granule is `kind` from now on.
    pub fn become_kind(self, kind: Kind) {
        self.byte.store(kind as u8, Ordering::Release);
    }
}

/// The only use of a range, as [`Exclusive`] is of one granule.
#[must_use]
pub struct ExclusiveRange {
    bytes: &'static [AtomicU8],
}

impl ExclusiveRange {
    /// Ends the use; every granule is `kind` from now on.
    pub fn become_kind(self, kind: Kind) {
        for byte in self.bytes {
            byte.store(kind as u8, Ordering::Release);
        }
    }
}

impl Kinds {
    /// Makes the table.
    pub const fn new(spans: &'static [Span]) -> Self {
        Self { spans }
    }

    #[inline(always)]
    fn byte(&self, granule: Granule) -> Result<&'static AtomicU8, MemoryError> {
        let address = granule.address();
        let span = self
            .spans
            .iter()
            .find(|span| span.range.contains(address))
            .ok_or(MemoryError::NotOwned)?;
        let index = ((address - span.range.base()) / GRANULE_SIZE) as usize;
        span.bytes.get(index).ok_or(MemoryError::NotOwned)
    }

    /// Returns the span that holds the whole of `range`.
    pub fn span(&self, range: GranuleRange) -> Option<&Span> {
        self.spans
            .iter()
            .find(|span| span.range.base() <= range.base() && range.top() <= span.range.top())
    }

    /// Uses a granule of `kind` together with others.
    #[inline(always)]
    pub fn share(&self, granule: Granule, kind: Kind) -> Result<Shared, MemoryError> {
        share_byte(self.byte(granule)?, kind)
    }

    /// Uses the granules of `range` one after the other, as [`Self::share`] does each.
    pub fn share_each(
        &self,
        range: GranuleRange,
        kind: Kind,
    ) -> Result<impl Iterator<Item = Result<Shared, MemoryError>>, MemoryError> {
        let bytes = self.bytes(range)?.iter();
        Ok(bytes.map(move |byte| share_byte(byte, kind)))
    }

    /// Uses a granule of `kind` alone.
    pub fn claim(&self, granule: Granule, kind: Kind) -> Result<Exclusive, MemoryError> {
        let byte = self.byte(granule)?;
        match byte.compare_exchange(
            kind as u8,
            Kind::Exclusive as u8,
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            Ok(_) => Ok(Exclusive { byte }),
            Err(value) => {
                judge(value, kind)?;
                Err(MemoryError::InUse)
            }
        }
    }

    /// Uses every granule of `range` alone, or none of them. All must be of `kind`.
    pub fn claim_range(
        &self,
        range: GranuleRange,
        kind: Kind,
    ) -> Result<ExclusiveRange, MemoryError> {
        let bytes = self.bytes(range)?;
        for (index, byte) in (0..bytes.len()).zip(bytes) {
            let outcome = byte.compare_exchange(
                kind as u8,
                Kind::Exclusive as u8,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if let Err(value) = outcome {
                for undo in bytes.iter().take(index) {
                    undo.store(kind as u8, Ordering::Release);
                }
                judge(value, kind)?;
                return Err(MemoryError::InUse);
            }
        }
        Ok(ExclusiveRange { bytes })
    }

    fn bytes(&self, range: GranuleRange) -> Result<&'static [AtomicU8], MemoryError> {
        let span = self.span(range).ok_or(MemoryError::NotOwned)?;
        let first = ((range.base() - span.range.base()) / GRANULE_SIZE) as usize;
        let count = range.count() as usize;
        span.bytes
            .get(first..first + count)
            .ok_or(MemoryError::NotOwned)
    }
}

fn share_byte(byte: &'static AtomicU8, kind: Kind) -> Result<Shared, MemoryError> {
    let mut value = byte.load(Ordering::Relaxed);
    loop {
        judge(value, kind)?;
        let more = value.checked_add(USER).ok_or(MemoryError::InUse)?;
        match byte.compare_exchange_weak(value, more, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Ok(Shared { byte }),
            Err(other) => value = other,
        }
    }
}

/// Says what is wrong with a granule whose byte is `value` for someone who wants `kind`.
fn judge(value: u8, kind: Kind) -> Result<(), MemoryError> {
    let found = value & KIND;
    if found == kind as u8 {
        Ok(())
    } else if found == Kind::Absent as u8 || found == Kind::Device as u8 {
        Err(MemoryError::NotOwned)
    } else if found == Kind::Exclusive as u8 {
        Err(MemoryError::InUse)
    } else {
        Err(MemoryError::WrongKind)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Kind, Kinds, Span};
    use std::sync::atomic::AtomicU8;
    use tsm_platform::{Granule, GranuleRange, MemoryError};

    /// Makes a table of `count` granules from `base` on.
    pub(crate) fn kinds(base: u64, count: usize) -> Kinds {
        let bytes: Vec<AtomicU8> = (0..count).map(|_| AtomicU8::new(0)).collect();
        let range = GranuleRange::new(base, base + count as u64 * 4096).unwrap();
        let span = Span::new(range, Vec::leak(bytes), false).unwrap();
        Kinds::new(Vec::leak(vec![span]))
    }

    /// Makes `range` raw.
    pub(crate) fn take(kinds: &Kinds, range: GranuleRange) {
        let range = kinds.claim_range(range, Kind::Absent).unwrap();
        range.become_kind(Kind::Raw);
    }

    fn granule(address: u64) -> Granule {
        Granule::new(address).unwrap()
    }

    #[test]
    fn a_granule_that_was_not_taken_is_not_owned() {
        let kinds = kinds(0x1000, 2);
        for address in [0, 0x1000, 0x3000] {
            let outcome = kinds.share(granule(address), Kind::Raw);
            assert_eq!(outcome.err(), Some(MemoryError::NotOwned));
        }
    }

    #[test]
    fn one_user_alone_or_many_together() {
        let kinds = kinds(0x1000, 2);
        let range = GranuleRange::new(0x1000, 0x3000).unwrap();
        take(&kinds, range);
        let first = kinds.share(granule(0x1000), Kind::Raw).unwrap();
        let second = kinds.share(granule(0x1000), Kind::Raw).unwrap();
        let outcome = kinds.claim(granule(0x1000), Kind::Raw);
        assert_eq!(outcome.err(), Some(MemoryError::InUse));
        drop((first, second));
        let alone = kinds.claim(granule(0x1000), Kind::Raw).unwrap();
        let outcome = kinds.share(granule(0x1000), Kind::Raw);
        assert_eq!(outcome.err(), Some(MemoryError::InUse));
        alone.become_kind(Kind::Table);
        let outcome = kinds.share(granule(0x1000), Kind::Raw);
        assert_eq!(outcome.err(), Some(MemoryError::WrongKind));
    }

    #[test]
    fn a_granule_that_is_read_as_the_hosts_cannot_be_taken() {
        let kinds = kinds(0x1000, 2);
        let range = GranuleRange::new(0x1000, 0x3000).unwrap();
        let host = kinds.share(granule(0x2000), Kind::Absent).unwrap();
        let outcome = kinds.claim_range(range, Kind::Absent).err();
        assert_eq!(outcome, Some(MemoryError::InUse));
        drop(host);
        take(&kinds, range);
        let outcome = kinds.share(granule(0x2000), Kind::Absent);
        assert!(outcome.is_err());
    }

    #[test]
    fn shared_users_are_counted_to_the_limit() {
        let kinds = kinds(0x1000, 1);
        let range = GranuleRange::new(0x1000, 0x2000).unwrap();
        take(&kinds, range);
        let users: Vec<_> = (0..31)
            .map(|_| kinds.share(granule(0x1000), Kind::Raw).unwrap())
            .collect();
        let outcome = kinds.share(granule(0x1000), Kind::Raw);
        assert_eq!(outcome.err(), Some(MemoryError::InUse));
        drop(users);
        assert!(kinds.claim(granule(0x1000), Kind::Raw).is_ok());
    }

    #[test]
    fn a_range_changes_as_a_whole_or_not_at_all() {
        let kinds = kinds(0x1000, 3);
        let middle = GranuleRange::new(0x2000, 0x3000).unwrap();
        take(&kinds, middle);
        let all = GranuleRange::new(0x1000, 0x4000).unwrap();
        assert!(kinds.claim_range(all, Kind::Absent).is_err());
        let outcome = kinds.share(granule(0x1000), Kind::Raw);
        assert_eq!(outcome.err(), Some(MemoryError::NotOwned));
        assert!(kinds.share(granule(0x2000), Kind::Raw).is_ok());
    }
}
