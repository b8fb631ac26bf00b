// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Running a guest's virtual CPU.

use crate::{Ipa, Object, Stage2};

/// Initial state of a virtual CPU.
#[derive(Clone, Copy, Debug)]
pub struct VcpuParams {
    /// First instruction.
    pub pc: u64,
    /// First eight general-purpose registers; the others are zero.
    pub gprs: [u64; 8],
    /// The affinity that the guest reads as its own.
    pub mpidr: u64,
}

/// What the host asked for on entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestEntry {
    /// Leave the guest when it waits for an interrupt.
    pub trap_wfi: bool,
    /// Leave the guest when it waits for an event.
    pub trap_wfe: bool,
}

/// How memory was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// Fault registers in the host's format. Zero where the architecture has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSyndrome {
    /// Exception syndrome (Arm: `ESR_EL2`).
    pub esr: u64,
    /// Faulting virtual address.
    pub far: u64,
    /// Faulting intermediate physical address register (Arm: `HPFAR_EL2`).
    pub hpfar: u64,
}

/// What a load or store of one general-purpose register moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The register (0 to 30; others read as zero and ignore writes).
    pub register: u8,
    /// Width of the access: 1, 2, 4 or 8 bytes.
    pub bytes: u8,
    /// Whether a load repeats the highest bit of what it reads.
    pub sign_extend: bool,
    /// Whether a load fills 64 bits of the register; if not, it clears the upper 32.
    pub sixty_four: bool,
}

/// A guest access that stage 2 refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// The address that was touched.
    pub ipa: Ipa,
    /// How.
    pub access: Access,
    /// What the instruction moves, if the processor told.
    pub transfer: Option<Transfer>,
    /// The fault in the host's format.
    pub syndrome: FaultSyndrome,
}

/// Why a guest stopped running. What the architecture can answer alone never gets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestExit {
    /// A call to the TSM; its function id and arguments are in the registers.
    Call,
    /// A refused access. The program counter is still at the instruction.
    Fault(MemoryFault),
    /// An interrupt for the host.
    HostInterrupt,
    /// A fast interrupt for the host.
    HostFastInterrupt,
    /// An asynchronous error.
    SystemError(FaultSyndrome),
    /// The guest waits for an interrupt or event, and [`GuestEntry`] asked to know.
    Idle(FaultSyndrome),
}

/// Saves, restores and runs virtual CPUs.
///
/// The state of the host, including what is not in general-purpose registers, is as it was when
/// `run` returns, and nothing of the guest is left in registers.
pub trait GuestCpu {
    /// The saved state of one virtual CPU; lives in a donated granule with the rest of its object.
    type Context: Object;

    /// Makes the initial state of a virtual CPU that translates through `stage2`.
    fn new_context(&self, params: &VcpuParams, stage2: &Stage2) -> Self::Context;
    /// Runs until something happens that the core must know.
    fn run(&self, context: &mut Self::Context, entry: &GuestEntry) -> GuestExit;
    /// Runs the virtual CPU that `select` finds in `owner` until `handle` returns false for an
    /// exit. `select` always finds the same one.
    ///
    /// The registers of the host need not be put back before the end. [`Self::timers`] counts at
    /// the end only.
    fn run_while<T>(
        &self,
        owner: &mut T,
        select: impl Fn(&mut T) -> &mut Self::Context,
        entry: &GuestEntry,
        mut handle: impl FnMut(&mut T, GuestExit) -> bool,
    ) {
        loop {
            let exit = self.run(select(owner), entry);
            if !handle(owner, exit) {
                return;
            }
        }
    }
    /// Reads general-purpose register `index` (0 to 30; others read as zero).
    fn gpr(&self, context: &Self::Context, index: usize) -> u64;
    /// Writes general-purpose register `index` (0 to 30; others are ignored).
    fn set_gpr(&self, context: &mut Self::Context, index: usize, value: u64);
    /// Moves past the instruction that faulted or called, if the architecture has not done it.
    fn skip_instruction(&self, context: &mut Self::Context);
    /// Makes the guest take a synchronous external abort for `fault` when it next runs.
    fn inject_abort(&self, context: &mut Self::Context, fault: &MemoryFault);
    /// Returns what the host may know of an exit that it does not emulate, a fault on private memory
    /// among them: what kind it is and the address, not what the instruction would have moved.
    fn conceal(&self, syndrome: &FaultSyndrome) -> FaultSyndrome {
        FaultSyndrome {
            hpfar: syndrome.hpfar,
            ..FaultSyndrome::default()
        }
    }
    /// Returns what the host may know of a fault on memory that it shares with the guest: what it
    /// needs to emulate the access. It is not told the register, whose value passes through the
    /// entry and exit structures.
    fn reveal(&self, syndrome: &FaultSyndrome) -> FaultSyndrome {
        self.conceal(syndrome)
    }
    /// Returns the fault that the host would see if the guest had loaded from private memory at
    /// `ipa`, and the walk of stage 2 had ended at `level`.
    fn missing_memory(&self, _ipa: Ipa, _level: u8) -> FaultSyndrome {
        FaultSyndrome::default()
    }
    /// Returns the guest's timers as the host wants them on exit: physical control and compare
    /// value, virtual control and compare value.
    fn timers(&self, context: &Self::Context) -> [u64; 4];
}
