// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The lines that tools read.

use core::cell::Cell;
use core::fmt;

use tsm_payload_support::{aarch64, println};

struct Failures(Cell<u32>);

// SAFETY: One CPU, interrupts masked.
unsafe impl Sync for Failures {}

static FAILURES: Failures = Failures(Cell::new(0));

fn outcome(pass: bool) -> &'static str {
    if pass {
        "PASS"
    } else {
        count_failure();
        "FAIL"
    }
}

/// Counts something that failed and was told by someone else.
pub fn count_failure() {
    FAILURES.0.set(FAILURES.0.get().saturating_add(1));
}

/// Returns how many checks and attacks have failed so far.
pub fn failures() -> u32 {
    FAILURES.0.get()
}

/// Tells one step of the flow.
pub fn step(number: &str, call: fmt::Arguments<'_>, result: fmt::Arguments<'_>) {
    println!("STEP {number} | host | {call} | {result}");
}

/// Tells something that must hold.
pub fn check(name: &str, seen: fmt::Arguments<'_>, pass: bool) {
    println!("CHECK {name} | {seen} | {}", outcome(pass));
}

/// Tells one attack.
pub fn attack(name: &str, tried: fmt::Arguments<'_>, seen: fmt::Arguments<'_>, pass: bool) {
    println!("ATTACK {name} | {tried} | {seen} | {}", outcome(pass));
}

/// Tells the end and turns the machine off.
pub fn verdict(pass: bool, reason: fmt::Arguments<'_>) -> ! {
    println!("VERDICT {} {reason}", if pass { "PASS" } else { "FAIL" });
    // PSCI SYSTEM_OFF.
    let _ = aarch64::call(0x8400_0008, &[]);
    aarch64::halt()
}
