// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device interface report: taken portion by portion, hashed, and kept as far as checks need it.

use heapless::Vec;
use sha2::{Digest, Sha384};

/// Most ranges that a report may have.
pub(crate) const MOST_RANGES: usize = 64;
/// Longest report that is taken, in bytes: [`MOST_RANGES`] and ample room for what devices add.
const MOST_BYTES: u32 = 16 * 1024;
/// Most portions in which a report may come; a device that trickles is refused.
const MOST_PORTIONS: u16 = 64;
/// Size of the header and of each range, in bytes.
const UNIT: usize = 16;
const PAGE_BYTES: u64 = 4096;
/// First page number that has no address.
const PAGES_TOP: u64 = 1 << 52;

/// Interface information: no firmware update while locked or running.
const NO_UPDATE: u16 = 1;

/// Attribute bits of a range (TDISP 1.0, table of MMIO range attributes).
const MSIX_TABLE: u16 = 1;
const MSIX_PBA: u16 = 2;
const NON_TEE: u16 = 4;

/// Reports that the device's report is malformed or inconsistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadReport;

/// One MMIO range of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// First page number as reported.
    page: u64,
    /// Number of pages, not zero.
    pages: u32,
    attributes: u16,
    /// The device's number for it.
    id: u16,
    /// Where the guest has accepted the first page, if it has.
    accepted_at: Option<u64>,
}

impl Range {
    /// Returns the address of the first byte, which the device reports with `offset` added.
    fn base(&self, offset: u64) -> Option<u64> {
        self.page.checked_mul(PAGE_BYTES)?.checked_sub(offset)
    }

    fn bytes(&self) -> u64 {
        u64::from(self.pages).saturating_mul(PAGE_BYTES)
    }

    /// Returns whether the range may be private to a guest: MSI-X structures and ranges that answer
    /// untrusted accesses may not.
    const fn is_private(&self) -> bool {
        self.attributes & (MSIX_TABLE | MSIX_PBA | NON_TEE) == 0
    }

    /// Returns whether both describe the same memory.
    const fn is_same(&self, other: &Self) -> bool {
        self.page == other.page
            && self.pages == other.pages
            && self.attributes == other.attributes
            && self.id == other.id
    }

    const fn overlaps(&self, other: &Self) -> bool {
        // `page + pages` was checked against `PAGES_TOP` when the range was taken.
        self.page < other.page.saturating_add(other.pages as u64)
            && other.page < self.page.saturating_add(self.pages as u64)
    }
}

/// Where a guest has accepted a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Address inside the guest.
    pub ipa: u64,
    /// Physical address.
    pub physical: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What is known of an interface's report under the present lock.
///
/// A report may be fetched again while the interface is locked or runs; then it must list the same
/// ranges, because the device's configuration is frozen.
pub(crate) struct Report {
    ranges: Vec<Range, MOST_RANGES>,
    /// What the device adds to each address.
    offset: u64,
    /// The interface information: what the device promises under this lock.
    information: u16,
    /// SHA-384 of the whole report that came last.
    digest: Option<[u8; 48]>,
}

impl Report {
    /// Makes a report that has not been fetched; its addresses will have `offset` added.
    pub const fn new(offset: u64) -> Self {
        Self {
            ranges: Vec::new(),
            offset,
            information: 0,
            digest: None,
        }
    }

    /// Returns the SHA-384 digest of the report's bytes, once a whole report is in.
    pub const fn digest(&self) -> Option<&[u8; 48]> {
        self.digest.as_ref()
    }

    /// Returns whether the device says that its firmware stays as it is while the lock holds.
    pub const fn keeps_firmware(&self) -> bool {
        self.information & NO_UPDATE != 0
    }

    fn find(&self, physical: u64, bytes: u64) -> Option<usize> {
        let top = physical.checked_add(bytes)?;
        self.digest?;
        self.ranges.iter().position(|range| {
            let Some(base) = range.base(self.offset) else {
                return false;
            };
            let range_top = base.saturating_add(range.bytes());
            range.is_private() && base <= physical && top <= range_top && physical < top
        })
    }

    /// Returns whether `bytes` bytes at `physical`, seen at `ipa`, may become private: they lie in
    /// one private range, and that range is accepted nowhere else.
    pub fn allows(&self, ipa: u64, physical: u64, bytes: u64) -> bool {
        self.placed(ipa, physical, bytes).is_some()
    }

    /// Remembers that the guest has accepted what [`Self::allows`] allowed.
    pub fn accept(&mut self, ipa: u64, physical: u64, bytes: u64) -> Result<(), BadReport> {
        let (index, start) = self.placed(ipa, physical, bytes).ok_or(BadReport)?;
        let range = self.ranges.get_mut(index).ok_or(BadReport)?;
        range.accepted_at = Some(start);
        Ok(())
    }

    fn placed(&self, ipa: u64, physical: u64, bytes: u64) -> Option<(usize, u64)> {
        let index = self.find(physical, bytes)?;
        let range = self.ranges.get(index)?;
        let start = ipa.checked_sub(physical.checked_sub(range.base(self.offset)?)?)?;
        match range.accepted_at {
            Some(other) if other != start => None,
            _ => Some((index, start)),
        }
    }

    /// Yields every accepted range, whole.
    pub fn accepted(&self) -> impl Iterator<Item = Accepted> {
        self.ranges.iter().filter_map(|range| {
            Some(Accepted {
                ipa: range.accepted_at?,
                physical: range.base(self.offset)?,
                bytes: range.bytes(),
            })
        })
    }

    /// Forgets where ranges were accepted if `gone` says that nothing of the range is mapped.
    pub fn forget(&mut self, gone: impl Fn(&Accepted) -> bool) {
        let offset = self.offset;
        for range in &mut self.ranges {
            let (Some(ipa), Some(physical)) = (range.accepted_at, range.base(offset)) else {
                continue;
            };
            let bytes = range.bytes();
            if gone(&Accepted {
                ipa,
                physical,
                bytes,
            }) {
                range.accepted_at = None;
            }
        }
    }

    /// Yields base and length of each range.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.ranges.iter();
        // An address was computed when the range was taken.
        all.filter_map(|range| Some((range.base(self.offset)?, range.bytes())))
    }

    /// Yields base and length of each range that only the guest may reach.
    pub fn private_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let private = self.ranges.iter().filter(|range| range.is_private());
        private.filter_map(|range| Some((range.base(self.offset)?, range.bytes())))
    }
}

/// Progress of a report that is coming in.
pub(crate) struct Assembly {
    hash: Sha384,
    /// Bytes of the 16-byte unit, or of the length word, that is not complete yet.
    unit: Vec<u8, UNIT>,
    taken: u32,
    total: Option<u32>,
    /// Ranges announced, once the header is in.
    announced: Option<usize>,
    /// Ranges seen.
    seen: usize,
    /// Whether the length of the device's own part was seen and agrees with the total.
    closed: bool,
    portions: u16,
}

impl Assembly {
    /// Starts to take a report.
    pub fn new() -> Self {
        Self {
            hash: Sha384::new(),
            unit: Vec::new(),
            taken: 0,
            total: None,
            announced: None,
            seen: 0,
            closed: false,
            portions: 0,
        }
    }

    /// Returns the offset of the next portion, in bytes.
    pub const fn next_offset(&self) -> u32 {
        self.taken
    }

    /// Takes one portion into `report`; `remainder` bytes follow it. Returns whether it was the
    /// last one; then the report is complete.
    pub fn take(
        &mut self,
        report: &mut Report,
        portion: &[u8],
        remainder: u16,
    ) -> Result<bool, BadReport> {
        let length = u32::try_from(portion.len()).map_err(|_| BadReport)?;
        let after = self.taken.checked_add(length).ok_or(BadReport)?;
        let total = after.checked_add(u32::from(remainder)).ok_or(BadReport)?;
        self.portions = self.portions.saturating_add(1);
        if length == 0 || total > MOST_BYTES || self.portions > MOST_PORTIONS {
            return Err(BadReport);
        }
        // A total that changes between portions would let two reports be mixed.
        if *self.total.get_or_insert(total) != total {
            return Err(BadReport);
        }
        self.hash.update(portion);
        for byte in portion {
            self.byte(report, *byte, total)?;
        }
        if remainder != 0 {
            return Ok(false);
        }
        if !self.closed || self.seen != report.ranges.len() {
            return Err(BadReport);
        }
        report.digest = Some(self.hash.clone().finalize().into());
        Ok(true)
    }

    fn byte(&mut self, report: &mut Report, byte: u8, total: u32) -> Result<(), BadReport> {
        self.taken = self.taken.checked_add(1).ok_or(BadReport)?;
        if self.closed {
            // The device's own part: hashed, not looked at.
            return Ok(());
        }
        self.unit.push(byte).map_err(|_| BadReport)?;
        let Some(announced) = self.announced else {
            if self.unit.is_full() {
                self.announced = Some(self.header(report)?);
            }
            return Ok(());
        };
        if self.seen < announced {
            if self.unit.is_full() {
                self.range(report)?;
            }
        } else if self.unit.len() == 4 {
            let own = word(&self.unit, 0)?;
            self.closed = self.taken.checked_add(own) == Some(total);
            if !self.closed {
                return Err(BadReport);
            }
        }
        Ok(())
    }

    fn header(&mut self, report: &mut Report) -> Result<usize, BadReport> {
        let announced = word(&self.unit, 12)?;
        let [a, b, ..] = word(&self.unit, 0)?.to_le_bytes();
        let information = u16::from_le_bytes([a, b]);
        if report.digest.is_some() && report.information != information {
            return Err(BadReport);
        }
        report.information = information;
        self.unit.clear();
        // Known before a range is stored, so that a lie about the count costs nothing.
        let announced = usize::try_from(announced).map_err(|_| BadReport)?;
        if announced > MOST_RANGES {
            return Err(BadReport);
        }
        Ok(announced)
    }

    fn range(&mut self, report: &mut Report) -> Result<(), BadReport> {
        let low = u64::from(word(&self.unit, 0)?);
        let page = low | u64::from(word(&self.unit, 4)?) << 32;
        let pages = word(&self.unit, 8)?;
        let [a, b, c, d] = word(&self.unit, 12)?.to_le_bytes();
        self.unit.clear();
        let range = Range {
            page,
            pages,
            attributes: u16::from_le_bytes([a, b]),
            id: u16::from_le_bytes([c, d]),
            accepted_at: None,
        };
        let index = self.seen;
        self.seen = self.seen.saturating_add(1);
        if report.digest.is_some() {
            let same = report
                .ranges
                .get(index)
                .is_some_and(|old| old.is_same(&range));
            return if same { Ok(()) } else { Err(BadReport) };
        }
        let top = page.checked_add(u64::from(pages)).ok_or(BadReport)?;
        if pages == 0 || top > PAGES_TOP || range.base(report.offset).is_none() {
            return Err(BadReport);
        }
        if report.ranges.iter().any(|other| other.overlaps(&range)) {
            return Err(BadReport);
        }
        report.ranges.push(range).map_err(|_| BadReport)
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BadReport> {
    let end = at.checked_add(4).ok_or(BadReport)?;
    let bytes: [u8; 4] = bytes
        .get(at..end)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(BadReport)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::{Accepted, Assembly, BadReport, MOST_RANGES, Report};
    use sha2::{Digest, Sha384};

    fn bytes(ranges: &[(u64, u32, u16)], own: &[u8]) -> Vec<u8> {
        let mut out = vec![3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out.extend(u32::try_from(ranges.len()).unwrap().to_le_bytes());
        for (index, (page, pages, attributes)) in ranges.iter().enumerate() {
            out.extend(page.to_le_bytes());
            out.extend(pages.to_le_bytes());
            out.extend(attributes.to_le_bytes());
            out.extend(u16::try_from(index).unwrap().to_le_bytes());
        }
        out.extend(u32::try_from(own.len()).unwrap().to_le_bytes());
        out.extend(own);
        out
    }

    fn take(into: &mut Report, report: &[u8], portion: usize) -> Result<(), BadReport> {
        let mut assembly = Assembly::new();
        let mut done = false;
        for part in report.chunks(portion) {
            let after = assembly.next_offset() as usize + part.len();
            let remainder = u16::try_from(report.len() - after).unwrap();
            done = assembly.take(into, part, remainder)?;
        }
        assert!(done);
        Ok(())
    }

    fn assemble(report: &[u8], portion: usize, offset: u64) -> Result<Report, BadReport> {
        let mut taken = Report::new(offset);
        take(&mut taken, report, portion)?;
        Ok(taken)
    }

    #[test]
    fn a_report_is_the_same_however_it_is_cut() {
        let report = bytes(&[(0x10000, 2, 0), (0x10002, 1, 5), (0x10003, 1, 2)], b"own");
        for portion in [5, 16, 17, 64, 1000] {
            let taken = assemble(&report, portion, 0).unwrap();
            assert_eq!(taken.digest().unwrap()[..], Sha384::digest(&report)[..]);
            assert!(taken.private_ranges().eq([(0x1000_0000, 0x2000)]));
        }
    }

    #[test]
    fn a_range_is_allowed_only_inside_one_private_range() {
        let report = bytes(&[(0x10000, 2, 0), (0x10002, 2, 0), (0x10004, 1, 1)], b"");
        let report = assemble(&report, 100, 0).unwrap();
        assert!(report.allows(0x8000_0000, 0x1000_0000, 0x2000));
        assert!(report.allows(0x8000_0000, 0x1000_1000, 0x1000));
        assert!(
            !report.allows(0x8000_0000, 0x1000_1000, 0x2000),
            "two ranges"
        );
        assert!(
            !report.allows(0x8000_0000, 0x1000_4000, 0x1000),
            "MSI-X table"
        );
        assert!(!report.allows(0x8000_0000, 0x0fff_f000, 0x1000), "before");
        assert!(!report.allows(0x8000_0000, 0x1000_0000, 0), "empty");
        assert!(
            !report.allows(0x8000_0000, u64::MAX - 0xfff, 0x2000),
            "wraps"
        );
        assert!(
            !report.allows(0, 0x1000_1000, 0x1000),
            "would start below zero"
        );
    }

    #[test]
    fn a_range_is_accepted_at_one_place_until_it_is_gone() {
        let report = bytes(&[(0x10000, 4, 0)], b"");
        let mut report = assemble(&report, 100, 0).unwrap();
        report.accept(0x8000_1000, 0x1000_1000, 0x1000).unwrap();
        assert!(report.allows(0x8000_0000, 0x1000_0000, 0x4000));
        assert!(!report.allows(0x9000_0000, 0x1000_0000, 0x1000));
        assert_eq!(
            report.accept(0x9000_0000, 0x1000_0000, 0x1000),
            Err(BadReport)
        );
        let whole = Accepted {
            ipa: 0x8000_0000,
            physical: 0x1000_0000,
            bytes: 0x4000,
        };
        assert!(report.accepted().eq([whole]));
        report.forget(|_| false);
        assert!(!report.allows(0x9000_0000, 0x1000_0000, 0x1000));
        report.forget(|range| *range == whole);
        assert!(report.allows(0x9000_0000, 0x1000_0000, 0x1000));
    }

    #[test]
    fn the_reporting_offset_is_taken_off() {
        let report = bytes(&[(0x50000, 1, 0)], b"");
        let taken = assemble(&report, 100, 0x4000_0000).unwrap();
        assert!(taken.allows(0x8000_0000, 0x1000_0000, 0x1000));
        assert!(assemble(&report, 100, 0x6000_0000).is_err(), "below zero");
    }

    #[test]
    fn malformed_reports_are_refused() {
        type Range = (u64, u32, u16);
        let cases: [(&[Range], &str); 4] = [
            (&[(0x10000, 0, 0)], "no pages"),
            (&[(0x10000, 4, 0), (0x10003, 1, 0)], "overlap"),
            (&[(u64::MAX, 2, 0)], "wraps"),
            (&[(1 << 52, 1, 0)], "no address"),
        ];
        for (ranges, what) in cases {
            assert!(assemble(&bytes(ranges, b""), 64, 0).is_err(), "{what}");
        }
        let most: Vec<_> = (0..=MOST_RANGES as u64).map(|at| (at * 2, 1, 0)).collect();
        assert!(assemble(&bytes(&most[1..], b""), 64, 0).is_ok());
        assert!(assemble(&bytes(&most, b""), 64, 0).is_err(), "one too many");
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let good = bytes(&[(0x10000, 1, 0)], b"abc");
        let mut short = good.clone();
        short.pop();
        let mut long = good.clone();
        long.push(0);
        let mut count = good.clone();
        count[12] = 2;
        for (bytes, what) in [(short, "short"), (long, "long"), (count, "count")] {
            let mut report = Report::new(0);
            let taken = Assembly::new().take(&mut report, &bytes, 0);
            assert_eq!(taken, Err(BadReport), "{what}");
            assert!(report.digest().is_none() && !report.allows(0, 0x1000_0000, 0x1000));
        }
        let mut report = Report::new(0);
        let mut assembly = Assembly::new();
        let rest = u16::try_from(good.len() - 10).unwrap();
        assert_eq!(assembly.take(&mut report, &good[..10], rest), Ok(false));
        let moved = assembly.take(&mut report, &good[10..20], rest);
        assert_eq!(moved, Err(BadReport), "total moved");
        let empty = Assembly::new().take(&mut report, &[], 20);
        assert_eq!(empty, Err(BadReport), "empty portion");
    }

    #[test]
    fn a_report_that_is_fetched_again_lists_the_same_ranges() {
        let first = bytes(&[(0x10000, 1, 0), (0x10001, 1, 0)], b"abc");
        let mut report = assemble(&first, 100, 0).unwrap();
        report.accept(0x8000_0000, 0x1000_0000, 0x1000).unwrap();
        let again = bytes(&[(0x10000, 1, 0), (0x10001, 1, 0)], b"other");
        take(&mut report, &again, 20).unwrap();
        assert_eq!(report.digest().unwrap()[..], Sha384::digest(&again)[..]);
        assert_eq!(report.accepted().count(), 1, "still known");
        let moved = bytes(&[(0x10000, 1, 0), (0x10002, 1, 0)], b"abc");
        assert_eq!(take(&mut report, &moved, 100), Err(BadReport));
        let fewer = bytes(&[(0x10000, 1, 0)], b"abc");
        assert_eq!(take(&mut report, &fewer, 100), Err(BadReport));
    }

    #[test]
    fn a_device_that_trickles_is_refused() {
        let report = bytes(&[(0x10000, 1, 0)], &[0; 100]);
        assert_eq!(assemble(&report, 1, 0).err(), Some(BadReport));
    }
}
