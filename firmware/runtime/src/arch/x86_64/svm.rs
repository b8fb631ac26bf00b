// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entering and leaving guests on AMD processors.

use core::arch::x86_64::__cpuid;
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use ::x86_64::registers::model_specific::Msr;

use super::cpu;
use crate::arch::vmcb::{Gprs, Vmcb, efer};
use crate::layout::MAX_CPUS;

global_asm!(include_str!("svm.S"));

unsafe extern "C" {
    fn svm_enter(vmcb: u64, gprs: *mut Gprs, own: u64);
    safe fn svm_take_nmi();
    safe fn svm_wait();
    static svm_wait_first: u8;
    static svm_wait_end: u8;
}

/// MSR: extended features.
const EFER: u32 = 0xc000_0080;
/// MSR: where the processor saves the state of the one that runs a guest.
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Returns whether this processor can run guests: it has SVM with nested paging, and nobody has switched
/// SVM off for good (AMD APM volume 2, 15.4).
pub fn is_supported() -> bool {
    const SVM: u32 = 1 << 2;
    const NESTED_PAGING: u32 = 1 << 0;
    const VM_CR: u32 = 0xc001_0114;
    const SWITCHED_OFF: u64 = 1 << 4;
    __cpuid(0x8000_0000).eax >= 0x8000_000a
        && __cpuid(0x8000_0001).ecx & SVM != 0
        && __cpuid(0x8000_000a).edx & NESTED_PAGING != 0
        // SAFETY: every processor with SVM has the register.
        && unsafe { Msr::new(VM_CR).read() } & SWITCHED_OFF == 0
}

/// What the processor needs of one CPU: the page that VMRUN saves to, and one in the form of a
/// control block for what VMRUN leaves alone.
#[repr(C, align(4096))]
struct Own {
    saved: UnsafeCell<[u8; 4096]>,
    rest: UnsafeCell<[u8; 4096]>,
}

// SAFETY: each CPU names its own element only, and to the processor only.
unsafe impl Sync for Own {}

static OWN: [Own; MAX_CPUS] = [const {
    Own {
        saved: UnsafeCell::new([0; 4096]),
        rest: UnsafeCell::new([0; 4096]),
    }
}; MAX_CPUS];

/// Turns SVM on for this CPU. From here on the global interrupt flag is clear outside guests.
///
/// # Safety
///
/// The index of this CPU is set, its GDT with the task state segment is loaded, and none of FS, GS,
/// TR, LDTR and the registers of system calls changes from now on.
pub unsafe fn start() {
    let Some(own) = OWN.get(cpu::index()) else {
        return;
    };
    let mut features = Msr::new(EFER);
    // SAFETY: the pages belong to this CPU and are mapped at their physical addresses; the
    // processor has SVM, or boot had ended before.
    unsafe {
        features.write(features.read() | efer::SVME);
        Msr::new(VM_HSAVE_PA).write(own.saved.get() as u64);
        asm!(
            "clgi",
            "vmsave rax",
            in("rax") own.rest.get() as u64,
            options(nostack, preserves_flags),
        );
    }
}

/// Runs a guest until it leaves.
///
/// # Safety
///
/// [`start`] has run on this CPU. `vmcb` and `gprs` lie in memory that is mapped at its physical
/// address. What the control block names, which is permission maps and nested tables, confines the
/// guest to memory that is not the TSM's.
pub unsafe fn enter(vmcb: &mut Vmcb, gprs: &mut Gprs) {
    let Some(own) = OWN.get(cpu::index()) else {
        return;
    };
    // SAFETY: `start` has filled the page; the caller promises the rest.
    unsafe { svm_enter(&raw mut *vmcb as u64, gprs, own.rest.get() as u64) };
}

/// Takes the non-maskable interrupt that made a guest leave. The processor that exits for it does not
/// take it off the list of what it has to do.
pub fn take_nmi() {
    svm_take_nmi();
}

/// Waits until another CPU kicks this one. It may also return without a reason.
pub fn wait() {
    svm_wait();
}

/// Returns where a non-maskable interrupt that came at `rip` continues.
pub fn continue_after_nmi(rip: u64) -> u64 {
    if rip == &raw const svm_wait_first as u64 {
        &raw const svm_wait_end as u64
    } else {
        rip
    }
}
