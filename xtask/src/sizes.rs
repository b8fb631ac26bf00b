// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sizes of the images, against the budgets of the board.

use std::fs;

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::{SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHT_NOBITS};
use elf::endian::LittleEndian;

use crate::images::{IMAGES, Image, build_all};

/// What each image may take of text and constants together, in KiB. The aim is 40 for the monitor (signing a
/// platform token takes 50) and 200 for the TSM; a budget goes up only with a reason in the commit that
/// raises it.
const BUDGETS: &[(&str, u64)] = &[
    ("monitor", 112),
    ("tsm", 448),
    ("host-payload", 256),
    ("guest-payload", 256),
];

#[derive(Default)]
struct Sizes {
    text: u64,
    constants: u64,
    data: u64,
    zeroed: u64,
    stacks: u64,
}

/// Prints one row an image.
///
/// # Errors
///
/// If an image is over its budget or does not build.
pub fn print() -> Result<()> {
    build_all()?;
    println!(
        "{:<14} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "image", "text", "rodata", "data", "bss", "stacks", "budget"
    );
    let mut over = Vec::new();
    for image in IMAGES {
        let sizes = measure(image)?;
        let budget = BUDGETS
            .iter()
            .find(|(name, _)| *name == image.name)
            .map(|(_, kib)| kib * 1024)
            .with_context(|| format!("{} has no budget", image.name))?;
        println!(
            "{:<14} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            image.name, sizes.text, sizes.constants, sizes.data, sizes.zeroed, sizes.stacks, budget
        );
        if sizes.text + sizes.constants > budget {
            over.push(image.name);
        }
    }
    if !over.is_empty() {
        bail!("over budget: {}", over.join(", "));
    }
    Ok(())
}

fn measure(image: &Image) -> Result<Sizes> {
    let bytes = fs::read(image.elf())?;
    let file = ElfBytes::<LittleEndian>::minimal_parse(&bytes)?;
    let (headers, names) = file.section_headers_with_strtab()?;
    let names = names.context("no section names")?;
    let mut sizes = Sizes::default();
    for header in headers.context("no sections")? {
        let flags = header.sh_flags;
        if flags & u64::from(SHF_ALLOC) == 0 {
            continue;
        }
        let name = names.get(header.sh_name as usize)?;
        // The monitor's stacks lie in its processors' blocks.
        let room = if matches!(name, ".stacks" | ".stack" | ".processors") {
            &mut sizes.stacks
        } else if flags & u64::from(SHF_EXECINSTR) != 0 {
            &mut sizes.text
        } else if header.sh_type == SHT_NOBITS {
            &mut sizes.zeroed
        } else if flags & u64::from(SHF_WRITE) != 0 {
            &mut sizes.data
        } else {
            &mut sizes.constants
        };
        *room += header.sh_size;
    }
    Ok(sizes)
}
