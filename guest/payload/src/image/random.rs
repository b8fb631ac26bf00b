// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Numbers that the host cannot guess.

use core::arch::asm;

/// Returns 32 random bytes, or none if the processor has no generator or it does not answer.
pub fn nonce() -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for chunk in bytes.as_chunks_mut::<8>().0 {
        *chunk = (0..1000).find_map(|_| word())?.to_le_bytes();
    }
    Some(bytes)
}

fn word() -> Option<u64> {
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
