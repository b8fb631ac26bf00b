// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Starting the other CPUs, before the host runs: what is not in the TSM's hands then would be in the
//! host's.

use core::arch::global_asm;
use core::arch::x86_64::_rdtsc;
use core::hint::spin_loop;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};

use tsm_platform::GRANULE_SIZE;

use super::{apic, cpu, exception, host, smp, svm};
use crate::arch;
use crate::layout::{HOST_WINDOW, STACK_SIZE, STACK_STRIDE, STACK_WINDOW};
use crate::log::warning;

/// Where the code lies in which a CPU starts: a page of the host's memory below 1 MiB, which is put back
/// as it was.
const PAGE: u64 = 0x8000;
const PAGE_BYTES: usize = GRANULE_SIZE as usize;
/// Ticks that a CPU gets to start: at least six seconds on processors of up to 5 GHz. An emulated one on
/// a loaded machine may need some of them.
pub const LONG: u64 = 30_000_000_000;
/// Ticks between reset and start of a CPU: at least ten milliseconds.
const SHORT: u64 = 50_000_000;

// AT&T syntax: see `entry`.
global_asm!(
    include_str!("start.S"),
    stack_size = const STACK_SIZE,
    stack_stride = const STACK_STRIDE,
    stack_window = const STACK_WINDOW,
    options(att_syntax),
);

/// Root of the TSM's tables, and the number of the CPU that starts next, for `start.S`.
#[unsafe(no_mangle)]
static tsm_start_root: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static tsm_start_index: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static start_code: u8;
    static mut boot_pml4: u8;
}

/// Returns the time stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: the counter exists on every processor with long mode; reading it has no effect.
    unsafe { _rdtsc() }
}

/// Starts all CPUs but this one, `ids` being the APIC ids of all, and this one's the first. Returns whether
/// all came.
///
/// # Safety
///
/// No other CPU may run yet, this one must have joined, and `root` must be the tables of the TSM.
pub unsafe fn others(ids: &[u32], root: u64) -> bool {
    if ids.first().copied() != smp::id(cpu::index()) {
        warning!("ACPI does not name this processor first");
        return false;
    }
    tsm_start_root.store(root, Ordering::SeqCst);
    let page = (HOST_WINDOW + PAGE) as *mut u8;
    let mut saved = MaybeUninit::<[u8; PAGE_BYTES]>::uninit();
    let saved = saved.as_mut_ptr().cast::<u8>();
    // SAFETY: the page is the host's, mapped in its window, and the host does not run. The code is as
    // long as it. The other CPUs do nothing: the firmware left them waiting.
    let ready = unsafe {
        arch::copy(saved, page, PAGE_BYTES).is_ok()
            && arch::copy(page, &raw const start_code, PAGE_BYTES).is_ok()
    };
    if !ready {
        return false;
    }
    if ids.len() > 1 {
        // SAFETY: as above.
        unsafe { apic::reset_others() };
        let begin = ticks();
        while ticks().wrapping_sub(begin) < SHORT {
            spin_loop();
        }
    }
    let all = ids.iter().enumerate().skip(1).all(|(index, id)| {
        tsm_start_index.store(index as u64, Ordering::SeqCst);
        // SAFETY: the page holds the code, and the CPU waits.
        unsafe { apic::start_up(*id, PAGE) };
        wait(index) == Some(*id)
    });
    // SAFETY: as above. All CPUs use the TSM's tables, so that nothing needs those of entry code, in which
    // everything is writable and executable.
    unsafe {
        if all {
            arch::zero_granule(&raw mut boot_pml4);
        }
        all && arch::copy(page, saved, PAGE_BYTES).is_ok()
    }
}

/// Waits until CPU `index` has joined; returns its APIC id.
fn wait(index: usize) -> Option<u32> {
    let begin = ticks();
    loop {
        if let Some(id) = smp::id(index) {
            return Some(id);
        }
        if ticks().wrapping_sub(begin) > LONG {
            warning!("cpu {=usize} does not start", index);
            return None;
        }
        spin_loop();
    }
}

/// Goes on after `start.S` on another CPU.
#[unsafe(no_mangle)]
extern "C" fn tsm_warm_main(index: usize) -> ! {
    // SAFETY: the first CPU gives each its number, one at a time.
    if unsafe { cpu::start(index) } {
        bring_up();
        host::run()
    }
    exception::park()
}

/// Makes this CPU ready to run guests.
pub fn bring_up() {
    if !svm::is_supported() {
        warning!("the processor cannot run guests");
        exception::stop();
    }
    // SAFETY: the CPU has its index and its segments, and they stay.
    unsafe { svm::start() };
    match apic::enable() {
        Some(id) => smp::join(id),
        None => {
            warning!("the processor has no x2APIC");
            exception::stop()
        }
    }
}
