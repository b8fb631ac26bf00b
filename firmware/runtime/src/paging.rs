// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The TSM's own translation tables: four levels of 512 entries, pages of 4 KiB, 2 MiB and 1 GiB. How
//! an entry is written is the architecture's.

/// Width of the TSM's virtual addresses, in bits.
pub const VA_BITS: u32 = 42;

/// What a mapping may be used for. Nothing is both writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Code.
    Text,
    /// Constants.
    Constants,
    /// Variables.
    Data,
    /// Memory of the host, in the Non-secure physical address space.
    HostData,
    /// Device registers in the Realm physical address space.
    Device,
}

/// How an architecture writes a table entry. Bit 0 says that an entry is valid, in all of them.
pub trait Format {
    /// Returns the entry that names the table at `table`.
    fn table(table: u64) -> u64;
    /// Returns the entry of a table of `level`, 1 to 3, that maps the page at `physical`.
    fn page(physical: u64, level: u32, usage: Use) -> u64;
    /// Returns the table that a valid entry of a table above level 3 names, if it names one.
    fn next(entry: u64) -> Option<u64>;
}

const VALID: u64 = 1;

/// Memory for tables.
pub trait Frames {
    /// Takes one zeroed table and returns its physical address, or `None` if none is left.
    fn take(&mut self) -> Option<u64>;
    /// Reads entry `index` of the table at `table`.
    fn read(&self, table: u64, index: usize) -> u64;
    /// Writes entry `index` of the table at `table`.
    fn write(&mut self, table: u64, index: usize, value: u64);
}

/// Reports a mapping that cannot be made: no memory, misaligned, too wide, or there is one already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotMap;

/// Maps `[physical, physical + size)` at `virt` in the tables that start at `root` (level 0), with
/// the largest pages that fit. A mapping that exists is never changed.
///
/// # Errors
///
/// [`CannotMap`]; part of the range may have been mapped.
pub fn map<F: Format>(
    frames: &mut impl Frames,
    root: u64,
    virt: u64,
    physical: u64,
    size: u64,
    usage: Use,
) -> Result<(), CannotMap> {
    let end = virt.checked_add(size).ok_or(CannotMap)?;
    let physical_end = physical.checked_add(size).ok_or(CannotMap)?;
    if (virt | physical | size) & 0xfff != 0 || end > 1 << VA_BITS || physical_end > 1 << 40 {
        return Err(CannotMap);
    }
    let mut done = 0;
    while done < size {
        // Neither sum wraps: the ends were checked.
        let at = virt.wrapping_add(done);
        let pa = physical.wrapping_add(done);
        // Level 1 maps 1 GiB, level 2 maps 2 MiB, level 3 maps 4 KiB.
        let level = (1..3)
            .find(|level| {
                let bytes = 1 << shift(*level);
                (at | pa).is_multiple_of(bytes) && size.saturating_sub(done) >= bytes
            })
            .unwrap_or(3);
        let table = descend::<F>(frames, root, at, level)?;
        let index = index(at, level);
        if frames.read(table, index) & VALID != 0 {
            return Err(CannotMap);
        }
        frames.write(table, index, F::page(pa, level, usage));
        done = done.saturating_add(1 << shift(level));
    }
    Ok(())
}

/// Returns the address bits below the index of a table of `level`, 0 to 3.
const fn shift(level: u32) -> u32 {
    9 * (3 - (level & 3)) + 12
}

const fn index(virt: u64, level: u32) -> usize {
    (virt >> shift(level)) as usize & 511
}

/// Returns the table of `level` that covers `virt`, making those that are missing.
fn descend<F: Format>(
    frames: &mut impl Frames,
    root: u64,
    virt: u64,
    level: u32,
) -> Result<u64, CannotMap> {
    let mut table = root;
    for above in 0..level {
        let index = index(virt, above);
        let entry = frames.read(table, index);
        table = if entry & VALID == 0 {
            let new = frames.take().ok_or(CannotMap)?;
            frames.write(table, index, F::table(new));
            new
        } else {
            F::next(entry).ok_or(CannotMap)?
        };
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::{CannotMap, Format, Frames, Use, map, shift};
    use crate::arch::long_mode::LongMode;
    use crate::arch::vmsa::Vmsa;

    const ROOT: u64 = 0x1000;
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

    struct Fake(Vec<[u64; 512]>, usize);

    impl Fake {
        fn new(limit: usize) -> Self {
            Self(vec![[0; 512]], limit)
        }

        /// Walks as hardware does; returns the output address and the entry.
        fn walk<F: Format>(&self, virt: u64) -> Option<(u64, u64)> {
            let mut table = ROOT;
            for level in 0..4 {
                let entry = self.read(table, super::index(virt, level));
                if entry & 1 == 0 {
                    return None;
                }
                match F::next(entry) {
                    Some(next) if level < 3 => table = next,
                    _ => {
                        let offset = virt & ((1 << shift(level)) - 1);
                        return Some(((entry & ADDRESS) + offset, entry));
                    }
                }
            }
            None
        }
    }

    impl Frames for Fake {
        fn take(&mut self) -> Option<u64> {
            (self.0.len() < self.1).then(|| {
                self.0.push([0; 512]);
                self.0.len() as u64 * 0x1000
            })
        }
        fn read(&self, table: u64, index: usize) -> u64 {
            self.0[(table / 0x1000 - 1) as usize][index]
        }
        fn write(&mut self, table: u64, index: usize, value: u64) {
            self.0[(table / 0x1000 - 1) as usize][index] = value;
        }
    }

    fn every_page_of_a_range<F: Format>() {
        let mut fake = Fake::new(64);
        let (virt, physical) = (1 << 39 | 0x3fff_d000, 0x3fff_d000);
        let size = 0x4000_0000 + 0x20_5000;
        map::<F>(&mut fake, ROOT, virt, physical, size, Use::Data).unwrap();
        for offset in [0, 0x2fff, 0x3000, 0x4000_0000, size - 1] {
            assert_eq!(fake.walk::<F>(virt + offset).unwrap().0, physical + offset);
        }
        assert!(fake.walk::<F>(virt - 1).is_none());
        assert!(fake.walk::<F>(virt + size).is_none());
        // Root, level 1, one gigabyte block between two ends with a level 2 and level 3 each.
        assert!(fake.0.len() <= 6, "{}", fake.0.len());
    }

    #[test]
    fn every_page_of_a_range_is_mapped_and_none_beside_it() {
        every_page_of_a_range::<Vmsa>();
        every_page_of_a_range::<LongMode>();
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        for usage in [
            Use::Text,
            Use::Constants,
            Use::Data,
            Use::HostData,
            Use::Device,
        ] {
            for level in 1..=3 {
                let arm = Vmsa::page(0, level, usage);
                let (executable, writable) = (arm >> 54 & 1 == 0, arm >> 7 & 1 == 0);
                assert!(!(executable && writable), "{usage:?}");
                assert_eq!(executable, usage == Use::Text);
                assert_eq!(arm >> 5 & 1 != 0, usage == Use::HostData);
                let x86 = LongMode::page(0, level, usage);
                let (executable, writable) = (x86 >> 63 == 0, x86 >> 1 & 1 != 0);
                assert!(!(executable && writable), "{usage:?}");
                assert_eq!(executable, usage == Use::Text);
                assert!(x86 >> 2 & 1 == 0, "a page of the TSM is a user's");
            }
        }
    }

    fn a_mapping_stays<F: Format>() {
        let mut fake = Fake::new(8);
        map::<F>(&mut fake, ROOT, 0x20_0000, 0, 0x20_0000, Use::Text).unwrap();
        for virt in [0x20_0000, 0x30_0000] {
            let outcome = map::<F>(&mut fake, ROOT, virt, 0, 0x1000, Use::Data);
            assert_eq!(outcome, Err(CannotMap));
        }
    }

    #[test]
    fn a_mapping_is_never_changed() {
        a_mapping_stays::<Vmsa>();
        a_mapping_stays::<LongMode>();
    }

    #[test]
    fn bad_ranges_and_a_lack_of_tables_are_refused() {
        let mut fake = Fake::new(8);
        for (virt, physical, size) in [
            (1, 0, 0x1000),
            (0, 1, 0x1000),
            (0, 0, 1),
            (1 << 42, 0, 0x1000),
            (0, 1 << 40, 0x1000),
            (u64::MAX - 0xfff, 0, 0x2000),
        ] {
            let outcome = map::<Vmsa>(&mut fake, ROOT, virt, physical, size, Use::Data);
            assert_eq!(outcome, Err(CannotMap));
        }
        let mut fake = Fake::new(3);
        assert!(map::<Vmsa>(&mut fake, ROOT, 0, 0, 0x1000, Use::Data).is_err());
    }
}
