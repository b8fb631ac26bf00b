// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Granule protection faults: accesses that are performed for the host, and aborts for everybody.

use super::{Monitor, set_first};
use crate::abort::{self, Cause, GpcSyndrome};
use crate::access::Mediation;
use crate::context::{Context, Cpu, Pending, World};
use crate::decode::{self, Direction, Transfer};
use crate::gpt::GRANULE;
use crate::machine::{Board, Event, Processor};
use crate::services::UNKNOWN;
use tsm_abi::el3;

/// A load or store of the host that the monitor performs.
struct HostAccess {
    /// Physical address.
    address: u64,
    transfer: Transfer,
    /// What the register moved holds.
    value: u64,
}

/// Leaves the host behind its load or store, which has brought `value` if it was a load.
fn complete(host: &mut Context, transfer: Transfer, value: u64) {
    const BTYPE: u64 = 3 << 10;
    const SINGLE_STEP: u64 = 1 << 21;
    if let Direction::Load(extend) = transfer.direction
        && let Some(register) = host.x.get_mut(usize::from(transfer.register))
    {
        *register = extend.apply(value, transfer.bytes);
    }
    if let Some(back) = transfer.write_back
        && let Some(register) = host.x.get_mut(usize::from(back.register))
    {
        *register = register.wrapping_add_signed(back.offset);
    }
    // The state after an instruction that has completed.
    host.elr = host.elr.wrapping_add(4);
    host.spsr &= !(BTYPE | SINGLE_STEP);
}

impl<B: Board, P: Processor> Monitor<B, P> {
    #[inline(never)]
    pub(super) fn granule_fault(&self, cpu: &mut Cpu, syndrome: GpcSyndrome) -> World {
        let access = match cpu.current {
            World::NonSecure => self.host_access(&cpu.host, syndrome),
            World::Realm => None,
        };
        let Some(HostAccess {
            address,
            transfer,
            value,
        }) = access
        else {
            return self.raise(cpu, syndrome.0, Cause::Gpc(syndrome));
        };
        if !B::ECAM.covers(address, 1) {
            let store = (transfer.direction == Direction::Store).then_some(value);
            let value = self.board.emulate(address, transfer.bytes, store);
            complete(&mut cpu.host, transfer, value);
            return World::NonSecure;
        }
        let Some(mut access) = Mediation::new(transfer, address - B::ECAM.base, value) else {
            return self.raise(cpu, syndrome.0, Cause::Gpc(syndrome));
        };
        if self.realm_is_up() {
            return Self::next_piece(cpu, access);
        }
        // Nobody can perform it: nothing is there.
        while access.next().is_some() {
            access.answer(UNKNOWN, 0);
        }
        Self::finish_access(cpu, &access)
    }

    /// Returns the access that faulted, if it is one that can be performed for the host.
    ///
    /// The host may have changed the instruction since; then it gets what it wrote. Address and
    /// direction come from the fault, and the instruction must agree.
    fn host_access(&self, host: &Context, syndrome: GpcSyndrome) -> Option<HostAccess> {
        const PAGE: u64 = GRANULE - 1;
        const ADDRESS: u64 = (1 << 52) - 1;
        const AARCH32: u64 = 1 << 4;
        if !syndrome.is_plain_access() || host.spsr & AARCH32 != 0 {
            return None;
        }
        let fault = self.processor.fault_address();
        let granule = fault.physical & ADDRESS & !PAGE;
        if !B::ECAM.covers(granule, GRANULE) && !self.board.emulates(granule) {
            return None;
        }
        let transfer = decode::decode(self.processor.instruction(host.spsr, host.elr)?)?;
        if (transfer.direction == Direction::Store) != syndrome.is_write() {
            return None;
        }
        let value = host
            .x
            .get(usize::from(transfer.register))
            .copied()
            .unwrap_or(0);
        Some(HostAccess {
            address: granule | fault.virtual_address & PAGE,
            transfer,
            value,
        })
    }

    fn next_piece(cpu: &mut Cpu, access: Mediation) -> World {
        let Some([rid, place, value]) = access.next() else {
            return Self::finish_access(cpu, &access);
        };
        let call = [el3::PORTCULLIS_CONFIG_ACCESS, rid, place, value, 0, 0, 0, 0];
        set_first(&mut cpu.realm, call);
        cpu.access = Some(access);
        cpu.pending = Pending::Access;
        World::Realm
    }

    #[inline(never)]
    pub(super) fn access_answered(&self, cpu: &mut Cpu) -> World {
        let Some(mut access) = cpu.access.take() else {
            cpu.realm.x[0] = UNKNOWN;
            return World::Realm;
        };
        access.answer(cpu.realm.x[1], cpu.realm.x[2]);
        Self::next_piece(cpu, access)
    }

    fn finish_access(cpu: &mut Cpu, access: &Mediation) -> World {
        complete(&mut cpu.host, access.transfer(), access.value());
        cpu.pending = Pending::Idle;
        World::NonSecure
    }

    /// Gives the exception to the world that caused it.
    #[inline(never)]
    pub(super) fn raise(&self, cpu: &mut Cpu, esr: u64, cause: Cause) -> World {
        if cpu.current == World::Realm {
            self.board.note(Event::RealmFault(esr));
        }
        let context = cpu.context();
        let level = abort::target(cause, context.spsr, self.processor.hcr());
        let state = self.processor.exception_state(level, context.spsr);
        let delivery = abort::deliver(cause, level, &state);
        let fault = match cause {
            Cause::Gpc(_) => Some(self.processor.fault_address().virtual_address),
            Cause::Undefined => None,
        };
        self.processor
            .set_exception(level, &delivery, fault, context.elr, context.spsr);
        context.elr = delivery.vector;
        context.spsr = delivery.spsr;
        cpu.current
    }
}
