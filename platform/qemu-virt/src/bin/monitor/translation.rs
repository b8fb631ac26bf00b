// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The monitor's address space. Its tables are constants in flash: nothing can change them.
//!
//! Only what the monitor uses is there. What is not Root says so by its address, so that no address of
//! one world can be taken for one of another:
//!
//! | virtual address | what | accesses are |
//! |---|---|---|
//! | first GiB | 2 MiB of flash (read-only, all that can execute), SRAM (its end page by page, with guards below the stacks), interrupt controller, the devices from 0x0900_0000, the key configuration unit, each at its physical address | Root |
//! | [`ECAM_WINDOW`] | configuration space | Realm |
//! | [`SHARED_WINDOW`] | the 2 MiB that end with the page shared with R-EL2 | Realm |
//! | [`HOST_WINDOW`] and up | DRAM below 256 GiB, at this offset | non-secure |

use core::arch::global_asm;

use tsm_monitor::MAX_PROCESSORS;

use crate::reset;

/// Where configuration space is: 256 MiB.
pub const ECAM_WINDOW: u64 = 0x4000_0000;
/// Where the 2 MiB at the physical address [`SHARED`] are.
pub const SHARED_WINDOW: u64 = 0x7fe0_0000;
/// Physical address of what [`SHARED_WINDOW`] shows.
pub const SHARED: u64 = 0x7fe0_0000;
/// Offset between a physical address of the host's memory and its virtual one.
pub const HOST_WINDOW: u64 = 1 << HOST_BITS;
/// Width of the physical addresses that the host window shows.
pub const HOST_BITS: u32 = 38;

/// The last 2 MiB of SRAM, which hold the processors' blocks, as the linker script has it.
const PROCESSORS: u64 = 0x0ee0_0000;
/// 4 KiB granules, 39-bit addresses, inner shareable write-back walks, 40-bit physical addresses; bits
/// 23 and 31 are RES1.
pub const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16 | 1 << 23 | 1 << 31;
/// Index 0 is device memory, index 1 write-back memory.
pub const MAIR: u64 = 0xff00;
/// MMU, caches, alignment checks and WXN (what can be written cannot execute) on; RES1 bits.
pub const SCTLR: u64 = 0x30c5_0830 | 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

/// Block descriptor, accessed; bit 6 is RES1 in this regime.
const BLOCK: u64 = 1 | 1 << 6 | 1 << 10;
/// What makes it a page descriptor.
const PAGE: u64 = 1 << 1;
const MEMORY: u64 = BLOCK | 1 << 2 | 3 << 8;
const READ_ONLY: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 54;
/// Bit 11 NSE, bit 5 NS.
const ROOT: u64 = 1 << 11;
const NON_SECURE: u64 = 1 << 5;
const REALM: u64 = ROOT | NON_SECURE;

global_asm!(
    r#"
    .section .rodata.translation, "a"

    // Level 2 blocks from \first to before \end, each 2 MiB.
    .macro blocks first, end, attributes
    .set    physical, \first
    .rept   (\end - \first) / 0x200000
    .quad   physical + \attributes
    .set    physical, physical + 0x200000
    .endr
    .endm
    .macro nothing first, end
    .fill   (\end - \first) / 0x200000, 8, 0
    .endm

    .balign 0x1000
root_gib0:
    blocks  0, 0x00200000, {code}
    nothing 0x00200000, 0x08000000
    blocks  0x08000000, 0x09200000, {device}
    nothing 0x09200000, 0x0e000000
    blocks  0x0e000000, {processors}, {data}
    .quad   processors + 3
    nothing 0x0f000000, 0x3e000000
    blocks  0x3e000000, 0x3e200000, {device}
    nothing 0x3e200000, 0x40000000

processors:
    .set    physical, {processors}
    .rept   {count}
    .quad   0
    .rept   {pages} - 1
    .set    physical, physical + 0x1000
    .quad   physical + {page}
    .endr
    .set    physical, physical + 0x1000
    .endr
    .fill   512 - {count} * {pages}, 8, 0

realm_gib:
    blocks  0x4010000000, 0x4020000000, {ecam}
    nothing 0x50000000, {shared_window}
    blocks  {shared}, {shared} + 0x200000, {shared_memory}

    .balign 0x1000
    .global translation_root
translation_root:
    .quad   root_gib0 + 3
    .quad   realm_gib + 3
    .fill   255, 8, 0
    // DRAM, from 1 GiB on.
    .set    physical, 0x40000000
    .rept   255
    .quad   physical + {host}
    .set    physical, physical + 0x40000000
    .endr
"#,
    code = const MEMORY | READ_ONLY | ROOT,
    data = const MEMORY | NO_EXECUTE | ROOT,
    processors = const PROCESSORS,
    count = const MAX_PROCESSORS,
    pages = const reset::BLOCK / 0x1000,
    page = const PAGE | MEMORY | NO_EXECUTE | ROOT,
    device = const BLOCK | NO_EXECUTE | ROOT,
    host = const MEMORY | NO_EXECUTE | NON_SECURE,
    shared = const SHARED,
    shared_window = const SHARED_WINDOW,
    shared_memory = const MEMORY | NO_EXECUTE | REALM,
    ecam = const BLOCK | NO_EXECUTE | REALM,
);
