// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every test ring in one command, closed by one summary line.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};

use crate::board::{BOARDS, Board};
use crate::command::{cargo, quietly, root};
use crate::images::{build_all, build_failing};
use crate::machine::{self, Mode, Plan, boot};
use crate::qemu::{self, Qemu};
use crate::report::Line;
use crate::ring::{self, BARE, Outcome};
use crate::toolchain::{self, AARCH64, X86_64};
use crate::{
    Responder, TestArguments, book, checkers, dependencies, documents, evidence, linux, mutations,
    panics, stacks, tidy,
};

/// Crates that compile for the host and for both bare targets.
const PURE: &[&str] = &[
    "tsm-abi",
    "tsm-core",
    "tsm-spdm",
    "tsm-ide",
    "tsm-iommu",
    "tsm-platform",
];

/// What the device does wrong where it misbehaves.
const FAULTS: &str = "devices/examples/two-faults.toml";

/// Counts of what passed and failed.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    outcomes: Vec<Outcome>,
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

    fn add(&mut self, outcomes: Vec<Outcome>) {
        let passed = outcomes.iter().filter(|outcome| outcome.passed).count();
        self.passed += passed;
        self.failed += outcomes.len() - passed;
        self.outcomes.extend(outcomes);
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
    let boards = arguments.choice.boards();
    let mut tally = Tally::default();
    if arguments.only_qemu {
        println!("-- the rings that do not boot QEMU are left out");
    } else {
        toolchain::prepare_checks()?;
        println!("-- rules");
        rules(&mut tally, &boards);
        println!("-- unit, fake platform and protocol tests");
        match ring::run() {
            Ok(outcomes) => tally.add(outcomes),
            Err(error) => tally.check("host tests", Err(error)),
        }
        println!("-- every order of two CPUs at the lock words");
        match checkers::loom() {
            Ok(outcomes) => tally.add(outcomes),
            Err(error) => tally.check("loom", Err(error)),
        }
        println!("-- bugs of others, put back");
        match mutations::run(None) {
            Ok(outcomes) => tally.add(outcomes),
            Err(error) => tally.check("mutations", Err(error)),
        }
    }
    if arguments.no_qemu {
        println!("-- the rings that boot QEMU are left out");
    } else {
        let device = build_all(&boards)?;
        for board in &boards {
            let qemu = qemu::find(board, arguments.qemu.qemu.as_deref())?;
            println!("-- on {} ({})", board.name, qemu.describe());
            tally.check("calls that panic in the images", panics::report(&[*board]));
            tally.check("stacks of the images", stacks::report(&[*board], false));
            on_board(&mut tally, board, &qemu, &device)?;
        }
    }
    if !arguments.only_qemu && !arguments.no_qemu && boards.len() == BOARDS.len() {
        println!("-- the scenario book");
        book::keep(tally.outcomes.clone())?;
        let checked = book::check(&tally.outcomes);
        tally.check("every scenario that applies is shown", checked);
    }
    println!("{:.0} s", start.elapsed().as_secs_f32());
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed != 0 {
        bail!("{} failed", tally.failed);
    }
    Ok(())
}

/// Boots one board in every mode.
fn on_board(tally: &mut Tally, board: &'static Board, qemu: &Qemu, device: &Path) -> Result<()> {
    let failing = build_failing(board)?;
    for (name, mode, tsm) in [
        ("on-target tests", Mode::Test, None),
        ("cryptography that fails", Mode::Failing, Some(&*failing)),
        ("the whole flow", Mode::Flow, None),
        ("a device that misbehaves", Mode::Faults, None),
    ] {
        machine_tests(tally, board, qemu, device, name, (mode, tsm))?;
    }
    let kept = machine::place(board, &run_name(Mode::Flow)).join("evidence");
    let held = evidence::look(&kept, None, Vec::new()).and_then(|finding| {
        let troubled = finding.checks.iter().find(|check| check.trouble.is_some());
        troubled.map_or(Ok(()), |check| bail!("{check:?}"))
    });
    tally.check("the evidence that the host kept holds", held);
    linux_tests(tally, board, qemu);
    Ok(())
}

/// Boots the distribution's kernel as host and counts the checks of its program.
fn linux_tests(tally: &mut Tally, board: &'static Board, qemu: &Qemu) {
    let mut show = |raw: &str, line: Option<&Line>| {
        if line.is_some() {
            println!("{raw}");
        }
    };
    let report = linux::Host::prepare(board)
        .and_then(|host| linux::check(&host, qemu, "test-linux", 2, &mut show));
    match report {
        Ok(report) => tally.add(report.outcomes(&format!("{}/linux host", board.name))),
        Err(error) => tally.check("linux host", Err(error)),
    }
}

fn run_name(mode: Mode) -> String {
    format!("test-{}", mode as u32)
}

fn rules(tally: &mut Tally, boards: &[&Board]) {
    let quiet = |command: &mut Command| quietly(command).map(|_| ());
    tally.check(
        "formatting",
        quiet(cargo().args(["fmt", "--all", "--check"])),
    );
    tally.check("dependency rule", dependencies::check());
    tally.check("headers, lengths and unsafe budget", tidy::check());
    tally.check(
        "docs/abi.md, docs/states.md and the C header are current",
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
    for board in boards {
        let mut command = cargo();
        command.args(["clippy", "--quiet", "--release", "--target", board.triple]);
        for package in board.packages() {
            command.args(["-p", package]);
        }
        tally.check(
            &format!("lints of the images of {}", board.name),
            quiet(command.args(["--", "-D", "warnings"])),
        );
    }
}

/// Boots the machine once and counts its checks.
fn machine_tests(
    tally: &mut Tally,
    board: &Board,
    qemu: &Qemu,
    device: &Path,
    name: &str,
    (mode, tsm): (Mode, Option<&Path>),
) -> Result<()> {
    let mut show = |raw: &str, line: Option<&Line>| match line {
        Some(Line::Attack { .. } | Line::Check { .. } | Line::Verdict { .. }) | None => {
            println!("{raw}");
        }
        Some(_) => {}
    };
    let plan = Plan {
        mode,
        tsm,
        responder: Responder::default(),
        faults: (mode == Mode::Faults).then(|| root().join(FAULTS)),
        gdb: false,
        cpus: 2,
        show: &mut show,
    };
    let (report, _) = boot(board, qemu, device, &run_name(mode), plan)?;
    tally.add(report.outcomes(&format!("{}/{name}", board.name)));
    if mode == Mode::Faults {
        let refused = report.seen("misbehaving-device-refused");
        tally.check(
            "a guest uses the device once it has misbehaved twice and was unlocked after each",
            match refused {
                Some("4 of 5 rounds") => Ok(()),
                other => Err(anyhow!("refused: {other:?}")),
            },
        );
    }
    match &report.broken {
        Some(reason) => println!("FAIL  {}: {name}: {reason}", board.name),
        None if report.verdict() => println!("ok    {}: {name}", board.name),
        None => println!("FAIL  {}: {name}", board.name),
    }
    Ok(())
}
