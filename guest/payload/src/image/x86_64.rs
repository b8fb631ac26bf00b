// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the guest does with the processor itself.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use tsm_abi::rhi;
use tsm_payload_support::attempt;
use tsm_payload_support::x86_64::exception::{self, Exception};
use tsm_payload_support::x86_64::{paging, registers};

use super::report::{Result, check};
use super::rsi;

/// What is in the registers while the host works. The host has another pattern.
const PATTERN: u16 = 0xa55a;

/// Sets up exceptions and translation.
pub fn set_up() {
    exception::install();
    // SAFETY: Image, stack and data are at their own addresses.
    unsafe { paging::enable() };
}

/// Checks that registers are this virtual CPU's own: what another has left does not show, and the host
/// changes nothing.
pub fn check_registers() -> Result {
    let remains = registers::remains();
    let mut changed = u64::MAX;
    // The host prints nothing.
    let called = rsi::host_call_by(rhi::CONSOLE_IMMEDIATE, |call| {
        changed = registers::changed_by(call, PATTERN)
    });
    check(
        "registers-start-empty",
        format_args!("{}; set bits {remains:#x}", registers::WHICH),
        remains == 0,
    )?;
    check(
        "registers-survive-the-host",
        format_args!("{}; changed bits {changed:#x}", registers::WHICH),
        called && changed == 0,
    )
}

/// Checks that what is not a realm's raises the exception of something that is not there: registers of
/// the machine, ports, counters and instructions of SVM.
pub fn check_confinement() -> Result {
    // Base of the APIC, machine checks, DebugCtl, interrupt commands, SYSCFG, VM_CR, VM_HSAVE_PA.
    const CLOSED: [u32; 7] = [
        0x1b,
        0x179,
        0x1d9,
        0x830,
        0xc001_0010,
        0xc001_0114,
        0xc001_0117,
    ];
    let of_registers = CLOSED.map(|number| {
        // SAFETY: Reads only.
        unsafe {
            attempt!(
                ["rdmsr"],
                in("ecx") number,
                inout("eax") 0 => _,
                inout("edx") 0 => _,
                options(nostack)
            )
        }
    });
    macro_rules! with_zero {
        ($instruction:literal) => {
            // SAFETY: None of them is there; one that works is told.
            unsafe {
                attempt!(
                    [$instruction],
                    inout("rax") 0_u64 => _,
                    in("ecx") 0,
                    inout("edx") 0xcf8 => _,
                    options(nostack)
                )
            }
        };
    }
    let protected = [
        with_zero!("in eax, dx"),
        with_zero!("out dx, al"),
        with_zero!("rdpmc"),
    ];
    let absent = [
        with_zero!("vmrun rax"),
        with_zero!("vmload rax"),
        with_zero!("vmsave rax"),
        with_zero!("stgi"),
        with_zero!("clgi"),
        with_zero!("invlpga rax, ecx"),
    ];
    let raised = |outcomes: &[core::result::Result<(), Exception>], vector| {
        let is_right = |outcome: &&_| matches!(outcome, Err(Exception { vector: found, .. }) if *found == vector);
        outcomes.iter().filter(is_right).count()
    };
    let refused = raised(&of_registers, Exception::GENERAL_PROTECTION)
        + raised(&protected, Exception::GENERAL_PROTECTION)
        + raised(&absent, Exception::INVALID_OPCODE);
    let all = of_registers.len() + protected.len() + absent.len();
    check(
        "machine-is-not-there",
        format_args!("{refused} of {all} registers and instructions raised their exception"),
        refused == all,
    )
}

/// Returns a random word, or none if the processor has no generator or it does not answer now.
pub fn random() -> Option<u64> {
    const RDRAND: u32 = 1 << 30;
    if __cpuid(1).ecx & RDRAND == 0 {
        return None;
    }
    let value: u64;
    let valid: u8;
    // SAFETY: The instruction is there; it clears the carry flag when it has no number.
    unsafe {
        asm!(
            "rdrand {value}",
            "setc {valid}",
            value = out(reg) value,
            valid = out(reg_byte) valid,
            options(nostack, nomem),
        );
    }
    (valid == 1).then_some(value)
}
