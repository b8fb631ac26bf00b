// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! GICv3 distributor and redistributors. All interrupts are the host's but one that wakes processors.

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
/// Second frame of a redistributor.
const GICR_IGROUPR0: u64 = 0x1_0080;
const GICR_ISENABLER0: u64 = 0x1_0100;
const GICR_IGRPMODR0: u64 = 0x1_0d00;

/// Software interrupt that wakes a parked processor. 8 to 15 are the monitor's, as is usual.
const WAKE: u32 = 8;
const HOST_PRIVATE: u32 = 0xffff_00ff;

/// Gives interrupts to the host, for `processors` processors; returns false if the unit does not answer.
#[must_use]
pub fn start(processors: usize) -> bool {
    DISTRIBUTOR.write(GICD_CTLR, ENABLE);
    if !DISTRIBUTOR.poll(GICD_CTLR, |control| control & WRITE_PENDING == 0) {
        return false;
    }
    // Shared interrupts start at 32; each register has the groups of 32.
    let lines = u64::from(DISTRIBUTOR.read(GICD_TYPER) & 0x1f);
    for register in 1..=lines {
        DISTRIBUTOR.write(GICD_IGROUPR + 4 * register, u32::MAX);
    }
    (0..processors).all(|index| {
        let base = REDISTRIBUTORS + index as u64 * REDISTRIBUTOR_SIZE;
        // SAFETY: this processor's redistributor, mapped as device memory; the host does not run yet.
        let redistributor = unsafe { Mmio::new(base, REDISTRIBUTOR_SIZE) };
        let waker = redistributor.read(GICR_WAKER);
        redistributor.write(GICR_WAKER, waker & !PROCESSOR_SLEEP);
        let awake = redistributor.poll(GICR_WAKER, |waker| waker & CHILDREN_ASLEEP == 0);
        redistributor.write(GICR_IGROUPR0, HOST_PRIVATE);
        redistributor.write(GICR_IGRPMODR0, 0);
        redistributor.write(GICR_ISENABLER0, 1 << WAKE);
        awake
    })
}

/// Wakes processor `index`.
pub fn wake(processor: &El3, index: usize) {
    let index = index as u64;
    processor.send_wake(index & 0xf | index >> 4 << 8, u64::from(WAKE));
}
