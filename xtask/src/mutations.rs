// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bugs that others had, put back into a copy of the tree: the suite must notice each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::{Owned, cargo, quietly, root, target};
use crate::ring::{self, Outcome};

/// Longest time that tests of a row may take. One that a bug keeps from ending has noticed it.
const LONGEST: Duration = Duration::from_secs(180);

/// `tests/mutations.toml`.
#[derive(Deserialize)]
struct Mutations {
    mutation: Vec<Row>,
}

/// What kind of mistake a bug is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Class {
    Race,
    Ordering,
    Bounds,
    Cleanup,
}

/// One bug, and what notices it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// What is wrong, as a sentence without its end.
    name: String,
    class: Class,
    /// Where it was a bug.
    bug: String,
    file: PathBuf,
    /// Text that is there once.
    find: String,
    /// What stands there instead.
    replace: String,
    package: String,
    /// Test program of the package, or `lib`.
    test: String,
    /// Tests of the program, each of which must fail.
    fails: Vec<String>,
    /// Whether the program is built for the checker of orders.
    #[serde(default)]
    loom: bool,
}

/// What came of a program.
struct Ran {
    succeeded: bool,
    /// Names and whether they passed.
    tests: Vec<(String, bool)>,
}

impl Ran {
    fn passed(&self, name: &str) -> bool {
        self.tests.iter().any(|test| test.0 == name && test.1)
    }
}

impl Row {
    /// Builds the program of the row; fails if it does not compile.
    fn build(&self, tree: &Path) -> Result<PathBuf> {
        let mut command = cargo();
        command
            .current_dir(tree)
            .args(["test", "--quiet", "--no-run", "-p", &self.package])
            .env("CARGO_TARGET_DIR", target());
        if self.test == "lib" {
            command.arg("--lib");
        } else {
            command.args(["--test", &self.test]);
        }
        if self.loom {
            crate::checkers::for_loom(&mut command, "loom-mutations");
        }
        ring::executable(&mut command)
    }

    /// Runs the tests of the row.
    fn run(&self, tree: &Path) -> Result<Ran> {
        let program = self.build(tree)?;
        let printed = tree.join("../printed");
        let mut command = Command::new(program);
        command
            .args(["--exact", "--test-threads", "1"])
            .args(&self.fails)
            .current_dir(tree.join(&self.file).parent().unwrap_or(tree))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&printed)?)
            .stderr(Stdio::null());
        let mut child = Owned(command.spawn().context("a test program does not start")?);
        let start = Instant::now();
        let succeeded = loop {
            if let Some(status) = child.0.try_wait()? {
                break status.success();
            }
            if start.elapsed() > LONGEST {
                break false;
            }
            sleep(Duration::from_millis(20));
        };
        let text = fs::read_to_string(&printed)?;
        let tests = text.lines().filter_map(ring::result);
        let tests = tests.map(|(name, passed)| (name.to_owned(), passed));
        Ok(Ran {
            succeeded,
            tests: tests.collect(),
        })
    }

    /// Puts the bug in, runs the tests and takes it out. Fails unless each test notices.
    fn attempt(&self, tree: &Path) -> Result<()> {
        let path = tree.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| self.file.display().to_string())?;
        let count = text.matches(&self.find).count();
        if count != 1 {
            bail!("the text to replace is there {count} times");
        }
        fs::write(&path, text.replacen(&self.find, &self.replace, 1))?;
        let ran = self.run(tree);
        fs::write(&path, text)?;
        let ran = ran?;
        match self.fails.iter().find(|name| ran.passed(name)) {
            Some(blind) => bail!("{blind} passes"),
            None if ran.succeeded => bail!("the tests pass"),
            None => Ok(()),
        }
    }
}

/// Tries the bugs of `tests/mutations.toml`, or the one called `name`.
///
/// # Errors
///
/// If the tree cannot be copied, or a test fails without any bug.
pub fn run(name: Option<&str>) -> Result<Vec<Outcome>> {
    let text = fs::read_to_string(root().join("tests/mutations.toml"))?;
    let all: Mutations = toml::from_str(&text).context("tests/mutations.toml")?;
    let rows: Vec<Row> = all.mutation.into_iter().collect();
    check_classes(&rows)?;
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| name.is_none_or(|name| row.name == name))
        .collect();
    if rows.is_empty() {
        bail!("no mutation has that name");
    }
    let tree = copy()?;
    for row in &rows {
        let ran = row.run(&tree)?;
        if let Some(missing) = row.fails.iter().find(|name| !ran.passed(name)) {
            bail!("{missing} does not pass without a mutation");
        }
    }
    let outcome = |row: &Row| {
        let start = Instant::now();
        let result = row.attempt(&tree);
        let took = start.elapsed().as_secs_f32();
        match &result {
            Ok(()) => println!("caught  {} ({}, {took:.0} s)", row.name, row.bug),
            Err(error) => println!("MISSED  {} ({}): {error:#}", row.name, row.bug),
        }
        Outcome {
            suite: "mutations".into(),
            name: row.name.clone(),
            passed: result.is_ok(),
        }
    };
    Ok(rows.iter().map(outcome).collect())
}

/// Runs them and fails if one was missed.
///
/// # Errors
///
/// As [`run`], and if a bug was missed.
pub fn check(name: Option<&str>) -> Result<()> {
    let outcomes = run(name)?;
    let missed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    if missed != 0 {
        bail!("{missed} of {} mutations missed", outcomes.len());
    }
    println!("{} mutations caught", outcomes.len());
    Ok(())
}

/// Each class has two bugs that were somebody's.
fn check_classes(rows: &[Row]) -> Result<()> {
    for class in [Class::Race, Class::Ordering, Class::Bounds, Class::Cleanup] {
        let of_class = rows.iter().filter(|row| row.class == class);
        let bugs: BTreeSet<&str> = of_class.map(|row| row.bug.as_str()).collect();
        if bugs.len() < 2 {
            bail!("{class:?} has {} bugs, not two", bugs.len());
        }
    }
    Ok(())
}

/// Copies what git knows or would add. What has not changed is left alone, so that nothing is built
/// that need not be.
fn copy() -> Result<PathBuf> {
    let tree = target().join("mutations/tree");
    let mut command = Command::new("git");
    command
        .args(["ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .current_dir(root());
    let listed = quietly(&mut command)?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root().join(name), tree.join(name));
        // What is deleted but not committed is in the list; a link to a folder is no source.
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(&tree))?;
        fs::write(&to, bytes)?;
    }
    Ok(tree)
}
