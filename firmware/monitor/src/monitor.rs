// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The monitor itself: what happens when a world is left for EL3.

use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;
use spin::mutex::SpinMutex;
use tsm_abi::el3::{self, FirmeStatus, Status as RmmStatus};
use zeroize::Zeroize;

use crate::abort::{self, Cause, GpcSyndrome};
use crate::access::Mediation;
use crate::attestation::AttestationKey;
use crate::context::{Context, Cpu, Pending, World};
use crate::decode::{self, Direction, Transfer};
use crate::gpt::{GPCCR, GRANULE, Gpi, Gpt, GptError};
use crate::keys::{self, KeyError, Slot};
use crate::machine::{Board, Event, Layout, Processor};
use crate::psci::{self, Power, Start, Status};
use crate::services::{self, UNKNOWN};

/// Largest number of processors.
pub const MAX_PROCESSORS: usize = 8;
/// Granules that one FIRME_GM_GPI_SET moves at most: 32 MiB.
const RANGE_LIMIT: u64 = 8192;

const CLASS_SMC32: u64 = 0x13;
const CLASS_SMC64: u64 = 0x17;
/// A function id is 32 bits wide.
const FUNCTION: u64 = 0xffff_ffff;
/// EL2, its own stack pointer, all exceptions masked.
const SPSR_EL2H: u64 = 0x3c9;

/// State shared by all processors.
pub struct Monitor<B, P> {
    board: B,
    processor: P,
    gpt: SpinMutex<Option<Gpt>>,
    power: [Power; MAX_PROCESSORS],
    /// Held while a key changes: a slot is read and written in several steps.
    keys: SpinMutex<()>,
    /// R-EL2 has booted, and no processor has failed to boot it.
    realm_up: AtomicBool,
    layout: Once<Layout>,
    attestation: Once<AttestationKey>,
}

impl<B: Board, P: Processor> Monitor<B, P> {
    /// Makes the monitor of a machine that has not booted.
    #[must_use]
    pub const fn new(board: B, processor: P) -> Self {
        Self {
            board,
            processor,
            gpt: SpinMutex::new(None),
            power: [const { Power::new() }; MAX_PROCESSORS],
            keys: SpinMutex::new(()),
            realm_up: AtomicBool::new(false),
            layout: Once::new(),
            attestation: Once::new(),
        }
    }

    /// Returns the board.
    pub const fn board(&self) -> &B {
        &self.board
    }

    /// Returns the processor.
    pub const fn processor(&self) -> &P {
        &self.processor
    }

    /// Takes what the boot found and made. The tables are in use already.
    pub fn configure(&self, layout: Layout, gpt: Gpt) {
        self.layout.call_once(|| layout);
        *self.gpt.lock() = Some(gpt);
        if let Some(key) = AttestationKey::generate(|| self.processor.random()) {
            self.attestation.call_once(|| key);
        }
    }

    /// Prepares the processor that boots the machine: R-EL2 first, then the host at `start`.
    pub fn cold_boot(&self, cpu: &mut Cpu, start: Start) {
        let processors = self
            .layout
            .get()
            .map_or(1, |layout| layout.processors as u64);
        if let Some(power) = self.power.get(cpu.index) {
            power.set_on();
        }
        self.prepare_host(cpu, start);
        let index = cpu.index as u64;
        let token = cpu.activation_token;
        self.prepare_realm(
            cpu,
            [
                index,
                el3::INTERFACE_VERSION,
                processors,
                B::SHARED_PAGE,
                token,
            ],
        );
    }

    /// Prepares a processor that the host started; returns false if the host did not, and the
    /// processor was woken for nothing.
    pub fn warm_boot(&self, cpu: &mut Cpu) -> bool {
        let Some(start) = self.power.get(cpu.index).and_then(Power::take) else {
            return false;
        };
        self.board.note(Event::Started(cpu.index));
        self.prepare_host(cpu, start);
        if self.realm_up.load(Ordering::Acquire) {
            let index = cpu.index as u64;
            let token = cpu.activation_token;
            self.prepare_realm(cpu, [index, token, 0, 0, 0]);
        }
        true
    }

    fn prepare_host(&self, cpu: &mut Cpu, start: Start) {
        cpu.host = self.fresh_context(World::NonSecure, start.entry);
        cpu.host.x[0] = start.context;
        cpu.current = World::NonSecure;
        cpu.pending = Pending::Idle;
    }

    fn prepare_realm(&self, cpu: &mut Cpu, arguments: [u64; 5]) {
        cpu.realm = self.fresh_context(World::Realm, B::REALM_ENTRY);
        for (register, value) in cpu.realm.x.iter_mut().zip(arguments) {
            *register = value;
        }
        cpu.current = World::Realm;
        cpu.pending = Pending::Boot;
    }

    fn fresh_context(&self, world: World, entry: u64) -> Context {
        Context {
            elr: entry,
            spsr: SPSR_EL2H,
            scr: self.processor.security_configuration(world),
            el2: self.processor.initial_el2(),
            ..Context::default()
        }
    }

    /// Handles a synchronous exception of the world `cpu.current`, and returns the world to go on with.
    pub fn exception(&self, cpu: &mut Cpu, esr: u64) -> World {
        // Calls first: they are the path whose length counts.
        let class = esr >> 26 & 0x3f;
        cpu.current = if class != CLASS_SMC64 {
            self.other_exception(cpu, esr, class)
        } else if cpu.current == World::NonSecure {
            self.host_call(cpu)
        } else {
            self.realm_call(cpu)
        };
        cpu.current
    }

    #[inline(never)]
    fn other_exception(&self, cpu: &mut Cpu, esr: u64, class: u64) -> World {
        match class {
            CLASS_SMC32 => {
                cpu.context().x[0] = UNKNOWN;
                cpu.current
            }
            GpcSyndrome::CLASS => self.granule_fault(cpu, GpcSyndrome(esr)),
            _ => self.raise(cpu, esr, Cause::Undefined),
        }
    }

    fn host_call(&self, cpu: &mut Cpu) -> World {
        let function = cpu.host.x[0] & FUNCTION & !services::SVE_HINT;
        if !services::is_rmi(function) {
            return self.host_service(cpu, function);
        }
        if !self.realm_up.load(Ordering::Acquire) {
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

    fn realm_call(&self, cpu: &mut Cpu) -> World {
        if cpu.realm.x[0] & FUNCTION != el3::REQUEST_COMPLETE {
            return self.realm_service(cpu);
        }
        match cpu.pending {
            Pending::Call => {
                let [_, a, b, c, d, e, f, g, h, ..] = cpu.realm.x;
                set_first(&mut cpu.host, [a, b, c, d, e, f, g, h]);
                cpu.pending = Pending::Idle;
                World::NonSecure
            }
            Pending::Access => self.access_answered(cpu),
            Pending::Boot | Pending::Idle => {
                cpu.realm.x[0] = UNKNOWN;
                World::Realm
            }
        }
    }

    #[inline(never)]
    fn realm_service(&self, cpu: &mut Cpu) -> World {
        let [x0, a, b, c, ..] = cpu.realm.x;
        if x0 & FUNCTION == el3::BOOT_COMPLETE {
            return self.boot_complete(cpu, a, b);
        }
        let x = &mut cpu.realm.x;
        match x0 & FUNCTION {
            el3::GTSI_DELEGATE => x[0] = self.transition(a, Gpi::NonSecure, Gpi::Realm).word(),
            el3::GTSI_UNDELEGATE => x[0] = self.transition(a, Gpi::Realm, Gpi::NonSecure).word(),
            el3::GET_REALM_ATTEST_KEY => [x[0], x[1]] = self.attestation_key(a, b, c),
            el3::EL3_FEATURES => {
                // Register 0 has one bit, token signing in the monitor, and it is not offered.
                [x[0], x[1]] = [
                    if a == 0 {
                        RmmStatus::Ok
                    } else {
                        RmmStatus::Invalid
                    } as u64,
                    0,
                ];
            }
            el3::RP_IDE_KEY_PROG | el3::RP_IDE_KEY_SET_GO | el3::RP_IDE_KEY_SET_STOP => {
                let status = self.key_call(x);
                // The key was in x4 to x7; it stays nowhere.
                x[4..10].zeroize();
                x[0] = status.word();
            }
            el3::FIRME_VERSION => {
                x[0] = if a & 0xff <= 1 {
                    services::FIRME_VERSION_1_0
                } else {
                    UNKNOWN
                }
            }
            el3::FIRME_FEATURES => {
                [x[0], x[1]] = match services::firme_feature(a, b, GPCCR) {
                    Some(value) => [FirmeStatus::Success.word(), value],
                    None => [FirmeStatus::NotSupported.word(), 0],
                };
            }
            el3::FIRME_GM_GPI_SET => [x[0], x[1]] = self.set_owner(a, b, c),
            el3::PORTCULLIS_FEATURES => self.features(x),
            el3::PORTCULLIS_CONSOLE_WRITE => x[0] = self.console_write(x).word(),
            // Among them GET_PLAT_TOKEN: a token that says where it comes from needs a signature, and
            // this machine has no key that anybody knows. RP_IDE_KM_POLL: nothing is ever pending.
            _ => x[0] = RmmStatus::Unknown.word(),
        }
        World::Realm
    }

    fn boot_complete(&self, cpu: &mut Cpu, status: u64, token: u64) -> World {
        if cpu.pending != Pending::Boot {
            cpu.realm.x[0] = UNKNOWN;
            return World::Realm;
        }
        cpu.pending = Pending::Idle;
        let ok = status as u32 == 0;
        // The contract: R-EL2 that failed on one processor is not entered on any.
        self.realm_up.store(ok, Ordering::Release);
        if ok {
            cpu.activation_token = token;
        }
        self.board.note(if ok {
            Event::RealmUp(cpu.index)
        } else {
            Event::RealmFailed(status)
        });
        World::NonSecure
    }

    /// Moves granules that both worlds may have, and no others.
    fn move_granules(&self, base: u64, count: u64, from: Gpi, to: Gpi) -> Result<(), GptError> {
        let bytes = count.checked_mul(GRANULE).ok_or(GptError::Address)?;
        let layout = self.layout.get().ok_or(GptError::Address)?;
        let mut movable = layout.dram.iter().chain(&layout.device_memory);
        if !movable.any(|region| region.covers(base, bytes)) {
            return Err(GptError::Address);
        }
        let gpt = self.gpt.lock();
        gpt.as_ref()
            .ok_or(GptError::Address)?
            .change(base, count, from, to)?;
        // Under the lock: when this returns, no processor remembers the granule's old owner.
        self.processor.granules_changed();
        Ok(())
    }

    fn transition(&self, base: u64, from: Gpi, to: Gpi) -> RmmStatus {
        match self.move_granules(base, 1, from, to) {
            Ok(()) => RmmStatus::Ok,
            Err(GptError::Owner) => RmmStatus::BadPas,
            Err(_) => RmmStatus::BadAddress,
        }
    }

    /// Serves FIRME_GM_GPI_SET: all of the first [`RANGE_LIMIT`] granules, or none.
    fn set_owner(&self, base: u64, count: u64, attributes: u64) -> [u64; 2] {
        const REALM: u64 = Gpi::Realm as u64;
        const NON_SECURE: u64 = Gpi::NonSecure as u64;
        let count = count.min(RANGE_LIMIT);
        let result = match attributes {
            REALM => self.move_granules(base, count, Gpi::NonSecure, Gpi::Realm),
            NON_SECURE => self.move_granules(base, count, Gpi::Realm, Gpi::NonSecure),
            _ => Err(GptError::Address),
        };
        match result {
            Ok(()) => [FirmeStatus::Success.word(), count],
            Err(GptError::Owner) => [FirmeStatus::Denied.word(), 0],
            Err(_) => [FirmeStatus::InvalidParameters.word(), 0],
        }
    }

    fn attestation_key(&self, buffer: u64, size: u64, curve: u64) -> [u64; 2] {
        let offset = buffer.wrapping_sub(B::SHARED_PAGE);
        if offset >= GRANULE {
            return [RmmStatus::BadAddress.word(), 0];
        }
        // Curve 0 is P-384, the only one of the interface.
        if size > GRANULE - offset || curve != 0 || size < AttestationKey::SIZE as u64 {
            return [RmmStatus::Invalid.word(), 0];
        }
        let Some(key) = self.attestation.get() else {
            return [RmmStatus::Unknown.word(), 0];
        };
        self.board.share(offset as usize, key.bytes());
        [RmmStatus::Ok.word(), AttestationKey::SIZE as u64]
    }

    fn key_call(&self, x: &[u64; 31]) -> RmmStatus {
        let Some(unit) = self.board.keys() else {
            return RmmStatus::Fault;
        };
        if x[1] != B::ECAM.base {
            return RmmStatus::Invalid;
        }
        let _lock = self.keys.lock();
        let result = Slot::decode(x[2], x[3]).and_then(|slot| match x[0] & FUNCTION {
            el3::RP_IDE_KEY_PROG => {
                keys::program(unit, slot, [x[4], x[5], x[6], x[7]], [x[8], x[9]])
            }
            el3::RP_IDE_KEY_SET_GO => keys::go(unit, slot),
            _ => keys::stop(unit, slot),
        });
        match result {
            Ok(()) => RmmStatus::Ok,
            Err(KeyError::Argument) => RmmStatus::Invalid,
            Err(KeyError::State) => RmmStatus::Fault,
        }
    }

    fn features(&self, x: &mut [u64; 31]) {
        let layout = self.layout.get().copied().unwrap_or_default();
        x[0] = RmmStatus::Ok.word();
        x[1] = services::FEATURES.bits();
        x[2] = layout.reserved.base;
        x[3] = layout.reserved.top();
        x[4] = layout.hidden.map_or(el3::NO_HIDDEN_FUNCTION, u64::from);
    }

    fn console_write(&self, x: &[u64; 31]) -> RmmStatus {
        let mut bytes = [0; el3::CONSOLE_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(&x[2..8]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        match usize::try_from(x[1])
            .ok()
            .and_then(|count| bytes.get(..count))
        {
            Some(data) if !data.is_empty() => {
                self.board.realm_log(data);
                RmmStatus::Ok
            }
            _ => RmmStatus::Invalid,
        }
    }

    #[inline(never)]
    fn granule_fault(&self, cpu: &mut Cpu, syndrome: GpcSyndrome) -> World {
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
        if self.realm_up.load(Ordering::Acquire) {
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
    fn access_answered(&self, cpu: &mut Cpu) -> World {
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
    fn raise(&self, cpu: &mut Cpu, esr: u64, cause: Cause) -> World {
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

/// Sets x0 to x7, the registers that carry arguments and results.
fn set_first(context: &mut Context, values: [u64; 8]) {
    let [x0, x1, x2, x3, x4, x5, x6, x7, ..] = &mut context.x;
    [*x0, *x1, *x2, *x3, *x4, *x5, *x6, *x7] = values;
}
