// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Forgetting translations of guests.

use core::arch::asm;

use tsm_platform::{GRANULE_SIZE, Ipa, Stage2};

use super::write_register;

/// Above this many granules one invalidation of everything is cheaper.
const MOST_SINGLE: u64 = 64;

/// Returns VTTBR_EL2 for `stage2`.
pub fn vttbr(stage2: &Stage2) -> u64 {
    stage2.root.0 | u64::from(stage2.vmid.0) << 48
}

/// Returns VTCR_EL2 for `stage2`.
pub fn vtcr(stage2: &Stage2) -> u64 {
    let size = 64 - u64::from(stage2.ipa_bits.clamp(16, 52));
    let start = u64::from(2_u8.saturating_sub(stage2.start_level));
    // Walks are inner shareable write-back; 4 KiB granule; 40-bit output; 16-bit VMID; bit 31 RES1.
    size | start << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16 | 1 << 19 | 1 << 31
}

/// Makes `stage2` the current one, so that maintenance is about it. The next run of a guest sets
/// its own.
fn select(stage2: &Stage2) {
    // SAFETY: the TSM itself does not translate through stage 2.
    unsafe {
        write_register!("vttbr_el2", vttbr(stage2));
        asm!("isb", options(nostack, preserves_flags));
    }
}

/// Forgets the translations of `bytes` bytes at `base`, on all CPUs.
pub fn invalidate_range(stage2: &Stage2, base: Ipa, bytes: u64) {
    let count = bytes.div_ceil(GRANULE_SIZE);
    if count > MOST_SINGLE {
        return invalidate_all(stage2);
    }
    select(stage2);
    for page in 0..count {
        let operand = (base.0 >> 12).wrapping_add(page) & ((1 << 36) - 1);
        // SAFETY: forgetting translations is always allowed. Table writes before are complete.
        unsafe {
            asm!(
                "tlbi ipas2e1is, {}",
                in(reg) operand,
                options(nostack, preserves_flags),
            );
        }
    }
    // Combined entries of both stages are not found by IPA.
    // SAFETY: as above.
    unsafe {
        asm!(
            "dsb ish",
            "tlbi vmalle1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags),
        );
    }
}

/// Forgets all translations of a guest, on all CPUs.
pub fn invalidate_all(stage2: &Stage2) {
    select(stage2);
    // SAFETY: as in `invalidate_range`.
    unsafe {
        asm!(
            "tlbi vmalls12e1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags),
        );
    }
}
