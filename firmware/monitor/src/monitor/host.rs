// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls of the host: forwarding to R-EL2, PSCI, SMCCC.

use super::{FUNCTION, Monitor, set_first};
use crate::context::{Cpu, Pending, World};
use crate::machine::{Board, Event, Processor};
use crate::psci::{self, Power, Start, Status};
use crate::services::{self, UNKNOWN};

impl<B: Board, P: Processor> Monitor<B, P> {
    pub(super) fn host_call(&self, cpu: &mut Cpu) -> World {
        let function = cpu.host.x[0] & (FUNCTION & !services::SVE_HINT);
        if !services::is_rmi(function) {
            return self.host_service(cpu, function);
        }
        if !self.realm_is_up() {
            cpu.host.x[0] = UNKNOWN;
            return World::NonSecure;
        }
        let [_, a, b, c, d, e, f, g, ..] = cpu.host.x;
        set_first(&mut cpu.realm, [function, a, b, c, d, e, f, g]);
        cpu.pending = Pending::Call;
        World::Realm
    }

    fn host_service(&self, cpu: &mut Cpu, function: u64) -> World {
        if psci::in_range(function as u32) {
            return self.power_service(cpu, function as u32);
        }
        let feature = cpu.host.x[1] & FUNCTION;
        cpu.host.x[0] = match function {
            services::SMCCC_VERSION => services::SMCCC_VERSION_1_2,
            services::SMCCC_ARCH_FEATURES
                if matches!(
                    feature,
                    services::SMCCC_VERSION | services::SMCCC_ARCH_FEATURES
                ) =>
            {
                0
            }
            _ => UNKNOWN,
        };
        World::NonSecure
    }

    #[inline(never)]
    fn power_service(&self, cpu: &mut Cpu, function: u32) -> World {
        let [_, a, b, c, ..] = cpu.host.x;
        cpu.host.x[0] = match psci::decode(function, [a, b, c]) {
            Some(call) => self.power_call(cpu, call),
            None => UNKNOWN,
        };
        World::NonSecure
    }

    fn power_call(&self, cpu: &Cpu, call: psci::Call) -> u64 {
        match call {
            psci::Call::Version => psci::VERSION,
            psci::Call::Features(function) => psci::features(function).code(),
            psci::Call::CpuOn {
                target,
                entry,
                context,
            } => self.start(target, Start { entry, context }).code(),
            psci::Call::CpuOff => {
                if let Some(power) = self.power.get(cpu.index) {
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
                self.board.reset()
            }
        }
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
