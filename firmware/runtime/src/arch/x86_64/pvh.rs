// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the firmware before the TSM says by the PVH protocol (Xen, `public/arch-x86/hvm/start_info.h`):
//! the memory map, where the ACPI tables start, and the command line and the module for the host.

use heapless::Vec;
use tsm_platform::{GRANULE_SIZE, GranuleRange};

/// Most ranges of the memory map that are taken.
pub const MOST_RANGES: usize = 32;
/// Most banks of memory that come of it.
pub const MOST_BANKS: usize = 8;
/// Most bytes of the command line, as Linux takes them.
pub const MOST_BYTES: usize = 2047;

/// Bytes at physical addresses.
pub trait Source {
    /// Copies from physical memory. Returns false if there is none.
    fn read(&self, address: u64, out: &mut [u8]) -> bool;

    /// Reads `N` bytes.
    fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes).then_some(bytes)
    }

    /// Reads four bytes.
    fn word(&self, address: u64) -> Option<u32> {
        self.bytes(address).map(u32::from_le_bytes)
    }

    /// Reads eight bytes.
    fn long(&self, address: u64) -> Option<u64> {
        self.bytes(address).map(u64::from_le_bytes)
    }
}

/// A range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// The first byte.
    pub base: u64,
    /// Size in bytes.
    pub size: u64,
    /// The type of ACPI's address map (15.4 in ACPI 6.5).
    pub kind: u32,
}

/// Type of a range of usable memory.
pub const USABLE: u32 = 1;
/// Type of a range that is to be left alone.
pub const RESERVED: u32 = 2;

/// What was found.
#[derive(Debug, Default)]
pub struct StartInfo {
    /// The memory map.
    pub memory: Vec<MemoryRange, MOST_RANGES>,
    /// Address and size of the first module.
    pub module: Option<(u64, u64)>,
    /// The command line, without a zero at the end.
    pub command_line: Vec<u8, MOST_BYTES>,
    /// Physical address of the ACPI root pointer, or zero.
    pub rsdp: u64,
}

const MAGIC: u32 = 0x336e_c578;
/// Version from which on there is a memory map.
const WITH_MEMORY_MAP: u32 = 1;

impl StartInfo {
    /// Reads the start info at `address`. Returns `None` if it is none, or more than there is room for.
    pub fn read(source: &impl Source, address: u64) -> Option<Self> {
        let at = |offset: u64| address.checked_add(offset);
        if source.word(address)? != MAGIC || source.word(at(4)?)? < WITH_MEMORY_MAP {
            return None;
        }
        let mut found = Self {
            rsdp: source.long(at(32)?)?,
            ..Self::default()
        };
        if source.word(at(12)?)? != 0 {
            let module = source.long(at(16)?)?;
            found.module = Some((source.long(module)?, source.long(module.checked_add(8)?)?));
        }
        found.read_command_line(source, source.long(at(24)?)?)?;
        let (map, count) = (source.long(at(40)?)?, source.word(at(48)?)?);
        for number in 0..u64::from(count) {
            let entry = map.checked_add(number.checked_mul(24)?)?;
            let range = MemoryRange {
                base: source.long(entry)?,
                size: source.long(entry.checked_add(8)?)?,
                kind: source.word(entry.checked_add(16)?)?,
            };
            range.base.checked_add(range.size)?;
            found.memory.push(range).ok()?;
        }
        Some(found)
    }

    fn read_command_line(&mut self, source: &impl Source, address: u64) -> Option<()> {
        if address == 0 {
            return Some(());
        }
        for offset in 0..=MOST_BYTES as u64 {
            match source.bytes(address.checked_add(offset)?)? {
                [0] => return Some(()),
                [byte] => self.command_line.push(byte).ok()?,
            }
        }
        None
    }

    /// Returns the whole granules of usable memory outside of `region`, or `None` if there are more
    /// pieces than room for them.
    pub fn banks(&self, region: GranuleRange) -> Option<Vec<GranuleRange, MOST_BANKS>> {
        let mut banks = Vec::new();
        for range in self.memory.iter().filter(|range| range.kind == USABLE) {
            let base = range.base.checked_next_multiple_of(GRANULE_SIZE)?;
            let top = range.base.checked_add(range.size)? & !(GRANULE_SIZE - 1);
            for (base, top) in [
                (base, top.min(region.base())),
                (base.max(region.top()), top),
            ] {
                if let Some(bank) = GranuleRange::new(base, top) {
                    banks.push(bank).ok()?;
                }
            }
        }
        Some(banks)
    }

    /// Returns whether `region` is in one range of usable memory.
    pub fn has(&self, region: GranuleRange) -> bool {
        self.memory.iter().any(|range| {
            range.kind == USABLE
                && range.base <= region.base()
                && region.top() <= range.base.saturating_add(range.size)
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::{RESERVED, Source, StartInfo, USABLE};
    use tsm_platform::GranuleRange;

    /// Memory from address 0x1000 on.
    pub struct Image(pub Vec<u8>);

    impl Source for Image {
        fn read(&self, address: u64, out: &mut [u8]) -> bool {
            let place = address.checked_sub(0x1000).and_then(|first| {
                let first = first as usize;
                self.0.get(first..first.checked_add(out.len())?)
            });
            place.is_some_and(|bytes| {
                out.copy_from_slice(bytes);
                true
            })
        }
    }

    impl Image {
        /// Writes at an address.
        pub fn put(&mut self, address: usize, bytes: &[u8]) {
            self.0[address - 0x1000..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    const MAP: [(u64, u64, u32); 4] = [
        (0, 0x9_fc00, USABLE),
        (0x10_0000, 0x3fed_0000, USABLE),
        (0x3ffd_0000, 0x3_0000, RESERVED),
        (0x1_0000_0123, 0x1f00, USABLE),
    ];

    fn image() -> Image {
        let mut image = Image(vec![0; 0x3000]);
        image.put(0x1000, &0x336e_c578_u32.to_le_bytes());
        image.put(0x1004, &1_u32.to_le_bytes());
        image.put(0x100c, &1_u32.to_le_bytes());
        for (offset, value) in [
            (16, 0x1100_u64),
            (24, 0x1200),
            (32, 0xf_5250),
            (40, 0x1300),
            (48, MAP.len() as u64),
        ] {
            image.put(0x1000 + offset, &value.to_le_bytes());
        }
        image.put(0x1100, &0x3fe3_5000_u64.to_le_bytes());
        image.put(0x1108, &0x1234_u64.to_le_bytes());
        image.put(0x1200, b"console=ttyS0\0");
        for (index, (base, size, kind)) in MAP.into_iter().enumerate() {
            let at = 0x1300 + 24 * index;
            image.put(at, &base.to_le_bytes());
            image.put(at + 8, &size.to_le_bytes());
            image.put(at + 16, &kind.to_le_bytes());
        }
        image
    }

    #[test]
    fn all_parts_are_found() {
        let found = StartInfo::read(&image(), 0x1000).unwrap();
        assert_eq!(found.command_line.as_slice(), b"console=ttyS0");
        assert_eq!(found.module, Some((0x3fe3_5000, 0x1234)));
        assert_eq!(found.rsdp, 0xf_5250);
        assert_eq!(found.memory.len(), MAP.len());
        assert_eq!(found.memory[2].kind, RESERVED);
    }

    #[test]
    fn the_region_is_cut_out_of_the_banks() {
        let found = StartInfo::read(&image(), 0x1000).unwrap();
        let region = GranuleRange::new(0x1000_0000, 0x1400_0000).unwrap();
        let banks = found.banks(region).unwrap();
        let expected = [
            (0, 0x9_f000),
            (0x10_0000, 0x1000_0000),
            (0x1400_0000, 0x3ffd_0000),
            (0x1_0000_1000, 0x1_0000_2000),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(base, top)| GranuleRange::new(base, top).unwrap())
            .collect();
        assert_eq!(banks.as_slice(), expected);
        assert!(found.has(region));
        let over = GranuleRange::new(0x3ffc_0000, 0x3ffe_0000).unwrap();
        assert!(!found.has(over));
    }

    #[test]
    fn another_structure_is_refused() {
        for (at, byte) in [(0x1000, 0), (0x1004, 0)] {
            let mut image = image();
            image.put(at, &[byte]);
            assert!(StartInfo::read(&image, 0x1000).is_none());
        }
        assert!(StartInfo::read(&image(), u64::MAX).is_none());
        assert!(StartInfo::read(&image(), 0).is_none());
    }

    #[test]
    fn lists_that_are_too_long_or_outside_are_refused() {
        // More ranges than room; a range that wraps; a module and a map outside of memory.
        for (at, value) in [
            (0x1030, 33_u64),
            (0x1308, u64::MAX),
            (0x1010, 0x9000),
            (0x1028, u64::MAX),
        ] {
            let mut image = image();
            image.put(at, &value.to_le_bytes());
            if at == 0x1308 {
                image.put(0x1300, &1_u64.to_le_bytes());
            }
            assert!(StartInfo::read(&image, 0x1000).is_none(), "{at:#x}");
        }
        let mut image = image();
        image.put(0x1200, &[b'a'; 0x0ff]);
        image.put(0x1018, &0x2000_u64.to_le_bytes());
        image.put(0x2000, &[b'a'; 0x1000]);
        assert!(StartInfo::read(&image, 0x1000).is_none());
    }
}
