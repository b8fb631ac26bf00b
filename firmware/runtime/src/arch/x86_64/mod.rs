// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! SVM root mode on x86_64.

mod apic;
#[cfg(feature = "isolation-tests")]
mod bare_loop;
mod boot;
mod cpu;
mod entry;
mod exception;
mod extended;
mod guest;
mod host;
mod isolation;
mod npt;
mod random;
mod reach;
mod segments;
mod smp;
mod start;
mod svm;
mod vtd;

use core::arch::{asm, global_asm};
use core::sync::atomic::{Ordering, fence};

pub use super::keys::{key_go, key_program, key_stop, stream_clear, stream_read, stream_write};
pub use super::long_mode::LongMode as TableFormat;
pub use crate::syndrome::{conceal, missing_memory, reveal};
pub use cpu::index as cpu_index;
pub use guest::{Context, invalidate_all, invalidate_range, new_context, run_while};
pub use isolation::enter as enter_isolation;
pub use npt::{OWNER_IS_CHECKED_ON_ACCESS, set_owner};
pub use random::fill as random_fill;
pub use tsm_iommu::X86Stage2 as Stage2Tables;
use tsm_platform::HostFault;
pub use vtd::VtD as Iommu;

global_asm!(include_str!("copy.S"));
global_asm!(include_str!("isolation.S"));

unsafe extern "C" {
    fn guarded_copy(to: *mut u8, from: *const u8, length: usize) -> u64;
    static guarded_copy_end: u8;
    static guarded_copy_failed: u8;
}

/// Returns where a page fault at instruction `rip` goes on, if it is one of the guarded copy.
fn recovery(rip: u64) -> Option<u64> {
    let copy = guarded_copy as *const () as u64..(&raw const guarded_copy_end) as u64;
    copy.contains(&rip)
        .then_some((&raw const guarded_copy_failed) as u64)
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

/// Zeroes one granule.
///
/// # Safety
///
/// `granule` must be memory of one granule, aligned, that no reference points to.
pub unsafe fn zero_granule(granule: *mut u8) {
    // SAFETY: the caller promises it. The direction flag is clear in all of the TSM.
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") 512_usize => _,
            inout("rdi") granule => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags),
        );
    }
}

/// Makes earlier table writes visible to walkers. Walkers snoop, and stores are seen in order (AMD APM
/// vol 2, 7.2), so the compiler alone has to be held back.
pub fn publish_table() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// Makes a new entry of the TSM's own tables usable: no processor remembers that there was none.
pub fn publish_mapping() {
    publish_table();
}

/// Makes earlier memory writes visible to a device that is told of them next.
pub fn publish_to_device() {
    fence(Ordering::SeqCst);
}

/// Writes a piece of the log; returns whether there is one.
pub fn console_write(bytes: &[u8]) -> bool {
    crate::board::board().log(bytes);
    true
}

/// Applies SHA-256's compression function, if the processor can without its vector registers.
pub fn sha256(_state: &mut [u32; 8], _blocks: &[[u8; 64]]) -> bool {
    false
}

/// Applies SHA-512's compression function, if the processor can without its vector registers.
pub fn sha512(_state: &mut [u64; 8], _blocks: &[[u8; 128]]) -> bool {
    false
}
