// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Builds, runs, tests and measures Portcullis.
//!
//! Every command does the set-up that it needs: Rust targets, a QEMU that can emulate the board
//! and a DOE mailbox, images, disks and the device process.

mod board;
mod book;
mod checkers;
mod code;
mod command;
mod dependencies;
mod documents;
mod evidence;
mod fuzz;
mod images;
mod linux;
mod logs;
mod machine;
mod measure;
mod mutations;
mod packages;
mod panics;
mod qemu;
mod report;
mod ring;
mod secrets;
mod sizes;
mod stacks;
mod suite;
mod tidy;
mod toolchain;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::board::{BOARDS, Board, Choice};

/// Builds, runs, tests and measures Portcullis.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Adds what is missing: Rust targets, LLVM tools, QEMU.
    Setup(QemuArguments),
    /// Builds every image and the device process.
    Build(Choice),
    /// Boots the machine and runs the whole flow, from power-on to the device given back.
    Run(RunArguments),
    /// Runs every test ring and closes with one summary line.
    Test(TestArguments),
    /// Lets an engine look for inputs that break the firmware.
    Fuzz(FuzzArguments),
    /// Judges the evidence that the host kept in a run: certificates, measurements, report.
    Evidence(EvidenceArguments),
    /// Prints the scenario book with the results of the last test run, and writes tests/SCENARIOS.md.
    Scenarios,
    /// Checks the dependency rule of docs/architecture.md.
    Deps,
    /// Checks file headers and lengths, and the unsafe budget of each crate.
    Tidy,
    /// Writes docs/abi.md, docs/states.md and the C header from the tables, or checks that they are
    /// current.
    Abi {
        /// Fails if a file differs instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Tries every order in which two CPUs can use the lock words.
    Loom,
    /// Puts known bugs of others into a copy of the tree and checks that the tests notice each.
    Mutations {
        /// Only this one.
        #[arg(long)]
        name: Option<String>,
    },
    /// Counts the calls that panic and can be reached in the firmware's images.
    Panics(Choice),
    /// Prints how deep each stack of the firmware's images can get.
    Stacks(Choice),
    /// Prints the sections of each image against their budget.
    Sizes(Choice),
    /// Counts the instructions of each call, with the reference and the goal beside.
    Bench(BenchArguments),
}

/// Which QEMU to use.
#[derive(Args, Clone, Default)]
pub struct QemuArguments {
    /// The program, or the folder of the programs, to use instead of what is found or fetched.
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
}

/// What to measure.
#[derive(Args, Clone)]
pub struct BenchArguments {
    #[command(flatten)]
    choice: Choice,
    /// Of what: the calls of our payload, or the boot of Linux.
    #[arg(long, value_enum, default_value = "payload")]
    host: HostKind,
    #[command(flatten)]
    qemu: QemuArguments,
}

/// What runs as host.
#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
pub enum HostKind {
    /// Our bare-metal program.
    #[default]
    Payload,
    /// The distribution's stock kernel.
    Linux,
}

/// How to run the machine.
#[derive(Args, Clone)]
pub struct RunArguments {
    /// The board: qemu-virt or qemu-q35.
    #[arg(long, default_value = "qemu-virt", value_parser = board::named)]
    board: &'static Board,
    #[command(flatten)]
    qemu: QemuArguments,
    /// Writes the steps, attacks, checks and the verdict as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What runs as host: our payload, or the distribution's stock Linux kernel.
    #[arg(long, value_enum, default_value = "payload")]
    host: HostKind,
    /// Leaves a shell of Linux on this terminal.
    #[arg(long)]
    shell: bool,
    /// Number of processors of Linux.
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    cpus: u32,
    /// Shows the logs of the firmware, and all that Linux says.
    #[arg(long, short)]
    verbose: bool,
    /// Waits at reset for a debugger and prints the line that attaches one.
    #[arg(long)]
    gdb: bool,
    /// Lets the device misbehave as this plan says (docs/device.md), and shows that the host gets
    /// everything back.
    #[arg(long, value_name = "FILE", conflicts_with = "dsm")]
    fault_plan: Option<PathBuf>,
    #[command(flatten)]
    responder: Responder,
}

/// What to fuzz, and for how long.
#[derive(Args, Clone, Default)]
pub struct FuzzArguments {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    secs: u32,
    /// The one target; without it, each in turn.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

/// What to judge, and by what.
#[derive(Args, Clone)]
pub struct EvidenceArguments {
    /// The board whose last run is judged if no folder is named.
    #[arg(long, default_value = "qemu-virt", value_parser = board::named)]
    board: &'static Board,
    /// The folder that a run left; without it, that of the last `cargo xtask run`.
    folder: Option<PathBuf>,
    /// The root certificate (DER) that is trusted; without it, the one in the folder.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// A measurement block that must have this value.
    #[arg(long, value_name = "INDEX=HEX")]
    expect: Vec<String>,
    /// Prints the finding as JSON.
    #[arg(long)]
    json: bool,
}

/// What our own responder speaks, or another one that is already running.
#[derive(Args, Clone, Default)]
pub struct Responder {
    /// Suite of our own responder: ecdsa-p256, ecdsa-p384 or what else its --help lists.
    #[arg(long, value_name = "SUITE", conflicts_with = "dsm")]
    suite: Option<String>,
    /// SPDM versions of our own responder, separated by commas.
    #[arg(long, value_name = "VERSIONS", conflicts_with = "dsm")]
    spdm_version: Option<String>,
    /// Uses the responder that listens there, on this machine.
    #[arg(long, value_name = "HOST:PORT")]
    dsm: Option<String>,
    /// Its root certificate (DER), which the guest's owner trusts.
    #[arg(long, value_name = "FILE", requires = "dsm")]
    dsm_root: Option<PathBuf>,
    /// Its measurement block 1 (48 bytes), which the guest's owner expects.
    #[arg(long, value_name = "FILE", requires = "dsm")]
    dsm_measurement: Option<PathBuf>,
    /// The file of 1 MiB in which it finds the root port's keys, if it looks at them.
    #[arg(long, value_name = "FILE", requires = "dsm")]
    dsm_keys: Option<PathBuf>,
}

/// Which tests to run.
#[derive(Args, Clone, Default)]
pub struct TestArguments {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    qemu: QemuArguments,
    /// Leaves out the rings that boot QEMU.
    #[arg(long)]
    no_qemu: bool,
    /// Runs only the rings that boot QEMU.
    #[arg(long, conflicts_with = "no_qemu")]
    only_qemu: bool,
}

fn main() -> ExitCode {
    match act(Arguments::parse().action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<()> {
    match action {
        Action::Setup(arguments) => {
            toolchain::prepare()?;
            for board in BOARDS {
                let qemu = qemu::find(board, arguments.qemu.as_deref())?;
                println!("{}", qemu.describe());
            }
            Ok(())
        }
        Action::Build(choice) => images::build_all(&choice.boards()).map(|_| ()),
        Action::Run(arguments) => match arguments.host {
            HostKind::Payload => machine::run(&arguments),
            HostKind::Linux => linux::run(&arguments),
        },
        Action::Test(arguments) => suite::run(&arguments),
        Action::Fuzz(arguments) => fuzz::run(&arguments),
        Action::Evidence(arguments) => evidence::run(&arguments),
        Action::Scenarios => book::print(),
        Action::Deps => dependencies::check(),
        Action::Tidy => tidy::check(),
        Action::Abi { check } => documents::abi(check),
        Action::Loom => checkers::judge(&checkers::loom()?),
        Action::Mutations { name } => mutations::check(name.as_deref()),
        Action::Panics(choice) => panics::check(&choice.boards()),
        Action::Stacks(choice) => stacks::check(&choice.boards()),
        Action::Sizes(choice) => sizes::print(&choice.boards()),
        Action::Bench(arguments) => match arguments.host {
            HostKind::Payload => measure::run(&arguments),
            HostKind::Linux => linux::measure(&arguments),
        },
    }
}
