// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entropy of the processor.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// Attempts to get one word; RDSEED empties its conditioner faster than it is filled.
const ATTEMPTS: u32 = 1024;

/// Bit of CPUID leaf 7, register EBX.
const RDSEED: u32 = 1 << 18;
/// Bit of CPUID leaf 1, register ECX.
const RDRAND: u32 = 1 << 30;

/// Fills `out` with fresh random bytes, or zeroes it and returns false.
pub fn fill(out: &mut [u8]) -> bool {
    let basic = __cpuid(0).eax;
    let word = if basic >= 7 && __cpuid_count(7, 0).ebx & RDSEED != 0 {
        seed
    } else if basic >= 1 && __cpuid(1).ecx & RDRAND != 0 {
        random
    } else {
        out.fill(0);
        return false;
    };
    let filled = out
        .chunks_mut(8)
        .all(|chunk| match (0..ATTEMPTS).find_map(|_| word()) {
            Some(word) => {
                chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
                true
            }
            None => {
                core::hint::spin_loop();
                false
            }
        });
    if !filled {
        out.fill(0);
    }
    filled
}

/// Reads the entropy source.
fn seed() -> Option<u64> {
    let (value, there): (u64, u8);
    // SAFETY: the instruction exists, as `fill` checked; it sets the carry if there was entropy.
    unsafe {
        asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) there, options(nomem, nostack));
    }
    (there != 0).then_some(value)
}

/// Reads the generator that the entropy source seeds.
fn random() -> Option<u64> {
    let (value, there): (u64, u8);
    // SAFETY: as in `seed`.
    unsafe {
        asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) there, options(nomem, nostack));
    }
    (there != 0).then_some(value)
}
