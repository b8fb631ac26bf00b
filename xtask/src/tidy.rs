// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What every source file must have, and how much unsafe code each crate may have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::root;

/// The two lines that open every source file.
const HEADER: [&str; 2] = [
    "// Copyright The Portcullis authors",
    "// SPDX-License-Identifier: Apache-2.0 OR MIT",
];
/// A file longer than this wants a module of its own for some part.
const LONGEST: usize = 650;

/// Checks headers, file lengths and the unsafe budget.
///
/// # Errors
///
/// If a file breaks a rule, or a crate has more unsafe sites than `unsafe-budget.toml` says.
pub fn check() -> Result<()> {
    let mut breaches = Vec::new();
    let mut sites: BTreeMap<String, usize> = BTreeMap::new();
    for (member, file) in sources()? {
        let text = fs::read_to_string(&file)?;
        let name = file
            .strip_prefix(root())
            .unwrap_or(&file)
            .display()
            .to_string();
        if !text.lines().take(2).eq(HEADER) {
            breaches.push(format!(
                "{name} does not open with the copyright and license lines"
            ));
        }
        let length = text.lines().count();
        if length > LONGEST {
            breaches.push(format!("{name} has {length} lines"));
        }
        *sites.entry(member).or_default() += text.lines().map(unsafe_sites).sum::<usize>();
    }
    let text = fs::read_to_string(root().join("unsafe-budget.toml"))?;
    let budget: BTreeMap<String, usize> = toml::from_str(&text).context("unsafe-budget.toml")?;
    for (member, count) in &sites {
        let allowed = budget.get(member).copied().unwrap_or(0);
        if *count > allowed {
            breaches.push(format!(
                "{member} has {count} unsafe sites; its budget is {allowed}"
            ));
        }
    }
    if !breaches.is_empty() {
        bail!("{}", breaches.join("\n  "));
    }
    println!(
        "{} unsafe sites in {} crates, within budget",
        sites.values().sum::<usize>(),
        sites.values().filter(|count| **count != 0).count()
    );
    Ok(())
}

/// Counts the unsafe blocks, functions, traits, implementations and attributes in one line. Comments
/// and text in quotes do not count.
fn unsafe_sites(line: &str) -> usize {
    let code = line.split("//").next().unwrap_or_default();
    code.split('"')
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .filter(|word| *word == "unsafe")
        .count()
}

/// Returns every Rust file of every member of the workspace, with the member's folder.
fn sources() -> Result<Vec<(String, PathBuf)>> {
    let manifest: toml::Table = toml::from_str(&fs::read_to_string(root().join("Cargo.toml"))?)?;
    let members = manifest["workspace"]["members"]
        .as_array()
        .context("the workspace has no members")?;
    let mut found = Vec::new();
    for member in members.iter().filter_map(toml::Value::as_str) {
        collect(&root().join(member), member, &mut found)?;
    }
    Ok(found)
}

fn collect(folder: &Path, member: &str, found: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, member, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((member.to_owned(), path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::unsafe_sites;

    #[test]
    fn only_the_word_counts() {
        assert_eq!(unsafe_sites("let x = unsafe { f() }; // unsafe"), 1);
        assert_eq!(unsafe_sites("#![forbid(unsafe_code)]"), 0);
        assert_eq!(unsafe_sites("unsafe impl A for B {} unsafe fn f() {}"), 2);
        assert_eq!(unsafe_sites("#[unsafe(no_mangle)]"), 1);
        let quoted = format!("say({0}an unsafe block{0})", '\x22');
        assert_eq!(unsafe_sites(&quoted), 0);
    }
}
