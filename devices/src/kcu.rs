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
const VERSION: u32 = 1;
const STREAMS: u32 = 256;
/// Offset of the number of times that a device process has started.
const STARTS: u64 = 0x0c;

const STREAM_BASE: u64 = 0x1000;
const STREAM_SIZE: u64 = 0x400;
/// Within a stream: root port and its bit "in use", then what we report.
const IN_USE: u32 = 1 << 31;
const LINK_STATE: u64 = 0x04;
const SLOTS: usize = 0x40;
const SLOT_SIZE: usize = 0x40;
/// Within a slot: eight key words, two words of the invocation field, control.
const IFV: usize = 0x20;
const CONTROL: usize = 0x28;
const GO: u32 = 2;

/// Link states, numbered as in an IDE status register.
const INSECURE: u32 = 0;
const SECURE: u32 = 2;

/// A key configuration unit in a file that QEMU maps, too.
pub struct KeyUnit(File);

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
        let unit = Self(file);
        let starts = unit.read(STARTS)?.wrapping_add(1);
        for (offset, value) in [(0, MAGIC), (4, VERSION), (8, STREAMS), (STARTS, starts)] {
            unit.write(offset, value)?;
        }
        // What an earlier process found out is no longer true.
        for stream in 0..=u8::MAX {
            unit.report(stream, LinkStatus::default())?;
        }
        Ok(unit)
    }

    fn read(&self, offset: u64) -> io::Result<u32> {
        let mut word = [0; 4];
        self.0.read_exact_at(&mut word, offset)?;
        Ok(u32::from_le_bytes(word))
    }

    fn write(&self, offset: u64, value: u32) -> io::Result<()> {
        self.0.write_all_at(&value.to_le_bytes(), offset)
    }

    fn report(&self, stream: u8, status: LinkStatus) -> io::Result<()> {
        let state = if status.secure { SECURE } else { INSECURE };
        let words = [state, status.opened, status.failed].map(u32::to_le_bytes);
        self.0
            .write_all_at(words.as_flattened(), stream_base(stream) + LINK_STATE)
    }
}

fn stream_base(stream: u8) -> u64 {
    STREAM_BASE + u64::from(stream) * STREAM_SIZE
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
    fn keys(&mut self, stream: u8) -> EndKeys {
        let mut bytes = Zeroizing::new([0; STREAM_SIZE as usize]);
        let read = self.0.read_exact_at(&mut bytes[..], stream_base(stream));
        let mut keys = [const { None }; KEYS_PER_STREAM];
        if read.is_ok() && word(&bytes[..], 0) & IN_USE != 0 {
            let slots = bytes[SLOTS..].chunks_exact(SLOT_SIZE);
            for (key, slot) in keys.iter_mut().zip(slots) {
                *key = slot_key(slot);
            }
        }
        keys
    }

    fn publish(&mut self, stream: u8, status: LinkStatus) {
        // The machine reads "insecure" from a unit that cannot be written: that is the safe side.
        let _ = self.report(stream, status);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{KeyUnit, LinkKeys, LinkStatus};

    fn temporary(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("portcullis-{name}-{}", std::process::id()))
    }

    #[test]
    fn registers_map_to_cipher_order_and_only_keys_in_use_count() {
        let path = temporary("kcu-registers");
        let mut unit = KeyUnit::open(&path).unwrap();
        let base = 0x1000 + 3 * 0x400;
        let slot = base + 0x40 + 7 * 0x40;
        for index in 0..8_u32 {
            // Key bytes 0, 1, 2, ...: word 7 is 0x00010203.
            let first = 4 * (7 - index);
            let value = u32::from_be_bytes([0, 1, 2, 3].map(|byte| first as u8 + byte));
            unit.write(slot + 4 * u64::from(index), value).unwrap();
        }
        unit.write(slot + 0x20, 1).unwrap();
        unit.write(slot + 0x28, 1).unwrap();
        unit.write(base, 0x8000_0010).unwrap();
        assert!(unit.keys(3).iter().all(Option::is_none));
        unit.write(slot + 0x28, 2).unwrap();
        let keys = unit.keys(3);
        assert_eq!(keys.iter().flatten().count(), 1);
        let key = keys[7].as_ref().unwrap();
        assert_eq!(key.key[..], (0..32).collect::<Vec<u8>>()[..]);
        assert_eq!(key.iv, 1);
        unit.write(base, 0x10).unwrap();
        assert!(unit.keys(3).iter().all(Option::is_none));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_start_is_counted_and_takes_back_what_was_reported() {
        let path = temporary("kcu-starts");
        let mut unit = KeyUnit::open(&path).unwrap();
        unit.publish(
            255,
            LinkStatus {
                secure: true,
                opened: 7,
                failed: 2,
            },
        );
        let at = 0x1000 + 255 * 0x400;
        assert_eq!(
            [4, 8, 12].map(|offset| unit.read(at + offset).unwrap()),
            [2, 7, 2]
        );
        let again = KeyUnit::open(&path).unwrap();
        assert_eq!(again.read(0).unwrap(), 0x5543_4b50);
        assert_eq!(again.read(0xc).unwrap(), 2);
        assert_eq!(
            [4, 8, 12].map(|offset| again.read(at + offset).unwrap()),
            [0, 0, 0]
        );
        fs::remove_file(path).unwrap();
    }
}
