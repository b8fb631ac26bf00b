// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The monitor itself: what happens when a world is left for EL3.

mod fault;
mod host;
mod realm;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU8, Ordering};

use spin::Once;
use spin::mutex::SpinMutex;
use tsm_abi::el3;

use crate::abort::{Cause, GpcSyndrome};
use crate::attestation::AttestationKey;
use crate::context::{Context, Cpu, Pending, World};
use crate::gpt::Gpt;
use crate::machine::{Board, Event, Layout, Processor};
use crate::psci::{Power, Start};
use crate::services::UNKNOWN;
use crate::token::Measurements;

/// Largest number of processors.
pub const MAX_PROCESSORS: usize = 8;

const CLASS_SMC32: u64 = 0x13;
const CLASS_SMC64: u64 = 0x17;
/// A function id is 32 bits wide.
const FUNCTION: u64 = 0xffff_ffff;
/// EL2, its own stack pointer, all exceptions masked.
const SPSR_EL2H: u64 = 0x3c9;

/// R-EL2 has not booted.
const REALM_DOWN: u8 = 0;
/// R-EL2 has booted on the first processor, and on every other that has started since.
const REALM_UP: u8 = 1;
/// R-EL2 has failed to boot on a processor: it is not entered again, on any.
const REALM_FAILED: u8 = 2;

/// State shared by all processors.
pub struct Monitor<B, P> {
    board: B,
    processor: P,
    gpt: SpinMutex<Option<Gpt>>,
    power: [Power; MAX_PROCESSORS],
    /// Held while a key changes: a slot is read and written in several steps.
    keys: SpinMutex<()>,
    /// Whether R-EL2 may be entered: [`REALM_DOWN`], [`REALM_UP`] or [`REALM_FAILED`].
    realm: AtomicU8,
    layout: Once<Layout>,
    attestation: Once<AttestationKey>,
    measurements: Once<Measurements>,
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
            realm: AtomicU8::new(REALM_DOWN),
            layout: Once::new(),
            attestation: Once::new(),
            measurements: Once::new(),
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

    /// Takes what the boot found, made and measured. The tables are in use already.
    pub fn configure(&self, layout: Layout, gpt: Gpt, measurements: Measurements) {
        self.layout.call_once(|| layout);
        self.measurements.call_once(|| measurements);
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
        if self.realm_is_up() {
            let index = cpu.index as u64;
            let token = cpu.activation_token;
            self.prepare_realm(cpu, [index, token, 0, 0, 0]);
        }
        true
    }

    /// Returns whether R-EL2 may be entered. Nothing else is read by this: a processor that enters
    /// R-EL2 has booted it itself.
    fn realm_is_up(&self) -> bool {
        self.realm.load(Ordering::Relaxed) == REALM_UP
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

    /// Handles a synchronous exception of the world `cpu.current`, and returns the context to go on
    /// with, whose world is `cpu.current` then.
    pub fn exception<'a>(&self, cpu: &'a mut Cpu, esr: u64) -> &'a mut Context {
        // Calls that only change worlds come first and call nothing: their length counts.
        let class = esr >> 26 & 0x3f;
        if class != CLASS_SMC64 {
            return self.other_exception(cpu, esr, class);
        }
        match cpu.current {
            World::NonSecure => self.host_call(cpu),
            World::Realm => self.realm_call(cpu),
        }
    }

    #[inline(never)]
    fn other_exception<'a>(&self, cpu: &'a mut Cpu, esr: u64, class: u64) -> &'a mut Context {
        let next = match class {
            CLASS_SMC32 => {
                cpu.context().x[0] = UNKNOWN;
                cpu.current
            }
            GpcSyndrome::CLASS => self.granule_fault(cpu, GpcSyndrome(esr)),
            _ => self.raise(cpu, esr, Cause::Undefined),
        };
        cpu.resume(next)
    }
}

/// Sets x0 to x7, the registers that carry arguments and results.
fn set_first(context: &mut Context, values: [u64; 8]) {
    let [x0, x1, x2, x3, x4, x5, x6, x7, ..] = &mut context.x;
    [*x0, *x1, *x2, *x3, *x4, *x5, *x6, *x7] = values;
}
