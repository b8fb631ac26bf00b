// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory that the TSM owns, reached through a window at a fixed distance from physical addresses.

use core::any::TypeId;
use core::sync::atomic::{AtomicU64, Ordering};

use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, MemoryError, Object};

use crate::arch;
use crate::kinds::{Exclusive, Kind, Kinds};

const SIZE: usize = GRANULE_SIZE as usize;
const ENTRIES: usize = SIZE / 8;

/// A mapping of physical memory at a fixed distance.
#[derive(Clone, Copy)]
pub struct Window {
    base: *mut u8,
    origin: u64,
    size: u64,
}

// SAFETY: a window is only an address; what may be done with it is decided by `Kinds` (memory of
// the TSM) or by the guarded copy (memory of the host), both of which are safe from any CPU.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Describes a window that shows physical `[origin, origin + size)` at `base`.
    ///
    /// # Safety
    ///
    /// The mapping must exist for as long as the window is used, where anything is mapped at all,
    /// and no Rust reference may point into it except through [`Memory`].
    pub const unsafe fn new(base: *mut u8, origin: u64, size: u64) -> Self {
        Self { base, origin, size }
    }

    /// Returns where physical `address` is seen, if it is inside the window with `length` bytes
    /// after it.
    #[inline(always)]
    pub fn at(&self, address: u64, length: u64) -> Option<*mut u8> {
        let offset = address.checked_sub(self.origin)?;
        let end = offset.checked_add(length)?;
        (end <= self.size).then(|| self.base.wrapping_add(offset as usize))
    }
}

/// An object as it lies in its granule.
#[repr(C)]
struct Placed<T> {
    id: TypeId,
    value: T,
}

/// The TSM's granules.
pub struct Memory {
    /// What each granule holds.
    pub kinds: Kinds,
    window: Window,
}

impl Memory {
    /// Joins the table of kinds to the window in which the granules are seen.
    ///
    /// # Safety
    ///
    /// A granule whose kind is not `Absent` or `Device` must be memory that is mapped in `window`
    /// and used by nothing but this value, guests and hardware that walks tables.
    pub const unsafe fn new(kinds: Kinds, window: Window) -> Self {
        Self { kinds, window }
    }

    #[inline(always)]
    fn pointer(&self, granule: Granule) -> Result<*mut u8, MemoryError> {
        self.window
            .at(granule.address(), GRANULE_SIZE)
            .ok_or(MemoryError::NotOwned)
    }

    /// Zeroes a raw granule.
    pub fn zero(&self, granule: Granule) -> Result<(), MemoryError> {
        let pointer = self.pointer(granule)?;
        let _shared = self.kinds.share(granule, Kind::Raw)?;
        // SAFETY: the granule is raw, so `pointer` is mapped memory of one granule that no Rust
        // reference points to; `_shared` keeps it so until the end of this function.
        unsafe { arch::zero_granule(pointer) };
        Ok(())
    }

    /// Zeroes every granule of a range, all of them raw.
    pub fn zero_range(&self, range: GranuleRange) -> Result<(), MemoryError> {
        let base = self.window.at(range.base(), range.bytes());
        let base = base.ok_or(MemoryError::NotOwned)?;
        let granules = self.kinds.share_each(range, Kind::Raw)?;
        let mut page = base;
        for shared in granules {
            let _shared = shared?;
            // SAFETY: as in `zero`: this granule of the range is raw while `_shared` lives, and the
            // window shows the whole range.
            unsafe { arch::zero_granule(page) };
            page = page.wrapping_add(SIZE);
        }
        Ok(())
    }

    /// Copies from a raw granule.
    pub fn read(&self, granule: Granule, offset: usize, out: &mut [u8]) -> Result<(), MemoryError> {
        let pointer = self.pointer(granule)?;
        check(offset, out.len())?;
        let _shared = self.kinds.share(granule, Kind::Raw)?;
        // SAFETY: as in `zero`; `check` keeps the bytes inside the granule. The copy is not a Rust
        // memory access, so a guest that writes meanwhile makes no undefined behaviour.
        let copied =
            unsafe { arch::copy(out.as_mut_ptr(), pointer.wrapping_add(offset), out.len()) };
        copied.map_err(|_| MemoryError::NotOwned)
    }

    /// Copies into a raw granule.
    pub fn write(&self, granule: Granule, offset: usize, data: &[u8]) -> Result<(), MemoryError> {
        let pointer = self.pointer(granule)?;
        check(offset, data.len())?;
        let _shared = self.kinds.share(granule, Kind::Raw)?;
        // SAFETY: as in `read`.
        let copied = unsafe { arch::copy(pointer.wrapping_add(offset), data.as_ptr(), data.len()) };
        copied.map_err(|_| MemoryError::NotOwned)
    }

    /// Claims a raw granule for a value of `size` bytes with `align`.
    #[inline(never)]
    fn claim_raw(
        &self,
        granule: Granule,
        (size, align): (usize, usize),
    ) -> Result<(Exclusive, *mut u8), MemoryError> {
        if size > SIZE || align > SIZE {
            return Err(MemoryError::TooLarge);
        }
        let pointer = self.pointer(granule)?;
        Ok((self.kinds.claim(granule, Kind::Raw)?, pointer))
    }

    /// Claims an object of type `id`.
    #[inline(never)]
    fn claim_object(
        &self,
        granule: Granule,
        id: TypeId,
    ) -> Result<(Exclusive, *mut u8), MemoryError> {
        let pointer = self.pointer(granule)?;
        let exclusive = self.kinds.claim(granule, Kind::Object)?;
        // SAFETY: an object lies there, placed by `place`; whatever its type, its first field is a
        // `TypeId`, because `Placed` is `repr(C)`.
        if unsafe { pointer.cast::<TypeId>().read() } != id {
            exclusive.become_kind(Kind::Object);
            return Err(MemoryError::WrongKind);
        }
        Ok((exclusive, pointer))
    }

    /// Moves `value` into a raw granule.
    pub fn place<T: Object>(&self, granule: Granule, value: T) -> Result<(), MemoryError> {
        let layout = (size_of::<Placed<T>>(), align_of::<Placed<T>>());
        let (exclusive, pointer) = self.claim_raw(granule, layout)?;
        let id = TypeId::of::<T>();
        // SAFETY: the granule is ours alone, large enough and aligned for `Placed<T>`.
        unsafe { pointer.cast::<Placed<T>>().write(Placed { id, value }) };
        exclusive.become_kind(Kind::Object);
        Ok(())
    }

    /// Runs `work` on the object in `granule`.
    pub fn with<T: Object, R>(
        &self,
        granule: Granule,
        work: impl FnOnce(&mut T) -> R,
    ) -> Result<R, MemoryError> {
        let (exclusive, pointer) = self.claim_object(granule, TypeId::of::<T>())?;
        // SAFETY: the object is a `T`, and `exclusive` makes this the only reference to it.
        let result = work(unsafe { &mut (*pointer.cast::<Placed<T>>()).value });
        exclusive.become_kind(Kind::Object);
        Ok(result)
    }

    /// Drops the object in `granule` and zeroes it.
    pub fn discard<T: Object>(&self, granule: Granule) -> Result<(), MemoryError> {
        let (exclusive, pointer) = self.claim_object(granule, TypeId::of::<T>())?;
        // SAFETY: the object is a `T` that nobody else can reach; after this it is only bytes.
        unsafe {
            (&raw mut (*pointer.cast::<Placed<T>>()).value).drop_in_place();
            arch::zero_granule(pointer);
        }
        exclusive.become_kind(Kind::Raw);
        Ok(())
    }

    /// Turns a raw granule into a table.
    pub fn table_create(&self, granule: Granule, first: u64, step: u64) -> Result<(), MemoryError> {
        /// Words that are written at a time.
        const LINE: usize = 8;
        const { assert!(ENTRIES.is_multiple_of(LINE)) };
        let pointer = self.pointer(granule)?;
        let exclusive = self.kinds.claim(granule, Kind::Raw)?;
        if (first, step) == (0, 0) {
            // SAFETY: the granule is ours alone.
            unsafe { arch::zero_granule(pointer) };
        } else {
            let pointer = pointer.cast::<[u64; LINE]>();
            let mut line: [u64; LINE] =
                core::array::from_fn(|index| first.wrapping_add(step.wrapping_mul(index as u64)));
            for index in 0..ENTRIES / LINE {
                // SAFETY: the granule is ours alone and holds `ENTRIES` aligned words.
                unsafe { pointer.add(index).write(line) };
                line = line.map(|entry| entry.wrapping_add(step.wrapping_mul(LINE as u64)));
            }
        }
        exclusive.become_kind(Kind::Table);
        // A walker that is shown the table next must see it filled.
        arch::publish_table();
        Ok(())
    }

    /// Reads an entry of a table.
    pub fn table_read(&self, granule: Granule, index: usize) -> Result<u64, MemoryError> {
        let entry = self.entries(granule, index, 1)?;
        let _shared = self.kinds.share(granule, Kind::Table)?;
        // SAFETY: the word lies in a table, which software reaches by atomic accesses only.
        Ok(unsafe { AtomicU64::from_ptr(entry) }.load(Ordering::Relaxed))
    }

    /// Reads entries of a table from `index` on.
    pub fn table_read_run(
        &self,
        granule: Granule,
        index: usize,
        out: &mut [u64],
    ) -> Result<(), MemoryError> {
        let first = self.entries(granule, index, out.len())?;
        let _shared = self.kinds.share(granule, Kind::Table)?;
        for (number, place) in out.iter_mut().enumerate() {
            // SAFETY: as in `table_read`, of as many entries as were checked.
            let entry = unsafe { AtomicU64::from_ptr(first.wrapping_add(number)) };
            *place = entry.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes an entry of a table.
    pub fn table_write(
        &self,
        granule: Granule,
        index: usize,
        value: u64,
    ) -> Result<(), MemoryError> {
        self.table_write_run(granule, index, core::iter::once(value))
    }

    /// Writes entries of a table from `index` on.
    pub fn table_write_run(
        &self,
        granule: Granule,
        index: usize,
        values: impl ExactSizeIterator<Item = u64>,
    ) -> Result<(), MemoryError> {
        let count = values.len();
        let first = self.entries(granule, index, count)?;
        let _shared = self.kinds.share(granule, Kind::Table)?;
        // The iterator is not trusted to be as long as it says.
        for (number, value) in (0..count).zip(values) {
            // SAFETY: as in `table_read`, of as many entries as were checked.
            let entry = unsafe { AtomicU64::from_ptr(first.wrapping_add(number)) };
            entry.store(value, Ordering::Relaxed);
        }
        arch::publish_table();
        Ok(())
    }

    /// Zeroes a table, which becomes raw.
    pub fn table_discard(&self, granule: Granule) -> Result<(), MemoryError> {
        let pointer = self.pointer(granule)?;
        let exclusive = self.kinds.claim(granule, Kind::Table)?;
        // SAFETY: the granule is ours alone.
        unsafe { arch::zero_granule(pointer) };
        exclusive.become_kind(Kind::Raw);
        Ok(())
    }

    /// Returns where entry `index` lies, if `count` entries from it on are inside a table.
    #[inline(always)]
    fn entries(
        &self,
        granule: Granule,
        index: usize,
        count: usize,
    ) -> Result<*mut u64, MemoryError> {
        if index.checked_add(count).is_none_or(|end| end > ENTRIES) {
            return Err(MemoryError::NotOwned);
        }
        let pointer = self.pointer(granule)?.cast::<u64>();
        Ok(pointer.wrapping_add(index))
    }
}

/// Checks that `length` bytes at `offset` are inside a granule.
fn check(offset: usize, length: usize) -> Result<(), MemoryError> {
    match offset.checked_add(length) {
        Some(end) if end <= SIZE => Ok(()),
        _ => Err(MemoryError::NotOwned),
    }
}

#[cfg(test)]
mod tests {
    use super::{ENTRIES, Memory, SIZE, Window};
    use crate::kinds::tests::{kinds, take};
    use std::alloc::{Layout, alloc_zeroed};
    use tsm_platform::{Granule, GranuleRange, MemoryError, Object};

    const BASE: u64 = 0x4000_0000;

    struct Number(u64);
    impl Object for Number {}
    struct Large(#[expect(dead_code, reason = "only its size counts")] [u8; SIZE]);
    impl Object for Large {}

    fn memory() -> (Memory, Granule) {
        let layout = Layout::from_size_align(2 * SIZE, SIZE).unwrap();
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        // SAFETY: the allocation is never freed and used through this window only.
        let window = unsafe { Window::new(base, BASE, 2 * SIZE as u64) };
        // SAFETY: as above.
        let memory = unsafe { Memory::new(kinds(BASE, 2), window) };
        let range = GranuleRange::new(BASE, BASE + SIZE as u64).unwrap();
        take(&memory.kinds, range);
        (memory, Granule::new(BASE).unwrap())
    }

    #[test]
    fn bytes_written_are_read_until_zeroed() {
        let (memory, granule) = memory();
        memory.write(granule, 9, &[1, 2, 3]).unwrap();
        let mut out = [0; 5];
        memory.read(granule, 8, &mut out).unwrap();
        assert_eq!(out, [0, 1, 2, 3, 0]);
        memory.zero(granule).unwrap();
        memory.read(granule, 8, &mut out).unwrap();
        assert_eq!(out, [0; 5]);
    }

    #[test]
    fn no_access_leaves_the_granule() {
        let (memory, granule) = memory();
        let outcome = memory.write(granule, SIZE - 1, &[1, 2]);
        assert_eq!(outcome, Err(MemoryError::NotOwned));
        let outcome = memory.read(granule, usize::MAX, &mut [0; 2]);
        assert_eq!(outcome, Err(MemoryError::NotOwned));
        let next = Granule::new(BASE + SIZE as u64).unwrap();
        assert_eq!(memory.zero(next), Err(MemoryError::NotOwned));
    }

    #[test]
    fn an_object_is_found_by_its_type_only_and_borrowed_once() {
        let (memory, granule) = memory();
        memory.place(granule, Number(7)).unwrap();
        let outcome = memory.with(granule, |_: &mut Large| ());
        assert_eq!(outcome, Err(MemoryError::WrongKind));
        let inner = memory.with(granule, |number: &mut Number| {
            number.0 += 1;
            memory.with(granule, |_: &mut Number| ())
        });
        assert_eq!(inner, Ok(Err(MemoryError::InUse)));
        assert_eq!(memory.with(granule, |number: &mut Number| number.0), Ok(8));
        assert_eq!(memory.zero(granule), Err(MemoryError::WrongKind));
        assert_eq!(
            memory.discard::<Large>(granule),
            Err(MemoryError::WrongKind)
        );
        memory.discard::<Number>(granule).unwrap();
        let mut out = [1; SIZE];
        memory.read(granule, 0, &mut out).unwrap();
        assert!(out.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_object_larger_than_a_granule_is_refused() {
        let (memory, granule) = memory();
        let outcome = memory.place(granule, Large([0; SIZE]));
        assert_eq!(outcome, Err(MemoryError::TooLarge));
        assert_eq!(memory.zero(granule), Ok(()));
    }

    #[test]
    fn a_table_is_only_a_table() {
        let (memory, granule) = memory();
        memory.table_create(granule, 0, 1).unwrap();
        assert_eq!(memory.table_read(granule, 511), Ok(511));
        memory.table_write(granule, 511, 5).unwrap();
        assert_eq!(memory.table_read(granule, 511), Ok(5));
        assert!(memory.table_read(granule, 512).is_err());
        assert_eq!(memory.write(granule, 0, &[1]), Err(MemoryError::WrongKind));
        memory.table_discard(granule).unwrap();
        assert_eq!(memory.table_read(granule, 0), Err(MemoryError::WrongKind));
    }

    #[test]
    fn runs_of_entries_stay_inside_their_table() {
        let (memory, granule) = memory();
        memory.table_create(granule, 7, 5).unwrap();
        let mut all = [0; ENTRIES];
        memory.table_read_run(granule, 0, &mut all).unwrap();
        let expected = (0..ENTRIES as u64).map(|index| 7 + 5 * index);
        assert!(all.into_iter().eq(expected));
        let written = memory.table_write_run(granule, ENTRIES - 2, [1, 2].into_iter());
        assert_eq!(written, Ok(()));
        memory.table_read_run(granule, 0, &mut all).unwrap();
        let [.., before, first, second] = all;
        assert_eq!([before, first, second], [7 + 5 * 509, 1, 2]);
        let refused = Err(MemoryError::NotOwned);
        let written = memory.table_write_run(granule, ENTRIES - 1, [3, 4].into_iter());
        assert_eq!(written, refused);
        assert_eq!(memory.table_read_run(granule, 1, &mut all), refused);
        let read = memory.table_read_run(granule, usize::MAX, &mut all);
        assert_eq!(read, refused);
        assert_eq!(memory.table_read(granule, ENTRIES - 1), Ok(2));
    }

    #[test]
    fn a_range_is_zeroed_only_if_it_is_owned() {
        let (memory, granule) = memory();
        memory.write(granule, 0, &[1; SIZE]).unwrap();
        let both = GranuleRange::new(BASE, BASE + 2 * SIZE as u64).unwrap();
        assert_eq!(memory.zero_range(both), Err(MemoryError::NotOwned));
        memory.write(granule, 0, &[1; SIZE]).unwrap();
        let owned = GranuleRange::single(granule).unwrap();
        assert_eq!(memory.zero_range(owned), Ok(()));
        let mut out = [1; SIZE];
        memory.read(granule, 0, &mut out).unwrap();
        assert_eq!(out, [0; SIZE]);
    }
}
