// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The tests that run on the host: which there are, and what came of each.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::command::cargo;

/// Packages whose images exist only for bare targets.
pub const BARE: &[&str] = &["qemu-virt", "qemu-q35", "host-payload", "guest-payload"];

/// Tests of the fake platform that run once more on realms' tables of `x86_64`: those in which tables
/// and what they let through decide.
const ON_X86_TABLES: &[&str] = &[
    "device_mappings",
    "device_teardown",
    "guests",
    "matrix",
    "shared_memory",
];

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Package and target, or `machine` and the run.
    pub suite: String,
    /// Name within the suite.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
}

/// One test program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    suite: String,
    executable: PathBuf,
    /// The folder of its package, in which it runs.
    folder: PathBuf,
}

/// A message of cargo about something that it built.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds and runs every test of the host; programs run beside each other, one to a processor.
///
/// # Errors
///
/// If the tests do not build.
pub fn run() -> Result<Vec<Outcome>> {
    let mut guest = cargo();
    guest.args(["test", "--no-run", "-p", "guest-payload", "--lib"]);
    let mut programs = build(&mut of_workspace())?;
    programs.extend(build(&mut guest)?);
    programs.extend(on_x86_tables()?);
    let (sender, receiver) = channel();
    for program in programs {
        sender.send(program).context("the queue is closed")?;
    }
    drop(sender);
    let queue = Mutex::new(receiver);
    let outcomes = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(program) = next(&queue) {
                    let (text, more) = one(&program);
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    println!("{text}");
                    outcomes.extend(more);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner();
    Ok(outcomes.unwrap_or_else(PoisonError::into_inner))
}

/// Returns the command that builds the tests of every package that the host can build.
fn of_workspace() -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run"]);
    for package in BARE {
        command.args(["--exclude", package]);
    }
    command
}

/// Builds [`ON_X86_TABLES`], as suites of their own.
fn on_x86_tables() -> Result<Vec<Program>> {
    // Of the whole workspace again, so that all other crates are those that are built already.
    let mut command = of_workspace();
    command.args(["--features", "tsm-platform-fake/x86-tables"]);
    for test in ON_X86_TABLES {
        command.args(["--test", test]);
    }
    let programs = build(&mut command)?;
    Ok(programs.into_iter().map(named_after_tables).collect())
}

/// Tells a suite on tables of `x86_64` from the same one on those of the Arm architecture.
fn named_after_tables(mut program: Program) -> Program {
    program.suite.push_str("-on-x86-tables");
    program
}

fn next(queue: &Mutex<Receiver<Program>>) -> Option<Program> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}

/// Builds test programs and returns them.
fn build(command: &mut Command) -> Result<Vec<Program>> {
    let text = messages(command)?;
    Ok(text.lines().filter_map(program).collect())
}

/// Builds one test program, wherever its tree is, and returns it.
///
/// # Errors
///
/// If it does not build, or `command` builds none or several.
pub fn executable(command: &mut Command) -> Result<PathBuf> {
    let text = messages(command)?;
    let artifacts = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let mut tests = artifacts
        .filter(|artifact| {
            artifact
                .profile
                .as_ref()
                .is_some_and(|profile| profile.test)
        })
        .filter_map(|artifact| artifact.executable);
    match (tests.next(), tests.next()) {
        (Some(only), None) => Ok(only),
        _ => bail!("not one test program"),
    }
}

/// Runs a build and returns what cargo says of it.
fn messages(command: &mut Command) -> Result<String> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads one message of cargo.
fn program(message: &str) -> Option<Program> {
    let artifact: Artifact = serde_json::from_str(message).ok()?;
    let is_test = artifact.reason == "compiler-artifact" && artifact.profile?.test;
    let folder = artifact.manifest_path?.parent()?.to_path_buf();
    let package = folder.strip_prefix(crate::command::root()).ok()?;
    is_test.then_some(Program {
        suite: format!("{}/{}", package.display(), artifact.target?.name),
        executable: artifact.executable?,
        folder,
    })
}

/// Runs one program and returns what it printed and what came of its tests.
fn one(program: &Program) -> (String, Vec<Outcome>) {
    let outcome = |name: &str, passed| Outcome {
        suite: program.suite.clone(),
        name: name.into(),
        passed,
    };
    let run = Command::new(&program.executable)
        .args(["--test-threads", "1"])
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .stdin(Stdio::null())
        .output();
    let Ok(run) = run else {
        let text = format!("{} does not start", program.suite);
        return (text, vec![outcome("(start)", false)]);
    };
    let printed = String::from_utf8_lossy(&run.stdout);
    let mut outcomes: Vec<Outcome> = printed
        .lines()
        .filter_map(result)
        .map(|(name, passed)| outcome(name, passed))
        .collect();
    if !run.status.success() && outcomes.iter().all(|outcome| outcome.passed) {
        outcomes.push(outcome("(end)", false));
    }
    let text = format!(
        "-- {}\n{}{}",
        program.suite,
        printed.trim_start(),
        String::from_utf8_lossy(&run.stderr)
    );
    (text, outcomes)
}

/// Reads `test name ... ok`; tests that are ignored have no outcome.
pub fn result(line: &str) -> Option<(&str, bool)> {
    let (name, state) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let name = name.trim_end_matches(" - should panic");
    match state {
        "ok" => Some((name, true)),
        "FAILED" => Some((name, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{program, result};

    #[test]
    fn a_result_line_is_read() {
        assert_eq!(result("test a::b ... ok"), Some(("a::b", true)));
        assert_eq!(
            result("test c - should panic ... FAILED"),
            Some(("c", false))
        );
        assert_eq!(result("test d ... ignored"), None);
        assert_eq!(result("test result: ok. 3 passed; 0 failed"), None);
    }

    #[test]
    fn only_programs_that_are_tests_are_run() {
        let message = |test| {
            let manifest = crate::command::root().join("ide/Cargo.toml");
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":{manifest:?},"target":{{"name":"tsm_ide"}},"profile":{{"test":{test}}},"executable":"/x"}}"#
            )
        };
        let found = program(&message(true)).map(|program| program.suite);
        assert_eq!(found.as_deref(), Some("ide/tsm_ide"));
        assert_eq!(program(&message(false)), None);
        assert_eq!(program(r#"{"reason":"build-finished"}"#), None);
    }
}
