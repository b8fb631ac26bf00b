// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every test ring in one command, closed by one summary line.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, quietly};
use crate::images::build_all;
use crate::machine::{Mode, Plan, boot};
use crate::qemu::{self, Qemu};
use crate::report::Line;
use crate::toolchain::{self, AARCH64, X86_64};
use crate::{Responder, TestArguments, dependencies, documents, tidy};

/// Crates that compile for the host and for both bare targets.
const PURE: &[&str] = &[
    "tsm-abi",
    "tsm-core",
    "tsm-spdm",
    "tsm-ide",
    "tsm-iommu",
    "tsm-platform",
];
/// Packages whose images exist only for the bare target.
const BARE: &[&str] = &["qemu-virt", "host-payload", "guest-payload"];

/// Counts of what passed and failed.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    /// Counts one check that either holds or says why not.
    fn check(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok    {name}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL  {name}: {error:#}");
            }
        }
    }

    fn add(&mut self, (passed, failed): (usize, usize)) {
        self.passed += passed;
        self.failed += failed;
    }
}

/// Runs every ring and prints `N passed, N failed` last.
///
/// # Errors
///
/// If anything failed.
pub fn run(arguments: &TestArguments) -> Result<()> {
    let start = Instant::now();
    toolchain::prepare()?;
    let mut tally = Tally::default();
    if arguments.only_qemu {
        println!("-- the rings that do not boot QEMU are left out");
    } else {
        toolchain::prepare_checks()?;
        println!("-- rules");
        rules(&mut tally);
        println!("-- unit, fake platform and protocol tests");
        match host_tests() {
            Ok(counts) => tally.add(counts),
            Err(error) => tally.check("host tests", Err(error)),
        }
    }
    if arguments.no_qemu {
        println!("-- the rings that boot QEMU are left out");
    } else {
        let qemu = qemu::find(arguments.qemu.qemu.as_deref())?;
        println!("-- on the machine ({})", qemu.describe());
        let device = build_all()?;
        for (name, mode) in [
            ("on-target tests", Mode::Test),
            ("the whole flow", Mode::Flow),
        ] {
            machine_tests(&mut tally, &qemu, &device, name, mode)?;
        }
    }
    println!("{:.0} s", start.elapsed().as_secs_f32());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed != 0 {
        bail!("{} failed", tally.failed);
    }
    Ok(())
}

fn rules(tally: &mut Tally) {
    let quiet = |command: &mut Command| quietly(command).map(|_| ());
    tally.check(
        "formatting",
        quiet(cargo().args(["fmt", "--all", "--check"])),
    );
    tally.check("dependency rule", dependencies::check());
    tally.check("headers, lengths and unsafe budget", tidy::check());
    tally.check(
        "docs/abi.md and the C header are current",
        documents::abi(true),
    );
    for target in [AARCH64, X86_64] {
        let mut command = cargo();
        command.args(["check", "--quiet", "--target", target]);
        for package in PURE {
            command.args(["-p", package]);
        }
        tally.check(
            &format!("the pure crates compile for {target}"),
            quiet(&mut command),
        );
    }
    let mut command = cargo();
    command.args(["clippy", "--quiet", "--workspace", "--all-targets"]);
    for package in BARE {
        command.args(["--exclude", package]);
    }
    tally.check(
        "lints of the host side",
        quiet(command.args(["--", "-D", "warnings"])),
    );
    let mut command = cargo();
    command.args(["clippy", "--quiet", "--release", "--target", AARCH64]);
    for package in BARE {
        command.args(["-p", package]);
    }
    tally.check(
        "lints of the images",
        quiet(command.args(["--", "-D", "warnings"])),
    );
}

/// Runs the tests of all crates that run on the host; returns how many passed and failed.
fn host_tests() -> Result<(usize, usize)> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    for package in BARE {
        command.args(["--exclude", package]);
    }
    let mut guest = cargo();
    guest.args(["test", "--no-fail-fast", "-p", "guest-payload", "--lib"]);
    let (mut passed, mut failed) = (0, 0);
    for mut command in [command, guest] {
        let (more_passed, more_failed, success) = count(&mut command)?;
        passed += more_passed;
        failed += more_failed;
        if !success && more_failed == 0 {
            bail!("the tests do not build");
        }
    }
    Ok((passed, failed))
}

/// Runs one `cargo test` and sums up its result lines.
fn count(command: &mut Command) -> Result<(usize, usize, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo does not start")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some((more_passed, more_failed)) = result_line(&line) {
            passed += more_passed;
            failed += more_failed;
        }
        println!("{line}");
    }
    Ok((passed, failed, child.wait()?.success()))
}

/// Reads `test result: ok. 3 passed; 0 failed; ...`.
fn result_line(line: &str) -> Option<(usize, usize)> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let mut words = rest.split_whitespace();
        let mut before = "";
        loop {
            let next = words.next()?;
            if next.trim_end_matches(';') == word {
                return before.parse::<usize>().ok();
            }
            before = next;
        }
    };
    Some((number("passed")?, number("failed")?))
}

/// Boots the machine once and counts its checks.
fn machine_tests(
    tally: &mut Tally,
    qemu: &Qemu,
    device: &std::path::Path,
    name: &str,
    mode: Mode,
) -> Result<()> {
    let mut show = |raw: &str, line: Option<&Line>| match line {
        Some(Line::Attack { .. } | Line::Check { .. } | Line::Verdict { .. }) | None => {
            println!("{raw}");
        }
        Some(_) => {}
    };
    let plan = Plan {
        mode,
        responder: Responder::default(),
        gdb: false,
        cpus: 2,
        show: &mut show,
    };
    let (report, _) = boot(qemu, device, &format!("test-{}", mode as u32), plan)?;
    tally.add(report.counts());
    match &report.broken {
        Some(reason) => println!("FAIL  {name}: {reason}"),
        None if report.verdict() => println!("ok    {name}"),
        None => println!("FAIL  {name}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::result_line;

    #[test]
    fn a_result_line_is_read() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out";
        assert_eq!(result_line(line), Some((12, 3)));
        assert_eq!(result_line("running 3 tests"), None);
    }
}
