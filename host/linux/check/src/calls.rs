// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the TSM answers: its version and features, and memory that goes and comes back.

use std::io::Result;

use tsm_abi::rmi::{self, Call};
use tsm_abi::{RmiCode, RmiStatus, rsi};

use crate::attempt::{self, Outcome};
use crate::confinement::{self, TSM};
use crate::report::Tally;
use crate::sys::{Door, Mapping};

const PAGE: u64 = 0x1000;
/// Memory of the door: its first half stays the host's, its second goes to the TSM.
const MEMORY: u64 = 4 << 20;
const HALF: u64 = MEMORY / 2;
/// What the second half holds before.
const PATTERN: u32 = 0x5afe_c0de;

/// Makes the calls.
pub fn check(tally: &mut Tally, door: &Door) {
    let told = version(tally, door).and_then(|()| match door.allocate(MEMORY) {
        Ok(base) => memory(tally, door, base),
        Err(error) => Err(error),
    });
    if let Err(error) = told {
        tally.check("calls", error, false);
    }
}

/// Asks for version and features.
fn version(tally: &mut Tally, door: &Door) -> Result<()> {
    let reply = door.call(&Call::Version {
        requested: rmi::VERSION,
    })?;
    let lower = reply.register(1);
    tally.check(
        "tsm-version",
        format!("RMI {}.{}", lower >> 16, lower & 0xffff),
        reply.is_success() && lower == rmi::VERSION,
    );
    let mut words = Vec::new();
    for index in 0..5 {
        let reply = door.call(&Call::Features { index })?;
        words.push(format!("{:#x}", reply.register(1)));
    }
    let has_any = words.iter().any(|word| word != "0x0");
    tally.check("tsm-features", words.join(" "), has_any);
    let (function, arguments) = rsi::Call::Version { requested: 0 }.encode();
    let guest = door.raw(function, &arguments);
    let seen = match &guest {
        Ok(reply) => format!("{:#x}", reply.register(0)),
        Err(error) => error.to_string(),
    };
    tally.check("door-takes-no-calls-of-guests", seen, guest.is_err());
    Ok(())
}

/// Repeats a call for a range to its end; returns whether it came there.
fn whole(door: &Door, base: u64, top: u64, make: impl Fn(u64) -> Call) -> Result<bool> {
    let mut next = base;
    while next < top {
        let reply = door.call(&make(next))?;
        if !reply.is_success() || reply.register(1) <= next {
            return Ok(false);
        }
        next = reply.register(1);
    }
    Ok(true)
}

/// Gives memory to the TSM, tries to keep it, and takes it back.
fn memory(tally: &mut Tally, door: &Door, base: u64) -> Result<()> {
    // The first page holds zeros: the default configuration.
    door.call(&Call::RmmConfigSet { config: base })?;
    let reply = door.call(&Call::RmmActivate {})?;
    let code = reply.status().map(|status| status.code);
    let is_active = matches!(code, Some(RmiCode::Success | RmiCode::Global));
    tally.check("tsm-is-active", format!("{code:?}"), is_active);

    let (start, end) = (base + HALF, base + MEMORY);
    let mapping = door.map(MEMORY as usize)?;
    let words = || (HALF as usize..MEMORY as usize).step_by(4);
    words().for_each(|at| mapping.write(at, PATTERN));
    let before = read(&mapping);
    let held = matches!(before, Outcome::Value(value) if value == u64::from(PATTERN));
    tally.check("memory-is-the-hosts-before", before, held);

    let done = whole(door, start, end, |start| Call::GranuleRangeDelegate {
        start,
        end,
    })?;
    tally.check("delegate", format!("{} pages: {done}", HALF / PAGE), done);
    tally.must_fault(
        "read-delegated",
        "load from delegated memory",
        &read(&mapping),
    );
    let outcome = attempt::attempt(|| {
        mapping.write(HALF as usize, 0);
        Ok(0)
    });
    tally.must_fault("write-delegated", "store to delegated memory", &outcome);
    refusals(tally, door, base)?;
    confinement::while_delegated(tally, door, &mapping, (base, start))?;
    let done = whole(door, start, end, |start| Call::GranuleRangeUndelegate {
        start,
        end,
    })?;
    tally.check("undelegate", format!("{} pages: {done}", HALF / PAGE), done);
    if !done {
        return Ok(());
    }
    let left = words().filter(|at| mapping.read(*at) != 0).count();
    tally.check(
        "memory-comes-back-zeroed",
        format!("{left} words are not zero"),
        left == 0,
    );
    mapping.write(HALF as usize, PATTERN);
    let kept = mapping.read(HALF as usize) == PATTERN;
    tally.check(
        "memory-is-the-hosts-again",
        format!("written and read: {kept}"),
        kept,
    );
    Ok(())
}

fn read(mapping: &Mapping) -> Outcome {
    attempt::attempt(|| Ok(u64::from(mapping.read(HALF as usize))))
}

/// Calls that must change nothing.
fn refusals(tally: &mut Tally, door: &Door, base: u64) -> Result<()> {
    let delegate = |start| Call::GranuleRangeDelegate {
        start,
        end: start + PAGE,
    };
    let undelegate = |start| Call::GranuleRangeUndelegate {
        start,
        end: start + PAGE,
    };
    let attempts = [
        ("delegate", "the TSM", delegate(TSM)),
        ("undelegate", "the TSM", undelegate(TSM)),
        ("delegate", "half a page", delegate(base + PAGE / 2)),
    ];
    for (name, whose, call) in attempts {
        let status = door.call(&call)?.status();
        let code = status.map(|status: RmiStatus| status.code);
        tally.attack(
            name,
            whose,
            format!("{code:?}"),
            code == Some(RmiCode::Input),
        );
    }
    Ok(())
}
