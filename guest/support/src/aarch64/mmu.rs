// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Identity translation: a few large blocks, so that memory is cacheable and registers are not.

use core::arch::asm;
use core::cell::UnsafeCell;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Cacheable memory.
    Memory,
    /// Registers.
    Device,
}

/// A translation table with a 4 KiB granule and 39-bit addresses: level 1 has entries of 1 GiB,
/// level 2 entries of 2 MiB.
#[repr(C, align(4096))]
pub struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: Payloads run on one CPU; tables are written before translation is on and then only read
// by the walker.
unsafe impl Sync for Table {}

const VALID: u64 = 1;
const TABLE: u64 = 1 << 1;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const NEVER_EXECUTE: u64 = 3 << 53;
/// Index 0 is device memory (nGnRnE), index 1 write-back memory.
const MAIR: u64 = 0xff00;
const T0SZ_39_BITS: u64 = 25;
const WRITE_BACK_WALKS: u64 = 1 << 8 | 1 << 10 | 3 << 12;

impl Table {
    /// Returns a table that maps nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    /// Returns the table's address, which is also its physical address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0.get() as u64
    }

    fn set(&self, index: usize, entry: u64) {
        // SAFETY: One CPU, translation off or the entry invalid before (see `Sync`); no reference
        // to the contents exists.
        let entries = unsafe { &mut *self.0.get() };
        if let Some(slot) = entries.get_mut(index) {
            *slot = entry;
        }
    }

    /// Maps entry `index` to the block at `address`. At EL2 the no-execute bits are one bit, which
    /// [`Kind::Device`] sets in both formats.
    pub fn block(&self, index: usize, address: u64, kind: Kind) {
        let attributes = match kind {
            Kind::Memory => 1 << 2,
            Kind::Device => NEVER_EXECUTE,
        };
        self.set(
            index,
            address | attributes | VALID | INNER_SHAREABLE | ACCESSED,
        );
    }

    /// Maps entry `index` through `next`.
    pub fn next(&self, index: usize, next: &'static Table) {
        self.set(index, next.address() | TABLE | VALID);
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// Turns translation on at EL2 (not VHE) with `root` at level 1.
///
/// # Safety
/// The tables map the running code, the stack and all data at their own addresses.
pub unsafe fn enable_el2(root: &'static Table) {
    // Bits 31 and 23 are RES1; physical size 48 bits.
    let tcr = T0SZ_39_BITS | WRITE_BACK_WALKS | 5 << 16 | 1 << 23 | 1 << 31;
    // SAFETY: The caller promises an identity mapping; the barriers make the tables visible to
    // walks before translation starts.
    unsafe {
        asm!(
            "dsb sy",
            "msr mair_el2, {mair}",
            "msr tcr_el2, {tcr}",
            "msr ttbr0_el2, {root}",
            "isb",
            "tlbi alle2",
            "dsb sy",
            "isb",
            "mrs {scratch}, sctlr_el2",
            // M, C and I on; A (alignment checks of ordinary memory) off.
            "orr {scratch}, {scratch}, #1",
            "orr {scratch}, {scratch}, #4",
            "orr {scratch}, {scratch}, #0x1000",
            "bic {scratch}, {scratch}, #2",
            "msr sctlr_el2, {scratch}",
            "isb",
            mair = in(reg) MAIR,
            tcr = in(reg) tcr,
            root = in(reg) root.address(),
            scratch = out(reg) _,
            options(nostack),
        );
    }
}

/// Turns translation on at EL1 with `root` at level 1 for the lower half; the upper half is off.
///
/// # Safety
/// The tables map the running code, the stack and all data at their own addresses.
pub unsafe fn enable_el1(root: &'static Table) {
    // EPD1 (bit 23) disables walks of the upper half; physical size 48 bits.
    let tcr = T0SZ_39_BITS | WRITE_BACK_WALKS | 1 << 23 | 5 << 32;
    // SAFETY: As in `enable_el2`.
    unsafe {
        asm!(
            "dsb sy",
            "msr mair_el1, {mair}",
            "msr tcr_el1, {tcr}",
            "msr ttbr0_el1, {root}",
            "isb",
            "tlbi vmalle1",
            "dsb sy",
            "isb",
            "mrs {scratch}, sctlr_el1",
            "orr {scratch}, {scratch}, #1",
            "orr {scratch}, {scratch}, #4",
            "orr {scratch}, {scratch}, #0x1000",
            "bic {scratch}, {scratch}, #2",
            "msr sctlr_el1, {scratch}",
            "isb",
            mair = in(reg) MAIR,
            tcr = in(reg) tcr,
            root = in(reg) root.address(),
            scratch = out(reg) _,
            options(nostack),
        );
    }
}
