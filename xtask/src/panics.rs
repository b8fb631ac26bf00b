// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls that panic and that can be reached in the firmware's images as they are shipped.
//!
//! A call counts for the crate in whose source it stands, whatever it was inlined into. Isolated work
//! may panic, so calls that only it reaches are counted apart; those of our own crates are not
//! excused by that. A call at line zero, or one that the standard library makes for us at its line zero, was
//! made by the compiler of several calls, ours or not: it counts for nobody, and needs a rule outside of
//! isolated work like any other.

use std::collections::{BTreeMap, BTreeSet};

use addr2line::Loader;
use anyhow::{Result, anyhow, bail};

use crate::board::Board;
use crate::code::{Code, Firmware};
use crate::command::root;
use crate::images::build_all;

/// Where every panic ends.
const HANDLER: &str = "rust_begin_unwind";

/// The owner of calls that the compiler made of several.
const MERGED: &str = "(merged)";

/// One call that panics.
struct Site {
    /// The crate in whose source it stands: a path in this repository, or a name.
    owner: String,
    /// Whether the crate is ours.
    ours: bool,
    /// File and line.
    place: String,
    /// The function that is called.
    what: String,
    /// The function it is compiled into.
    within: usize,
}

/// Builds the images and prints a table of what can panic in them.
///
/// # Errors
///
/// If a crate has more calls that panic than `image-rules.toml` allows.
pub fn check(boards: &[&'static Board]) -> Result<()> {
    build_all(boards)?;
    report(boards)
}

/// Does the same with the images that were built.
///
/// # Errors
///
/// As [`check`].
pub fn report(boards: &[&'static Board]) -> Result<()> {
    let mut breaches = Vec::new();
    println!(
        "{:<18} {:<28} {:>9} {:>9} {:>9}",
        "image", "crate", "isolated", "elsewhere", "allowed"
    );
    for firmware in Firmware::all(boards)? {
        let graph = firmware.graph();
        let elsewhere = graph.reach(&firmware.find(&firmware.rules.entries)?);
        let isolated = graph.reach(&firmware.find(&firmware.rules.isolated)?);
        graph.check_explained(&elsewhere)?;
        graph.check_explained(&isolated)?;
        let mut counts: BTreeMap<(bool, String), [usize; 2]> = BTreeMap::new();
        let mut listed = Vec::new();
        for site in sites(&firmware)? {
            let apart = !elsewhere.contains(&site.within);
            if apart && !isolated.contains(&site.within) {
                continue;
            }
            let key = (!site.ours, site.owner.clone());
            counts.entry(key).or_default()[usize::from(!apart)] += 1;
            if site.ours || (!apart && !firmware.rules.panics.contains_key(&site.owner)) {
                listed.push(format!("    {}: {}", site.place, site.what));
            }
        }
        for ((foreign, owner), [apart, other]) in &counts {
            let rule = firmware.rules.panics.get(owner);
            let allowed = rule.map_or(0, |rule| rule.sites);
            println!(
                "{:<18} {owner:<28} {apart:>9} {other:>9} {allowed:>9}",
                firmware.name
            );
            let counted = if *foreign { *other } else { apart + other };
            if counted > allowed {
                breaches.push(format!(
                    "{}: {owner} has {counted} calls that panic, {allowed} are allowed",
                    firmware.name
                ));
            }
        }
        for (owner, rule) in &firmware.rules.panics {
            if rule.reason.is_empty() || !counts.keys().any(|key| key.1 == *owner) {
                breaches.push(format!(
                    "{}: the rule for {owner} has no reason or no use",
                    firmware.name
                ));
            }
        }
        let [apart, other] = counts
            .iter()
            .filter(|(key, _)| !key.0)
            .fold([0, 0], |sum, (_, [a, b])| [sum[0] + a, sum[1] + b]);
        println!(
            "{:<18} {:<28} {apart:>9} {other:>9}",
            firmware.name, "(ours together)"
        );
        for line in listed {
            println!("{line}");
        }
    }
    if !breaches.is_empty() {
        bail!("{}", breaches.join("\n  "));
    }
    Ok(())
}

/// Finds every call that panics, reachable or not.
fn sites(firmware: &Firmware) -> Result<Vec<Site>> {
    let code = &firmware.code;
    let loader = Loader::new(&firmware.elf).map_err(|error| anyhow!("{error}"))?;
    let mut panicking: BTreeSet<usize> = code.named(HANDLER).into_iter().collect();
    if panicking.is_empty() {
        bail!("{} has no panic handler", firmware.name);
    }
    let merged = root().join("?").display().to_string();
    // A function of the standard library that panics is as good as the panic: whoever called it is to
    // blame. What it calls may have to be known first, hence the rounds.
    let mut found;
    loop {
        found = Vec::new();
        let before = panicking.len();
        for (within, function) in code.functions.iter().enumerate() {
            for call in &function.calls {
                if !panicking.contains(&call.callee) || panicking.contains(&within) {
                    continue;
                }
                match place(&loader, call.at)? {
                    Some((file, line)) => {
                        found.push(site(code, &file, line, call.callee, within));
                    }
                    // No line is known, but who made the call.
                    None if function.name.starts_with("tsm_") => {
                        found.push(site(code, &merged, 0, call.callee, within));
                    }
                    None => {
                        panicking.insert(within);
                    }
                }
            }
        }
        if panicking.len() == before {
            return Ok(found);
        }
    }
}

/// Returns file and line of the innermost frame at `address` that is not the standard library's. Line
/// zero says that the compiler made the call of several.
fn place(loader: &Loader, address: u64) -> Result<Option<(String, u32)>> {
    let mut frames = loader
        .find_frames(address)
        .map_err(|error| anyhow!("{error}"))?;
    let mut merged = false;
    while let Some(frame) = frames.next().map_err(|error| anyhow!("{error}"))? {
        let Some(location) = frame.location else {
            continue;
        };
        merged |= location.line.is_none();
        let file = location.file.unwrap_or_default();
        if !(file.contains("/rustc/") || file.contains("/lib/rustlib/")) {
            let line = location.line.filter(|_| !merged);
            return Ok(Some((file.to_owned(), line.unwrap_or(0))));
        }
    }
    Ok(None)
}

fn site(code: &Code, file: &str, line: u32, callee: usize, within: usize) -> Site {
    let (ours, owner, short) = match (line, owner(file)) {
        (0, (true, _, short)) => (false, MERGED.to_owned(), short),
        (_, known) => known,
    };
    let function = &code.functions[within].name;
    let what = &code.functions[callee].name;
    Site {
        owner,
        ours,
        place: format!("{short}:{line} in {function}"),
        what: what.clone(),
        within,
    }
}

/// Says whose source `file` is: whether ours, the crate, and a short name of the file.
fn owner(file: &str) -> (bool, String, String) {
    let own = root().display().to_string();
    if let Some(rest) = file.strip_prefix(&own) {
        let rest = rest.trim_start_matches('/');
        let member = rest.split("/src/").next().unwrap_or(rest);
        return (true, member.to_owned(), rest.to_owned());
    }
    // .../registry/src/<index>/<crate>-<version>/src/...
    let Some((_, rest)) = file.split_once("/registry/src/") else {
        return (false, file.to_owned(), file.to_owned());
    };
    let rest = rest.split_once('/').map_or(rest, |(_, rest)| rest);
    let package = rest.split('/').next().unwrap_or(rest);
    let name = package
        .char_indices()
        .find(|(at, _)| {
            let tail = &package[*at..];
            tail.starts_with('-') && tail[1..].starts_with(|c: char| c.is_ascii_digit())
        })
        .map_or(package, |(at, _)| &package[..at]);
    (false, name.to_owned(), rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{owner, root};

    #[test]
    fn a_file_belongs_to_its_crate() {
        let ours = root().join("firmware/core/src/device/mod.rs");
        let (is_ours, name, _) = owner(&ours.display().to_string());
        assert!(is_ours);
        assert_eq!(name, "firmware/core");
        let (is_ours, name, short) =
            owner("/x/registry/src/index.crates.io-1/crypto-bigint-0.7.10/src/limb.rs");
        assert!(!is_ours);
        assert_eq!(name, "crypto-bigint");
        assert_eq!(short, "crypto-bigint-0.7.10/src/limb.rs");
    }
}
