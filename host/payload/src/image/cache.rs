// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host keeps of a device's evidence. The TSM knows the digests, so nobody has to trust it.

use tsm_abi::rmi::CommObject;

use super::layout::CACHES;
use super::memory;

/// Room for each object, in bytes.
pub const CAPACITY: usize = 0x1_0000;
const OBJECTS: usize = 4;

/// The objects of one device.
#[derive(Debug)]
pub struct Caches {
    used: [usize; OBJECTS],
}

impl Caches {
    /// Returns caches that hold nothing.
    pub const fn new() -> Self {
        Self { used: [0; OBJECTS] }
    }

    fn base(object: CommObject) -> u64 {
        (CACHES + object as usize * CAPACITY) as u64
    }

    /// Forgets an object.
    pub fn reset(&mut self, object: CommObject) {
        self.used[object as usize] = 0;
    }

    /// Appends `length` bytes at `from` to an object. Returns whether there was room.
    pub fn append(&mut self, object: CommObject, from: u64, length: usize) -> bool {
        let used = &mut self.used[object as usize];
        let Some(end) = used.checked_add(length).filter(|end| *end <= CAPACITY) else {
            return false;
        };
        let target = memory::words(Self::base(object));
        let source = memory::words(from);
        for offset in 0..length {
            target.write8(*used + offset, source.read8(offset));
        }
        *used = end;
        true
    }

    /// Returns the size of an object in bytes, zero if there is none.
    pub fn size(&self, object: CommObject) -> usize {
        self.used[object as usize]
    }

    /// Copies an object from its start into `out` and returns the bytes copied.
    pub fn read<'a>(&self, object: CommObject, out: &'a mut [u8]) -> &'a [u8] {
        self.read_from(object, 0, out)
    }

    /// Copies an object from `offset` into `out` and returns the bytes copied.
    pub fn read_from<'a>(&self, object: CommObject, offset: usize, out: &'a mut [u8]) -> &'a [u8] {
        let length = self.size(object).saturating_sub(offset).min(out.len());
        memory::read(Self::base(object) + offset as u64, &mut out[..length]);
        &out[..length]
    }

    /// Copies up to `length` bytes of an object from `offset` to `to`; returns how many, or none if
    /// the offset is past the end.
    pub fn copy(&self, object: CommObject, offset: usize, to: u64, length: usize) -> Option<usize> {
        let rest = self.size(object).checked_sub(offset)?;
        let length = length.min(rest);
        let target = memory::words(to);
        let source = memory::words(Self::base(object));
        for index in 0..length {
            target.write8(index, source.read8(offset + index));
        }
        Some(length)
    }
}
