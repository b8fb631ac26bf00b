// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! QEMU's `virt` machine as the monitor sees it.

use core::sync::atomic::{AtomicBool, Ordering};

use tsm_monitor::arch::el3::El3;
use tsm_monitor::arch::registers::{dsb, wait_for_interrupt};
use tsm_monitor::gpt::Gpi;
use tsm_monitor::manifest::Region;
use tsm_monitor::{Board, Event, Processor, psci};

use crate::boot::MONITOR;
use crate::mmio::Mmio;
use crate::pci::{KEYS, KeyUnit};
use crate::translation::{HOST_BITS, HOST_WINDOW, SHARED, SHARED_WINDOW};
use crate::{boot, gic, log, reset};

/// Configuration space: 256 buses.
pub const ECAM: Region = Region {
    base: 0x40_1000_0000,
    size: 0x1000_0000,
};
/// Address space for BARs below 4 GiB.
pub const PCI_MMIO: Region = Region {
    base: 0x1000_0000,
    size: 0x2eff_0000,
};
/// What of it the key configuration unit takes.
pub const KEY_UNIT: Region = Region {
    base: 0x3e00_0000,
    size: 0x0020_0000,
};
/// Registers of the key configuration unit's carrier, which nobody uses.
pub const KEY_UNIT_REGISTERS: u64 = 0x3e10_0000;
/// Registers of the SMMU.
pub const SMMU: Region = Region {
    base: 0x0905_0000,
    size: 0x2_0000,
};
/// The TSM: image, tables, stacks; its last page is shared with the monitor.
pub const TSM: Region = Region {
    base: 0x7f00_0000,
    size: 0x0100_0000,
};
/// Where DRAM starts and the device tree lies.
pub const DEVICE_TREE: u64 = 0x4000_0000;
/// First instruction of the host.
pub const HOST_ENTRY: u64 = 0x4800_0000;

/// Who owns what at boot. Everything that is not named is the host's.
pub const OWNERS: &[(Region, Gpi)] = &[
    // Flash 0 and SRAM: code and data of the monitor.
    (
        Region {
            base: 0,
            size: 0x0400_0000,
        },
        Gpi::Root,
    ),
    (
        Region {
            base: 0x0e00_0000,
            size: 0x0100_0000,
        },
        Gpi::Root,
    ),
    // Interrupt controller: it tells the worlds apart by itself. Its translation service writes memory
    // that nothing checks, so it is not for the host; nor are the pages that `gic` names.
    (
        Region {
            base: 0x0800_0000,
            size: 0x0100_0000,
        },
        Gpi::Any,
    ),
    (
        Region {
            base: 0x0808_0000,
            size: 0x0002_0000,
        },
        Gpi::Root,
    ),
    // UART 0 is everybody's, UART 1 and the power switch are the monitor's.
    (
        Region {
            base: 0x0900_0000,
            size: 0x1000,
        },
        Gpi::Any,
    ),
    (
        Region {
            base: 0x0904_0000,
            size: 0x1000,
        },
        Gpi::Root,
    ),
    (
        Region {
            base: 0x090b_0000,
            size: 0x1000,
        },
        Gpi::Root,
    ),
    // fw_cfg and virtio-mmio write memory that nothing checks.
    (
        Region {
            base: 0x0902_0000,
            size: 0x1000,
        },
        Gpi::Root,
    ),
    (
        Region {
            base: 0x0a00_0000,
            size: 0x4000,
        },
        Gpi::Root,
    ),
    (KEY_UNIT, Gpi::Root),
    (SMMU, Gpi::Realm),
    (ECAM, Gpi::Realm),
    (TSM, Gpi::Realm),
];

// SAFETY: GPIO registers, mapped as device memory; a write of one pin needs no lock.
const POWER: Mmio = unsafe { Mmio::new(0x090b_0000, 0x1000) };
const GPIO_DIRECTION: u64 = 0x400;
const PIN_OFF: u32 = 1 << 0;
const PIN_RESET: u32 = 1 << 1;

/// The machine.
pub struct QemuVirt {
    /// The key configuration unit is there.
    has_keys: AtomicBool,
}

impl QemuVirt {
    /// Makes the machine before it has been looked at.
    pub const fn new() -> Self {
        Self {
            has_keys: AtomicBool::new(false),
        }
    }

    /// Says that the key configuration unit is there and mapped.
    pub fn set_keys(&self) {
        self.has_keys.store(true, Ordering::Relaxed);
    }
}

/// Blocks every DMA of PCI devices. They come up unblocked, and the SMMU checks no granule.
pub fn block_dma() {
    // SAFETY: SMMU registers, mapped as device memory, and still the monitor's.
    let smmu = unsafe { Mmio::new(SMMU.base, SMMU.size) };
    const GBPA: u64 = 0x44;
    const UPDATE: u32 = 1 << 31;
    const ABORT: u32 = 1 << 20;
    /// Shareability as incoming.
    const SHCFG_INCOMING: u32 = 1 << 12;
    smmu.write(GBPA, UPDATE | ABORT | SHCFG_INCOMING);
    if !smmu.poll(GBPA, |value| value & UPDATE == 0) {
        log::stop("SMMU");
    }
}

fn switch(pin: u32) -> ! {
    POWER.write(GPIO_DIRECTION, pin);
    // Bits 9:2 of the address of the data register select pins.
    POWER.write(u64::from(pin) << 2, pin);
    loop {
        wait_for_interrupt();
    }
}

/// Returns the page shared with R-EL2.
fn shared_page() -> Mmio {
    // SAFETY: the shared page, mapped as Realm memory; R-EL2 keeps its other users away.
    unsafe { Mmio::new(SHARED_WINDOW + (QemuVirt::SHARED_PAGE - SHARED), 0x1000) }
}

impl Board for QemuVirt {
    type Keys = KeyUnit;

    const ECAM: Region = ECAM;
    const SHARED_PAGE: u64 = TSM.top() - 0x1000;
    const REALM_ENTRY: u64 = TSM.base;

    fn processor_index(&self, affinity: u64) -> Option<usize> {
        // Level 0 counts to 16, levels 2 and 3 are 0.
        let (level0, level1) = (affinity & 0xff, affinity >> 8 & 0xff);
        if affinity & !0xffff != 0 || affinity & !psci::AFFINITY_MASK != 0 || level0 > 15 {
            return None;
        }
        usize::try_from(level1 << 4 | level0).ok()
    }

    fn wake(&self, index: usize) {
        gic::wake(MONITOR.processor(), index);
    }

    fn park(&self) -> ! {
        reset::park()
    }

    fn power_off(&self) -> ! {
        switch(PIN_OFF)
    }

    fn reset(&self) -> ! {
        boot::set_ready(None);
        switch(PIN_RESET)
    }

    fn keys(&self) -> Option<&KeyUnit> {
        self.has_keys.load(Ordering::Relaxed).then_some(&KEYS)
    }

    fn emulates(&self, granule: u64) -> bool {
        gic::control_frame(granule).is_some()
    }

    fn emulate(&self, address: u64, bytes: u8, store: Option<u64>) -> u64 {
        match store {
            // Nothing that the host may change lies there.
            Some(_) => 0,
            None => gic::read_control_frame(address, bytes),
        }
    }

    fn fetch(&self, offset: usize, out: &mut [u8]) {
        for (index, byte) in out.iter_mut().enumerate() {
            *byte = shared_page().read_byte(offset.wrapping_add(index) as u64);
        }
    }

    fn share(&self, offset: usize, data: &[u8]) {
        let page = shared_page();
        for (index, byte) in data.iter().enumerate() {
            page.write_byte(offset.wrapping_add(index) as u64, *byte);
        }
        dsb();
    }

    fn realm_log(&self, data: &[u8]) {
        log::realm(data);
    }

    fn note(&self, event: Event) {
        match event {
            Event::RealmUp(index) => defmt::info!("R-EL2 is up on processor {=usize}", index),
            Event::RealmFailed(status) => defmt::error!("R-EL2 failed to boot: {=u64:#x}", status),
            Event::RealmFault(esr) => defmt::error!("R-EL2 caused an exception: {=u64:#x}", esr),
            Event::Started(index) => defmt::info!("processor {=usize} was started", index),
            Event::PowerOff => defmt::info!("power off"),
            Event::Reset => defmt::info!("reset"),
        }
    }
}

/// The processor, with the window of this address space.
pub const PROCESSOR: El3 = El3 {
    host_window: HOST_WINDOW,
    host_bits: HOST_BITS,
};

/// Waits for an interrupt, with the wake interrupt as the only one that is let through.
pub fn park_once() {
    let processor = MONITOR.processor();
    processor.set_parked(true);
    processor.wait();
    processor.acknowledge_wake();
}
