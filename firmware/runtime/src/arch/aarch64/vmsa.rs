// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entries of the TSM's own tables: VMSAv8-64 stage 1, 4 KiB granule (Arm ARM D8.3.1), for a regime
//! without EL0.

use crate::paging::{Format, Use, VA_BITS};

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const DEVICE: u64 = 0 << 2;
const NORMAL: u64 = 1 << 2;
const NS: u64 = 1 << 5;
/// AP[1] is RES1 in a regime with one exception level.
const AP_RES1: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
const EXECUTE_NEVER: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// MAIR_EL2: attribute 0 is Device-nGnRE, attribute 1 is write-back.
pub const MAIR: u64 = 0xff04;

/// TCR_EL2: 42-bit addresses, 40-bit output, 4 KiB granule, walks inner shareable write-back; bits
/// 23 and 31 are RES1.
pub const TCR: u64 =
    (64 - VA_BITS as u64) | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16 | 1 << 23 | 1 << 31;

const fn attributes(usage: Use) -> u64 {
    let common = VALID | AP_RES1 | ACCESS_FLAG;
    common
        | match usage {
            Use::Text => NORMAL | INNER_SHAREABLE | READ_ONLY,
            Use::Constants => NORMAL | INNER_SHAREABLE | READ_ONLY | EXECUTE_NEVER,
            Use::Data => NORMAL | INNER_SHAREABLE | EXECUTE_NEVER,
            Use::HostData => NORMAL | INNER_SHAREABLE | EXECUTE_NEVER | NS,
            Use::Device => DEVICE | EXECUTE_NEVER,
        }
}

/// The format.
pub struct Vmsa;

impl Format for Vmsa {
    fn table(table: u64) -> u64 {
        table | VALID | TABLE_OR_PAGE
    }
    fn page(physical: u64, level: u32, usage: Use) -> u64 {
        let kind = if level == 3 { TABLE_OR_PAGE } else { 0 };
        physical | attributes(usage) | kind
    }
    fn next(entry: u64) -> Option<u64> {
        (entry & TABLE_OR_PAGE != 0).then_some(entry & ADDRESS)
    }
}
