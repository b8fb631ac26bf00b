// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Identity translation of the first 512 GiB.

use core::arch::asm;
use core::cell::UnsafeCell;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: Payloads run on one CPU; the tables are written before they are used and then only read
// by the walker.
unsafe impl Sync for Table {}

static ROOT: Table = Table(UnsafeCell::new([0; 512]));
static GIGABYTES: Table = Table(UnsafeCell::new([0; 512]));

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// Programs of every privilege level reach all of it: attacks run at level 3, too.
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;

/// Uses tables of this program instead of the loader's; returns the address of their root, which is
/// below 4 GiB.
///
/// # Safety
/// The running code, the stack and all data are at their own addresses.
pub unsafe fn enable() -> u64 {
    let flags = PRESENT | WRITABLE | USER;
    // SAFETY: One CPU, the tables not yet in use (see `Sync`); no reference stays.
    let gigabytes = unsafe { &mut *GIGABYTES.0.get() };
    for (entry, gigabyte) in gigabytes.iter_mut().zip(0_u64..) {
        *entry = gigabyte << 30 | flags | LARGE;
    }
    // SAFETY: As above.
    let root = unsafe { &mut *ROOT.0.get() };
    root[0] = GIGABYTES.0.get() as u64 | flags;
    let address = ROOT.0.get() as u64;
    // SAFETY: The caller promises that everything stays where it is.
    unsafe { asm!("mov cr3, {}", in(reg) address, options(nostack)) }
    address
}
