// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tests that need a second CPU: losing a page that it uses, and calling the TSM at the same time.

use core::sync::atomic::{AtomicU64, Ordering};

use tsm_abi::RmiStatus;
use tsm_abi::rmi::Call;
use tsm_payload_support::time::wait_until;

use super::layout::REALM_DATA;
use super::processor::{second, vectors};
#[cfg(target_arch = "x86_64")]
use super::report::attack;
use super::report::check;
use super::rmi::{self, Result, delegate, undelegate};

/// What the CPUs share. Each word has one writer. The other CPU's code knows the offsets.
#[repr(C)]
pub struct Mailbox {
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

fn word(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// What the other CPU does until it is told to stop.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// It loads a word of its page again and again.
    Loads,
    /// It delegates and undelegates its page, and counts answers that it did not expect.
    Calls,
}

/// Starts the other CPU. Returns whether it runs.
fn start(work: Work) -> bool {
    MAILBOX.state.store(0, Ordering::Release);
    MAILBOX.turns.store(0, Ordering::Release);
    MAILBOX.stop.store(0, Ordering::Release);
    let answer = second::start(work, &MAILBOX);
    let runs = answer == 0 && wait_until(1000, || word(&MAILBOX.state) == RUNS);
    check(
        "another-cpu-starts",
        format_args!("answer {answer:#x}, running: {runs}"),
        runs,
    );
    runs
}

/// Waits until the other CPU is off in `state`. Returns whether it is.
fn is_off(state: u64) -> bool {
    let reached = wait_until(1000, || word(&MAILBOX.state) == state);
    let off = wait_until(1000, second::is_off);
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
    if !start(Work::Loads) {
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

/// Another CPU that is started with an address that is not the host's to load from faults as this
/// one does.
#[cfg(target_arch = "x86_64")]
pub fn starts_confined(page: u64) {
    MAILBOX.page.store(page, Ordering::Release);
    let answer = second::start(Work::Loads, &MAILBOX);
    let faulted = wait_until(1000, || word(&MAILBOX.state) == FAULTED);
    MAILBOX.page.store(OTHER_PAGE, Ordering::Release);
    attack(
        "start-by-icr",
        format_args!("start another CPU by INIT and SIPI, which loads from the TSM's memory"),
        format_args!(
            "answer {answer}, {} loads, faulted {faulted}",
            word(&MAILBOX.turns)
        ),
        answer == 0 && faulted && word(&MAILBOX.turns) == 0,
    );
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
    if !start(Work::Calls) {
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
