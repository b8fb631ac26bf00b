// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! GICv3 distributor and redistributors. All interrupts are the host's but one that wakes processors.
//!
//! A redistributor's control frame has registers that name memory (the tables of locality-specific
//! interrupts), which it then reads and writes past every check. That frame is the monitor's, and the
//! host sees a redistributor without such interrupts.

use core::sync::atomic::{AtomicUsize, Ordering};

use tsm_monitor::arch::el3::El3;

use crate::mmio::Mmio;

// SAFETY: the distributor's registers, mapped as device memory; used before the host runs only.
const DISTRIBUTOR: Mmio = unsafe { Mmio::new(0x0800_0000, 0x1_0000) };
const REDISTRIBUTORS: u64 = 0x080a_0000;
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

const GICD_CTLR: u64 = 0x0000;
const GICD_TYPER: u64 = 0x0004;
const GICD_IGROUPR: u64 = 0x0080;
const WRITE_PENDING: u32 = 1 << 31;
/// Affinity routing in both security states, all groups on.
const ENABLE: u32 = 1 << 5 | 1 << 4 | 1 << 2 | 1 << 1 | 1 << 0;

const GICR_WAKER: u64 = 0x0014;
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
const GICR_CTLR: u64 = 0x0000;
const GICR_IIDR: u64 = 0x0004;
const GICR_TYPER: u64 = 0x0008;
/// PLPIS, VLPIS, DirectLPI: the locality-specific interrupts.
const TYPER_LPIS: u32 = 1 << 0 | 1 << 1 | 1 << 3;
const CTLR_ENABLE_LPIS: u32 = 1 << 0;
/// Redistributors end where the UART begins.
const REDISTRIBUTORS_END: u64 = 0x0900_0000;
/// Second frame of a redistributor.
const GICR_IGROUPR0: u64 = 0x1_0080;
const GICR_ISENABLER0: u64 = 0x1_0100;
const GICR_IGRPMODR0: u64 = 0x1_0d00;

/// Software interrupt that wakes a parked processor. 8 to 15 are the monitor's, as is usual.
const WAKE: u32 = 8;
const HOST_PRIVATE: u32 = 0xffff_00ff;

/// Number of redistributors; an access to another one would fault.
static PRESENT: AtomicUsize = AtomicUsize::new(0);

/// Returns the control frames: one granule of each redistributor there can be.
pub fn control_frames() -> impl Iterator<Item = u64> {
    (REDISTRIBUTORS..REDISTRIBUTORS_END - REDISTRIBUTOR_SIZE).step_by(REDISTRIBUTOR_SIZE as usize)
}

/// Returns the redistributor whose control frame `granule` is.
pub fn control_frame(granule: u64) -> Option<usize> {
    let offset = granule.checked_sub(REDISTRIBUTORS)?;
    let index = offset / REDISTRIBUTOR_SIZE;
    if offset % REDISTRIBUTOR_SIZE == 0 && granule < REDISTRIBUTORS_END {
        usize::try_from(index).ok()
    } else {
        None
    }
}

/// Reads the control frame that holds `address` for the host.
pub fn read_control_frame(address: u64, bytes: u8) -> u64 {
    const FRAME: u64 = 0xfff;
    let frame = address & !FRAME;
    if control_frame(frame).is_none_or(|index| index >= PRESENT.load(Ordering::Relaxed)) {
        return 0;
    }
    // SAFETY: a redistributor's registers, mapped as device memory; those that are read have no side
    // effect.
    let frame = unsafe { Mmio::new(frame, FRAME + 1) };
    // What is not named reads as zero; the host has no power control (GICR_WAKER) in any case.
    let word = |offset| match offset {
        GICR_CTLR => frame.read(GICR_CTLR) & !CTLR_ENABLE_LPIS,
        GICR_IIDR => frame.read(GICR_IIDR),
        GICR_TYPER => frame.read(GICR_TYPER) & !TYPER_LPIS,
        offset if offset == GICR_TYPER + 4 => frame.read(offset),
        _ => 0,
    };
    let offset = address & FRAME;
    match bytes {
        4 => u64::from(word(offset)),
        8 => u64::from(word(offset)) | u64::from(word(offset + 4)) << 32,
        _ => 0,
    }
}

/// Gives interrupts to the host, for `processors` processors; returns none if the unit does not answer.
#[must_use]
pub fn start(processors: usize) -> Option<()> {
    PRESENT.store(processors, Ordering::Relaxed);
    DISTRIBUTOR.write(GICD_CTLR, ENABLE);
    if !DISTRIBUTOR.poll(GICD_CTLR, |control| control & WRITE_PENDING == 0) {
        return None;
    }
    // Shared interrupts start at 32; each register has the groups of 32.
    let lines = u64::from(DISTRIBUTOR.read(GICD_TYPER) & 0x1f);
    for register in 1..=lines {
        DISTRIBUTOR.write(GICD_IGROUPR.wrapping_add(register << 2), u32::MAX);
    }
    let redistributors = (REDISTRIBUTORS..REDISTRIBUTORS_END).step_by(REDISTRIBUTOR_SIZE as usize);
    for base in redistributors.take(processors) {
        // SAFETY: this processor's redistributor, mapped as device memory; the host does not run yet.
        let redistributor = unsafe { Mmio::new(base, REDISTRIBUTOR_SIZE) };
        let waker = redistributor.read(GICR_WAKER);
        redistributor.write(GICR_WAKER, waker & !PROCESSOR_SLEEP);
        if !redistributor.poll(GICR_WAKER, |waker| waker & CHILDREN_ASLEEP == 0) {
            return None;
        }
        redistributor.write(GICR_IGROUPR0, HOST_PRIVATE);
        redistributor.write(GICR_IGRPMODR0, 0);
        redistributor.write(GICR_ISENABLER0, 1 << WAKE);
    }
    Some(())
}

/// Wakes processor `index`.
pub fn wake(processor: &El3, index: usize) {
    let index = index as u64;
    processor.send_wake(index & 0xf | index >> 4 << 8, u64::from(WAKE));
}
