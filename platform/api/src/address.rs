// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Addresses and ids that cannot be mistaken for each other.

/// Size and alignment of the unit of ownership, in bytes.
pub const GRANULE_SIZE: u64 = 4096;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
    };
}

number! {
    /// A physical address that the host named: an allegation, to be checked at use.
    HostPa(u64)
}
number! {
    /// A physical address that the TSM knows to be what it says.
    Pa(u64)
}
number! {
    /// An address inside a guest.
    Ipa(u64)
}
number! {
    /// A PCI requester id: bus in bits 15:8, device in 7:3, function in 2:0. Segment 0.
    Rid(u16)
}
number! {
    /// The id by which an IOMMU knows a DMA master.
    StreamId(u32)
}
number! {
    /// The tag of a guest's translations.
    Vmid(u16)
}

/// The address of one granule, known to be aligned. Whether it is tracked is the holder's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granule(u64);

impl Granule {
    /// Returns the granule at `address`, if that is aligned to [`GRANULE_SIZE`].
    #[must_use]
    pub const fn new(address: u64) -> Option<Self> {
        if address.is_multiple_of(GRANULE_SIZE) {
            Some(Self(address))
        } else {
            None
        }
    }

    /// Returns the granule that holds `address`.
    #[must_use]
    pub const fn containing(address: u64) -> Self {
        Self(address & !(GRANULE_SIZE - 1))
    }

    /// Returns the address of the granule's first byte.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0
    }
}

/// A half-open range of whole granules that does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GranuleRange {
    base: u64,
    top: u64,
}

impl GranuleRange {
    /// Returns the range from `base` up to, not including, `top`, if both are aligned and
    /// `base < top`.
    #[must_use]
    pub const fn new(base: u64, top: u64) -> Option<Self> {
        if base.is_multiple_of(GRANULE_SIZE) && top.is_multiple_of(GRANULE_SIZE) && base < top {
            Some(Self { base, top })
        } else {
            None
        }
    }

    /// Returns the range that holds one granule. The last granule of the address space is refused.
    #[must_use]
    pub const fn single(granule: Granule) -> Option<Self> {
        match granule.0.checked_add(GRANULE_SIZE) {
            Some(top) => Self::new(granule.0, top),
            None => None,
        }
    }

    /// Returns the first address.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.base
    }

    /// Returns the address after the last.
    #[must_use]
    pub const fn top(self) -> u64 {
        self.top
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.top.wrapping_sub(self.base)
    }

    /// Returns the number of granules.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.bytes() / GRANULE_SIZE
    }

    /// Returns whether `address` lies inside.
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        self.base <= address && address < self.top
    }

    /// Returns whether the two ranges share a granule.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.base < other.top && other.base < self.top
    }

    /// Yields each granule in order.
    pub fn granules(self) -> impl Iterator<Item = Granule> {
        // Fewer than 2^52: nothing wraps.
        (0..self.count())
            .map(move |index| Granule(self.base.wrapping_add(index.wrapping_mul(GRANULE_SIZE))))
    }
}

#[cfg(test)]
mod tests {
    use super::{Granule, GranuleRange};

    #[test]
    fn a_range_is_aligned_ordered_and_does_not_wrap() {
        assert!(GranuleRange::new(0x1000, 0x1000).is_none());
        assert!(GranuleRange::new(0x2000, 0x1000).is_none());
        assert!(GranuleRange::new(0x1001, 0x2000).is_none());
        assert!(GranuleRange::single(Granule::containing(u64::MAX)).is_none());
        let range = GranuleRange::new(0x1000, 0x3000).unwrap();
        assert_eq!(range.count(), 2);
        assert!(range.contains(0x2fff) && !range.contains(0x3000));
        assert!(range.granules().map(Granule::address).eq([0x1000, 0x2000]));
    }
}
