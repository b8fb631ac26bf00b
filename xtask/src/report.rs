// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a run tells: steps, attacks, checks and a verdict, read from the host's console.

use std::fmt;

use serde::Serialize;

use crate::ring::Outcome;

/// One line of the host's console that means something.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line {
    /// A step of the flow of docs/flow.md.
    Step {
        number: String,
        who: String,
        call: String,
        result: String,
    },
    /// Something that an attacker tried.
    Attack {
        name: String,
        tried: String,
        seen: String,
        pass: bool,
    },
    /// Something that must hold.
    Check {
        name: String,
        seen: String,
        pass: bool,
    },
    /// A part of what the host keeps of a device's evidence, in hexadecimal.
    Evidence { object: String, bytes: String },
    /// A count of instructions.
    Bench { name: String, instructions: u64 },
    /// A remark.
    Note { text: String },
    /// The end.
    Verdict { pass: bool, reason: String },
}

impl Line {
    /// Reads one line; `None` if it is ordinary output.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.trim_end().split_once(' ')?;
        let fields: Vec<&str> = rest.split('|').map(str::trim).collect();
        let text = |index: usize| fields.get(index).map(|field| (*field).to_owned());
        let pass = |index: usize| match fields.get(index) {
            Some(&"PASS") => Some(true),
            Some(&"FAIL") => Some(false),
            _ => None,
        };
        match word {
            "STEP" => Some(Self::Step {
                number: text(0)?,
                who: text(1)?,
                call: text(2)?,
                result: text(3)?,
            }),
            "ATTACK" => Some(Self::Attack {
                name: text(0)?,
                tried: text(1)?,
                seen: text(2)?,
                pass: pass(3)?,
            }),
            "CHECK" => Some(Self::Check {
                name: text(0)?,
                seen: text(1)?,
                pass: pass(2)?,
            }),
            "BENCH" => Some(Self::Bench {
                name: text(0)?,
                instructions: text(1)?.parse().ok()?,
            }),
            "EVIDENCE" => {
                let (object, bytes) = rest.split_once(' ')?;
                Some(Self::Evidence {
                    object: object.into(),
                    bytes: bytes.into(),
                })
            }
            "NOTE" => Some(Self::Note {
                text: rest.to_owned(),
            }),
            "VERDICT" => {
                let (word, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                let pass = match word {
                    "PASS" => true,
                    "FAIL" => false,
                    _ => return None,
                };
                Some(Self::Verdict {
                    pass,
                    reason: reason.to_owned(),
                })
            }
            _ => None,
        }
    }

    /// Returns whether this line says pass or fail, and which; steps and notes say neither.
    pub fn outcome(&self) -> Option<bool> {
        match self {
            Self::Attack { pass, .. } | Self::Check { pass, .. } => Some(*pass),
            _ => None,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |pass: &bool| if *pass { "ok  " } else { "FAIL" };
        match self {
            Self::Step {
                number,
                who,
                call,
                result,
            } => {
                write!(out, "{number:>4}  {who:<7} {call:<44} {result}")
            }
            Self::Attack {
                name,
                tried,
                seen,
                pass,
            } => {
                write!(out, "{}  attack  {name}: {tried} -> {seen}", mark(pass))
            }
            Self::Check { name, seen, pass } => {
                write!(out, "{}  check   {name}: {seen}", mark(pass))
            }
            Self::Bench { name, instructions } => {
                write!(out, "      bench   {name}: {instructions}")
            }
            Self::Evidence { object, bytes } => write!(out, "      evidence {object}: {bytes}"),
            Self::Note { text } => write!(out, "      {text}"),
            Self::Verdict { pass, reason } => {
                write!(
                    out,
                    "verdict: {} {reason}",
                    if *pass { "PASS" } else { "FAIL" }
                )
            }
        }
    }
}

/// Everything that one run told.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The lines in order.
    pub lines: Vec<Line>,
    /// Why the run ended without a verdict, if it did.
    pub broken: Option<String>,
}

impl Report {
    /// Returns how many attacks and checks passed and failed. The verdict counts as one check, and
    /// a run without one as a failure.
    pub fn counts(&self) -> (usize, usize) {
        let outcomes: Vec<bool> = self
            .lines
            .iter()
            .filter_map(Line::outcome)
            .chain([self.verdict()])
            .collect();
        let passed = outcomes.iter().filter(|pass| **pass).count();
        (passed, outcomes.len() - passed)
    }

    /// Returns what [`counts`](Self::counts) counts, by name, for the run called `run`.
    pub fn outcomes(&self, run: &str) -> Vec<Outcome> {
        let outcome = |name: &str, passed| Outcome {
            suite: format!("machine/{run}"),
            name: name.into(),
            passed,
        };
        let lines = self.lines.iter().filter_map(|line| match line {
            Line::Attack { name, pass, .. } | Line::Check { name, pass, .. } => {
                Some(outcome(name, *pass))
            }
            _ => None,
        });
        lines.chain([outcome("verdict", self.verdict())]).collect()
    }

    /// Adds what was found out after the run; a verdict stays last.
    pub fn insert_check(&mut self, check: Option<Line>) {
        let end = matches!(self.lines.last(), Some(Line::Verdict { .. }));
        let place = self.lines.len() - usize::from(end);
        self.lines.splice(place..place, check);
    }

    /// Returns what the last check called `name` saw.
    pub fn seen(&self, name: &str) -> Option<&str> {
        self.lines.iter().rev().find_map(|line| match line {
            Line::Check {
                name: other, seen, ..
            } if other == name => Some(seen.as_str()),
            _ => None,
        })
    }

    /// Returns whether all is as it must be: a verdict that passes and nothing that failed.
    pub fn verdict(&self) -> bool {
        self.broken.is_none()
            && self.lines.iter().all(|line| line.outcome() != Some(false))
            && matches!(self.lines.last(), Some(Line::Verdict { pass: true, .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Report};

    fn report(lines: &[&str]) -> Report {
        Report {
            lines: lines.iter().filter_map(|line| Line::parse(line)).collect(),
            broken: None,
        }
    }

    #[test]
    fn a_run_without_a_verdict_fails() {
        assert!(!report(&["CHECK a | b | PASS"]).verdict());
        assert_eq!(report(&["CHECK a | b | PASS"]).counts(), (1, 1));
    }

    #[test]
    fn one_failed_attack_fails_the_run_whatever_the_verdict_says() {
        let run = report(&["ATTACK a | b | c | FAIL", "VERDICT PASS all"]);
        assert!(!run.verdict());
        assert_eq!(run.counts(), (0, 2));
    }

    #[test]
    fn a_passing_run_passes() {
        let run = report(&[
            "STEP 1 | host | c | d",
            "CHECK a | b | PASS",
            "VERDICT PASS all",
        ]);
        assert!(run.verdict());
        assert_eq!(run.counts(), (2, 0));
    }

    #[test]
    fn a_line_that_is_cut_off_is_ordinary_output() {
        assert_eq!(Line::parse("ATTACK a | b | c"), None);
        assert_eq!(Line::parse("CHECK a | b | MAYBE"), None);
        assert_eq!(Line::parse("VERDICT"), None);
    }
}
