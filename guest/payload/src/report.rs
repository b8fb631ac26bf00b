// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The TDISP device interface report, and which of its ranges a guest maps privately.

/// Most ranges in a report.
pub const MAX_RANGES: usize = 16;

const PAGE: u64 = 4096;
const RANGE_BYTES: usize = 16;

/// Why a report is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes are not a report.
    Malformed,
    /// The device may do what the guest does not allow.
    InterfaceInfo,
    /// Two ranges share a page, or one wraps.
    Overlap,
    /// The registers that the driver needs are not private, or cannot be mapped as one piece.
    Registers,
}

/// INTERFACE_INFO: the device's firmware cannot change while it is locked.
const NO_UPDATE: u16 = 1;
/// INTERFACE_INFO: the device accesses memory without a process id.
const DMA_WITHOUT_PASID: u16 = 1 << 1;

/// Attributes of a range: it holds the MSI-X table, the MSI-X pending bits, or is not for guests.
const MSI_X_TABLE: u16 = 1;
const MSI_X_PENDING: u16 = 1 << 1;
const NON_TEE: u16 = 1 << 2;

/// A range of device registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Physical address of the first byte.
    pub base: u64,
    /// Physical address after the last byte.
    pub top: u64,
    /// Attributes.
    attributes: u16,
    /// The device's name for the range.
    pub id: u16,
}

impl Range {
    /// Returns whether the range may be mapped privately. The tables of MSI-X are the host's to
    /// write, and what is not for guests is no one's secret.
    #[must_use]
    pub const fn is_private(&self) -> bool {
        self.attributes & (MSI_X_TABLE | MSI_X_PENDING | NON_TEE) == 0
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.base < other.top && other.base < self.top
    }
}

/// A piece of guest address space that shows one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First guest address.
    pub ipa: u64,
    /// Guest address after the last.
    pub top: u64,
    /// Physical address behind `ipa`.
    pub pa: u64,
    /// The device's name for the range.
    pub range_id: u16,
}

/// A report whose form is right.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    interface_info: u16,
    ranges: &'a [u8],
}

impl<'a> Report<'a> {
    /// Takes a report apart (TDISP 1.0, 11.3.11).
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Overlap`].
    pub fn parse(report: &'a [u8]) -> Result<Self, Error> {
        let (head, rest) = report.split_first_chunk::<16>().ok_or(Error::Malformed)?;
        let [info_low, info_high, .., c0, c1, c2, c3] = *head;
        let count = u32::from_le_bytes([c0, c1, c2, c3]);
        let count = usize::try_from(count).map_err(|_| Error::Malformed)?;
        if count > MAX_RANGES {
            return Err(Error::Malformed);
        }
        let (ranges, rest) = count
            .checked_mul(RANGE_BYTES)
            .and_then(|bytes| rest.split_at_checked(bytes))
            .ok_or(Error::Malformed)?;
        let (length, specific) = rest.split_first_chunk::<4>().ok_or(Error::Malformed)?;
        if usize::try_from(u32::from_le_bytes(*length)) != Ok(specific.len()) {
            return Err(Error::Malformed);
        }
        let this = Self {
            interface_info: u16::from_le_bytes([info_low, info_high]),
            ranges,
        };
        // One-to-one: no address may stand for two places of the device.
        if this.ranges().count() != count {
            return Err(Error::Overlap);
        }
        for (index, range) in this.ranges().enumerate() {
            if this
                .ranges()
                .take(index)
                .any(|other| other.overlaps(&range))
            {
                return Err(Error::Overlap);
            }
        }
        Ok(this)
    }

    /// Yields the ranges; one that is empty or wraps ends them early.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + use<'a> {
        let (ranges, _) = self.ranges.as_chunks::<RANGE_BYTES>();
        ranges.iter().map_while(|bytes| {
            let [
                p0,
                p1,
                p2,
                p3,
                p4,
                p5,
                p6,
                p7,
                n0,
                n1,
                n2,
                n3,
                a0,
                a1,
                i0,
                i1,
            ] = *bytes;
            let first = u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]);
            let pages = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
            let base = first.checked_mul(PAGE)?;
            let top = base.checked_add(pages.checked_mul(PAGE)?)?;
            (base < top).then_some(Range {
                base,
                top,
                attributes: u16::from_le_bytes([a0, a1]),
                id: u16::from_le_bytes([i0, i1]),
            })
        })
    }

    /// Checks what the device says of itself: it keeps its firmware while it is locked, accesses
    /// memory by plain addresses, and translates none itself (ATS) nor asks for pages (PRS).
    ///
    /// # Errors
    /// [`Error::InterfaceInfo`].
    pub const fn verify_interface_info(&self) -> Result<(), Error> {
        if self.interface_info == NO_UPDATE | DMA_WITHOUT_PASID {
            Ok(())
        } else {
            Err(Error::InterfaceInfo)
        }
    }

    /// Yields the private ranges as the guest maps them: the lowest range of the device at `ipa`,
    /// the others at their distance from it.
    fn placed(&self, ipa: u64) -> impl Iterator<Item = Option<Mapping>> + use<'a> {
        let base = self.ranges().map(|range| range.base).min().unwrap_or(0);
        self.ranges().filter(Range::is_private).map(move |range| {
            Some(Mapping {
                ipa: range.base.checked_sub(base)?.checked_add(ipa)?,
                top: range.top.checked_sub(base)?.checked_add(ipa)?,
                pa: range.base,
                range_id: range.id,
            })
        })
    }

    /// Returns the private ranges as mappings whose lowest device page is at `ipa`. They lie within
    /// `window` bytes, and the first `needed` bytes of the device are private.
    ///
    /// # Errors
    /// [`Error::Registers`].
    pub fn mappings(
        &self,
        ipa: u64,
        window: u64,
        needed: u64,
    ) -> Result<impl Iterator<Item = Mapping> + use<'a>, Error> {
        let limit = ipa.checked_add(window).ok_or(Error::Registers)?;
        for mapping in self.placed(ipa) {
            if mapping.is_none_or(|mapping| mapping.top > limit) {
                return Err(Error::Registers);
            }
        }
        let mut address = ipa;
        let end = ipa.checked_add(needed).ok_or(Error::Registers)?;
        while address < end {
            let covers = |mapping: &Mapping| mapping.ipa <= address && address < mapping.top;
            if !self.placed(ipa).flatten().any(|mapping| covers(&mapping)) {
                return Err(Error::Registers);
            }
            address = address.checked_add(PAGE).ok_or(Error::Registers)?;
        }
        Ok(self.placed(ipa).flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Mapping, Report};

    const IPA: u64 = 0x1000_0000;

    /// Ranges as first page, pages, attributes, id.
    fn report(info: u16, ranges: &[(u64, u32, u16, u16)]) -> Vec<u8> {
        let mut bytes = info.to_le_bytes().to_vec();
        bytes.extend([0; 10]);
        bytes.extend((ranges.len() as u32).to_le_bytes());
        for (page, pages, attributes, id) in ranges {
            bytes.extend(page.to_le_bytes());
            bytes.extend(pages.to_le_bytes());
            bytes.extend(attributes.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes.extend([3, 0, 0, 0]);
        bytes.extend(b"dev");
        bytes
    }

    fn nvme() -> Vec<u8> {
        report(
            3,
            &[
                (0x1_0000, 2, 0, 0),
                (0x1_0002, 1, 1, 0),
                (0x1_0003, 1, 2, 0),
            ],
        )
    }

    #[test]
    fn msi_x_and_host_ranges_are_not_mapped() {
        let bytes = nvme();
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(report.verify_interface_info(), Ok(()));
        let mappings: Vec<Mapping> = report.mappings(IPA, 0x4000, 0x2000).unwrap().collect();
        let expected = Mapping {
            ipa: IPA,
            top: IPA + 0x2000,
            pa: 0x1000_0000,
            range_id: 0,
        };
        assert_eq!(mappings, [expected]);
    }

    #[test]
    fn ranges_keep_their_distance() {
        let bytes = report(3, &[(0x12, 1, 0, 7), (0x10, 1, 0, 5), (0x11, 1, 4, 6)]);
        let report = Report::parse(&bytes).unwrap();
        let at: Vec<_> = report
            .mappings(IPA, 0x3000, 0x1000)
            .unwrap()
            .map(|mapping| (mapping.ipa, mapping.pa, mapping.range_id))
            .collect();
        assert_eq!(at, [(IPA + 0x2000, 0x1_2000, 7), (IPA, 0x1_0000, 5)]);
        assert!(report.mappings(IPA, 0x3000, 0x2000).is_err());
        assert!(report.mappings(IPA, 0x2000, 0x1000).is_err());
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        for ranges in [
            [(0x10, 2, 0, 0), (0x11, 1, 0, 1)],
            [(0x10, 2, 0, 0), (0x10, 2, 0, 0)],
            [(0x10, 1, 0, 0), (0x0f, 4, 1, 1)],
        ] {
            let bytes = report(3, &ranges);
            assert_eq!(Report::parse(&bytes).err(), Some(Error::Overlap));
        }
    }

    #[test]
    fn empty_and_wrapping_ranges_are_refused() {
        for range in [
            (0x10, 0, 0, 0),
            (u64::MAX, 1, 0, 0),
            (u64::MAX >> 12, 1, 0, 0),
        ] {
            let bytes = report(3, &[range]);
            assert_eq!(Report::parse(&bytes).err(), Some(Error::Overlap));
        }
    }

    #[test]
    fn registers_that_are_not_private_are_refused() {
        let bytes = report(3, &[(0x10, 2, 4, 0)]);
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(
            report.mappings(IPA, 0x4000, 0x2000).err(),
            Some(Error::Registers)
        );
    }

    #[test]
    fn a_device_that_translates_itself_or_can_be_updated_is_refused() {
        for info in [0, 1, 2, 7, 3 | 8, 3 | 0x10] {
            let bytes = report(info, &[(0x10, 2, 0, 0)]);
            let report = Report::parse(&bytes).unwrap();
            assert_eq!(report.verify_interface_info(), Err(Error::InterfaceInfo));
        }
    }

    #[test]
    fn a_report_of_another_length_than_it_says_is_refused() {
        let bytes = nvme();
        for end in 0..bytes.len() {
            assert_eq!(Report::parse(&bytes[..end]).err(), Some(Error::Malformed));
        }
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(Report::parse(&long).err(), Some(Error::Malformed));
        let many = report(3, &[(0x10, 1, 0, 0); 17]);
        assert_eq!(Report::parse(&many).err(), Some(Error::Malformed));
    }
}
