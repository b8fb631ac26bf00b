// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What `image-rules.toml` says of the firmware's images.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Code, Graph};
use crate::board::Board;
use crate::command::root;

/// What is known and allowed of one image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Where the processor enters.
    pub entries: Vec<String>,
    /// Where work on the isolated stack begins; parts of names.
    pub isolated: Vec<String>,
    /// Functions that move the stack pointer by an amount that is not in the code.
    pub dynamic: Vec<String>,
    /// Who is called through a register, by caller; parts of names.
    pub indirect: BTreeMap<String, Vec<String>>,
    /// Stacks.
    pub stacks: Vec<Stack>,
    /// Crates that may have calls that panic outside of isolated work.
    pub panics: BTreeMap<String, Allowed>,
}

/// A stack.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// What it is for.
    pub name: String,
    /// Parts of the names of the functions that start on it.
    pub entries: Vec<String>,
    /// Parts of the names of what may come on top of any of them.
    pub above: Vec<String>,
    /// Bytes that it has.
    pub bytes: u64,
}

/// How many calls that panic a crate may have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// At most so many.
    pub sites: usize,
    /// Why there are any.
    pub reason: String,
}

/// One image of the firmware, taken apart.
pub struct Firmware {
    /// Board and image.
    pub name: String,
    /// The linked image.
    pub elf: PathBuf,
    /// What is said of it.
    pub rules: Rules,
    /// Its code.
    pub code: Code,
}

impl Firmware {
    /// Reads every image of `boards` that has rules; they are built already.
    ///
    /// # Errors
    ///
    /// If an image or the rules cannot be read.
    pub fn all(boards: &[&Board]) -> Result<Vec<Self>> {
        let text = fs::read_to_string(root().join("image-rules.toml"))?;
        let mut all: BTreeMap<String, BTreeMap<String, Rules>> =
            toml::from_str(&text).context("image-rules.toml")?;
        let mut firmware = Vec::new();
        for board in boards {
            for (name, rules) in all.remove(board.name).context("a board without rules")? {
                let image = board.image(&name);
                let image = image.with_context(|| format!("there is no image {name}"))?;
                let elf = board.elf(image);
                firmware.push(Self {
                    name: format!("{}/{name}", board.name),
                    code: Code::read(&elf)?,
                    elf,
                    rules,
                });
            }
        }
        Ok(firmware)
    }

    /// Returns the calls.
    pub fn graph(&self) -> Graph<'_> {
        Graph::new(&self.code, &self.rules.indirect)
    }

    /// Returns the functions whose names have one of `parts` in them; each part must find one.
    pub fn find(&self, parts: &[String]) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for part in parts {
            let named = self.code.named(part);
            if named.is_empty() {
                bail!("{} has no function named {part}", self.name);
            }
            found.extend(named);
        }
        Ok(found)
    }
}
