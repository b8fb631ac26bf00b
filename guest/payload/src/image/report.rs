// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The lines that tools read.

use core::fmt;

use tsm_payload_support::println;

/// What ended the flow early. It has been printed.
#[derive(Clone, Copy, Debug)]
pub struct Stopped;

/// What a part of the flow returns.
pub type Result<T = ()> = core::result::Result<T, Stopped>;

/// Prints a step of the flow that every vendor shares (see `docs/flow.md`).
pub fn step(number: &str, call: &str, result: fmt::Arguments<'_>) {
    println!("STEP {number} | guest | {call} | {result}");
}

/// Prints what was seen where something was expected; stops if it was not `as_expected`.
pub fn check(name: &str, seen: fmt::Arguments<'_>, as_expected: bool) -> Result {
    let verdict = if as_expected { "PASS" } else { "FAIL" };
    println!("CHECK {name} | {seen} | {verdict}");
    if as_expected { Ok(()) } else { Err(Stopped) }
}

/// Prints whether a check of the evidence was passed, and its value if it was.
pub fn judge<T, E: fmt::Debug>(name: &str, judgement: core::result::Result<T, E>) -> Result<T> {
    match judgement {
        Ok(value) => {
            check(name, format_args!("accepted"), true)?;
            Ok(value)
        }
        Err(reason) => {
            check(name, format_args!("refused: {reason:?}"), false)?;
            Err(Stopped)
        }
    }
}
