// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Runs the fuzz targets under the engine, on the pinned compiler.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::FuzzArguments;
use crate::command::{cargo, loudly, missing, quietly, target};

/// Targets, as `tests/fuzz` names them.
const TARGETS: &[&str] = &[
    "decode",
    "sequence",
    "config",
    "wire",
    "requester",
    "evidence",
];
/// What makes the compiler count which edges were taken, for the engine to read.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 --cfg fuzzing";
/// Longest that one input may take, in seconds.
const TIME_OUT: u32 = 20;

/// Fuzzes each target, or one, for a number of seconds.
///
/// # Errors
///
/// If a target fails: the input that did it is kept and named.
pub fn run(arguments: &FuzzArguments) -> Result<()> {
    let names: Vec<&str> = match &arguments.target {
        None => TARGETS.to_vec(),
        Some(name) if TARGETS.contains(&name.as_str()) => vec![name],
        Some(name) => bail!("no target {name}; there are {}", TARGETS.join(", ")),
    };
    let place = target().join("fuzz");
    let host = host_triple()?;
    // With a target named, what runs while building is left as it is.
    loudly(
        cargo()
            .args(["build", "--quiet", "-p", "tsm-fuzz", "--features", "engine"])
            .args(["--bin", "fuzz", "--profile", "fuzz", "--target", &host])
            .arg("--target-dir")
            .arg(&place)
            .env("RUSTFLAGS", COVERAGE),
    )
    .context("the engine does not build: it needs a C++ compiler")?;
    let program = place.join(&host).join("fuzz/fuzz");
    let found = place.join("found");
    fs::create_dir_all(&found)?;
    let mut failed = Vec::new();
    for name in names {
        let corpus = place.join("corpus").join(name);
        fs::create_dir_all(&corpus)?;
        println!("-- {name}, {} s", arguments.secs);
        let status = Command::new(&program)
            .arg(&corpus)
            .arg(format!("-max_total_time={}", arguments.secs))
            .arg(format!("-timeout={TIME_OUT}"))
            .arg("-max_len=16384")
            .arg("-print_final_stats=1")
            .arg("-verbosity=0")
            .arg(format!("-artifact_prefix={}/{name}-", found.display()))
            .env("PORTCULLIS_FUZZ_TARGET", name)
            .env("PORTCULLIS_FUZZ_SEEDS", &corpus)
            .status()?;
        if !status.success() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} failed; the inputs are in {}",
            failed.join(", "),
            found.display()
        );
    }
    println!("{} targets, nothing found", TARGETS.len());
    Ok(())
}

/// Returns the target that programs of this machine are built for.
fn host_triple() -> Result<String> {
    let text = quietly(Command::new("rustc").arg("-vV")).with_context(|| missing("rustc"))?;
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(triple.context("rustc names no host")?.to_owned())
}
