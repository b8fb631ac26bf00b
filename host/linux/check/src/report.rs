// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The lines that tools read: the same as those of the payload.

use std::process::ExitCode;

use crate::attempt::Outcome;

/// What was told so far.
#[derive(Default)]
pub struct Tally {
    told: u32,
    failed: u32,
}

impl Tally {
    fn outcome(&mut self, pass: bool) -> &'static str {
        self.told += 1;
        if pass {
            "PASS"
        } else {
            self.failed += 1;
            "FAIL"
        }
    }

    /// Tells something that must hold.
    pub fn check(&mut self, name: &str, seen: impl ToString, pass: bool) {
        let outcome = self.outcome(pass);
        println!("CHECK {name} | {} | {outcome}", seen.to_string());
    }

    /// Tells an attack.
    pub fn attack(&mut self, name: &str, tried: &str, seen: impl ToString, pass: bool) {
        let outcome = self.outcome(pass);
        println!("ATTACK {name} | {tried} | {} | {outcome}", seen.to_string());
    }

    /// Tells an attack that the attacker must not survive, or must be refused by something below the
    /// kernel.
    pub fn must_fault(&mut self, name: &str, tried: &str, outcome: &Outcome) {
        self.attack(name, tried, outcome, matches!(outcome, Outcome::Fault(_)));
    }

    /// Tells the end.
    pub fn verdict(self) -> ExitCode {
        let pass = self.failed == 0 && self.told != 0;
        let word = if pass { "PASS" } else { "FAIL" };
        println!("VERDICT {word} {} of {} failed", self.failed, self.told);
        if pass {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
