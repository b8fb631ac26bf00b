// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The monitor's address space. Its tables are constants in flash: nothing can change them.
//!
//! A virtual address is a physical address with the number of a window in bits 41:39: 0 makes Root
//! accesses, 1 non-secure ones, 2 Realm ones. Only what the monitor uses is there:
//!
//! | window | what |
//! |---|---|
//! | Root | 2 MiB of flash (read-only, the only part that can execute), SRAM, interrupt controller, the devices from 0x0900_0000, the key configuration unit |
//! | non-secure | DRAM |
//! | Realm | the 2 MiB that hold the page shared with R-EL2, configuration space |

use core::arch::global_asm;

/// 4 KiB granules, 42-bit addresses, inner shareable write-back walks, 40-bit physical addresses; bits
/// 23 and 31 are RES1.
pub const TCR: u64 = 22 | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16 | 1 << 23 | 1 << 31;
/// Index 0 is device memory, index 1 write-back memory.
pub const MAIR: u64 = 0xff00;
/// MMU, caches, alignment checks and WXN (what can be written cannot execute) on; RES1 bits.
pub const SCTLR: u64 = 0x30c5_0830 | 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

/// Block descriptor, accessed; bit 6 is RES1 in this regime.
const BLOCK: u64 = 1 | 1 << 6 | 1 << 10;
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
    blocks  0x0e000000, 0x0f000000, {data}
    nothing 0x0f000000, 0x3e000000
    blocks  0x3e000000, 0x3e200000, {device}
    nothing 0x3e200000, 0x40000000

realm_gib1:
    nothing 0x40000000, 0x7fe00000
    blocks  0x7fe00000, 0x80000000, {shared}

realm_gib256:
    nothing 0x4000000000, 0x4010000000
    blocks  0x4010000000, 0x4020000000, {ecam}
    nothing 0x4020000000, 0x4040000000

root_window:
    .quad   root_gib0 + 3
    .fill   511, 8, 0

host_window:
    .quad   0
    .set    physical, 0x40000000
    .rept   255
    .quad   physical + {host}
    .set    physical, physical + 0x40000000
    .endr
    .fill   256, 8, 0

realm_window:
    .quad   0
    .quad   realm_gib1 + 3
    .fill   254, 8, 0
    .quad   realm_gib256 + 3
    .fill   255, 8, 0

    .global translation_root
translation_root:
    .quad   root_window + 3
    .quad   host_window + 3
    .quad   realm_window + 3
    .fill   5, 8, 0
"#,
    code = const MEMORY | READ_ONLY | ROOT,
    data = const MEMORY | NO_EXECUTE | ROOT,
    device = const BLOCK | NO_EXECUTE | ROOT,
    host = const MEMORY | NO_EXECUTE | NON_SECURE,
    shared = const MEMORY | NO_EXECUTE | REALM,
    ecam = const BLOCK | NO_EXECUTE | REALM,
);
