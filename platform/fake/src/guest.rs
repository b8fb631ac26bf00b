// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guests that follow a script.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Mutex;

use tsm_abi::rsi;
use tsm_platform::{
    Access, FaultSyndrome, GuestCpu, GuestEntry, GuestExit, Ipa, MemoryFault, Object, Stage2,
    Transfer, VcpuParams,
};

use crate::{Fake, lock};

/// One stretch of a guest's run: it may touch its registers and memory, and ends with an exit.
pub type Step = Box<dyn FnOnce(&Fake, &mut Vcpu) -> GuestExit + Send>;

/// What guests do when no step is left.
pub type Habit = Box<dyn FnMut(&Fake, &mut Vcpu) -> GuestExit + Send>;

/// What guests do next, whichever virtual CPU is entered.
#[derive(Default)]
pub struct Script {
    steps: Mutex<VecDeque<Step>>,
    habit: Mutex<Option<Habit>>,
}

impl Script {
    /// Adds a step at the end.
    pub fn then(&self, step: impl FnOnce(&Fake, &mut Vcpu) -> GuestExit + Send + 'static) {
        lock(&self.steps).push_back(Box::new(step));
    }

    /// Sets what guests do when no step is left. Without a habit they are interrupted.
    pub fn otherwise(&self, habit: Option<Habit>) {
        *lock(&self.habit) = habit;
    }

    /// Adds a call of the guest with the function id and arguments in `registers`.
    pub fn call(&self, registers: &[u64]) {
        let registers = registers.to_vec();
        self.then(move |_, vcpu| {
            for (gpr, value) in vcpu.gprs.iter_mut().zip(registers) {
                *gpr = value;
            }
            GuestExit::Call
        });
    }

    /// Adds a call of the guest interface.
    pub fn guest_call(&self, call: rsi::Call) {
        let (function, arguments) = call.encode();
        self.call(&[&[function], &arguments[..]].concat());
    }

    /// Adds a step in which the guest checks its first registers.
    pub fn expect(&self, registers: &[u64]) {
        let registers = registers.to_vec();
        self.look(move |_, vcpu| assert_eq!(vcpu.gprs[..registers.len()], registers));
    }

    /// Adds a step that only looks.
    pub fn look(&self, look: impl FnOnce(&Fake, &mut Vcpu) + Send + 'static) {
        self.then(move |fake, vcpu| {
            look(fake, vcpu);
            GuestExit::HostInterrupt
        });
    }

    /// Forgets the steps that were not run, and returns how many.
    pub fn clear(&self) -> usize {
        lock(&self.steps).drain(..).count()
    }

    /// Returns whether every step was run.
    #[must_use]
    pub fn is_done(&self) -> bool {
        lock(&self.steps).is_empty()
    }
}

/// The state of one virtual CPU.
#[derive(Clone, Debug)]
pub struct Vcpu {
    /// General-purpose registers.
    pub gprs: [u64; 31],
    /// Next instruction; each is four bytes.
    pub pc: u64,
    /// Affinity.
    pub mpidr: u64,
    /// How it translates.
    pub stage2: Stage2,
    /// Addresses at which it took aborts that the TSM injected.
    pub aborts: Vec<Ipa>,
}

impl Object for Vcpu {
    fn observe(&self, hasher: &mut impl Hasher) {
        (self.gprs, self.pc, self.aborts.len()).hash(hasher);
    }
}

impl Vcpu {
    /// Stores as the guest does, in one page.
    ///
    /// # Errors
    /// The fault that the store takes, if stage 2 refuses it.
    pub fn store(&self, fake: &Fake, ipa: u64, data: &[u8]) -> Result<(), MemoryFault> {
        let copied = self
            .translate(fake, ipa)
            .and_then(|at| fake.guest_copy(at, data.len(), |bytes| bytes.copy_from_slice(data)));
        copied.ok_or_else(|| fault(ipa, Access::Write))
    }

    /// Loads as the guest does, in one page.
    ///
    /// # Errors
    /// The fault that the load takes, if stage 2 refuses it.
    pub fn load<const N: usize>(&self, fake: &Fake, ipa: u64) -> Result<[u8; N], MemoryFault> {
        let mut out = [0; N];
        let copied = self
            .translate(fake, ipa)
            .and_then(|at| fake.guest_copy(at, N, |bytes| out.copy_from_slice(bytes)));
        copied.map(|()| out).ok_or_else(|| fault(ipa, Access::Read))
    }

    /// Returns the physical address that the guest reaches at `ipa`. Cached translations count.
    #[must_use]
    pub fn translate(&self, fake: &Fake, ipa: u64) -> Option<u64> {
        let mut translations = lock(&fake.cpu_translations);
        let walk = || fake.walk(&self.stage2, ipa);
        translations
            .translate(&self.stage2, ipa, walk)
            .map(|(address, _)| address)
    }
}

/// Returns the fault of an access to `ipa` by an instruction that moves four bytes of register 5.
#[must_use]
pub const fn fault(ipa: u64, access: Access) -> MemoryFault {
    let syndrome = FaultSyndrome {
        esr: 0x9000_0047,
        far: ipa & 0xfff,
        hpfar: ipa >> 8,
    };
    MemoryFault {
        ipa: Ipa(ipa),
        access,
        transfer: Some(Transfer {
            register: 5,
            bytes: 4,
            sign_extend: false,
            sixty_four: false,
        }),
        syndrome,
    }
}

/// Number of the register that is moved, in a syndrome.
const REGISTER: u64 = 0x1f << 16;

impl GuestCpu for Fake {
    type Context = Vcpu;

    fn new_context(&self, params: &VcpuParams, stage2: &Stage2) -> Vcpu {
        let mut gprs = [0; 31];
        gprs[..8].copy_from_slice(&params.gprs);
        Vcpu {
            gprs,
            pc: params.pc,
            mpidr: params.mpidr,
            stage2: *stage2,
            aborts: Vec::new(),
        }
    }

    fn run(&self, context: &mut Vcpu, _: &GuestEntry) -> GuestExit {
        self.pause();
        let step = lock(&self.script.steps).pop_front();
        if let Some(step) = step {
            return step(self, context);
        }
        match &mut *lock(&self.script.habit) {
            Some(habit) => habit(self, context),
            None => GuestExit::HostInterrupt,
        }
    }

    fn gpr(&self, context: &Vcpu, index: usize) -> u64 {
        context.gprs.get(index).copied().unwrap_or(0)
    }

    fn set_gpr(&self, context: &mut Vcpu, index: usize, value: u64) {
        if let Some(gpr) = context.gprs.get_mut(index) {
            *gpr = value;
        }
    }

    fn skip_instruction(&self, context: &mut Vcpu) {
        context.pc += 4;
    }

    fn inject_abort(&self, context: &mut Vcpu, fault: &MemoryFault) {
        context.aborts.push(fault.ipa);
    }

    fn reveal(&self, syndrome: &FaultSyndrome) -> FaultSyndrome {
        FaultSyndrome {
            esr: syndrome.esr & !REGISTER,
            far: syndrome.far & 0xfff,
            hpfar: syndrome.hpfar,
        }
    }

    fn missing_memory(&self, ipa: Ipa, level: u8) -> FaultSyndrome {
        FaultSyndrome {
            esr: 0x9200_0004 | u64::from(level),
            far: 0,
            hpfar: ipa.0 >> 8,
        }
    }

    fn timers(&self, _: &Vcpu) -> [u64; 4] {
        [1, 2, 3, 4]
    }
}
