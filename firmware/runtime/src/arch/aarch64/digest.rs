// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Hashing with the processor's instructions (FEAT_SHA256, FEAT_SHA512).
//!
//! Vector registers are the host's, or a guest's while one is loaded. Those that are used here are
//! put away and put back, at their full length: writing a SIMD register clears the rest of the SVE
//! register around it.

use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;

use super::guest::{CPTR, CPTR_SVE, scalable};
use super::{read_register, write_register};

global_asm!(include_str!("borrow.S"));
global_asm!(include_str!("sha256.S"));
global_asm!(include_str!("sha512.S"));

/// Registers Z0 to Z15 at the largest vector length, 2048 bits.
#[repr(C, align(16))]
struct Borrowed([u64; 16 * 32]);

unsafe extern "C" {
    fn sha256_blocks(state: *mut [u32; 8], blocks: *const [u8; 64], count: usize);
    fn sha512_blocks(state: *mut [u64; 8], blocks: *const [u8; 128], count: usize);
    fn borrow_vectors(area: *mut Borrowed);
    fn return_vectors(area: *const Borrowed);
    fn borrow_scalable(area: *mut Borrowed);
    fn return_scalable(area: *const Borrowed);
}

/// Runs `work`, which may use V0 to V15 and nothing else of the vector unit. Returns whether it
/// was run: not with SME, where there would be modes to switch as well.
fn with_vectors(work: impl FnOnce()) -> bool {
    let (sve, sme) = scalable();
    if sme {
        return false;
    }
    let mut area = MaybeUninit::<Borrowed>::uninit();
    let area = area.as_mut_ptr();
    let cptr = read_register!("cptr_el2");
    // SAFETY: the registers that `work` uses are saved before and restored after it, and so are
    // CPTR_EL2 and ZCR_EL2, which let the TSM use them. `area` has room for the largest length.
    unsafe {
        if sve {
            write_register!("cptr_el2", CPTR & !CPTR_SVE);
            asm!("isb", options(nostack, preserves_flags));
            let zcr = read_register!("s3_4_c1_c2_0");
            write_register!("s3_4_c1_c2_0", 0xf);
            asm!("isb", options(nostack, preserves_flags));
            borrow_scalable(area);
            work();
            return_scalable(area);
            write_register!("s3_4_c1_c2_0", zcr);
        } else {
            write_register!("cptr_el2", CPTR);
            asm!("isb", options(nostack, preserves_flags));
            borrow_vectors(area);
            work();
            return_vectors(area);
        }
        write_register!("cptr_el2", cptr);
        asm!("isb", options(nostack, preserves_flags));
    }
    true
}

/// Returns ID_AA64ISAR0_EL1.SHA2: 1 with FEAT_SHA256, 2 with FEAT_SHA512 as well.
fn sha2() -> u64 {
    read_register!("id_aa64isar0_el1") >> 12 & 0xf
}

/// Applies SHA-256's compression function for each block, if the processor can.
pub fn sha256(state: &mut [u32; 8], blocks: &[[u8; 64]]) -> bool {
    if sha2() < 1 || blocks.is_empty() {
        return false;
    }
    // SAFETY: the instructions are there; the routine touches `state` and `blocks` only.
    with_vectors(|| unsafe { sha256_blocks(state, blocks.as_ptr(), blocks.len()) })
}

/// Applies SHA-512's compression function for each block, if the processor can.
pub fn sha512(state: &mut [u64; 8], blocks: &[[u8; 128]]) -> bool {
    if sha2() < 2 || blocks.is_empty() {
        return false;
    }
    // SAFETY: as in `sha256`.
    with_vectors(|| unsafe { sha512_blocks(state, blocks.as_ptr(), blocks.len()) })
}
