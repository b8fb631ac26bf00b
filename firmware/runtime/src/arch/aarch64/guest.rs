// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Virtual CPUs of guests.
//!
//! EL3 switches the registers of EL2 between worlds. Those of EL1 and EL0 are shared, so `run`
//! saves the host's, loads the guest's, and does the reverse before it returns. Vector registers
//! follow only when the guest uses them.

use core::arch::asm;

use tsm_platform::{FaultSyndrome, GuestEntry, GuestExit, MemoryFault, Object, Stage2, VcpuParams};

use super::cpu::{self, Cpu};
use super::translation::{vtcr, vttbr};
use super::{read_register, write_register};
use crate::arch::trap::{Answer, Cause, El1Exception, RegisterAccess, answer, cause, memory_fault};

unsafe extern "C" {
    fn guest_enter(context: *mut Context, cpu: *mut Cpu) -> u64;
    fn el1_save(state: *mut El1State);
    fn el1_load(state: *const El1State);
    fn keys_save(keys: *mut Keys);
    fn keys_load(keys: *const Keys);
    fn vectors_save(state: *mut Vectors);
    fn vectors_load(state: *const Vectors);
    fn scalable_save(z: *mut u8, p: *mut u8);
    fn scalable_load(z: *const u8, p: *const u8);
}

/// Registers of EL1 and EL0, in the order of `state.S`.
#[repr(C)]
#[derive(Default)]
struct El1State {
    sp_el0: u64,
    sp_el1: u64,
    elr: u64,
    spsr: u64,
    esr: u64,
    far: u64,
    vbar: u64,
    sctlr: u64,
    ttbr0: u64,
    ttbr1: u64,
    tcr: u64,
    mair: u64,
    amair: u64,
    cpacr: u64,
    contextidr: u64,
    par: u64,
    tpidr_el1: u64,
    tpidr_el0: u64,
    tpidrro_el0: u64,
    cntkctl: u64,
    afsr0: u64,
    afsr1: u64,
    csselr: u64,
    mdscr: u64,
    cntp_cval: u64,
    cntp_ctl: u64,
    cntv_cval: u64,
    cntv_ctl: u64,
}

impl El1State {
    const ZERO: Self = {
        // SAFETY: all fields are integers.
        unsafe { core::mem::zeroed() }
    };
}

/// Keys of pointer authentication.
type Keys = [u64; 10];

/// SIMD registers, FPCR and FPSR.
#[repr(C, align(16))]
struct Vectors {
    v: [[u64; 2]; 32],
    fpcr: u64,
    fpsr: u64,
}

impl Vectors {
    const ZERO: Self = Self {
        v: [[0; 2]; 32],
        fpcr: 0,
        fpsr: 0,
    };
}

/// What of the host is put away while a guest runs.
#[repr(C, align(16))]
pub struct HostState {
    el1: El1State,
    keys: Keys,
    vectors: Vectors,
    /// Z registers at the largest vector length, 2048 bits.
    scalable: [u64; 32 * 32],
    /// P registers and FFR.
    predicates: [u64; 17 * 4],
    /// Registers of EL2 that EL3 leaves alone: ZCR_EL2, ICH_HCR_EL2, ICC_SRE_EL2.
    zcr: u64,
    ich_hcr: u64,
    icc_sre: u64,
}

impl HostState {
    /// The state before first use.
    pub const ZERO: Self = Self {
        el1: El1State::ZERO,
        keys: [0; 10],
        vectors: Vectors::ZERO,
        scalable: [0; 32 * 32],
        predicates: [0; 17 * 4],
        zcr: 0,
        ich_hcr: 0,
        icc_sre: 0,
    };
}

/// The saved state of a virtual CPU. The first fields are shared with `vectors.S`.
#[repr(C)]
pub struct Context {
    pub(super) gprs: [u64; 31],
    pub(super) pc: u64,
    pstate: u64,
    el1: El1State,
    keys: Keys,
    vectors: Vectors,
    mpidr: u64,
    vttbr: u64,
    vtcr: u64,
}

impl Object for Context {}

// Bits of HCR_EL2.
const VM: u64 = 1 << 0;
const SWIO: u64 = 1 << 1;
const PTW: u64 = 1 << 2;
const FMO_IMO_AMO: u64 = 7 << 3;
const FB: u64 = 1 << 9;
const BSU_INNER: u64 = 1 << 10;
const TWI: u64 = 1 << 13;
const TWE: u64 = 1 << 14;
const TID3: u64 = 1 << 18;
const TSC: u64 = 1 << 19;
const TIDCP: u64 = 1 << 20;
const TACR: u64 = 1 << 21;
const TSW: u64 = 1 << 22;
const RW: u64 = 1 << 31;
const TLOR: u64 = 1 << 35;
const TERR: u64 = 1 << 36;
const APK_API: u64 = 3 << 40;
/// Granule protection faults of the guest come here, not to the guest.
const GPF: u64 = 1 << 48;
const TID5: u64 = 1 << 58;

const HCR: u64 = VM
    | SWIO
    | PTW
    | FMO_IMO_AMO
    | FB
    | BSU_INNER
    | TID3
    | TSC
    | TIDCP
    | TACR
    | TSW
    | RW
    | TLOR
    | TERR
    | APK_API
    | GPF
    | TID5;

/// CPTR_EL2: RES1 bits, and traps of activity monitors (30), trace (20), SME (12) and SVE (8).
pub(super) const CPTR: u64 = 0x32ff | 1 << 30 | 1 << 20 | 1 << 12 | 1 << 8;
const CPTR_FP: u64 = 1 << 10;
pub(super) const CPTR_SVE: u64 = 1 << 8;

/// MDCR_EL2: trap performance monitors (5, 6), all debug registers (9 to 11), and the controls of
/// statistical profiling (14) and trace (19); fields that are zero keep its buffers from the guest.
const MDCR: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 14 | 1 << 19;
/// MDCR_EL2: the number of event counters, which is left alone.
const HPMN: u64 = 0x1f;

/// CNTHCTL_EL2: the guest has the physical counter and timer.
const CNTHCTL: u64 = 3;
/// CNTHCTL_EL2: keep the interrupt of the virtual or physical timer from the GIC.
const MASK_VIRTUAL: u64 = 1 << 18;
const MASK_PHYSICAL: u64 = 1 << 19;

/// ICH_HCR_EL2: no virtual interrupts; every access to the virtual CPU interface traps.
const ICH_HCR: u64 = 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14;
/// ICC_SRE_EL2: system registers; accesses of EL1 to its own enable trap.
const ICC_SRE: u64 = 7;

/// PSTATE at the first instruction: EL1 with its own stack pointer, all interrupts masked.
const PSTATE_START: u64 = 0x3c5;
/// SCTLR_EL1: RES1 bits only; MMU and caches off.
const SCTLR_START: u64 = 0x30d0_0800;

// Timer control bits.
const TIMER_ENABLE: u64 = 1;
const TIMER_MASKED: u64 = 2;

// Kinds of exit, by vector.
const EXIT_SYNCHRONOUS: u64 = 0;
const EXIT_IRQ: u64 = 1;
const EXIT_FIQ: u64 = 2;

/// Makes the initial state of a virtual CPU.
pub fn new_context(params: &VcpuParams, stage2: &Stage2) -> Context {
    let mut gprs = [0; 31];
    for (to, from) in gprs.iter_mut().zip(params.gprs) {
        *to = from;
    }
    Context {
        gprs,
        pc: params.pc,
        pstate: PSTATE_START,
        el1: El1State {
            sctlr: SCTLR_START,
            ..El1State::ZERO
        },
        keys: [0; 10],
        vectors: Vectors::ZERO,
        // Bit 31 is RES1; U and MT are clear.
        mpidr: params.mpidr & 0xff_00ff_ffff | 1 << 31,
        vttbr: vttbr(stage2),
        vtcr: vtcr(stage2),
    }
}

impl Context {
    /// Returns general-purpose register `index`.
    pub fn gpr(&self, index: usize) -> u64 {
        self.gprs.get(index).copied().unwrap_or(0)
    }

    /// Writes general-purpose register `index`.
    pub fn set_gpr(&mut self, index: usize, value: u64) {
        if let Some(gpr) = self.gprs.get_mut(index) {
            *gpr = value;
        }
    }

    /// Moves past the present instruction.
    pub fn skip(&mut self) {
        self.pc = self.pc.wrapping_add(4);
    }

    /// Makes the guest take a synchronous external abort.
    pub fn inject_abort(&mut self, fault: &MemoryFault) {
        self.inject(|state, vbar, sctlr| state.take_abort(fault, vbar, sctlr));
    }

    /// Makes the guest take an exception. Its registers are in the processor if it is loaded.
    fn inject(&mut self, take: impl FnOnce(&mut El1Exception, u64, u64)) {
        let loaded = is_loaded(self);
        if loaded {
            self.el1.elr = read_register!("elr_el1");
            self.el1.spsr = read_register!("spsr_el1");
            self.el1.esr = read_register!("esr_el1");
            self.el1.far = read_register!("far_el1");
            self.el1.vbar = read_register!("vbar_el1");
            self.el1.sctlr = read_register!("sctlr_el1");
        }
        let mut state = El1Exception {
            pc: self.pc,
            pstate: self.pstate,
            elr: self.el1.elr,
            spsr: self.el1.spsr,
            esr: self.el1.esr,
            far: self.el1.far,
        };
        take(&mut state, self.el1.vbar, self.el1.sctlr);
        self.pc = state.pc;
        self.pstate = state.pstate;
        self.el1.elr = state.elr;
        self.el1.spsr = state.spsr;
        self.el1.esr = state.esr;
        self.el1.far = state.far;
        if loaded {
            // SAFETY: the registers of EL1 are the guest's at this moment.
            unsafe {
                write_register!("elr_el1", state.elr);
                write_register!("spsr_el1", state.spsr);
                write_register!("esr_el1", state.esr);
                write_register!("far_el1", state.far);
            }
        }
    }

    /// Returns physical timer control and compare value, then the virtual timer's.
    pub fn timers(&self) -> [u64; 4] {
        [
            self.el1.cntp_ctl,
            self.el1.cntp_cval,
            self.el1.cntv_ctl,
            self.el1.cntv_cval,
        ]
    }

    /// Answers a trapped register access; the guest's registers are loaded.
    fn emulate(&mut self, access: &RegisterAccess) {
        match answer(access) {
            Answer::Identification { keep, add } => {
                let value = identification(access.register) & keep | add;
                self.set_gpr(access.transfer, value);
                self.skip();
            }
            Answer::Zero => {
                if access.read {
                    self.set_gpr(access.transfer, 0);
                }
                self.skip();
            }
            Answer::Undefined => self.inject(El1Exception::take_undefined),
        }
    }
}

/// Reads the identification register at op0 = 3, op1 = 0, CRn = 0.
fn identification([_, _, _, crm, op2]: [u8; 5]) -> u64 {
    match (crm, op2) {
        (4, 0) => read_register!("id_aa64pfr0_el1"),
        (4, 1) => read_register!("id_aa64pfr1_el1"),
        (6, 0) => read_register!("id_aa64isar0_el1"),
        (6, 1) => read_register!("id_aa64isar1_el1"),
        (6, 2) => read_register!("s3_0_c0_c6_2"),
        (7, 0) => read_register!("id_aa64mmfr0_el1"),
        (7, 1) => read_register!("id_aa64mmfr1_el1"),
        (7, 2) => read_register!("s3_0_c0_c7_2"),
        _ => 0,
    }
}

/// Returns whether the processor has pointer authentication (APA, API, GPA or GPI).
fn has_keys() -> bool {
    read_register!("id_aa64isar1_el1") & 0xff00_0ff0 != 0
}

/// Returns whether the processor has HCRX_EL2 (FEAT_HCX). Zero there keeps the registers of later
/// extensions, which are not switched between the worlds, from a guest.
fn has_extended_controls() -> bool {
    read_register!("id_aa64mmfr1_el1") >> 40 & 0xf != 0
}

/// Returns whether the processor has SVE, and whether it has SME.
pub(super) fn scalable() -> (bool, bool) {
    let sve = read_register!("id_aa64pfr0_el1") >> 32 & 0xf != 0;
    let sme = read_register!("id_aa64pfr1_el1") >> 24 & 0xf != 0;
    (sve, sme)
}

/// Runs the guest that `select` finds in `owner` until `handle` returns false for an exit. The
/// host's registers are put back at the end, not in between. Does nothing inside `handle`.
pub fn run_while<T>(
    owner: &mut T,
    select: impl Fn(&mut T) -> &mut Context,
    entry: &GuestEntry,
    mut handle: impl FnMut(&mut T, GuestExit) -> bool,
) {
    if !load(select(owner), entry) {
        return;
    }
    // Another context than the loaded one would run with the wrong registers.
    while let Some(exit) = next_exit(select(owner)) {
        if !handle(owner, exit) {
            break;
        }
    }
    unload(select(owner));
}

/// Returns whether the registers of this CPU are those of `context`.
fn is_loaded(context: &Context) -> bool {
    // SAFETY: only this CPU writes its field.
    core::ptr::eq(unsafe { (*cpu::this()).loaded }, context)
}

/// Puts the host's registers away and loads the guest's, unless a guest's are loaded already.
fn load(context: &mut Context, entry: &GuestEntry) -> bool {
    let cpu = cpu::this();
    // SAFETY: `cpu` is the data of this CPU. Its host area is free while no guest is loaded, and
    // the host's registers are saved there before any of them is changed.
    unsafe {
        if !(*cpu).loaded.is_null() {
            return false;
        }
        (*cpu).loaded = context;
        let host = &raw mut (*cpu).host;
        (*host).ich_hcr = read_register!("ich_hcr_el2");
        (*host).icc_sre = read_register!("icc_sre_el2");
        el1_save(&raw mut (*host).el1);
        configure(context, entry);
        el1_load(&raw const context.el1);
        if has_keys() {
            keys_save(&raw mut (*host).keys);
            keys_load(&raw const context.keys);
        }
    }
    true
}

/// Runs the loaded guest to its next exit, or returns `None` if another one is loaded.
fn next_exit(context: &mut Context) -> Option<GuestExit> {
    if !is_loaded(context) {
        return None;
    }
    let cpu = cpu::this();
    // SAFETY: the registers below EL2 are the guest's. Maintenance since the last exit may have
    // selected another translation.
    unsafe {
        write_register!("vttbr_el2", context.vttbr);
        loop {
            let kind = guest_enter(context, cpu);
            if let Some(exit) = classify(context, kind, cpu) {
                return Some(exit);
            }
        }
    }
}

/// Saves the guest's registers and puts the host's back.
fn unload(context: &mut Context) {
    let cpu = cpu::this();
    // SAFETY: `load` has filled the host area. If `context` is not the guest that is loaded, that
    // guest's registers are dropped.
    unsafe {
        let host = &raw mut (*cpu).host;
        let mine = is_loaded(context);
        if mine {
            el1_save(&raw mut context.el1);
        }
        el1_load(&raw const (*host).el1);
        if has_keys() {
            if mine {
                keys_save(&raw mut context.keys);
            }
            keys_load(&raw const (*host).keys);
        }
        if (*cpu).vectors {
            if mine {
                vectors_save(&raw mut context.vectors);
            }
            unload_vectors(host);
            (*cpu).vectors = false;
        }
        write_register!("ich_hcr_el2", (*host).ich_hcr);
        write_register!("icc_sre_el2", (*host).icc_sre);
        (*cpu).loaded = core::ptr::null();
    }
}

/// Sets the registers of EL2 for this guest.
///
/// # Safety
///
/// No guest runs, and the caller puts ICH_HCR_EL2 and ICC_SRE_EL2 back.
unsafe fn configure(context: &Context, entry: &GuestEntry) {
    let wfi = if entry.trap_wfi { TWI } else { 0 };
    let wfe = if entry.trap_wfe { TWE } else { 0 };
    let mut timers = CNTHCTL;
    // A timer that has fired was reported to the host already; it must not stop the guest again.
    let now = read_register!("cntpct_el0");
    if fired(context.el1.cntv_ctl, context.el1.cntv_cval, now) {
        timers |= MASK_VIRTUAL;
    }
    if fired(context.el1.cntp_ctl, context.el1.cntp_cval, now) {
        timers |= MASK_PHYSICAL;
    }
    // SAFETY: the caller promises it; the values confine the guest.
    unsafe {
        write_register!("hcr_el2", HCR | wfi | wfe);
        write_register!("vtcr_el2", context.vtcr);
        write_register!("vttbr_el2", context.vttbr);
        write_register!("vmpidr_el2", context.mpidr);
        write_register!("vpidr_el2", read_register!("midr_el1"));
        write_register!("cptr_el2", CPTR | CPTR_FP);
        write_register!("mdcr_el2", read_register!("mdcr_el2") & HPMN | MDCR);
        write_register!("cnthctl_el2", timers);
        write_register!("cntvoff_el2", 0);
        write_register!("hstr_el2", 0);
        if has_extended_controls() {
            write_register!("s3_4_c1_c2_2", 0);
        }
        write_register!("icc_sre_el2", ICC_SRE);
        write_register!("ich_hcr_el2", ICH_HCR);
        asm!("isb", options(nostack, preserves_flags));
    }
}

fn fired(control: u64, compare: u64, now: u64) -> bool {
    control & (TIMER_ENABLE | TIMER_MASKED) == TIMER_ENABLE && compare <= now
}

/// Decides what an exit means. `None` is "go on".
///
/// # Safety
///
/// The guest of `context` has just left; `cpu` is the data of this CPU.
unsafe fn classify(context: &mut Context, kind: u64, cpu: *mut Cpu) -> Option<GuestExit> {
    match kind {
        EXIT_SYNCHRONOUS => {}
        EXIT_IRQ => return Some(GuestExit::HostInterrupt),
        EXIT_FIQ => return Some(GuestExit::HostFastInterrupt),
        _ => return Some(GuestExit::SystemError(syndrome())),
    }
    match cause(read_register!("esr_el2")) {
        Cause::Wait => {
            context.skip();
            return Some(GuestExit::Idle(syndrome()));
        }
        // The core moves past the instruction, or has the guest repeat it.
        Cause::Call => return Some(GuestExit::Call),
        Cause::Memory => {
            let FaultSyndrome { esr, far, hpfar } = syndrome();
            return Some(GuestExit::Fault(memory_fault(esr, far, hpfar)));
        }
        Cause::Protection => return Some(GuestExit::SystemError(syndrome())),
        // SAFETY: the caller promises it.
        Cause::Vectors if unsafe { !(*cpu).vectors } && !scalable().1 => unsafe {
            load_vectors(context, &raw mut (*cpu).host);
            (*cpu).vectors = true;
        },
        Cause::Register(access) => context.emulate(&access),
        Cause::Vectors | Cause::Undefined => context.inject(El1Exception::take_undefined),
    }
    None
}

fn syndrome() -> FaultSyndrome {
    FaultSyndrome {
        esr: read_register!("esr_el2"),
        far: read_register!("far_el2"),
        hpfar: read_register!("hpfar_el2"),
    }
}

/// Puts the host's vector registers away and loads the guest's.
///
/// With SVE the host's registers are wider than those that the guest has, and loading the guest's
/// clears the rest; so the host's are saved at the largest length. With SME there would be modes
/// to switch as well; guests on such a processor get no vector registers.
///
/// # Safety
///
/// The vector registers are the host's, and `host` is where they go.
unsafe fn load_vectors(context: &Context, host: *mut HostState) {
    // SAFETY: the caller promises it; the areas are large enough for the architecture's maximum.
    unsafe {
        if scalable().0 {
            write_register!("cptr_el2", CPTR & !CPTR_SVE);
            asm!("isb", options(nostack, preserves_flags));
            (*host).zcr = read_register!("s3_4_c1_c2_0");
            write_register!("s3_4_c1_c2_0", 0xf);
            asm!("isb", options(nostack, preserves_flags));
            scalable_save(
                (&raw mut (*host).scalable).cast(),
                (&raw mut (*host).predicates).cast(),
            );
        }
        write_register!("cptr_el2", CPTR);
        asm!("isb", options(nostack, preserves_flags));
        vectors_save(&raw mut (*host).vectors);
        vectors_load(&raw const context.vectors);
    }
}

/// Puts the host's vector registers back.
///
/// # Safety
///
/// `load_vectors` was called with the same `host`.
unsafe fn unload_vectors(host: *mut HostState) {
    // SAFETY: the caller promises it.
    unsafe {
        vectors_load(&raw const (*host).vectors);
        if scalable().0 {
            write_register!("cptr_el2", CPTR & !CPTR_SVE);
            asm!("isb", options(nostack, preserves_flags));
            scalable_load(
                (&raw const (*host).scalable).cast(),
                (&raw const (*host).predicates).cast(),
            );
            write_register!("s3_4_c1_c2_0", (*host).zcr);
        }
        write_register!("cptr_el2", CPTR | CPTR_FP);
        asm!("isb", options(nostack, preserves_flags));
    }
}
