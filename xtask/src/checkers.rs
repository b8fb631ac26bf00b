// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checkers that look at the code in other ways than running it once.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{cargo, target};
use crate::ring::{self, Outcome};

/// Has `command`, a build of `tsm-core`, use the words of the checker. It builds in the folder `place`
/// of the build directory. Each tree needs its own: cargo takes the program of one for that of another.
pub fn for_loom(command: &mut Command, place: &str) {
    command
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target().join(place));
}

/// Tries every order of two CPUs at the lock words.
///
/// # Errors
///
/// If the tests do not build, or are not there.
pub fn loom() -> Result<Vec<Outcome>> {
    let mut command = cargo();
    command.args(["test", "--quiet", "-p", "tsm-core", "--lib", "--no-run"]);
    for_loom(&mut command, "loom");
    let program = ring::executable(&mut command)?;
    outcomes(Command::new(program).arg("loom_tests"), "loom")
}

/// Runs tests and reads what came of each; none at all is an error.
fn outcomes(command: &mut Command, suite: &str) -> Result<Vec<Outcome>> {
    let output = command.args(["--test-threads", "1"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<Outcome> = text
        .lines()
        .filter_map(ring::result)
        .map(|(name, passed)| Outcome {
            suite: suite.into(),
            name: name.into(),
            passed,
        })
        .collect();
    let has_failed = all.iter().any(|outcome| !outcome.passed);
    if all.is_empty() || has_failed || !output.status.success() {
        println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    if all.is_empty() || !output.status.success() && !has_failed {
        bail!("{suite}: no result ({})", output.status);
    }
    println!("{suite}: {} tests", all.len());
    Ok(all)
}

/// Fails if a test failed.
///
/// # Errors
///
/// If one did.
pub fn judge(outcomes: &[Outcome]) -> Result<()> {
    match outcomes.iter().find(|outcome| !outcome.passed) {
        Some(failed) => bail!("{}: {} failed", failed.suite, failed.name),
        None => Ok(()),
    }
}
