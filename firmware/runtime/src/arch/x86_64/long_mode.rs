// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entries of the TSM's own tables: long-mode paging (AMD APM vol 2, 5.3 and 5.4).

use crate::paging::{Format, Use};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// PWT and PCD: entry 3 of the PAT, uncacheable after reset. A guest's PAT is its own.
const UNCACHEABLE: u64 = 1 << 3 | 1 << 4;
/// Accessed and dirty, set beforehand so that the processor never writes an entry.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// In a table of level 1 or 2: the entry is a page of 1 GiB or 2 MiB.
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const fn attributes(usage: Use) -> u64 {
    let common = PRESENT | ACCESSED | DIRTY;
    common
        | match usage {
            Use::Text => 0,
            Use::Constants => NO_EXECUTE,
            Use::Data | Use::HostData => WRITABLE | NO_EXECUTE,
            Use::Device => WRITABLE | NO_EXECUTE | UNCACHEABLE,
        }
}

/// The format. No entry has the user bit, so SMEP and SMAP allow the TSM all of them.
pub struct LongMode;

impl Format for LongMode {
    fn table(table: u64) -> u64 {
        table | PRESENT | WRITABLE | ACCESSED
    }
    fn page(physical: u64, level: u32, usage: Use) -> u64 {
        let size = if level == 3 { 0 } else { LARGE };
        physical | attributes(usage) | size
    }
    fn next(entry: u64) -> Option<u64> {
        (entry & LARGE == 0).then_some(entry & ADDRESS)
    }
}
