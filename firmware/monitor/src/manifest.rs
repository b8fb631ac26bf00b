// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Boot manifest of the RMM-EL3 interface, version 0.5: what R-EL2 learns about the machine.
//!
//! The manifest starts the page shared with R-EL2; the arrays it points to follow it there. Each list
//! carries a checksum that makes its count, its pointer and its array sum up to zero, in 64-bit words.

/// Major version 0, minor version 5.
const VERSION: u64 = 5;
/// Version of the root complex information: 0.1.
const ROOT_COMPLEX_VERSION: u64 = 1;
/// Words of the fixed part.
const FIXED: usize = 21;
/// Words of the page.
pub const WORDS: usize = 512;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Size in bytes.
    pub size: u64,
}

impl Region {
    /// Returns the address after the last; the range does not wrap.
    #[must_use]
    pub const fn top(self) -> u64 {
        self.base.saturating_add(self.size)
    }

    /// Returns whether `bytes` bytes at `base` lie inside.
    #[must_use]
    pub const fn covers(self, base: u64, bytes: u64) -> bool {
        match base.checked_add(bytes) {
            Some(top) => self.base <= base && top <= self.top(),
            None => false,
        }
    }
}

/// What the manifest tells.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Memory of the host, in ascending order.
    pub dram: &'a [Region],
    /// Address space for device memory that can be delegated, in ascending order.
    pub device_memory: &'a [Region],
    /// Register base of the SMMU.
    pub smmu: u64,
    /// Base of the configuration window of segment 0.
    pub ecam: u64,
    /// Requester ids of the root ports. Every stream id is the requester id, behind the one SMMU.
    pub root_ports: &'a [u16],
}

/// Does not fit into the shared page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

struct Page<'a> {
    words: &'a mut [u64; WORDS],
    base: u64,
    used: usize,
}

impl Page<'_> {
    fn push(&mut self, values: &[u64]) -> Result<u64, TooLarge> {
        let end = self.used.checked_add(values.len()).ok_or(TooLarge)?;
        self.words
            .get_mut(self.used..end)
            .ok_or(TooLarge)?
            .copy_from_slice(values);
        let address = self.address(self.used);
        self.used = end;
        Ok(address)
    }

    /// Returns the address of a word. The page is inside memory, so nothing wraps.
    const fn address(&self, word: usize) -> u64 {
        self.base.wrapping_add((word as u64).wrapping_mul(8))
    }

    fn set(&mut self, index: usize, value: u64) {
        if let Some(word) = self.words.get_mut(index) {
            *word = value;
        }
    }

    /// Writes count, pointer and checksum of the list at word `index`, whose array was pushed at
    /// word `start`.
    fn list(&mut self, index: usize, count: usize, start: usize) {
        let pointer = if count == 0 { 0 } else { self.address(start) };
        let array = self.words.get(start..self.used).unwrap_or_default();
        let sum = array
            .iter()
            .fold(pointer.wrapping_add(count as u64), |sum, word| {
                sum.wrapping_add(*word)
            });
        self.set(index, count as u64);
        self.set(index + 1, pointer);
        self.set(index + 2, sum.wrapping_neg());
    }

    fn regions(&mut self, index: usize, regions: &[Region]) -> Result<(), TooLarge> {
        let start = self.used;
        for region in regions {
            self.push(&[region.base, region.size])?;
        }
        self.list(index, regions.len(), start);
        Ok(())
    }
}

/// Writes the manifest for a page that lies at `base`.
pub fn write(words: &mut [u64; WORDS], base: u64, machine: &Machine) -> Result<(), TooLarge> {
    words.fill(0);
    let mut page = Page {
        words,
        base,
        used: FIXED,
    };
    page.set(0, VERSION);
    // Word 1: no platform data. Words 5 to 7: no console; R-EL2 logs through the monitor.
    page.regions(2, machine.dram)?;
    page.regions(8, machine.device_memory)?;
    // Words 11 to 13: no coherent device memory.
    let start = page.used;
    // No Realm register pages: the SMMU as a whole is R-EL2's.
    page.push(&[machine.smmu, 0])?;
    page.list(14, 1, start);
    root_complex(&mut page, machine)
}

fn root_complex(page: &mut Page, machine: &Machine) -> Result<(), TooLarge> {
    /// Words of one root port: id and number of mappings, pointer to its mappings.
    const PORT: usize = 2;
    let start = page.used;
    let count = machine.root_ports.len();
    let first = start.saturating_add(3);
    let ports = page.address(first);
    let mappings = first.saturating_add(count.saturating_mul(PORT));
    let port_list = if count == 0 { 0 } else { ports };
    // Segment 0 in the low half of the second word.
    page.push(&[machine.ecam, (count as u64) << 32, port_list])?;
    for (index, port) in machine.root_ports.iter().enumerate() {
        page.push(&[
            u64::from(*port) | 1 << 32,
            page.address(mappings.saturating_add(index)),
        ])?;
    }
    for _ in machine.root_ports {
        // Requester ids 0 up to 0xffff, offset 0, SMMU 0.
        page.push(&[0xffff << 16])?;
    }
    page.list(17, 1, start);
    // This list has its version between count and pointer; the version is not part of the sum.
    let [pointer, sum] = [page.words[18], page.words[19]];
    page.set(18, ROOT_COMPLEX_VERSION);
    page.set(19, pointer);
    page.set(20, sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Machine, Region, TooLarge, WORDS, write};

    const BASE: u64 = 0x7fff_f000;
    const DRAM: [Region; 2] = [
        Region {
            base: 0x4000_0000,
            size: 0x3f00_0000,
        },
        Region {
            base: 0x8000_0000,
            size: 0x4000_0000,
        },
    ];
    const MMIO: [Region; 1] = [Region {
        base: 0x1000_0000,
        size: 0x2eff_0000,
    }];

    fn machine(root_ports: &[u16]) -> Machine<'_> {
        Machine {
            dram: &DRAM,
            device_memory: &MMIO,
            smmu: 0x0905_0000,
            ecam: 0x40_1000_0000,
            root_ports,
        }
    }

    fn page(root_ports: &[u16]) -> [u64; WORDS] {
        let mut words = [u64::MAX; WORDS];
        write(&mut words, BASE, &machine(root_ports)).unwrap();
        words
    }

    fn index(address: u64) -> usize {
        usize::try_from((address - BASE) / 8).unwrap()
    }

    /// Sums a list as R-EL2 does, with its array of `words` words.
    fn sum(page: &[u64], count: u64, pointer: u64, checksum: u64, words: usize) -> u64 {
        let array = &page[index(pointer)..index(pointer) + words];
        array.iter().fold(
            count.wrapping_add(pointer).wrapping_add(checksum),
            |sum, word| sum.wrapping_add(*word),
        )
    }

    #[test]
    fn each_list_sums_up_to_zero() {
        let page = page(&[0x10, 0x18]);
        assert_eq!(page[0], 5);
        assert_eq!((page[2], sum(&page, page[2], page[3], page[4], 4)), (2, 0));
        assert_eq!(&page[5..8], [0; 3]);
        assert_eq!((page[8], sum(&page, page[8], page[9], page[10], 2)), (1, 0));
        assert_eq!(&page[11..14], [0; 3]);
        assert_eq!(
            (page[14], sum(&page, page[14], page[15], page[16], 2)),
            (1, 0)
        );
        // One root complex, two ports, two mappings.
        assert_eq!(page[17..19], [1, 1]);
        assert_eq!(sum(&page, page[17], page[19], page[20], 3 + 4 + 2), 0);
    }

    #[test]
    fn the_lists_say_what_the_machine_has() {
        let page = page(&[0x10]);
        let at = index(page[3]);
        assert_eq!(
            page[at..at + 4],
            [0x4000_0000, 0x3f00_0000, 0x8000_0000, 0x4000_0000]
        );
        assert_eq!(page[index(page[15])], 0x0905_0000);
        let complex = index(page[19]);
        assert_eq!(page[complex..complex + 2], [0x40_1000_0000, 1 << 32]);
        let port = index(page[complex + 2]);
        assert_eq!(page[port], 0x10 | 1 << 32);
        assert_eq!(page[index(page[port + 1])], 0x0000_0000_ffff_0000);
    }

    #[test]
    fn a_machine_without_root_ports_is_told_as_such() {
        let page = page(&[]);
        let complex = index(page[19]);
        assert_eq!(page[complex..complex + 3], [0x40_1000_0000, 0, 0]);
        assert_eq!(sum(&page, page[17], page[19], page[20], 3), 0);
    }

    #[test]
    fn too_much_is_refused() {
        let ports = [0; 200];
        assert_eq!(
            write(&mut [0; WORDS], BASE, &machine(&ports)),
            Err(TooLarge)
        );
    }

    #[test]
    fn a_region_covers_what_lies_inside() {
        assert!(MMIO[0].covers(0x1000_0000, 0x2eff_0000));
        assert!(!MMIO[0].covers(0x1000_0000, 0x2eff_0001));
        assert!(!MMIO[0].covers(0x0fff_f000, 0x1000));
        assert!(!MMIO[0].covers(u64::MAX, 2));
    }
}
