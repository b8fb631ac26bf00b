// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory of the host, which is never trusted, and memory that the TSM owns.

use core::hash::Hasher;

use crate::{Granule, GranuleRange, HostPa};

/// Reports that host memory could not be reached: not host memory, or taken meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFault;

/// Copies to and from memory that belongs to the host.
///
/// There is no way to borrow it: every byte is read once into memory of the TSM, then judged.
pub trait HostMemory {
    /// Copies `out.len()` bytes at `from`. On a fault `out` holds no host data that counts.
    fn host_read(&self, from: HostPa, out: &mut [u8]) -> Result<(), HostFault>;
    /// Copies `data` to `to`. On a fault some bytes may have been written.
    fn host_write(&self, to: HostPa, data: &[u8]) -> Result<(), HostFault>;
}

/// Reports that a granule does not hold what the caller says it holds, or is in use.
///
/// The core's own table prevents this; it is checked again below because safe code must not be able
/// to alias memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// Not memory that the TSM may use.
    NotOwned,
    /// Holds something else: raw bytes, a table, or an object of another type.
    WrongKind,
    /// Borrowed at this moment.
    InUse,
    /// The object does not fit into one granule.
    TooLarge,
}

/// A type that may live in a donated granule.
pub trait Object: Send + 'static {
    /// Feeds what a call may change of the object, but no secret, to `hasher`: a platform can tell
    /// whether anything changed.
    fn observe(&self, hasher: &mut impl Hasher)
    where
        Self: Sized,
    {
        let _ = hasher;
    }

    /// Flips bit `bit` of the word by which the object decides, if the result is a value of it, as a
    /// disturbance of memory would. Tests see what else stands in the way.
    fn upset(&mut self, bit: u32)
    where
        Self: Sized,
    {
        let _ = bit;
    }
}

/// Memory that the TSM owns, one granule at a time. A granule is *raw* (bytes), an *object* (one
/// value of one type) or a *table* (512 entries that hardware may walk).
pub trait GranuleMemory {
    /// Zeroes a raw granule.
    fn zero(&self, granule: Granule) -> Result<(), MemoryError>;
    /// Zeroes each granule of `range`, all of them raw. After an error some of them are zero.
    fn zero_range(&self, range: GranuleRange) -> Result<(), MemoryError>;
    /// Copies from a raw granule. `offset + out.len()` must not pass the granule's end.
    fn read(&self, granule: Granule, offset: usize, out: &mut [u8]) -> Result<(), MemoryError>;
    /// Copies into a raw granule. `offset + data.len()` must not pass the granule's end.
    fn write(&self, granule: Granule, offset: usize, data: &[u8]) -> Result<(), MemoryError>;

    /// Moves `value` into a raw granule, which becomes an object.
    fn place<T: Object>(&self, granule: Granule, value: T) -> Result<(), MemoryError>;
    /// Runs `work` on the object in `granule`. A second borrow of the same granule is refused.
    fn with<T: Object, R>(
        &self,
        granule: Granule,
        work: impl FnOnce(&mut T) -> R,
    ) -> Result<R, MemoryError>;
    /// Drops the object in `granule` and zeroes it; it becomes raw.
    fn discard<T: Object>(&self, granule: Granule) -> Result<(), MemoryError>;

    /// Turns a raw granule into a table whose entry `i` is `first + i * step`, wrapping.
    fn table_create(&self, granule: Granule, first: u64, step: u64) -> Result<(), MemoryError>;
    /// Reads entry `index` (0 to 511) of a table.
    fn table_read(&self, granule: Granule, index: usize) -> Result<u64, MemoryError>;
    /// Reads as many entries as `out` takes, from `index` on. `index + out.len()` must not pass 512.
    fn table_read_run(
        &self,
        granule: Granule,
        index: usize,
        out: &mut [u64],
    ) -> Result<(), MemoryError>;
    /// Writes entry `index` of a table in one store, visible to walkers before this returns.
    fn table_write(&self, granule: Granule, index: usize, entry: u64) -> Result<(), MemoryError>;
    /// Writes `entries` from `index` on, each in one store, all of them visible to walkers before
    /// this returns. `index + entries.len()` must not pass 512.
    fn table_write_run(
        &self,
        granule: Granule,
        index: usize,
        entries: impl ExactSizeIterator<Item = u64>,
    ) -> Result<(), MemoryError>;
    /// Zeroes a table; it becomes raw.
    fn table_discard(&self, granule: Granule) -> Result<(), MemoryError>;
}
