// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Instructions that reach below an operating system.

use core::arch::global_asm;

use tsm_payload_support::attempt;
use tsm_payload_support::x86_64::exception::{self, Exception};

/// What one instruction comes to.
pub type Outcome = Result<(), Exception>;

/// Extended features.
pub const EFER: u32 = 0xc000_0080;
/// Where the local APIC is, and its mode.
pub const APIC_BASE: u32 = 0x1b;
/// Control of SVM.
pub const VM_CR: u32 = 0xc001_0114;
/// Where SVM saves the host.
pub const VM_HSAVE_PA: u32 = 0xc001_0117;
/// Base of system management memory.
pub const SMM_BASE: u32 = 0xc001_0111;

/// Reads a model-specific register.
pub fn read(register: u32) -> Result<u64, Exception> {
    let (mut low, mut high) = (0_u32, 0_u32);
    // SAFETY: Reading has no effect on memory.
    unsafe {
        attempt!(
            ["rdmsr"],
            in("ecx") register,
            inout("eax") low,
            inout("edx") high,
            options(nostack)
        )
    }?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register.
///
/// The value must be harmless to this program.
pub fn write(register: u32, value: u64) -> Outcome {
    // SAFETY: The caller writes what leaves this program's translation and stack alone.
    unsafe {
        attempt!(
            ["wrmsr"],
            in("ecx") register,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack)
        )
    }
}

/// Tries the instructions of SVM with a page of the host's as their operand; returns name and outcome
/// of each.
pub fn svm(page: u64) -> [(&'static str, Outcome); 7] {
    macro_rules! with_page {
        ($instruction:literal) => {
            // SAFETY: The page is free for what the instruction stores; if one works, the attack
            // has succeeded and is told.
            unsafe {
                attempt!([$instruction], in("rax") page, in("ecx") 0, options(nostack))
            }
        };
    }
    [
        ("vmrun", with_page!("vmrun rax")),
        ("vmload", with_page!("vmload rax")),
        ("vmsave", with_page!("vmsave rax")),
        ("stgi", with_page!("stgi")),
        ("clgi", with_page!("clgi")),
        ("skinit", with_page!("skinit eax")),
        ("invlpga", with_page!("invlpga rax, ecx")),
    ]
}

global_asm!(
    ".section .text.user, \"ax\"",
    "user_call:",
    "vmmcall",
    "hlt",
    "user_control:",
    "nop",
    "hlt",
    ".text",
);

unsafe extern "C" {
    fn user_call();
    fn user_control();
}

/// Makes a call of the firmware at level 3, and, to compare, nothing; each then goes on to an
/// instruction that level 3 may not use.
pub fn call_at_level_3() -> (Outcome, Outcome) {
    // SAFETY: Both change RAX at most.
    unsafe {
        (
            exception::at_level_3(user_call),
            exception::at_level_3(user_control),
        )
    }
}
