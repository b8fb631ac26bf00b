// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the guest does with the processor itself.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use tsm_abi::rhi;
use tsm_payload_support::x86_64::{exception, paging, registers};

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
