// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The lines that tools read.

use core::cell::Cell;
use core::fmt;

use tsm_payload_support::{power, println};

struct Tally {
    failures: Cell<u32>,
    quiet: Cell<bool>,
    lenient: Cell<bool>,
}

// SAFETY: Only the first CPU reports, with interrupts masked.
unsafe impl Sync for Tally {}

static TALLY: Tally = Tally {
    failures: Cell::new(0),
    quiet: Cell::new(false),
    lenient: Cell::new(false),
};

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
    TALLY.failures.set(TALLY.failures.get().saturating_add(1));
}

/// Returns how many checks and attacks have failed so far.
pub fn failures() -> u32 {
    TALLY.failures.get()
}

/// Leaves out steps, and what the guest says and is right, where they have been told before.
pub fn set_quiet(quiet: bool) {
    TALLY.quiet.set(quiet);
}

/// Returns whether steps are left out.
pub fn is_quiet() -> bool {
    TALLY.quiet.get()
}

/// Tells checks that fail as remarks, and does not count them, where a device misbehaves on order.
pub fn set_lenient(lenient: bool) {
    TALLY.lenient.set(lenient);
}

/// Returns whether failed checks are remarks.
pub fn is_lenient() -> bool {
    TALLY.lenient.get()
}

/// Tells one step of the flow.
pub fn step(number: &str, call: fmt::Arguments<'_>, result: fmt::Arguments<'_>) {
    if !is_quiet() {
        println!("STEP {number} | host | {call} | {result}");
    }
}

/// Tells something that must hold.
pub fn check(name: &str, seen: fmt::Arguments<'_>, pass: bool) {
    if !pass && is_lenient() {
        println!("NOTE {name}: {seen}");
        return;
    }
    println!("CHECK {name} | {seen} | {}", outcome(pass));
}

/// Tells one attack.
pub fn attack(name: &str, tried: fmt::Arguments<'_>, seen: fmt::Arguments<'_>, pass: bool) {
    println!("ATTACK {name} | {tried} | {seen} | {}", outcome(pass));
}

/// Tells the end and turns the machine off.
pub fn verdict(pass: bool, reason: fmt::Arguments<'_>) -> ! {
    println!("VERDICT {} {reason}", if pass { "PASS" } else { "FAIL" });
    power::off()
}
