// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! R-EL2 on AArch64.

mod boot;
mod cpu;
mod digest;
mod entry;
mod exception;
mod guest;
mod isolation;
mod monitor;
mod random;
mod smmu;
mod translation;

use core::arch::{asm, global_asm};

pub use super::vmsa::Vmsa as TableFormat;
pub use crate::syndrome::{conceal, missing_memory, reveal};
pub use cpu::index as cpu_index;
pub use digest::{sha256, sha512};
pub use guest::{Context, new_context, run_while};
pub use isolation::enter as enter_isolation;
pub use monitor::{
    console_write, key_go, key_program, key_stop, set_owner, stream_clear, stream_read,
    stream_write,
};
pub use random::fill as random_fill;
pub use smmu::Smmu as Iommu;
pub use translation::{invalidate_all, invalidate_range};
pub use tsm_iommu::ArmStage2 as Stage2Tables;
use tsm_platform::{GRANULE_SIZE, HostFault};

/// The granule protection table says whose memory is whose, and every access is checked.
pub const OWNER_IS_CHECKED_ON_ACCESS: bool = true;

global_asm!(include_str!("copy.S"));
global_asm!(include_str!("isolation.S"));
global_asm!(include_str!("memory.S"));
global_asm!(include_str!("state.S"));

/// Reads a system register.
macro_rules! read_register {
    ($name:literal) => {{
        // SAFETY: reading this register has no effect.
        #[allow(unused_unsafe, reason = "some callers are unsafe blocks themselves")]
        unsafe {
            let value: u64;
            core::arch::asm!(
                concat!("mrs {}, ", $name),
                out(reg) value,
                options(nomem, nostack, preserves_flags),
            );
            value
        }
    }};
}
pub(crate) use read_register;

/// Writes a system register. The caller says why that is right.
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(
            concat!("msr ", $name, ", {}"),
            in(reg) value,
            options(nostack, preserves_flags),
        );
    }};
}
pub(crate) use write_register;

unsafe extern "C" {
    fn guarded_copy(to: *mut u8, from: *const u8, length: usize) -> u64;
    fn zero_page(page: *mut u8, line: usize);
}

/// Copies `length` bytes; each is read once. An access that faults ends the copy.
///
/// # Safety
///
/// Memory of the TSM among the two must be valid for the access; the other side may be any address
/// in the windows of host memory and granules. The ranges must not overlap.
pub unsafe fn copy(to: *mut u8, from: *const u8, length: usize) -> Result<(), HostFault> {
    // SAFETY: the routine touches the two ranges only, and faults of it are recovered.
    match unsafe { guarded_copy(to, from, length) } {
        0 => Ok(()),
        _ => Err(HostFault),
    }
}

/// Largest block that `zero_page` takes, as DCZID_EL0 says it: 256 bytes.
const LARGEST_BLOCK: u64 = 6;

/// Zeroes one granule.
///
/// # Safety
///
/// `granule` must be memory of one granule, aligned, that no reference points to.
pub unsafe fn zero_granule(granule: *mut u8) {
    // DCZID_EL0: the block size in words, as a power of two, and bit 4 if there is none.
    let block = read_register!("dczid_el0") & 0x1f;
    // SAFETY: the caller promises it.
    unsafe {
        if block <= LARGEST_BLOCK {
            zero_page(granule, 4 << block);
        } else {
            granule.write_bytes(0, GRANULE_SIZE as usize);
        }
    }
}

/// Makes earlier table writes visible to walkers.
pub fn publish_table() {
    // SAFETY: a barrier has no other effect.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// Makes a new entry of the TSM's own tables usable.
pub fn publish_mapping() {
    // SAFETY: barriers have no other effect.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}

/// Makes earlier memory writes visible to a device that is told of them next.
pub fn publish_to_device() {
    // SAFETY: a barrier has no other effect.
    unsafe { asm!("dsb oshst", options(nostack, preserves_flags)) };
}
