// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the monitor needs from the processor and from the board.

use crate::abort::{Delivery, Level, State};
use crate::context::{El2, World};
use crate::keys;
use crate::manifest::Region;

/// Where the last granule protection fault happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultAddress {
    /// The address that the instruction used.
    pub virtual_address: u64,
    /// The granule, as `MFAR_EL3` holds it.
    pub physical: u64,
}

/// Registers of the processor that runs this code. They are those of the world that was left.
pub trait Processor {
    /// Returns the EL2 registers with which a world starts; those of extensions start as zero.
    fn initial_el2(&self) -> El2;
    /// Returns the value of `SCR_EL3` for a world.
    fn security_configuration(&self, world: World) -> u64;
    /// Returns `HCR_EL2`.
    fn hcr(&self) -> u64;
    /// Returns where the last granule protection fault happened.
    fn fault_address(&self) -> FaultAddress;
    /// Returns the host instruction at `address`, as translated for the state `spsr`; none if it cannot
    /// be read, for whatever reason.
    fn instruction(&self, spsr: u64, address: u64) -> Option<u32>;
    /// Returns what decides how `level` takes an exception.
    fn exception_state(&self, level: Level, spsr: u64) -> State;
    /// Sets the syndrome registers of `level`: `fault` only if the exception has an address.
    fn set_exception(
        &self,
        level: Level,
        delivery: &Delivery,
        fault: Option<u64>,
        elr: u64,
        spsr: u64,
    );
    /// Completes a change of the granule protection tables on all processors.
    fn granules_changed(&self);
    /// Returns 64 unpredictable bits, none if the generator fails.
    fn random(&self) -> Option<u64>;
    /// Stops the processor until something wakes it.
    fn wait(&self);
}

/// What happens that an operator may want to see. Nothing that the host can cause at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// R-EL2 has booted on a processor.
    RealmUp(usize),
    /// R-EL2 refused to boot with this code; the host runs without it.
    RealmFailed(u64),
    /// R-EL2 caused an exception that the monitor does not serve; this is its syndrome.
    RealmFault(u64),
    /// A processor was started by the host.
    Started(usize),
    /// The host asked for power off.
    PowerOff,
    /// The host asked for a reset.
    Reset,
}

/// What the board consists of, found at boot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// Number of processors.
    pub processors: usize,
    /// Memory of the host, as far as there is some.
    pub dram: [Region; 4],
    /// Address space of devices whose granules can be delegated, as far as there is some.
    pub device_memory: [Region; 2],
    /// MMIO of the key configuration unit; empty if there is none.
    pub reserved: Region,
    /// Requester id of the function that the monitor keeps for itself.
    pub hidden: Option<u16>,
}

/// The board.
pub trait Board {
    /// Registers of its key configuration unit.
    type Keys: keys::Registers;

    /// Configuration window, given to the Realm world.
    const ECAM: Region;
    /// Page shared with R-EL2.
    const SHARED_PAGE: u64;
    /// First instruction of R-EL2.
    const REALM_ENTRY: u64;

    /// Returns the number of the processor with this affinity.
    fn processor_index(&self, affinity: u64) -> Option<usize>;
    /// Wakes a parked processor.
    fn wake(&self, index: usize);
    /// Parks the calling processor, which starts anew when it is woken.
    fn park(&self) -> !;
    /// Switches the machine off.
    fn power_off(&self) -> !;
    /// Resets the machine.
    fn reset(&self) -> !;
    /// Returns the key configuration unit, if the board has one.
    fn keys(&self) -> Option<&Self::Keys>;
    /// Returns whether the monitor performs the host's accesses to `granule` by itself.
    fn emulates(&self, granule: u64) -> bool;
    /// Performs one: `bytes` bytes at `address`, which may be unaligned, storing `store` or returning
    /// what is loaded.
    fn emulate(&self, address: u64, bytes: u8, store: Option<u64>) -> u64;
    /// Copies from the shared page. The caller has checked that it fits.
    fn fetch(&self, offset: usize, out: &mut [u8]);
    /// Copies `data` into the shared page. The caller has checked that it fits.
    fn share(&self, offset: usize, data: &[u8]);
    /// Puts bytes of R-EL2's log where logs go.
    fn realm_log(&self, data: &[u8]);
    /// Tells an operator.
    fn note(&self, event: Event);
}
