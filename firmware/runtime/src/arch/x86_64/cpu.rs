// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Data of each CPU, found through the base of GS.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::cell::UnsafeCell;
use core::ptr;

use ::x86_64::VirtAddr;
use ::x86_64::registers::control::{Cr4, Cr4Flags};
use ::x86_64::registers::model_specific::GsBase;

use super::guest::RealmCpu;
use super::host::HostCpu;
use super::segments::Segments;
pub use crate::layout::MAX_CPUS;

/// What one CPU needs for itself.
#[repr(C, align(64))]
pub struct Cpu {
    /// Its own address, which is read relative to GS.
    this: *mut Self,
    /// Linear index.
    index: usize,
    /// The CPU's own stack pointer while it runs isolated work, or zero.
    pub isolated: u64,
    /// Descriptors and the stacks of exceptions.
    pub segments: Segments,
    /// What runs the host.
    pub host: HostCpu,
    /// What runs realms.
    pub realm: RealmCpu,
}

/// The data of all CPUs.
struct Cpus([UnsafeCell<Cpu>; MAX_CPUS]);

// SAFETY: each CPU uses its own element only: the base of GS, set on entry, names it.
unsafe impl Sync for Cpus {}

static CPUS: Cpus = Cpus(
    [const {
        UnsafeCell::new(Cpu {
            this: ptr::null_mut(),
            index: 0,
            isolated: 0,
            segments: Segments::NEW,
            host: HostCpu::NEW,
            realm: RealmCpu::NEW,
        })
    }; MAX_CPUS],
);

/// Returns the data of this CPU.
pub fn this() -> *mut Cpu {
    let this: *mut Cpu;
    // SAFETY: `start` made GS name the data of this CPU, whose first word is its address.
    unsafe {
        asm!(
            "mov {}, gs:[0]",
            out(reg) this,
            options(nostack, preserves_flags, pure, readonly),
        );
    }
    this
}

/// Returns the index of this CPU.
pub fn index() -> usize {
    // SAFETY: `this` is the data of this CPU; the field is written by `start` only.
    unsafe { (*this()).index }
}

/// Makes this CPU number `index`: its data, segments, exceptions, and the protections of its mode.
/// Returns false if there is no such number.
///
/// # Safety
///
/// No other CPU may have the number, and this CPU must have had none.
pub unsafe fn start(index: usize) -> bool {
    let Some(cell) = CPUS.0.get(index) else {
        return false;
    };
    let cpu = cell.get();
    // SAFETY: the element is this CPU's alone, as the caller promises, and lives for ever.
    unsafe {
        (*cpu).this = cpu;
        (*cpu).index = index;
        (*cpu).segments.load();
        GsBase::write(VirtAddr::new_truncate(cpu.addr() as u64));
    }
    protect();
    true
}

/// Turns the protections on that the processor has. Entry code has set CR0 and EFER already.
fn protect() {
    // CPUID leaf 7: SMEP and SMAP in EBX, UMIP in ECX; leaf 1: XSAVE in ECX.
    let (ebx, ecx) = if __cpuid(0).eax >= 7 {
        let leaf = __cpuid_count(7, 0);
        (leaf.ebx, leaf.ecx)
    } else {
        (0, 0)
    };
    let mut flags =
        Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::MACHINE_CHECK_EXCEPTION | Cr4Flags::OSFXSR;
    for (word, bit, flag) in [
        (ebx, 1 << 7, Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION),
        (ebx, 1 << 20, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
        (ecx, 1 << 2, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
        // For the code that switches a guest's extended state; the TSM itself has none.
        (__cpuid(1).ecx, 1 << 26, Cr4Flags::OSXSAVE),
    ] {
        if word & bit != 0 {
            flags |= flag;
        }
    }
    // SAFETY: the TSM has no user pages, and long mode stays as it is.
    unsafe { Cr4::write(flags) };
}
