// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Documents that are generated from the call table and the transition tables.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::command::root;

/// Writes the documents, or checks that the committed ones are what would be written.
///
/// # Errors
///
/// If `check` is set and a document differs.
pub fn abi(check: bool) -> Result<()> {
    let mut markdown = String::new();
    tsm_abi::document::markdown(&mut markdown)?;
    let mut header = String::new();
    tsm_abi::document::c_header(&mut header)?;
    one(&root().join("docs/abi.md"), &markdown, check)?;
    let mut states = String::new();
    tsm_core::tables::markdown(&mut states)?;
    one(&root().join("docs/states.md"), &states, check)?;
    one(
        &root().join("host/include/portcullis_abi.h"),
        &header,
        check,
    )
}

fn one(path: &Path, text: &str, check: bool) -> Result<()> {
    if check {
        if fs::read_to_string(path).unwrap_or_default() != text {
            bail!("{} is not current: run `cargo xtask abi`", path.display());
        }
    } else {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
