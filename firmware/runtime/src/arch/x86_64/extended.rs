// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! State that neither VMRUN nor VMLOAD moves: the FPU, vector registers and what else XCR0 names,
//! breakpoints, and a few MSRs.
//!
//! The TSM is built without vector instructions, so what a guest leaves there stays until it is
//! switched here.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use ::x86_64::registers::model_specific::Msr;

use crate::arch::vcpu::msr::TSC_AUX;

/// Bytes kept for the host's extended state: all that AMD processors have.
const HOST_AREA: usize = 4096;
/// Bytes of a realm's: FPU and SSE state (512), the header (64), the upper halves of AVX (256).
const REALM_AREA: usize = 832;
/// Offset of MXCSR in an area, and its value after reset.
const MXCSR_OFFSET: usize = 24;
const MXCSR: u32 = 0x1f80;
/// XCR0 after reset: FPU state.
const XCR0_START: u64 = 1;
/// What a realm's area holds.
const REALM_STATE: u64 = 7;

/// MSR: which branches and steps are recorded.
const DEBUG_CONTROL: u32 = 0x1d9;

/// An area of XSAVE in the standard form.
#[repr(C, align(64))]
struct Area<const BYTES: usize>([u8; BYTES]);

/// Registers besides those in an area.
#[derive(Clone, Copy)]
struct Others {
    xcr0: u64,
    breakpoints: [u64; 4],
    tsc_aux: u64,
    debug_control: u64,
}

impl Others {
    const START: Self = Self {
        xcr0: XCR0_START,
        breakpoints: [0; 4],
        tsc_aux: 0,
        debug_control: 0,
    };
}

/// What of the host is put away while a realm runs.
#[repr(C)]
pub struct HostState {
    area: Area<HOST_AREA>,
    others: Others,
}

impl HostState {
    /// The state before first use.
    pub const ZERO: Self = Self {
        area: Area([0; HOST_AREA]),
        others: Others::START,
    };
}

/// Extended state of a virtual CPU.
#[repr(C)]
pub struct RealmState {
    area: Area<REALM_AREA>,
    others: Others,
}

impl RealmState {
    /// Returns the state after reset.
    pub fn new() -> Self {
        let mut area = [0; REALM_AREA];
        for (byte, value) in area.iter_mut().skip(MXCSR_OFFSET).zip(MXCSR.to_le_bytes()) {
            *byte = value;
        }
        Self {
            area: Area(area),
            others: Others::START,
        }
    }

    /// Returns XCR0.
    pub const fn xcr0(&self) -> u64 {
        self.others.xcr0
    }

    /// Sets XCR0 of the virtual CPU whose state this CPU has.
    ///
    /// # Safety
    ///
    /// The state is loaded, and `value` is one that the virtual CPU may set.
    pub unsafe fn set_xcr0(&mut self, value: u64) {
        self.others.xcr0 = value;
        // SAFETY: the caller promises it.
        unsafe { write_xcr0(value) };
    }
}

/// Returns whether the processor has XSAVE, and no more state than there is room for.
pub fn is_supported() -> bool {
    const XSAVE: u32 = 1 << 26;
    __cpuid_count(1, 0).ecx & XSAVE != 0 && __cpuid_count(0xd, 0).ecx as usize <= HOST_AREA
}

/// Returns what of XCR0 the processor has.
fn supported() -> u64 {
    let leaf = __cpuid_count(0xd, 0);
    u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
}

/// Returns whether the processor has the MSR that RDTSCP and RDPID read.
fn has_tsc_aux() -> bool {
    const RDTSCP: u32 = 1 << 27;
    const RDPID: u32 = 1 << 22;
    __cpuid_count(0x8000_0001, 0).edx & RDTSCP != 0 || __cpuid_count(7, 0).ecx & RDPID != 0
}

/// Puts the host's state away and loads the realm's.
///
/// # Safety
///
/// The extended state of this CPU is the host's, and [`is_supported`] has said yes.
pub unsafe fn load(realm: &RealmState, host: &mut HostState) {
    let all = supported();
    // SAFETY: the caller promises it; the area is large enough for what the processor has.
    unsafe {
        host.others = others();
        write_xcr0(all);
        save(&mut host.area, all);
        restore(&realm.area, all);
        set_others(&realm.others);
    }
}

/// Saves the realm's state.
///
/// # Safety
///
/// [`load`] was called on this CPU with the same state.
pub unsafe fn save_realm(realm: &mut RealmState) {
    // SAFETY: the caller promises it. Areas of realms hold what `REALM_STATE` names.
    unsafe {
        realm.others = others();
        write_xcr0(supported());
        save(&mut realm.area, REALM_STATE & supported());
    }
}

/// Puts the host's state back. All of it is loaded, so that nothing of the realm's is left.
///
/// # Safety
///
/// [`load`] has filled `host` on this CPU.
pub unsafe fn load_host(host: &HostState) {
    let all = supported();
    // SAFETY: the caller promises it.
    unsafe {
        write_xcr0(all);
        // The FPU's error pointers: without a pending error some processors neither save nor restore
        // them (AMD64 APM volume 2, 11.4.4), and the realm's would stay.
        asm!("fninit", options(nomem, nostack));
        restore(&host.area, all);
        set_others(&host.others);
    }
}

/// Saves the components `mask`.
///
/// # Safety
///
/// They fit into the area.
unsafe fn save<const BYTES: usize>(area: &mut Area<BYTES>, mask: u64) {
    // SAFETY: the caller promises it; the area is aligned.
    unsafe {
        asm!(
            "xsave64 [{area}]",
            area = in(reg) &raw mut *area,
            in("eax") mask as u32,
            in("edx") (mask >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}

/// Loads the components `mask`; those that are not in the area become what they are after reset.
///
/// # Safety
///
/// `save` has written the area, or it is zero but for a legal MXCSR; XCR0 has all of `mask`.
unsafe fn restore<const BYTES: usize>(area: &Area<BYTES>, mask: u64) {
    // SAFETY: the caller promises it; the area is aligned.
    unsafe {
        asm!(
            "xrstor64 [{area}]",
            area = in(reg) &raw const *area,
            in("eax") mask as u32,
            in("edx") (mask >> 32) as u32,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Reads what is not in an area.
fn others() -> Others {
    let mut breakpoints = [0; 4];
    let [dr0, dr1, dr2, dr3] = &mut breakpoints;
    let (low, high): (u32, u32);
    // SAFETY: only reads; XSAVE is on in every CPU of the TSM, and XCR0 exists with it.
    unsafe {
        asm!(
            "mov {0}, dr0",
            "mov {1}, dr1",
            "mov {2}, dr2",
            "mov {3}, dr3",
            out(reg) * dr0,
            out(reg) * dr1,
            out(reg) * dr2,
            out(reg) * dr3,
            options(nomem, nostack, preserves_flags),
        );
        asm!(
            "xgetbv",
            in("ecx") 0,
            out("eax") low,
            out("edx") high,
            options(nomem, nostack, preserves_flags),
        );
        Others {
            xcr0: u64::from(high) << 32 | u64::from(low),
            breakpoints,
            tsc_aux: if has_tsc_aux() {
                Msr::new(TSC_AUX).read()
            } else {
                0
            },
            debug_control: Msr::new(DEBUG_CONTROL).read(),
        }
    }
}

/// Writes what is not in an area.
///
/// # Safety
///
/// Breakpoints are off (VMRUN leaves them so), and XCR0 is one that the processor has.
unsafe fn set_others(others: &Others) {
    let [dr0, dr1, dr2, dr3] = others.breakpoints;
    // SAFETY: the caller promises it.
    unsafe {
        asm!(
            "mov dr0, {0}",
            "mov dr1, {1}",
            "mov dr2, {2}",
            "mov dr3, {3}",
            in(reg) dr0,
            in(reg) dr1,
            in(reg) dr2,
            in(reg) dr3,
            options(nomem, nostack, preserves_flags),
        );
        if has_tsc_aux() {
            Msr::new(TSC_AUX).write(others.tsc_aux);
        }
        Msr::new(DEBUG_CONTROL).write(others.debug_control);
        write_xcr0(others.xcr0);
    }
}

/// Writes XCR0.
///
/// # Safety
///
/// The processor has what `value` names, and the caller decides whose state it is.
unsafe fn write_xcr0(value: u64) {
    // SAFETY: the caller promises it.
    unsafe {
        asm!(
            "xsetbv",
            in("ecx") 0,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags),
        );
    }
}
