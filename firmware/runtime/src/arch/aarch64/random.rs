// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entropy of the processor (FEAT_RNG).

use core::arch::asm;

use super::read_register;

/// Attempts to get one word; a good generator fails rarely and recovers soon.
const ATTEMPTS: u32 = 32;

/// Fills `out` with fresh random bytes, or zeroes it and returns false.
pub fn fill(out: &mut [u8]) -> bool {
    let present = read_register!("id_aa64isar0_el1") >> 60 != 0;
    let filled = present
        && out
            .chunks_mut(8)
            .all(|chunk| match (0..ATTEMPTS).find_map(|_| word()) {
                Some(word) => {
                    chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
                    true
                }
                None => false,
            });
    if !filled {
        out.fill(0);
    }
    filled
}

/// Reads RNDRRS, which reseeds its generator first.
fn word() -> Option<u64> {
    let value: u64;
    let failed: u64;
    // SAFETY: the register exists, as `fill` checked; reading it sets Z if there was no entropy.
    unsafe {
        asm!(
            "mrs {}, s3_3_c2_c4_1",
            "cset {}, eq",
            out(reg) value,
            out(reg) failed,
            options(nomem, nostack),
        );
    }
    (failed == 0).then_some(value)
}
