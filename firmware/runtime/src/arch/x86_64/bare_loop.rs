// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The least that entering and leaving a guest can cost, to compare the TSM's own exits with. Only
//! images for tests have this.

use core::arch::global_asm;

use ::x86_64::registers::control::Cr3;
use spin::Mutex;

use super::svm;
use crate::arch::confine::start::{self, Entry};
use crate::arch::vmcb::{FLUSH_ALL, Gprs, Intercept1, Intercept2, Vmcb, exit};

/// The function: x1 says how often the guest is entered. Returns in x1 how often it left for its call.
pub const FUNCTION: u64 = 0xc400_02ce;

/// More turns are not made: a call has an end.
const MOST: u64 = 4096;
/// Neither the host's nor a realm's.
const ASID: u32 = 3;

global_asm!(
    ".section .text.bare_loop, \"ax\"",
    // A guest of one instruction. Nobody moves it past the call: it makes it on each entry.
    "bare_loop_guest:",
    "vmmcall",
    "ud2",
    ".text",
);

unsafe extern "C" {
    static bare_loop_guest: u8;
}

static GUEST: Mutex<Vmcb> = Mutex::new(Vmcb::ZERO);

/// Enters a guest `turns` times that shares the TSM's tables and makes a call at once.
pub fn run(turns: u64) -> [u64; 8] {
    let mut vmcb = GUEST.lock();
    let mut gprs = Gprs::ZERO;
    prepare(&mut vmcb);
    let mut calls: u64 = 0;
    for _ in 0..turns.min(MOST) {
        // SAFETY: the host runs, so `svm::start` has. The block lies in the image and the registers on
        // this CPU's stack, both mapped at their physical addresses. The guest is the TSM's own code.
        unsafe { svm::enter(&mut vmcb, &mut gprs) };
        vmcb.control.tlb_ctl = 0;
        calls += u64::from(vmcb.control.exit_code == exit::VMMCALL);
    }
    [0, calls, 0, 0, 0, 0, 0, 0]
}

/// Makes a control block that intercepts the call and what must never stay in a guest. The guest takes no
/// interrupt: it runs with the interrupt flag clear and no virtual one.
fn prepare(vmcb: &mut Vmcb) {
    let (table, _) = Cr3::read();
    let entry = Entry {
        rip: &raw const bare_loop_guest as u64,
        rsi: 0,
        cr3: table.start_address().as_u64(),
        gdt: 0,
        gdt_limit: 0,
    };
    start::first(vmcb, &entry);
    let control = &mut vmcb.control;
    control.intercept_1 = (Intercept1::NMI | Intercept1::SMI | Intercept1::SHUTDOWN).bits();
    control.intercept_2 = (Intercept2::VMRUN | Intercept2::VMMCALL).bits();
    control.asid = ASID;
    // Of no earlier guest of this number anything is left.
    control.tlb_ctl = FLUSH_ALL;
}
