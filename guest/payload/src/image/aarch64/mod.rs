// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the guest does with the processor itself.

mod vectors;

use core::arch::asm;

use tsm_payload_support::aarch64::mmu::{self, Kind, Table};

use super::board::{DEVICE, SHARED};

const GIB: u64 = 1 << 30;
const MIB_2: u64 = 1 << 21;

static ROOT: Table = Table::new();
static LOW: Table = Table::new();

/// Sets up exceptions and translation.
pub fn set_up() {
    vectors::install();
    LOW.block(0, 0, Kind::Memory);
    LOW.block(1, MIB_2, Kind::Memory);
    LOW.block((DEVICE / MIB_2) as usize, DEVICE, Kind::Device);
    ROOT.next(0, &LOW);
    ROOT.block((SHARED / GIB) as usize, SHARED, Kind::Memory);
    // SAFETY: The first 4 MiB, where image, stack and data are, are mapped to themselves.
    unsafe { mmu::enable_el1(&ROOT) };
}

/// Returns a random word, or none if the processor has no generator or it does not answer now.
pub fn random() -> Option<u64> {
    let features: u64;
    // SAFETY: Reads an identification register.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) features, options(nostack, nomem)) }
    if features >> 60 == 0 {
        return None;
    }
    let value: u64;
    let valid: u64;
    // SAFETY: FEAT_RNG is there; RNDR sets the Z flag when it has no number.
    unsafe {
        asm!(
            "mrs {value}, s3_3_c2_c4_0",
            "cset {valid}, ne",
            value = out(reg) value,
            valid = out(reg) valid,
            options(nostack, nomem),
        );
    }
    (valid == 1).then_some(value)
}
