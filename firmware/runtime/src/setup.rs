// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What bringing the TSM up has in common on all architectures: its tables, and memory that lives for
//! ever.

use core::sync::atomic::{AtomicU8, AtomicU32};

use heapless::Vec;
use tsm_core::Region;
use tsm_platform::{GRANULE_SIZE, GranuleRange};

use crate::arch;
use crate::carve::Carver;
use crate::kinds::{Kinds, Span};
use crate::layout::{
    HOST_WINDOW, ISOLATED_BASE, ISOLATED_SIZE, MAX_CPUS, REALM_WINDOW, STACK_SIZE, STACK_STRIDE,
    STACK_WINDOW, WINDOW_SIZE,
};
use crate::memory::{Memory, Window};
use crate::paging::{self, CannotMap, Frames, Use};

/// Most runs of granules: banks and device regions.
pub const SPANS: usize = 16;

/// Says why the TSM cannot be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The region of the TSM is too small.
    NoMemory,
    /// What the platform says about itself contradicts itself, or is more than the TSM can take.
    Layout,
}

impl From<CannotMap> for Failure {
    fn from(_: CannotMap) -> Self {
        Self::NoMemory
    }
}

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __stacks_start: u8;
    static __image_end: u8;
    static __region_top: u8;
}

/// Returns the address of a symbol of the linker script.
macro_rules! symbol {
    ($name:ident) => {
        (&raw const $name) as u64
    };
}

/// Returns the region of the TSM: the image, and memory up to the top that the linker script names.
pub fn region() -> Option<GranuleRange> {
    GranuleRange::new(symbol!(__image_start), symbol!(__region_top))
}

/// Returns the first address after the image.
pub fn image_end() -> u64 {
    symbol!(__image_end)
}

/// Returns the range from the first to the last byte of `banks`, and the gaps between them. `None`
/// if there are none, or too many.
pub fn cover(banks: &[GranuleRange]) -> Option<(GranuleRange, Vec<GranuleRange, SPANS>)> {
    let by_base = |bank: &&GranuleRange| bank.base();
    let mut last = banks.iter().min_by_key(by_base)?;
    let base = last.base();
    let mut holes = Vec::new();
    // Banks are disjoint, so the next one starts where the last one ends or later.
    let after = |last: &GranuleRange| {
        let top = last.top();
        let later = banks.iter().filter(move |bank| bank.base() >= top);
        later.min_by_key(by_base)
    };
    while let Some(next) = after(last) {
        if let Some(hole) = GranuleRange::new(last.top(), next.base()) {
            holes.push(hole).ok()?;
        }
        last = next;
    }
    Some((GranuleRange::new(base, last.top())?, holes))
}

/// Memory for tables, addressed as it is mapped: at its physical address.
struct Identity<'a>(&'a mut Carver);

impl Frames for Identity<'_> {
    fn take(&mut self) -> Option<u64> {
        let table = self.0.take(GRANULE_SIZE, GRANULE_SIZE)?;
        for index in 0..512 {
            self.write(table, index, 0);
        }
        Some(table)
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        // SAFETY: `table` came from `take` and is reached by these two functions only.
        unsafe { (table as *const u64).add(index).read_volatile() }
    }
    fn write(&mut self, table: u64, index: usize, value: u64) {
        // SAFETY: as in `read`. New entries only make more memory reachable.
        unsafe { (table as *mut u64).add(index).write_volatile(value) };
    }
}

/// The TSM while it is brought up.
pub struct Setup {
    carver: Carver,
    root: u64,
}

impl Setup {
    /// Makes the tables for the image and its region, while memory is addressed physically. `top` is
    /// where the free part of the region ends.
    pub fn map_image(top: u64) -> Result<Self, Failure> {
        let range = GranuleRange::new(image_end(), top).ok_or(Failure::Layout)?;
        let mut carver = Carver::new(range);
        let root = Identity(&mut carver).take().ok_or(Failure::NoMemory)?;
        let mut setup = Self { carver, root };
        let parts = [
            (symbol!(__image_start), symbol!(__text_end), Use::Text),
            (symbol!(__text_end), symbol!(__rodata_end), Use::Constants),
            (symbol!(__rodata_end), symbol!(__stacks_start), Use::Data),
            (image_end(), symbol!(__region_top), Use::Data),
        ];
        for (base, end, usage) in parts {
            let size = end.checked_sub(base).ok_or(Failure::Layout)?;
            setup.map_at(base, base, size, usage)?;
        }
        let mut physical = symbol!(__stacks_start);
        for cpu in 0..MAX_CPUS as u64 {
            let virt = STACK_WINDOW + cpu * STACK_STRIDE;
            setup.map_at(virt, physical, STACK_SIZE, Use::Data)?;
            physical = physical.checked_add(STACK_SIZE).ok_or(Failure::Layout)?;
        }
        setup.map_at(ISOLATED_BASE, physical, ISOLATED_SIZE, Use::Data)?;
        Ok(setup)
    }

    /// Returns the physical address of the root table.
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Returns the bytes of the region that are left.
    pub const fn left(&self) -> u64 {
        self.carver.left()
    }

    fn map_at(&mut self, virt: u64, base: u64, size: u64, usage: Use) -> Result<(), Failure> {
        let frames = &mut Identity(&mut self.carver);
        paging::map::<arch::TableFormat>(frames, self.root, virt, base, size, usage)?;
        Ok(())
    }

    /// Maps physical `[base, base + size)` in `window`.
    pub fn map(
        &mut self,
        window: u64,
        base: u64,
        size: u64,
        usage: Use,
    ) -> Result<*mut u8, Failure> {
        if base.checked_add(size).is_none_or(|end| end > WINDOW_SIZE) {
            return Err(Failure::Layout);
        }
        let virt = window.checked_add(base).ok_or(Failure::Layout)?;
        self.map_at(virt, base, size, usage)?;
        arch::publish_mapping();
        Ok(virt as *mut u8)
    }

    /// Takes zeroed memory for `count` values for which zero is a value.
    ///
    /// # Safety
    ///
    /// All-zero bytes must be a valid `T`.
    pub unsafe fn zeroed<T>(&mut self, count: usize, align: u64) -> Result<&'static [T], Failure> {
        let size = (count as u64)
            .checked_mul(size_of::<T>() as u64)
            .ok_or(Failure::NoMemory)?;
        let base = self.carver.take(size, align).ok_or(Failure::NoMemory)?;
        for page in (base..base.saturating_add(size)).step_by(GRANULE_SIZE as usize) {
            // SAFETY: the memory is fresh from the carver and mapped at its physical address.
            unsafe { arch::zero_granule(page as *mut u8) };
        }
        // SAFETY: aligned, zeroed, never used otherwise; the caller promises that zero is valid.
        Ok(unsafe { core::slice::from_raw_parts(base as *const T, count) })
    }

    /// Moves `values` to memory that lives for ever.
    pub fn keep<T, const N: usize>(&mut self, values: Vec<T, N>) -> Result<&'static [T], Failure> {
        let count = values.len();
        let base = self
            .carver
            .take(size_of_val(values.as_slice()) as u64, GRANULE_SIZE)
            .ok_or(Failure::NoMemory)?;
        let base = base as *mut T;
        for (index, value) in values.into_iter().enumerate() {
            // SAFETY: fresh memory, large enough, aligned to a granule.
            unsafe { base.add(index).write(value) };
        }
        // SAFETY: `count` values were written, and nothing else uses the memory.
        Ok(unsafe { core::slice::from_raw_parts(base, count) })
    }

    /// Makes the TSM's view of `banks` of memory and of `devices`, and the window of host memory.
    pub fn memory(
        &mut self,
        banks: &[GranuleRange],
        devices: &[GranuleRange],
    ) -> Result<(Memory, Window), Failure> {
        let mut spans: Vec<Span, SPANS> = Vec::new();
        let banks_first = banks.iter().map(|range| (range, false));
        for (range, device) in banks_first.chain(devices.iter().map(|range| (range, true))) {
            // SAFETY: zero is a value of an integer.
            let bytes = unsafe { self.zeroed::<AtomicU8>(range.count() as usize, 1) }?;
            let span = Span::new(*range, bytes, device).ok_or(Failure::Layout)?;
            spans.push(span).map_err(|_| Failure::Layout)?;
        }
        for range in banks {
            let (base, size) = (range.base(), range.bytes());
            self.map(REALM_WINDOW, base, size, Use::Data)?;
            self.map(HOST_WINDOW, base, size, Use::HostData)?;
        }
        let kinds = Kinds::new(self.keep(spans)?);
        // SAFETY: the mappings were made above for all memory that `kinds` knows, and are never
        // changed; the image itself is in no bank, which both architectures' boot code ensures.
        Ok(unsafe {
            let realm = Window::new(REALM_WINDOW as *mut u8, 0, WINDOW_SIZE);
            let host = Window::new(HOST_WINDOW as *mut u8, 0, WINDOW_SIZE);
            (Memory::new(kinds, realm), host)
        })
    }

    /// Makes the core's view of the same.
    pub fn regions(
        &mut self,
        banks: &[GranuleRange],
        devices: &[GranuleRange],
    ) -> Result<&'static [Region], Failure> {
        let mut regions: Vec<Region, SPANS> = Vec::new();
        let banks = banks.iter().map(|range| (range, tsm_core::Kind::Memory));
        let devices = devices.iter().map(|range| (range, tsm_core::Kind::Device));
        for (range, kind) in banks.chain(devices) {
            // SAFETY: zero is a value of an integer.
            let words = unsafe { self.zeroed::<AtomicU32>(range.count() as usize, 1) }?;
            let region = Region::new(*range, kind, words).ok_or(Failure::Layout)?;
            regions.push(region).map_err(|_| Failure::Layout)?;
        }
        self.keep(regions)
    }
}
