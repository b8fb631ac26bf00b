// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Virtual CPUs of realms.
//!
//! Each CPU has one control block for realms. A virtual CPU in its granule is what the block says of
//! it, and what the processor does not switch by itself.

use core::arch::x86_64::__cpuid_count;
use core::ptr;

use tsm_platform::{GuestEntry, GuestExit, Ipa, MemoryFault, Object, Stage2, VcpuParams};

use super::extended::{self, HostState, RealmState};
use super::{cpu, smp, svm};
use crate::arch::vcpu::cause::{Cause, cause, confine, death, length, wait};
use crate::arch::vcpu::cpuid::{Leaf, Offer};
use crate::arch::vcpu::msr::{self, Permissions};
use crate::arch::vcpu::{event, start};
use crate::arch::vmcb::{FLUSH_ALL, Gprs, INTERRUPT_SHADOW, Save, V_INTR_MASKING, V_TPR, Vmcb};

/// The address space id of all realms. The host has another; an entry of another virtual CPU than
/// the last one drops all translations.
const ASID: u32 = 2;

/// The I/O permission map: no port is a realm's (AMD64 APM volume 2, 15.10.1).
#[repr(C, align(4096))]
struct Ports([u8; 3 * 4096]);

static PORTS: Ports = Ports([u8::MAX; 3 * 4096]);
static REGISTERS: Permissions = Permissions::realm();

/// What one CPU needs to run realms.
#[repr(C)]
pub struct RealmCpu {
    vmcb: Vmcb,
    host: HostState,
    /// The virtual CPU whose state this CPU has now, or null.
    loaded: *const Context,
    /// Whether the next entry is the first one since another virtual CPU may have run here.
    fresh: bool,
}

impl RealmCpu {
    /// The state before first use.
    pub const NEW: Self = Self {
        vmcb: Vmcb::ZERO,
        host: HostState::ZERO,
        loaded: ptr::null(),
        fresh: true,
    };
}

/// The saved state of a virtual CPU.
#[repr(C)]
pub struct Context {
    extended: RealmState,
    save: Save,
    gprs: Gprs,
    /// CR8, and whether interrupts are held for one instruction.
    priority: u64,
    shadow: u64,
    /// The exception that the next entry delivers, or zero.
    event: u64,
    /// Where the instruction after the one that left is.
    next: u64,
    /// Root of the nested page table.
    root: u64,
    offer: Offer,
    /// Whether it cannot go on.
    dead: bool,
}

impl Object for Context {}

/// Makes the initial state of a virtual CPU. One that cannot start where it should is dead.
pub fn new_context(params: &VcpuParams, stage2: &Stage2) -> Context {
    let processor = |leaf, subleaf| {
        let found = __cpuid_count(leaf, subleaf);
        Leaf {
            eax: found.eax,
            ebx: found.ebx,
            ecx: found.ecx,
            edx: found.edx,
        }
    };
    let begin = start::start(params);
    let (save, gprs) = begin.unwrap_or((Save::ZERO, Gprs::ZERO));
    Context {
        extended: RealmState::new(),
        save,
        gprs,
        priority: 0,
        shadow: 0,
        event: 0,
        next: save.rip,
        root: stage2.root.0,
        offer: Offer::new(processor, start::index(params.mpidr), stage2.ipa_bits),
        dead: begin.is_none(),
    }
}

impl Context {
    /// Returns register `index` of a call.
    pub fn gpr(&self, index: usize) -> u64 {
        let registers = self.gprs.call(&self.save);
        registers.get(index).copied().unwrap_or(0)
    }

    /// Writes register `index` of a call.
    pub fn set_gpr(&mut self, index: usize, value: u64) {
        if let Some(gpr) = self.gprs.by_call(&mut self.save, index) {
            *gpr = value;
        }
    }

    /// Moves past the instruction that left. The interrupt shadow ends with it.
    pub fn skip(&mut self) {
        self.save.rip = self.next;
        self.shadow = 0;
    }

    /// Makes the guest take a general protection exception.
    pub fn inject_abort(&mut self, _fault: &MemoryFault) {
        match event::protection_during(self.event) {
            Some(event) => self.event = event,
            None => self.dead = true,
        }
    }

    /// Returns the timers: a realm has none.
    pub fn timers(&self) -> [u64; 4] {
        [0; 4]
    }

    /// Runs until the next exit, with the control block of this CPU.
    ///
    /// # Safety
    ///
    /// The extended state of this CPU is the guest's, and the block confines it.
    unsafe fn enter(&mut self, vmcb: &mut Vmcb, flush: bool) {
        vmcb.save = self.save;
        vmcb.control.int_ctl = V_INTR_MASKING | self.priority;
        vmcb.control.int_shadow = self.shadow;
        vmcb.control.event_inj = core::mem::take(&mut self.event);
        let flush = smp::before_entry() || flush;
        vmcb.control.tlb_ctl = if flush { FLUSH_ALL } else { 0 };
        // SAFETY: the caller promises it; the block is in a static of the image.
        unsafe { svm::enter(vmcb, &mut self.gprs) };
        smp::after_exit();
        let control = &vmcb.control;
        self.save = vmcb.save;
        self.priority = control.int_ctl & V_TPR;
        self.shadow = control.int_shadow & INTERRUPT_SHADOW;
        self.event = event::again(control.exit_int_info);
        self.next = match control.next_rip {
            0 => self.save.rip_after(length(control.exit_code)),
            next => next,
        };
    }

    /// Does what an exit asks for, or returns it for the core.
    ///
    /// # Safety
    ///
    /// The extended state of this CPU is the guest's.
    unsafe fn handle(&mut self, cause: Cause) -> Option<GuestExit> {
        match cause {
            // An NMI is still there: the host's side takes it.
            Cause::Interrupt | Cause::NonMaskable => return Some(GuestExit::HostInterrupt),
            Cause::Memory(fault) => return Some(GuestExit::Fault(fault)),
            // The processor lets user code call, too.
            Cause::Call if self.save.cpl == 0 => return Some(GuestExit::Call),
            Cause::Wait => {
                self.skip();
                return Some(GuestExit::Idle(wait()));
            }
            Cause::Identify => self.identify(),
            Cause::Register(false) => self.read_register(),
            Cause::Register(true) => self.write_register(),
            // SAFETY: the caller promises it.
            Cause::ExtendedControl => unsafe { self.set_extended_control() },
            Cause::Nothing => self.skip(),
            Cause::Exception { vector, error } => {
                self.event = event::exception(vector, error);
                // Its delivery may raise it again before the processor looks for an interrupt, so the
                // host gets its turn here.
                return Some(GuestExit::HostInterrupt);
            }
            Cause::Call | Cause::Undefined => self.event = event::UNDEFINED,
            Cause::Protection => self.event = event::PROTECTION,
            Cause::Death => {
                self.dead = true;
                return Some(GuestExit::SystemError(death()));
            }
        }
        None
    }

    /// Answers CPUID.
    fn identify(&mut self) {
        let (leaf, subleaf) = (self.save.rax as u32, self.gprs.rcx as u32);
        let xcr0 = self.extended.xcr0();
        let Leaf { eax, ebx, ecx, edx } = self.offer.answer(leaf, subleaf, self.save.cr4, xcr0);
        self.save.rax = eax.into();
        self.gprs.rbx = ebx.into();
        self.gprs.rcx = ecx.into();
        self.gprs.rdx = edx.into();
        self.skip();
    }

    /// Answers RDMSR.
    fn read_register(&mut self) {
        match msr::read(self.gprs.rcx as u32, &self.save) {
            Some(value) => {
                self.save.rax = value & 0xffff_ffff;
                self.gprs.rdx = value >> 32;
                self.skip();
            }
            None => self.event = event::PROTECTION,
        }
    }

    /// Carries out WRMSR.
    fn write_register(&mut self) {
        let value = self.operand();
        match msr::write(self.gprs.rcx as u32, value, &mut self.save) {
            Some(()) => self.skip(),
            None => self.event = event::PROTECTION,
        }
    }

    /// Carries out XSETBV.
    ///
    /// # Safety
    ///
    /// The extended state of this CPU is the guest's.
    unsafe fn set_extended_control(&mut self) {
        let value = self.operand();
        let selects = self.gprs.rcx as u32 == 0;
        if self.save.cpl == 0 && selects && self.offer.allows_xcr0(value) {
            // SAFETY: the caller promises it, and the offer was checked.
            unsafe { self.extended.set_xcr0(value) };
            self.skip();
        } else {
            self.event = event::PROTECTION;
        }
    }

    /// Returns EDX:EAX.
    fn operand(&self) -> u64 {
        self.gprs.rdx << 32 | self.save.rax & 0xffff_ffff
    }
}

/// Runs the guest that `select` finds in `owner` until `handle` returns false for an exit. The host's
/// extended state is put back at the end, not in between. Does nothing inside `handle`.
pub fn run_while<T>(
    owner: &mut T,
    select: impl Fn(&mut T) -> &mut Context,
    entry: &GuestEntry,
    mut handle: impl FnMut(&mut T, GuestExit) -> bool,
) {
    if !load(select(owner), entry) {
        return;
    }
    // Another context than the loaded one would run with the wrong state.
    while let Some(exit) = next_exit(select(owner)) {
        if !handle(owner, exit) {
            break;
        }
    }
    unload(select(owner));
}

/// Puts the host's extended state away and loads the guest's, unless a guest's is loaded already.
fn load(context: &Context, entry: &GuestEntry) -> bool {
    // SAFETY: the data is that of this CPU, and nothing else uses this part of it. No guest is
    // loaded, so the extended state is the host's.
    unsafe {
        let realm = &mut (*cpu::this()).realm;
        if !realm.loaded.is_null() {
            return false;
        }
        realm.loaded = context;
        realm.fresh = true;
        let control = &mut realm.vmcb.control;
        confine(control, entry.trap_wfi);
        control.iopm = PORTS.0.as_ptr() as u64;
        control.msrpm = REGISTERS.address() as u64;
        control.asid = ASID;
        control.n_cr3 = context.root;
        extended::load(&context.extended, &mut realm.host);
    }
    true
}

/// Runs the loaded guest to its next exit, or returns `None` if another one is loaded.
fn next_exit(context: &mut Context) -> Option<GuestExit> {
    // SAFETY: as in `load`; the extended state is the guest's if it is the one that is loaded.
    unsafe {
        let realm = &mut (*cpu::this()).realm;
        if !ptr::eq(realm.loaded, context) {
            return None;
        }
        loop {
            if context.dead {
                return Some(GuestExit::SystemError(death()));
            }
            context.enter(&mut realm.vmcb, core::mem::take(&mut realm.fresh));
            if let Some(exit) = context.handle(cause(&realm.vmcb.control)) {
                return Some(exit);
            }
        }
    }
}

/// Saves the guest's extended state and puts the host's back. If `context` is not the guest that is
/// loaded, that guest's is dropped.
fn unload(context: &mut Context) {
    // SAFETY: as in `load`, which has filled the host's area.
    unsafe {
        let realm = &mut (*cpu::this()).realm;
        if ptr::eq(realm.loaded, context) {
            extended::save_realm(&mut context.extended);
        }
        extended::load_host(&realm.host);
        realm.vmcb.save = Save::ZERO;
        realm.loaded = ptr::null();
    }
}

/// Forgets the translations of `bytes` bytes at `base`, on all CPUs.
pub fn invalidate_range(_stage2: &Stage2, _base: Ipa, _bytes: u64) {
    smp::shootdown();
}

/// Forgets all translations of a guest, on all CPUs.
pub fn invalidate_all(_stage2: &Stage2) {
    smp::shootdown();
}
