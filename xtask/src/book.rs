// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The scenario book: what the firmware must survive, and the tests that show that it does.
//!
//! `tests/scenarios.toml` is the book. A row names its tests; a row whose tests are not all there
//! and green is open. `tests/SCENARIOS.md` is written from the book and the last whole test run.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::board::BOARDS;
use crate::command::{quietly, root, target};
use crate::ring::Outcome;

/// The book as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    promise: Vec<Row>,
    group: Vec<Group>,
}

/// Scenarios of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    id: String,
    title: String,
    scenario: Vec<Row>,
}

/// One promise or scenario.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    /// What is done to the firmware; empty for a promise.
    #[serde(default)]
    stimulus: String,
    /// What must come of it.
    required: String,
    /// Tests on the host: `folder/target::name`, or `folder/target::prefix*` for all that begin so.
    #[serde(default)]
    tests: Vec<String>,
    /// Attacks and checks of the runs on the machine: `name` for every board, `board/name` for one.
    #[serde(default)]
    machine: Vec<String>,
    /// What of it is not covered, and why.
    #[serde(default)]
    limits: String,
    /// Why it does not apply.
    #[serde(default)]
    except: String,
}

/// What a whole test run leaves for the book.
#[derive(Serialize, Deserialize)]
struct Run {
    /// The tree that was tested.
    tree: String,
    outcomes: Vec<Outcome>,
}

/// How a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Passes,
    /// These tests are missing or failed.
    Open(Vec<String>),
    DoesNotApply,
}

fn folder() -> PathBuf {
    root().join("tests")
}

fn results() -> PathBuf {
    target().join("results.json")
}

/// Returns a name of the tree's contents, apart from the page that is written from them.
fn tree() -> Result<String> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        quietly(command.current_dir(root()).args(arguments))
    };
    let page = ":(exclude)tests/SCENARIOS.md";
    let mut hash = Sha256::new();
    hash.update(git(&["rev-parse", "HEAD"])?);
    hash.update(git(&["diff", "HEAD", "--", ".", page])?);
    hash.update(git(&["status", "--porcelain", "--", ".", page])?);
    Ok(hash
        .finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
}

/// Keeps the outcomes of a whole test run.
///
/// # Errors
///
/// If they cannot be written.
pub fn keep(outcomes: Vec<Outcome>) -> Result<()> {
    let tree = tree()?;
    let text = serde_json::to_string_pretty(&Run { tree, outcomes })?;
    fs::write(results(), text).context("the results cannot be kept")
}

/// Prints the book with the outcomes of the last whole test run of this tree, and writes the page.
///
/// # Errors
///
/// If this tree was not tested, or a row is open.
pub fn print() -> Result<()> {
    let text = fs::read_to_string(results()).context("run `cargo xtask test` first")?;
    let run: Run = serde_json::from_str(&text)?;
    if run.tree != tree()? {
        bail!("the tree has changed since the last test run: run `cargo xtask test` first");
    }
    let book = read()?;
    for row in book.rows() {
        let (mark, more) = match row.standing(&run.outcomes) {
            Standing::Passes => ("pass", row.places().join(", ")),
            Standing::Open(missing) => ("OPEN", missing.join(", ")),
            Standing::DoesNotApply => ("n/a ", row.except.clone()),
        };
        println!("{:<4} {mark}  {}", row.id, row.title());
        println!("           {more}");
    }
    let page = folder().join("SCENARIOS.md");
    fs::write(&page, book.page(&run.outcomes))?;
    let open = book.open(&run.outcomes);
    println!("{} rows, {} open", book.rows().count(), open.len());
    if !open.is_empty() {
        bail!("open: {}", open.join(", "));
    }
    Ok(())
}

/// Checks that no row is open and that the committed page says so.
///
/// # Errors
///
/// If either is not the case.
pub fn check(outcomes: &[Outcome]) -> Result<()> {
    let book = read()?;
    let open = book.open(outcomes);
    if !open.is_empty() {
        bail!("open: {}", open.join(", "));
    }
    let page = fs::read_to_string(folder().join("SCENARIOS.md")).unwrap_or_default();
    if page != book.page(outcomes) {
        bail!("tests/SCENARIOS.md is not current: run `cargo xtask scenarios`");
    }
    Ok(())
}

fn read() -> Result<Book> {
    let text = fs::read_to_string(folder().join("scenarios.toml"))?;
    toml::from_str(&text).context("tests/scenarios.toml")
}

impl Book {
    fn rows(&self) -> impl Iterator<Item = &Row> {
        let scenarios = self.group.iter().flat_map(|group| &group.scenario);
        self.promise.iter().chain(scenarios)
    }

    fn open(&self, outcomes: &[Outcome]) -> Vec<String> {
        let is_open = |row: &&Row| matches!(row.standing(outcomes), Standing::Open(_));
        self.rows()
            .filter(is_open)
            .map(|row| row.id.clone())
            .collect()
    }

    /// Returns the page as Markdown.
    fn page(&self, outcomes: &[Outcome]) -> String {
        let mut page = String::from(
            "# Scenario book\n\nWritten by `cargo xtask scenarios` from `tests/scenarios.toml` and the \
             last test run; do not edit.\n\n## Promises\n\n| id | promise | result | shown by |\n|---|---|---|---|\n",
        );
        for row in &self.promise {
            let (result, shown) = row.shown(outcomes);
            let _ = writeln!(
                page,
                "| {} | {} | {result} | {shown} |",
                row.id, row.required
            );
        }
        for group in &self.group {
            let _ = write!(
                page,
                "\n## {}. {}\n\n| id | stimulus | required | result | shown by |\n|---|---|---|---|---|\n",
                group.id, group.title
            );
            for row in &group.scenario {
                let (result, shown) = row.shown(outcomes);
                let _ = writeln!(
                    page,
                    "| {} | {} | {} | {result} | {shown} |",
                    row.id, row.stimulus, row.required
                );
            }
        }
        page
    }
}

impl Row {
    fn title(&self) -> &str {
        if self.stimulus.is_empty() {
            &self.required
        } else {
            &self.stimulus
        }
    }

    fn standing(&self, outcomes: &[Outcome]) -> Standing {
        if !self.except.is_empty() {
            return Standing::DoesNotApply;
        }
        let shown = |suite: &dyn Fn(&str) -> bool, name: &str| {
            let matches = |found: &str| match name.strip_suffix('*') {
                Some(prefix) => found.starts_with(prefix),
                None => found == name,
            };
            let mut found = outcomes
                .iter()
                .filter(|outcome| suite(&outcome.suite) && matches(&outcome.name))
                .peekable();
            found.peek().is_some() && found.all(|outcome| outcome.passed)
        };
        let host = self.tests.iter().filter(|test| {
            test.split_once("::")
                .is_none_or(|(suite, name)| !shown(&|found| found == suite, name))
        });
        let machine = self.machine.iter().flat_map(|name| on_boards(name));
        let machine = machine.filter(|(board, name)| {
            let runs = format!("machine/{board}/");
            !shown(&|found| found.starts_with(&runs), name)
        });
        let machine = machine.map(|(board, name)| format!("{board}/{name}"));
        let missing: Vec<String> = host.cloned().chain(machine).collect();
        if missing.is_empty() && !(self.tests.is_empty() && self.machine.is_empty()) {
            Standing::Passes
        } else {
            Standing::Open(missing)
        }
    }

    /// Returns the files that show it.
    fn places(&self) -> Vec<String> {
        let mut places: Vec<String> = Vec::new();
        for test in &self.tests {
            let (suite, name) = test.split_once("::").unwrap_or((test, ""));
            let package = suite.rsplit_once('/').map_or(suite, |(package, _)| package);
            let function = name.rsplit("::").next().unwrap_or(name);
            let place = find(&root().join(package), function).unwrap_or_else(|| suite.into());
            if !places.contains(&place) {
                places.push(place);
            }
        }
        if !self.machine.is_empty() {
            places.push("on the machine".into());
        }
        places
    }

    /// Returns its tests by the suite that they are of.
    fn suites(&self) -> Vec<String> {
        let mut suites: Vec<(&str, Vec<String>)> = Vec::new();
        for test in &self.tests {
            let (suite, name) = test.split_once("::").unwrap_or((test, ""));
            match suites.iter_mut().find(|(other, _)| *other == suite) {
                Some((_, names)) => names.push(name.into()),
                None => suites.push((suite, vec![name.into()])),
            }
        }
        let suites = suites.iter();
        suites
            .map(|(suite, names)| format!("{suite}: {}", few(names)))
            .collect()
    }

    /// Returns the columns of the page for how it stands.
    fn shown(&self, outcomes: &[Outcome]) -> (&'static str, String) {
        let mut shown = match self.standing(outcomes) {
            Standing::DoesNotApply => return ("does not apply", self.except.clone()),
            Standing::Open(missing) => return ("**open**", missing.join(", ")),
            Standing::Passes => self.suites(),
        };
        if !self.machine.is_empty() {
            shown.push(format!("on the machine: {}", few(&self.machine)));
        }
        let mut text = shown.join("; ");
        if !self.limits.is_empty() {
            let _ = write!(text, ". {}", self.limits);
        }
        ("pass", text)
    }
}

/// Returns on which boards an attack or check of this name must have passed, and its name there.
fn on_boards(name: &str) -> Vec<(&str, &str)> {
    match name.split_once('/') {
        Some(one) => vec![one],
        None => BOARDS.iter().map(|board| (board.name, name)).collect(),
    }
}

/// Names the first few, and says how many more there are.
fn few(names: &[String]) -> String {
    const FEW: usize = 4;
    let shown: Vec<String> = names
        .iter()
        .take(FEW)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len().saturating_sub(FEW) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Returns the file below `folder` that has the function, from the root of the tree.
fn find(folder: &Path, function: &str) -> Option<String> {
    let wanted = format!("fn {}", function.trim_end_matches('*'));
    let mut entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            if let Some(found) = find(&path, function) {
                return Some(found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && fs::read_to_string(&path).is_ok_and(|text| text.contains(&wanted))
        {
            let path = path.strip_prefix(root()).ok()?;
            return Some(path.display().to_string());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Book, Row, Standing, read};
    use crate::board::BOARDS;
    use crate::ring::Outcome;

    fn row(tests: &[&str], machine: &[&str]) -> Row {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Row {
            id: "X01".into(),
            stimulus: "s".into(),
            required: "r".into(),
            tests: owned(tests),
            machine: owned(machine),
            limits: String::new(),
            except: String::new(),
        }
    }

    fn outcome(suite: &str, name: &str, passed: bool) -> Outcome {
        Outcome {
            suite: suite.into(),
            name: name.into(),
            passed,
        }
    }

    #[test]
    fn a_row_stands_only_if_every_test_of_it_ran_and_passed() {
        let flows = BOARDS.iter().map(|board| {
            let suite = format!("machine/{}/flow", board.name);
            outcome(&suite, "attack", true)
        });
        let mut outcomes = vec![outcome("a/b", "good", true), outcome("a/b", "bad", false)];
        outcomes.extend(flows);
        let standing = |tests: &[&str], machine: &[&str]| row(tests, machine).standing(&outcomes);
        assert_eq!(standing(&["a/b::good"], &["attack"]), Standing::Passes);
        let open = |name: &str| Standing::Open(vec![name.into()]);
        assert_eq!(standing(&["a/b::good", "a/b::bad"], &[]), open("a/b::bad"));
        assert_eq!(standing(&["a/b::absent"], &[]), open("a/b::absent"));
        assert_eq!(standing(&["a/c::good"], &[]), open("a/c::good"));
        let on_all = |name: &str| {
            let boards = BOARDS.iter().map(|board| format!("{}/{name}", board.name));
            Standing::Open(boards.collect())
        };
        assert_eq!(standing(&[], &["good"]), on_all("good"));
        assert_eq!(standing(&[], &[]), Standing::Open(Vec::new()));
    }

    #[test]
    fn a_name_without_a_board_needs_every_board() {
        let [first, more @ ..] = BOARDS else {
            panic!("no board");
        };
        let suite = format!("machine/{}/flow", first.name);
        let outcomes = [outcome(&suite, "attack", true)];
        let standing = |name: &str| row(&[], &[name]).standing(&outcomes);
        let missing: Vec<String> = more
            .iter()
            .map(|board| format!("{}/attack", board.name))
            .collect();
        match missing.is_empty() {
            true => assert_eq!(standing("attack"), Standing::Passes),
            false => assert_eq!(standing("attack"), Standing::Open(missing)),
        }
        let named = format!("{}/attack", first.name);
        assert_eq!(standing(&named), Standing::Passes);
        assert_eq!(
            standing("other/attack"),
            Standing::Open(vec!["other/attack".into()])
        );
    }

    #[test]
    fn a_prefix_stands_for_all_tests_that_begin_so() {
        let all = |third| {
            let outcomes = [
                outcome("a/b", "b07_first", true),
                outcome("a/b", "b07_second", third),
            ];
            row(&["a/b::b07_*"], &[]).standing(&outcomes)
        };
        assert_eq!(all(true), Standing::Passes);
        assert!(matches!(all(false), Standing::Open(_)));
        assert!(matches!(
            row(&["a/b::b07_*"], &[]).standing(&[]),
            Standing::Open(_)
        ));
    }

    #[test]
    fn the_book_has_each_id_once() {
        let book: Book = read().expect("it is well formed");
        let mut ids: Vec<&str> = book.rows().map(|row| row.id.as_str()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
