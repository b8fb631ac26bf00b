// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls of the host: forwarding to R-EL2, PSCI, SMCCC.

use super::{FUNCTION, Monitor, set_first};
use crate::context::{Context, Cpu, Pending, World};
use crate::gpt::{GRANULE, Gpi};
use crate::machine::{Board, Event, Processor};
use crate::manifest::Region;
use crate::psci::{self, Power, Start, Status};
use crate::services::{self, UNKNOWN};

impl<B: Board, P: Processor> Monitor<B, P> {
    pub(super) fn host_call<'a>(&self, cpu: &'a mut Cpu) -> &'a mut Context {
        let function = u64::from(cpu.host.x[0] as u32 & !services::SVE_HINT);
        if !services::is_rmi(function) {
            return self.host_service(cpu, function);
        }
        if !self.realm_is_up() {
            cpu.host.x[0] = UNKNOWN;
            return &mut cpu.host;
        }
        let [_, a, b, c, d, e, f, g, ..] = cpu.host.x;
        set_first(&mut cpu.realm, [function, a, b, c, d, e, f, g]);
        cpu.pending = Pending::Call;
        cpu.resume(World::Realm)
    }

    #[inline(never)]
    fn host_service<'a>(&self, cpu: &'a mut Cpu, function: u64) -> &'a mut Context {
        let [_, a, b, c, ..] = cpu.host.x;
        let answer = match function {
            services::SMCCC_VERSION => services::SMCCC_VERSION_1_2,
            services::SMCCC_ARCH_FEATURES => match a & FUNCTION {
                services::SMCCC_VERSION | services::SMCCC_ARCH_FEATURES => 0,
                _ => UNKNOWN,
            },
            _ if psci::in_range(function as u32) => {
                match psci::decode(function as u32, [a, b, c]) {
                    Some(call) => self.power_call(cpu.index, call),
                    None => UNKNOWN,
                }
            }
            _ => UNKNOWN,
        };
        cpu.host.x[0] = answer;
        &mut cpu.host
    }

    #[inline(never)]
    fn power_call(&self, index: usize, call: psci::Call) -> u64 {
        match call {
            psci::Call::Version => psci::VERSION,
            psci::Call::Features(function) => psci::features(function).code(),
            psci::Call::CpuOn {
                target,
                entry,
                context,
            } => self.start(target, Start { entry, context }).code(),
            psci::Call::CpuOff => {
                if let Some(power) = self.power.get(index) {
                    power.set_off();
                }
                self.board.park()
            }
            // Standby only: a power-down state would lose state that nobody saves.
            psci::Call::CpuSuspend(state) if state & 1 << 16 == 0 => {
                self.processor.wait();
                Status::Success.code()
            }
            psci::Call::CpuSuspend(_) => Status::InvalidParameters.code(),
            psci::Call::AffinityInfo { target, level } => match self.find(target) {
                Some((_, power)) if level == 0 => power.affinity_info(),
                _ => Status::InvalidParameters.code(),
            },
            // Nothing here migrates.
            psci::Call::MigrateInfoType => 2,
            psci::Call::SystemOff => {
                self.board.note(Event::PowerOff);
                self.board.power_off()
            }
            psci::Call::SystemReset => {
                self.board.note(Event::Reset);
                self.reset()
            }
        }
    }

    /// Resets the machine. Memory outlives that, and all of it is the next host's; while some is the
    /// Realm world's, the machine is switched off instead.
    fn reset(&self) -> ! {
        // Held to the end: no granule becomes the Realm world's meanwhile.
        let gpt = self.gpt.lock();
        let dram = self.layout.get().map_or(&[][..], |layout| &layout.dram);
        let is_realm = |bank: &Region| {
            gpt.as_ref()
                .is_some_and(|gpt| gpt.holds(bank.base, bank.size / GRANULE, Gpi::Realm))
        };
        if dram.iter().any(is_realm) {
            self.board.power_off()
        }
        self.board.reset()
    }

    fn find(&self, affinity: u64) -> Option<(usize, &Power)> {
        let layout = self.layout.get()?;
        let index = self
            .board
            .processor_index(affinity)
            .filter(|index| *index < layout.processors)?;
        Some((index, self.power.get(index)?))
    }

    fn start(&self, target: u64, start: Start) -> Status {
        let Some((index, power)) = self.find(target) else {
            return Status::InvalidParameters;
        };
        let dram = self.layout.get().map_or(&[][..], |layout| &layout.dram);
        if !dram.iter().any(|bank| bank.covers(start.entry, 4)) {
            return Status::InvalidAddress;
        }
        let status = power.request(start);
        if status == Status::Success {
            self.board.wake(index);
        }
        status
    }
}
