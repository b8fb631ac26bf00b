// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key configuration unit: keys of the root ports in memory shared with the machine.
//!
//! The monitor writes keys, we write back what the link model found. All values are little endian.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::link::{EndKeys, KEYS_PER_STREAM, LinkKey, LinkKeys, LinkStatus};

const SIZE: u64 = 1 << 20;
const MAGIC: u32 = 0x5543_4b50;
const VERSION: u32 = 2;
const ENTRIES: u32 = 256;
/// Offset of the number of times that a device process has started.
const STARTS: u64 = 0x0c;

const ENTRY_BASE: u64 = 0x1000;
const ENTRY_SIZE: u64 = 0x800;
/// Within an entry: root port in bits 15:0, stream in 23:16 and "in use", then what we report, then
/// the stream's requester ids and whether it is enabled and valid.
const IN_USE: u32 = 1 << 31;
const LINK_STATE: u64 = 0x04;
const RIDS: usize = 0x10;
const FLAGS: usize = 0x14;
const ENABLED_AND_VALID: u32 = 3;
const SLOTS: usize = 0x40;
const SLOT_SIZE: usize = 0x40;
/// Within a slot: eight key words, two words of the invocation field, control.
const IFV: usize = 0x20;
const CONTROL: usize = 0x28;
const GO: u32 = 2;

/// Link states, numbered as in an IDE status register.
const INSECURE: u32 = 0;
const SECURE: u32 = 2;

/// A key configuration unit in a file that QEMU maps, too, as the function `rid` sees it.
pub struct KeyUnit {
    file: File,
    rid: Option<u16>,
}

impl KeyUnit {
    /// Opens the unit at `path`, which is created or enlarged as needed, and announces a start.
    ///
    /// # Errors
    /// The file cannot be opened, enlarged or written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if file.metadata()?.len() < SIZE {
            file.set_len(SIZE)?;
        }
        let unit = Self { file, rid: None };
        let starts = unit.read(STARTS)?.wrapping_add(1);
        for (offset, value) in [(0, MAGIC), (4, VERSION), (8, ENTRIES), (STARTS, starts)] {
            unit.write(offset, value)?;
        }
        // What an earlier process found out is no longer true.
        for entry in 0..ENTRIES {
            unit.report(entry_base(entry), LinkStatus::default())?;
        }
        Ok(unit)
    }

    fn read(&self, offset: u64) -> io::Result<u32> {
        let mut word = [0; 4];
        self.file.read_exact_at(&mut word, offset)?;
        Ok(u32::from_le_bytes(word))
    }

    fn write(&self, offset: u64, value: u32) -> io::Result<()> {
        self.file.write_all_at(&value.to_le_bytes(), offset)
    }

    fn report(&self, entry: u64, status: LinkStatus) -> io::Result<()> {
        let state = if status.secure { SECURE } else { INSECURE };
        let words = [state, status.opened, status.failed].map(u32::to_le_bytes);
        self.file
            .write_all_at(words.as_flattened(), entry + LINK_STATE)
    }

    /// Returns the offset and the registers of the entry of `stream` whose packets reach us: another
    /// root port may have a stream of the same id.
    fn find(&self, stream: u8) -> Option<(u64, Zeroizing<[u8; ENTRY_SIZE as usize]>)> {
        (0..ENTRIES).map(entry_base).find_map(|base| {
            let owner = self.read(base).ok()?;
            if owner & IN_USE == 0 || owner >> 16 & 0xff != u32::from(stream) {
                return None;
            }
            let mut bytes = Zeroizing::new([0; ENTRY_SIZE as usize]);
            self.file.read_exact_at(&mut bytes[..], base).ok()?;
            let rids = word(&bytes[..], RIDS);
            let (first, last) = (rids as u16, (rids >> 16) as u16);
            let is_ours = self.rid.is_none_or(|rid| (first..=last).contains(&rid));
            let is_enabled = word(&bytes[..], FLAGS) & ENABLED_AND_VALID == ENABLED_AND_VALID;
            (is_ours && is_enabled).then_some((base, bytes))
        })
    }
}

fn entry_base(entry: u32) -> u64 {
    ENTRY_BASE + u64::from(entry) * ENTRY_SIZE
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

/// Reads a slot, or `None` if its key is not in use.
fn slot_key(slot: &[u8]) -> Option<LinkKey> {
    if word(slot, CONTROL) & GO == 0 {
        return None;
    }
    let mut key = Zeroizing::new([0; 32]);
    // Register order: the last word holds the first four bytes of the key.
    for (index, out) in key.chunks_exact_mut(4).enumerate() {
        out.copy_from_slice(&word(slot, 4 * (7 - index)).to_be_bytes());
    }
    let iv = u64::from(word(slot, IFV + 4)) << 32 | u64::from(word(slot, IFV));
    Some(LinkKey { key, iv })
}

impl LinkKeys for KeyUnit {
    fn place(&mut self, rid: Option<u16>) {
        self.rid = rid;
    }

    fn keys(&mut self, stream: u8) -> EndKeys {
        let mut keys = [const { None }; KEYS_PER_STREAM];
        if let Some((_, bytes)) = self.find(stream) {
            let slots = bytes[SLOTS..].chunks_exact(SLOT_SIZE);
            for (key, slot) in keys.iter_mut().zip(slots) {
                *key = slot_key(slot);
            }
        }
        keys
    }

    fn publish(&mut self, stream: u8, status: LinkStatus) {
        // The machine reads "insecure" from a unit that cannot be written: that is the safe side.
        if let Some((base, _)) = self.find(stream) {
            let _ = self.report(base, status);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{ENTRY_SIZE, KeyUnit, LinkKeys, LinkStatus};

    fn temporary(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("portcullis-{name}-{}", std::process::id()))
    }

    const BASE: u64 = 0x1000 + 9 * ENTRY_SIZE;

    impl KeyUnit {
        /// Puts the counting key into one slot of stream 3 of root port 00:02.0.
        fn program(&self) {
            let slot = BASE + 0x40 + 7 * 0x40;
            for index in 0..8_u32 {
                // Key bytes 0, 1, 2, ...: word 7 is 0x00010203.
                let first = 4 * (7 - index);
                let value = u32::from_be_bytes([0, 1, 2, 3].map(|byte| first as u8 + byte));
                self.write(slot + 4 * u64::from(index), value).unwrap();
            }
            let words = [
                (slot + 0x20, 1),
                (slot + 0x28, 2),
                (BASE, 0x8003_0010),
                (BASE + 0x10, 0x01ff_0100),
                (BASE + 0x14, 3),
            ];
            for (offset, value) in words {
                self.write(offset, value).unwrap();
            }
        }
    }

    #[test]
    fn registers_map_to_cipher_order_and_only_keys_in_use_count() {
        let path = temporary("kcu-registers");
        let mut unit = KeyUnit::open(&path).unwrap();
        unit.program();
        let keys = unit.keys(3);
        assert_eq!(keys.iter().flatten().count(), 1);
        let key = keys[7].as_ref().unwrap();
        assert_eq!(key.key[..], (0..32).collect::<Vec<u8>>()[..]);
        assert_eq!(key.iv, 1);
        let slot = BASE + 0x40 + 7 * 0x40;
        // Not going, not enabled, not valid, no owner, another stream's.
        for (offset, value) in [
            (slot + 0x28, 1),
            (BASE + 0x14, 2),
            (BASE + 0x14, 1),
            (BASE, 0x0003_0010),
            (BASE, 0x8004_0010),
        ] {
            unit.program();
            unit.write(offset, value).unwrap();
            assert!(unit.keys(3).iter().all(Option::is_none), "{offset:x}");
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_function_sees_the_stream_that_its_requester_id_is_on() {
        let path = temporary("kcu-rids");
        let mut unit = KeyUnit::open(&path).unwrap();
        unit.program();
        for (rid, sees) in [
            (0x0100, true),
            (0x01ff, true),
            (0x00ff, false),
            (0x0200, false),
        ] {
            unit.place(Some(rid));
            assert_eq!(unit.keys(3).iter().any(Option::is_some), sees);
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_start_is_counted_and_takes_back_what_was_reported() {
        let path = temporary("kcu-starts");
        let mut unit = KeyUnit::open(&path).unwrap();
        unit.program();
        unit.publish(
            3,
            LinkStatus {
                secure: true,
                opened: 7,
                failed: 2,
            },
        );
        assert_eq!(
            [4, 8, 12].map(|offset| unit.read(BASE + offset).unwrap()),
            [2, 7, 2]
        );
        let again = KeyUnit::open(&path).unwrap();
        assert_eq!(again.read(0).unwrap(), 0x5543_4b50);
        assert_eq!(again.read(0xc).unwrap(), 2);
        assert_eq!(
            [4, 8, 12].map(|offset| again.read(BASE + offset).unwrap()),
            [0, 0, 0]
        );
        fs::remove_file(path).unwrap();
    }
}
