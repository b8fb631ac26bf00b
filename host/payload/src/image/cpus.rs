// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tests that need a second CPU: losing a page that it uses, and calling the TSM at the same time.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use tsm_abi::RmiStatus;
use tsm_abi::rmi::Call;
use tsm_payload_support::arch;
use tsm_payload_support::time::wait_until;

use super::board::REALM_DATA;
use super::report::check;
use super::rmi::{self, Result, delegate, undelegate};
use super::vectors;

/// What the CPUs share. Each word has one writer.
#[repr(C)]
struct Mailbox {
    /// Page that the other CPU works on.
    page: AtomicU64,
    /// 1 when it runs, 2 when it took an exception, 3 when it was told to stop.
    state: AtomicU64,
    /// Turns that it has made.
    turns: AtomicU64,
    /// Answers that it did not expect.
    wrong: AtomicU64,
    /// Not zero: it has to stop.
    stop: AtomicU64,
}

const RUNS: u64 = 1;
const FAULTED: u64 = 2;
const STOPPED: u64 = 3;
/// Turns that this CPU makes against the other.
const TURNS: u64 = 500;
/// The pages that the CPUs work on.
const OWN_PAGE: u64 = REALM_DATA;
const OTHER_PAGE: u64 = REALM_DATA + 0x1000;

static MAILBOX: Mailbox = Mailbox {
    page: AtomicU64::new(OTHER_PAGE),
    state: AtomicU64::new(0),
    turns: AtomicU64::new(0),
    wrong: AtomicU64::new(0),
    stop: AtomicU64::new(0),
};

// The other CPU has no stack and no translation; x19 is the mailbox. It shares whole words only.
global_asm!(
    ".macro other_cpu_off state",
    "mov x3, #\\state",
    "str x3, [x19, #8]",
    // PSCI CPU_OFF.
    "movz x0, #2",
    "movk x0, #0x8400, lsl #16",
    "smc #0",
    "b .",
    ".endm",
    ".macro other_cpu_on",
    "mov x19, x0",
    "adrp x1, other_vectors",
    "add x1, x1, :lo12:other_vectors",
    "msr vbar_el2, x1",
    "isb",
    "ldr x20, [x19]",
    "mov x3, #1",
    "str x3, [x19, #8]",
    ".endm",
    ".macro other_cpu_turn",
    "ldr x5, [x19, #16]",
    "add x5, x5, #1",
    "str x5, [x19, #16]",
    ".endm",
    // A call on one page that must succeed or be told to try again (10).
    ".macro other_cpu_call low",
    "1:",
    "movz x0, #\\low",
    "movk x0, #0xc400, lsl #16",
    "mov x1, x20",
    "add x2, x20, #0x1000",
    "smc #0",
    "cbz x0, 2f",
    "cmp x0, #10",
    "b.eq 1b",
    "ldr x5, [x19, #24]",
    "add x5, x5, #1",
    "str x5, [x19, #24]",
    "2:",
    ".endm",
    ".section .text.other_cpu, \"ax\"",
    ".balign 2048",
    "other_vectors:",
    ".rept 16",
    ".balign 128",
    "other_cpu_off 2",
    ".endr",
    ".balign 128",
    "other_cpu_loads:",
    "other_cpu_on",
    "3:",
    "ldr w4, [x20]",
    "other_cpu_turn",
    "b 3b",
    "other_cpu_calls:",
    "other_cpu_on",
    "4:",
    "other_cpu_call 0x1f1",
    "other_cpu_call 0x1f2",
    "other_cpu_turn",
    "ldr x5, [x19, #32]",
    "cbz x5, 4b",
    "other_cpu_off 3",
    ".text",
);

unsafe extern "C" {
    fn other_cpu_loads();
    fn other_cpu_calls();
}

fn word(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// Starts the other CPU at `entry`. Returns whether it runs.
fn start(entry: u64) -> bool {
    const CPU_ON: u64 = 0xc400_0003;
    MAILBOX.state.store(0, Ordering::Release);
    MAILBOX.turns.store(0, Ordering::Release);
    let answer = arch::call(CPU_ON, &[1, entry, (&raw const MAILBOX) as u64])[0];
    let runs = answer == 0 && wait_until(1000, || word(&MAILBOX.state) == RUNS);
    check(
        "another-cpu-starts",
        format_args!("CPU_ON answered {answer:#x}"),
        runs,
    );
    runs
}

/// Waits until the other CPU is off in `state`. Returns whether it is.
fn is_off(state: u64) -> bool {
    const AFFINITY_INFO: u64 = 0xc400_0004;
    const OFF: u64 = 1;
    let reached = wait_until(1000, || word(&MAILBOX.state) == state);
    let off = wait_until(1000, || arch::call(AFFINITY_INFO, &[1, 0])[0] == OFF);
    check("another-cpu-stops", format_args!("{off}"), off);
    reached && off
}

/// Runs the tests.
pub fn run() -> Result<()> {
    loses_a_page()?;
    calls_meet();
    Ok(())
}

/// A page that another CPU loads from again and again is taken from it, too.
fn loses_a_page() -> Result<()> {
    if !start(other_cpu_loads as *const () as u64) {
        return Ok(());
    }
    let used = wait_until(1000, || word(&MAILBOX.turns) > 1000);
    delegate(OTHER_PAGE, OTHER_PAGE + 0x1000)?;
    let faulted = is_off(FAULTED);
    check(
        "another-cpu-loses-a-page-that-it-uses",
        format_args!("{} loads before, faulted {faulted}", word(&MAILBOX.turns)),
        used && faulted,
    );
    undelegate(OTHER_PAGE, OTHER_PAGE + 0x1000)
}

/// Makes a range call on this CPU's page until it is not told to try again. Returns whether it
/// succeeded.
fn persist(call: &Call) -> bool {
    let mut status = None;
    let answered = wait_until(1000, || {
        status = rmi::call(call).status();
        status != Some(RmiStatus::BUSY)
    });
    answered && status == Some(RmiStatus::SUCCESS)
}

/// Both CPUs delegate and undelegate pages of their own at the same time.
fn calls_meet() {
    if !start(other_cpu_calls as *const () as u64) {
        return;
    }
    let (start, end) = (OWN_PAGE, OWN_PAGE + 0x1000);
    let mut wrong = 0;
    for _ in 0..TURNS {
        let taken = persist(&Call::GranuleRangeDelegate { start, end });
        let faults = vectors::read(start).is_err();
        let returned = persist(&Call::GranuleRangeUndelegate { start, end });
        let readable = vectors::read(start) == Ok(0);
        wrong += u32::from(!(taken && faults && returned && readable));
    }
    MAILBOX.stop.store(1, Ordering::Release);
    let stopped = is_off(STOPPED);
    let (turns, others_wrong) = (word(&MAILBOX.turns), word(&MAILBOX.wrong));
    check(
        "two-cpus-call-at-the-same-time",
        format_args!("{TURNS} and {turns} turns, {wrong} and {others_wrong} wrong"),
        stopped && wrong == 0 && others_wrong == 0 && turns > 10,
    );
}
