// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ACPI tables that the TSM needs: where configuration space is (MCFG), where IOMMUs are (DMAR), and
//! which processors there are (MADT).

use heapless::Vec;

use super::pvh::Source;
use crate::layout::MAX_CPUS;

/// Most IOMMUs that are taken.
pub const MOST_UNITS: usize = 4;
/// Most I/O APICs that are taken.
pub const MOST_IO_APICS: usize = 4;
/// Tables that are looked at, and bytes of one.
const MOST_TABLES: u64 = 64;
const MOST_BYTES: u32 = 1 << 20;
/// Size of the header of a table (ACPI 6.5, 5.2.6).
const HEADER: u64 = 36;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Base of the configuration window of segment 0, and how many buses it shows from bus 0 on.
    pub ecam: Option<(u64, u16)>,
    /// Register bases of remapping units of segment 0.
    pub units: Vec<u64, MOST_UNITS>,
    /// Ids of the local APICs of the processors that can be used.
    pub processors: Vec<u32, MAX_CPUS>,
    /// Register pages of the I/O APICs.
    pub io_apics: Vec<u64, MOST_IO_APICS>,
}

/// Says what is wrong with the tables: one is damaged, or there is more than room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

type Result<T> = core::result::Result<T, Damaged>;

/// Reads the tables that the root pointer at `rsdp` leads to.
///
/// # Errors
///
/// [`Damaged`].
pub fn read(source: &impl Source, rsdp: u64) -> Result<Tables> {
    let mut found = Tables::default();
    let signature: [u8; 8] = bytes(source, rsdp)?;
    if &signature != b"RSD PTR " || sum(source, rsdp, 20)? != 0 {
        return Err(Damaged);
    }
    let [revision] = bytes(source, add(rsdp, 15)?)?;
    let (root, width) = match revision {
        0 => (u64::from(word(source, add(rsdp, 16)?)?), 4),
        _ => (long(source, add(rsdp, 24)?)?, 8),
    };
    let (_, length) = header(source, root)?;
    let count = length
        .saturating_sub(HEADER)
        .checked_div(width)
        .ok_or(Damaged)?;
    if count > MOST_TABLES {
        return Err(Damaged);
    }
    for number in 0..count {
        let place = add(root, add(HEADER, number.saturating_mul(width))?)?;
        let table = if width == 4 {
            u64::from(word(source, place)?)
        } else {
            long(source, place)?
        };
        let (signature, length) = header(source, table)?;
        let end = add(table, length)?;
        match &signature {
            b"MCFG" => found.read_windows(source, add(table, 44)?, end)?,
            b"DMAR" => found.read_units(source, add(table, 48)?, end)?,
            b"APIC" => found.read_processors(source, add(table, 44)?, end)?,
            _ => {}
        }
    }
    Ok(found)
}

impl Tables {
    /// Reads the windows of configuration space (PCI firmware specification 3.3, 4.1.2).
    fn read_windows(&mut self, source: &impl Source, first: u64, end: u64) -> Result<()> {
        let mut place = first;
        while add(place, 16)? <= end {
            let base = long(source, place)?;
            let [low, high, start, last] = bytes(source, add(place, 8)?)?;
            if (low, high, start) == (0, 0, 0) {
                self.ecam = Some((base, u16::from(last).saturating_add(1)));
            }
            place = add(place, 16)?;
        }
        Ok(())
    }

    /// Reads the remapping structures (VT-d 4.1, 8.1): type 0 is a unit.
    fn read_units(&mut self, source: &impl Source, first: u64, end: u64) -> Result<()> {
        let mut place = first;
        while add(place, 16)? <= end {
            let [kind, kind_high, length, length_high] = bytes(source, place)?;
            let length = u16::from_le_bytes([length, length_high]);
            if length < 4 {
                return Err(Damaged);
            }
            if (kind, kind_high) == (0, 0) {
                let [low, high] = bytes(source, add(place, 6)?)?;
                if (low, high) == (0, 0) {
                    let base = long(source, add(place, 8)?)?;
                    self.units.push(base).map_err(|_| Damaged)?;
                }
            }
            place = add(place, u64::from(length))?;
        }
        Ok(())
    }

    /// Reads the interrupt controllers (ACPI 6.5, 5.2.12): type 0 is a local APIC, type 9 one of x2APIC,
    /// type 1 an I/O APIC.
    fn read_processors(&mut self, source: &impl Source, first: u64, end: u64) -> Result<()> {
        let mut place = first;
        while add(place, 2)? <= end {
            let [kind, length] = bytes(source, place)?;
            if length < 2 || add(place, u64::from(length))? > end {
                return Err(Damaged);
            }
            let (id, flags) = match (kind, length) {
                (0, 8..) => {
                    let [id] = bytes(source, add(place, 3)?)?;
                    (u32::from(id), word(source, add(place, 4)?)?)
                }
                (1, 12..) => {
                    let page = u64::from(word(source, add(place, 4)?)?);
                    self.io_apics.push(page).map_err(|_| Damaged)?;
                    (0, 0)
                }
                (9, 16..) => (word(source, add(place, 4)?)?, word(source, add(place, 8)?)?),
                _ => (0, 0),
            };
            // Bit 0: the processor is there and can be used.
            if flags & 1 != 0 {
                self.processors.push(id).map_err(|_| Damaged)?;
            }
            place = add(place, u64::from(length))?;
        }
        Ok(())
    }
}

/// Returns signature and length of the table at `table`, whose bytes sum to zero.
fn header(source: &impl Source, table: u64) -> Result<([u8; 4], u64)> {
    let signature = bytes(source, table)?;
    let length = word(source, add(table, 4)?)?;
    if u64::from(length) < HEADER || length > MOST_BYTES {
        return Err(Damaged);
    }
    let length = u64::from(length);
    // Some tables are changed by firmware without their checksum being put right; those that are used
    // here are not.
    if matches!(&signature, b"MCFG" | b"DMAR" | b"APIC" | b"RSDT" | b"XSDT")
        && sum(source, table, length)? != 0
    {
        return Err(Damaged);
    }
    Ok((signature, length))
}

fn sum(source: &impl Source, first: u64, length: u64) -> Result<u8> {
    let mut sum = 0_u8;
    for offset in 0..length {
        let [byte] = bytes(source, add(first, offset)?)?;
        sum = sum.wrapping_add(byte);
    }
    Ok(sum)
}

fn add(address: u64, offset: u64) -> Result<u64> {
    address.checked_add(offset).ok_or(Damaged)
}

fn bytes<const N: usize>(source: &impl Source, address: u64) -> Result<[u8; N]> {
    source.bytes(address).ok_or(Damaged)
}

fn word(source: &impl Source, address: u64) -> Result<u32> {
    source.word(address).ok_or(Damaged)
}

fn long(source: &impl Source, address: u64) -> Result<u64> {
    source.long(address).ok_or(Damaged)
}

#[cfg(test)]
mod tests {
    use super::super::pvh::tests::Image;
    use super::{Damaged, Tables, read};

    fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut table = signature.to_vec();
        table.extend(((36 + body.len()) as u32).to_le_bytes());
        table.resize(36, 0);
        table.extend(body);
        seal(&mut table, 9);
        table
    }

    fn seal(bytes: &mut [u8], place: usize) {
        bytes[place] = 0;
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[place] = 0_u8.wrapping_sub(sum);
    }

    fn mcfg() -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend(0xb000_0000_u64.to_le_bytes());
        body.extend([0, 0, 0, 255, 0, 0, 0, 0]);
        table(b"MCFG", &body)
    }

    fn dmar() -> Vec<u8> {
        let mut body = vec![0; 12];
        // A unit, and a structure of another type.
        body.extend([0, 0, 16, 0, 1, 0, 0, 0]);
        body.extend(0xfed9_0000_u64.to_le_bytes());
        body.extend([2, 0, 16, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
        table(b"DMAR", &body)
    }

    fn madt() -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        body.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        body.extend([0, 8, 1, 7, 1, 0, 0, 0]);
        // One that cannot be used, and one by its x2APIC.
        body.extend([0, 8, 2, 8, 0, 0, 0, 0]);
        body.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        table(b"APIC", &body)
    }

    /// Lays tables out with a root of entries of `width` bytes.
    fn image(tables: &[Vec<u8>], width: usize) -> Image {
        let mut image = Image(vec![0; 0x2000]);
        let mut place = 0x2000;
        let mut list = Vec::new();
        for table in tables {
            image.put(place, table);
            list.extend(&(place as u64).to_le_bytes()[..width]);
            place += table.len().next_multiple_of(16);
        }
        let signature = if width == 4 { b"RSDT" } else { b"XSDT" };
        image.put(0x1100, &table(signature, &list));
        let mut pointer = b"RSD PTR ".to_vec();
        pointer.resize(36, 0);
        if width == 4 {
            pointer[16..20].copy_from_slice(&0x1100_u32.to_le_bytes());
        } else {
            pointer[15] = 2;
            pointer[24..32].copy_from_slice(&0x1100_u64.to_le_bytes());
        }
        seal(&mut pointer[..20], 8);
        image.put(0x1000, &pointer);
        image
    }

    #[test]
    fn what_is_needed_is_found_by_either_root() {
        for width in [4, 8] {
            let other = table(b"HPET", &[1, 2, 3]);
            let image = image(&[other, mcfg(), dmar(), madt()], width);
            let found = read(&image, 0x1000).unwrap();
            assert_eq!(found.ecam, Some((0xb000_0000, 256)));
            assert_eq!(found.units.as_slice(), [0xfed9_0000]);
            assert_eq!(found.processors.as_slice(), [0, 7, 0x100]);
            assert_eq!(found.io_apics.as_slice(), [0xfec0_0000]);
        }
    }

    #[test]
    fn a_machine_without_the_tables_has_nothing() {
        assert_eq!(read(&image(&[], 4), 0x1000), Ok(Tables::default()));
    }

    #[test]
    fn a_damaged_table_is_refused() {
        for which in [mcfg(), dmar(), madt()] {
            let mut damaged = which;
            damaged[40] ^= 1;
            assert_eq!(read(&image(&[damaged], 4), 0x1000), Err(Damaged));
        }
        let mut image = image(&[mcfg()], 4);
        image.put(0x1000, b"RSD PTS ");
        assert_eq!(read(&image, 0x1000), Err(Damaged));
    }

    #[test]
    fn structures_that_do_not_end_are_refused() {
        let mut body = vec![0; 12];
        body.extend([0; 16]);
        let endless = table(b"DMAR", &body);
        assert_eq!(read(&image(&[endless], 4), 0x1000), Err(Damaged));
        let mut body = vec![0; 8];
        body.extend([0, 0, 0, 0]);
        let endless = table(b"APIC", &body);
        assert_eq!(read(&image(&[endless], 4), 0x1000), Err(Damaged));
    }

    #[test]
    fn more_processors_than_there_is_room_for_are_refused() {
        let mut body = vec![0; 8];
        for id in 0..9 {
            body.extend([0, 8, 0, id, 1, 0, 0, 0]);
        }
        assert_eq!(
            read(&image(&[table(b"APIC", &body)], 4), 0x1000),
            Err(Damaged)
        );
    }
}
