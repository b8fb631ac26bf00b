// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Root tables of ACPI for the host: those of the platform without the IOMMU, which is the TSM's.

use crate::arch::pvh::Source;

use super::{PAGE, place};

/// Bytes of the root pointer of ACPI 1.0, and where the table behind it is put.
const POINTER_BYTES: usize = 20;
const TABLE: usize = 64;
/// Bytes of a table's header.
const HEADER: usize = 36;
/// Where a table's checksum is.
const CHECKSUM: usize = 9;
/// Table that describes the IOMMU of VT-d.
const REMAPPING: &[u8; 4] = b"DMAR";

/// Makes a page for [`place::ACPI`] with a root pointer and a root table that names the tables which the
/// one behind `pointer` names, but for that of the IOMMU. Returns none if there is no such table, or too
/// many.
pub fn hide_iommu(source: &impl Source, pointer: u64) -> Option<[u8; PAGE]> {
    let mut page = [0; PAGE];
    let old: [u8; POINTER_BYTES] = source.bytes(pointer)?;
    let [.., a, b, c, d] = old;
    let table = u64::from(u32::from_le_bytes([a, b, c, d]));
    let header: [u8; HEADER] = source.bytes(table)?;
    if header.get(..4)? != b"RSDT" {
        return None;
    }
    let length = source.word(table.checked_add(4)?)? as usize;
    let count = length.checked_sub(HEADER)? / 4;
    let mut end = TABLE + HEADER;
    let mut entry = table.checked_add(HEADER as u64)?;
    for _ in 0..count {
        let address = source.bytes(entry)?;
        entry = entry.checked_add(4)?;
        let signature: [u8; 4] = source.bytes(u64::from(u32::from_le_bytes(address)))?;
        if &signature != REMAPPING {
            let next = end.checked_add(4)?;
            page.get_mut(end..next)?.copy_from_slice(&address);
            end = next;
        }
    }
    let root = page.get_mut(TABLE..end)?;
    root.get_mut(..HEADER)?.copy_from_slice(&header);
    let bytes = (root.len() as u32).to_le_bytes();
    root.get_mut(4..8)?.copy_from_slice(&bytes);
    seal(root, CHECKSUM);
    let first = page.get_mut(..POINTER_BYTES)?;
    first.copy_from_slice(&old);
    // Revision 0: there is no wider table.
    *first.get_mut(15)? = 0;
    let address = (place::ACPI as u32 + TABLE as u32).to_le_bytes();
    first.get_mut(16..)?.copy_from_slice(&address);
    seal(first, 8);
    Some(page)
}

/// Makes the bytes sum to zero by the one at `place`.
fn seal(bytes: &mut [u8], place: usize) {
    if let Some(byte) = bytes.get_mut(place) {
        *byte = 0;
    }
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(place) {
        *byte = sum.wrapping_neg();
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, POINTER_BYTES, TABLE, hide_iommu, seal};
    use crate::arch::pvh::Source;

    struct Memory(Vec<u8>);

    impl Source for Memory {
        fn read(&self, address: u64, out: &mut [u8]) -> bool {
            let first = address as usize;
            let found = self.0.get(first..first + out.len());
            found.map(|bytes| out.copy_from_slice(bytes)).is_some()
        }
    }

    /// A root pointer at 16, a root table at 64, and tables at 512 and above.
    fn memory(tables: &[&[u8; 4]]) -> Memory {
        let mut bytes = vec![0; 4096];
        bytes[16..24].copy_from_slice(b"RSD PTR ");
        bytes[32..36].copy_from_slice(&64_u32.to_le_bytes());
        seal(&mut bytes[16..36], 8);
        bytes[64..68].copy_from_slice(b"RSDT");
        let length = 36 + 4 * tables.len();
        bytes[68..72].copy_from_slice(&(length as u32).to_le_bytes());
        for (number, name) in tables.iter().enumerate() {
            let at = 512 + 64 * number;
            bytes[at..at + 4].copy_from_slice(*name);
            bytes[100 + 4 * number..][..4].copy_from_slice(&(at as u32).to_le_bytes());
        }
        seal(&mut bytes[64..64 + length], 9);
        Memory(bytes)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn all_tables_but_that_of_the_iommu_are_named() {
        let memory = memory(&[b"FACP", b"APIC", b"DMAR", b"MCFG"]);
        let page: [u8; PAGE] = hide_iommu(&memory, 16).unwrap();
        assert_eq!(sum(&page[..POINTER_BYTES]), 0);
        assert_eq!(page[16..20], 0x1_4040_u32.to_le_bytes());
        let length = 36 + 4 * 3;
        assert_eq!(page[TABLE + 4..TABLE + 8], (length as u32).to_le_bytes());
        assert_eq!(sum(&page[TABLE..TABLE + length]), 0);
        let named: Vec<u32> = page[TABLE + 36..TABLE + length]
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(named, [512, 576, 704]);
    }

    #[test]
    fn a_root_that_leads_nowhere_gives_no_tables() {
        let good = memory(&[b"FACP"]);
        let mut other = memory(&[b"FACP"]);
        other.0[64] = b'X';
        assert!(hide_iommu(&other, 16).is_none());
        assert!(hide_iommu(&good, 1 << 20).is_none());
        let mut many = memory(&[b"FACP"]);
        many.0[68..72].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        assert!(hide_iommu(&many, 16).is_none());
    }
}
