// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keeping the evidence of a run, and judging it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use tsm_evidence::{Evidence, Finding, Policy, judge};

use crate::report::{Line, Report};
use crate::{EvidenceArguments, machine};

/// What a host tells of a device's evidence; each is a file of this name.
const OBJECTS: [&str; 7] = [
    "negotiation",
    "certificates",
    "measurements",
    "report",
    "nonce",
    "slot",
    "raw",
];
/// The root certificate that the guest's owner trusts.
const ROOT: &str = "root.der";

/// Writes what the host told of the last device that a guest accepted, if any, into `folder`.
///
/// # Errors
///
/// If a file cannot be written, or the host told no hexadecimal.
pub fn keep(report: &Report, folder: &Path, root: &Path) -> Result<()> {
    let mut objects: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for line in &report.lines {
        if let Line::Evidence { object, bytes } = line {
            // It is the first of each set.
            if object == "slot" {
                objects.clear();
            }
            objects.entry(object).or_default().extend(unhex(bytes)?);
        }
    }
    if objects.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    for (object, bytes) in objects {
        // A name that the host makes up is no place to write to.
        if OBJECTS.contains(&object) {
            fs::write(folder.join(object), bytes)?;
        }
    }
    if root.exists() {
        fs::copy(root, folder.join(ROOT))?;
    }
    Ok(())
}

/// Judges the evidence in a folder and prints what was found.
///
/// # Errors
///
/// If anything does not hold, or there is no evidence.
pub fn run(arguments: &EvidenceArguments) -> Result<()> {
    let last = || machine::place(arguments.board, "run").join("evidence");
    let folder = arguments.folder.clone().unwrap_or_else(last);
    let expected = arguments.expect.iter().map(|text| expected(text));
    let expected = expected.collect::<Result<Vec<_>>>()?;
    let finding = look(&folder, arguments.root.as_deref(), expected)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&finding)?);
    } else {
        print(&finding);
    }
    if !finding.holds() {
        bail!("the evidence does not hold");
    }
    Ok(())
}

/// Judges the evidence in `folder`, by the root in it unless another is given.
///
/// # Errors
///
/// If there is none.
pub fn look(folder: &Path, root: Option<&Path>, expected: Vec<(u8, Vec<u8>)>) -> Result<Finding> {
    let read =
        |path: PathBuf| fs::read(&path).with_context(|| format!("no evidence: {}", path.display()));
    let object = |name: &str| read(folder.join(name));
    let byte = |name: &str| object(name).map(|bytes| bytes.first().copied().unwrap_or(0));
    let nonce = object("nonce")?;
    let evidence = Evidence {
        negotiation: object("negotiation")?,
        certificates: object("certificates")?,
        measurements: object("measurements")?,
        report: object("report")?,
        nonce: nonce
            .try_into()
            .map_err(|_| anyhow!("the nonce has not 32 bytes"))?,
        slot: byte("slot")?,
        raw: byte("raw")? != 0,
    };
    let root = root.map_or_else(|| folder.join(ROOT), Path::to_path_buf);
    let policy = Policy {
        root: read(root)?,
        time: SystemTime::now(),
        expected,
    };
    Ok(judge(&evidence, &policy))
}

fn print(finding: &Finding) {
    for check in &finding.checks {
        match &check.trouble {
            None => println!("ok    {}", check.name),
            Some(trouble) => println!("FAIL  {}: {trouble}", check.name),
        }
    }
    if let Some(negotiation) = &finding.negotiation {
        let (major, minor) = (negotiation.version >> 4, negotiation.version & 0xf);
        println!("SPDM {major}.{minor}, {}", negotiation.algorithms());
    }
    for certificate in &finding.certificates {
        println!("certificate {}", certificate.subject);
        println!("  issued by {}", certificate.issuer);
        println!(
            "  {}, valid {} to {}",
            certificate.key, certificate.from, certificate.to
        );
    }
    if let Some(function) = &finding.function {
        println!("function {}", function.text);
    }
    for block in &finding.measurements {
        let raw = if block.raw { ", raw" } else { "" };
        println!(
            "measurement {:3} {}{raw}: {}",
            block.index, block.kind, block.value
        );
    }
    if let Some(interface) = &finding.interface {
        println!(
            "interface info {:#06x}, MSI-X control {:#06x}, {} bytes of its own",
            interface.info, interface.msi_x, interface.specific
        );
        for range in &interface.ranges {
            println!(
                "  range {:3} {:#x} to {:#x}, attributes {:#06x}",
                range.id, range.base, range.top, range.attributes
            );
        }
    }
    let digests = &finding.digests;
    for (name, digest) in [
        ("negotiation", &digests.negotiation),
        ("certificates", &digests.certificates),
        ("measurements", &digests.measurements),
        ("report", &digests.report),
    ] {
        println!("SHA-384 of {name}: {digest}");
    }
}

/// Reads `INDEX=HEX`.
fn expected(text: &str) -> Result<(u8, Vec<u8>)> {
    let (index, value) = text.split_once('=').context("INDEX=HEX is wanted")?;
    Ok((index.parse()?, unhex(value)?))
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2));
    let digits = digits.with_context(|| format!("{text} is not hexadecimal"))?;
    let (pairs, _) = digits.as_chunks::<2>();
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::{expected, unhex};

    #[test]
    fn hexadecimal_is_read_and_nothing_else() {
        assert_eq!(unhex("00ff").ok(), Some(vec![0, 0xff]));
        assert!(unhex("0").is_err());
        assert!(unhex("0g").is_err());
        assert!(unhex("+0").is_err());
        assert_eq!(expected("1=0a").ok(), Some((1, vec![0x0a])));
        assert!(expected("1").is_err());
    }
}
