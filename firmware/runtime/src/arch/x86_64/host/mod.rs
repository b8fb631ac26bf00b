// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's virtual CPUs: one on each CPU, entered again after every exit until the machine goes off.

mod exits;
mod io_apic;
mod load;
mod memory;
mod signal;

use core::cell::UnsafeCell;

use spin::Once;

use super::{boot, cpu, exception, npt, smp, svm};
use crate::arch::confine::start::{self, Confinement, Entry};
use crate::arch::confine::{msr, ports};
use crate::arch::vmcb::{FLUSH_ALL, Gprs, Vmcb, event};
use crate::board::board;
use crate::log::{info, warning};

/// What one CPU needs to run the host.
pub struct HostCpu {
    vmcb: Vmcb,
    gprs: Gprs,
}

impl HostCpu {
    /// The state before first use.
    pub const NEW: Self = Self {
        vmcb: Vmcb::ZERO,
        gprs: Gprs::ZERO,
    };
}

/// A permission map that the processor reads by its physical address.
#[repr(C, align(4096))]
struct Map<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: the first CPU fills the map before any CPU of the host runs; then only processors read it.
unsafe impl<const N: usize> Sync for Map<N> {}

static PORT_MAP: Map<{ ports::MAP_BYTES }> = Map(UnsafeCell::new([0; ports::MAP_BYTES]));
static REGISTER_MAP: Map<{ msr::MAP_BYTES }> = Map(UnsafeCell::new([0; msr::MAP_BYTES]));

/// What confines all CPUs of the host. It is there once the first one is about to start.
static CONFINEMENT: Once<Confinement> = Once::new();

/// Fills the permission maps.
fn confinement(root: u64) -> Confinement {
    // SAFETY: `call_once` runs this on one CPU, before the host runs anywhere.
    unsafe {
        ports::fill(&mut *PORT_MAP.0.get(), board().port_rules());
        msr::fill(&mut *REGISTER_MAP.0.get());
    }
    Confinement {
        ports: PORT_MAP.0.get() as u64,
        registers: REGISTER_MAP.0.get() as u64,
        root,
    }
}

/// Runs the host on this CPU, for ever: at once on the first one, on the others when it starts them.
pub fn run() -> ! {
    let index = cpu::index();
    // SAFETY: the field is this CPU's, and this function never ends.
    let host = unsafe { &mut (*cpu::this()).host };
    if index == 0 {
        let Some((entry, root)) = load::load().zip(npt::host_root()) else {
            warning!("there is no host that can be started");
            exception::stop()
        };
        let by = CONFINEMENT.call_once(|| confinement(root));
        start::confine(&mut host.vmcb.control, by);
        host.start_first(&entry);
    } else {
        host.wait(index);
        let by = CONFINEMENT.wait();
        start::confine(&mut host.vmcb.control, by);
    }
    loop {
        host.heed_signals(index);
        host.enter();
        exits::handle(host);
    }
}

impl HostCpu {
    fn start_first(&mut self, entry: &Entry) {
        start::first(&mut self.vmcb, entry);
        self.gprs = Gprs::ZERO;
        self.gprs.rsi = entry.rsi;
        info!("host: starts at {=u64:#x}", entry.rip);
    }

    /// Waits until the host starts this CPU.
    fn wait(&mut self, index: usize) {
        let vector = signal::wait(index);
        start::other(&mut self.vmcb, vector);
        self.gprs = Gprs::ZERO;
        // Family, model and stepping, as after INIT.
        self.gprs.rdx = u64::from(core::arch::x86_64::__cpuid(1).eax);
    }

    /// Does what other CPUs of the host have asked this one for.
    fn heed_signals(&mut self, index: usize) {
        let requests = signal::requests(index);
        if requests.is_stopped() {
            self.wait(index);
        }
        if self.vmcb.control.event_inj & event::VALID == 0 && requests.take_nmi() {
            self.vmcb.control.event_inj = event::NMI;
        }
        exception::stay_if_stopped();
    }

    fn enter(&mut self) {
        self.vmcb.control.tlb_ctl = if smp::before_entry() { FLUSH_ALL } else { 0 };
        // SAFETY: `svm::start` has run. The block lies in the image, which is mapped at its physical
        // address, and names the permission maps and the tables of the host.
        unsafe { svm::enter(&mut self.vmcb, &mut self.gprs) };
        smp::after_exit();
    }
}

/// Returns the CPUs by number, each with the id of its local APIC.
fn processors() -> impl Iterator<Item = (usize, u32)> {
    let all = boot::findings().map_or(&[][..], |found| &found.tables.processors);
    (0..usize::MAX).zip(all.iter().copied())
}
