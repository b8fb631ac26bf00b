// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Instruction counts. One tick of the counter is one instruction under `-icount shift=0`, so the
//! numbers are exact and repeatable; they are not cycles.

use std::path::Path;

use anyhow::{Result, bail};

use crate::board::Board;
use crate::images::{build_all, build_failing};
use crate::machine::{Mode, Plan, boot};
use crate::qemu::{self, Qemu};
use crate::report::{Line, Report};
use crate::toolchain::AARCH64;
use crate::{BenchArguments, Responder, logs, sizes};

/// Name of the row as the host payload prints it, what the public reference firmware for Arm takes,
/// and what we aim at, in instructions from the call to the last return. Zero: not known.
const ROWS: &[(&str, u64, u64)] = &[
    (BARE, 0, 0),
    ("null call", 212, 100),
    ("RMI_VERSION", 1_290, 600),
    ("unknown RMI", 1_238, 600),
    ("GRANULE_RANGE_DELEGATE 1", 2_458, 1_200),
    ("GRANULE_RANGE_UNDELEGATE 1", 3_174, 1_500),
    ("GRANULE_RANGE_DELEGATE 2M", 1_280_512, 100_000),
    ("GRANULE_RANGE_UNDELEGATE 2M", 1_590_434, 100_000),
    // In blocks: less than 512 times the row of 2 MiB.
    ("GRANULE_RANGE_DELEGATE 1G", 0, 51_000_000),
    ("GRANULE_RANGE_UNDELEGATE 1G", 0, 51_000_000),
    ("REALM_CREATE", 249_642, 60_000),
    ("RTT_CREATE", 4_281, 2_000),
    ("RTT_DESTROY", 6_140, 2_000),
    ("RTT_READ_ENTRY", 3_109, 1_300),
    ("RTT_DATA_MAP 1", 5_289, 2_500),
    ("RTT_DATA_UNMAP 1", 18_058, 4_000),
    ("RTT_DATA_MAP 2M", 352_940, 200_000),
    ("RTT_DATA_UNMAP 2M", 98_774, 15_000),
    ("RTT_DATA_MAP 512x1", 487_641, 250_000),
    ("RTT_DATA_UNMAP 512x1", 306_235, 60_000),
    ("RTT_DATA_MAP_INIT", 202_826, 60_000),
    ("REC_CREATE", 231_887, 60_000),
    ("REC_ENTER host call", 14_341, 5_000),
    ("RSI_VERSION", 313, 200),
    ("RSI_IPA_STATE_GET", 1_818, 900),
    ("reset to host", 51_000_000, 5_000_000),
    ("connect", 0, 0),
    ("lock", 0, 0),
    ("start", 0, 0),
    ("unlock", 0, 0),
];

/// One turn of a loop of VMRUN and an exit, with what both need and nothing else.
const BARE: &str = "bare VMRUN loop";
/// Rows whose ratio to it is told: the host's call that does nothing, and a guest's entry and exit.
const COMPARED: [&str; 2] = ["null call", "REC_ENTER host call"];

/// Runs the benchmark payload on each board and prints a table.
///
/// # Errors
///
/// If a run breaks, or tells a row that the table does not know.
pub fn run(arguments: &BenchArguments) -> Result<()> {
    let boards = arguments.choice.boards();
    let device = build_all(&boards)?;
    for board in boards {
        let qemu = qemu::find(board, arguments.qemu.qemu.as_deref())?;
        println!("{}: {}", board.name, qemu.describe());
        one(board, &qemu, &device)?;
    }
    Ok(())
}

fn one(board: &Board, qemu: &Qemu, device: &Path) -> Result<()> {
    let mut silent = |_: &str, _: Option<&Line>| {};
    let is_arm = board.triple == AARCH64;
    // The bare loop is in the image for tests only.
    let tsm = (!is_arm).then(|| build_failing(board)).transpose()?;
    let plan = Plan {
        mode: Mode::Bench,
        tsm: tsm.as_deref(),
        responder: Responder::default(),
        faults: None,
        gdb: false,
        cpus: 1,
        show: &mut silent,
    };
    let (report, port) = boot(board, qemu, device, "bench", plan)?;
    println!(
        "{:<30} {:>12} {:>12} {:>12}",
        "instructions", "reference", "goal", "counted"
    );
    let known = |count: u64| {
        if count == 0 {
            "-".to_owned()
        } else {
            count.to_string()
        }
    };
    for (name, reference, goal) in ROWS {
        let counted = counted(&report, name);
        let mark = match counted {
            Some(count) if *goal != 0 && count > *goal => " over the goal",
            _ => "",
        };
        let counted = counted.map_or_else(|| "not counted".into(), |count| count.to_string());
        println!(
            "{name:<30} {:>12} {:>12} {counted:>12}{mark}",
            known(if is_arm { *reference } else { 0 }),
            known(*goal)
        );
    }
    if let Some(bare) = counted(&report, BARE).filter(|bare| *bare != 0) {
        for name in COMPARED {
            if let Some(count) = counted(&report, name) {
                let ratio = count as f64 / bare as f64;
                println!("{name}: {ratio:.1} times the {BARE}");
            }
        }
    }
    for line in &report.lines {
        if let Line::Bench { name, .. } = line
            && !ROWS.iter().any(|(row, ..)| row == name)
        {
            bail!("the payload counts {name}, which the table does not know");
        }
    }
    if !report.verdict() {
        bail!("the benchmark broke: {:?}", report.broken);
    }
    // What is left of the memory that is the firmware's own.
    for line in logs::decode(board, &port)? {
        if line.contains("of the region left") {
            println!("{line}");
        }
    }
    sizes::table(board).map(|_| ())
}

/// Returns what the payload has counted for a row.
fn counted(report: &Report, name: &str) -> Option<u64> {
    report.lines.iter().find_map(|line| match line {
        Line::Bench {
            name: row,
            instructions,
        } if row == name => Some(*instructions),
        _ => None,
    })
}
