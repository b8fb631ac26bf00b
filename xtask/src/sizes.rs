// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sizes of the images, against the budgets of the board.

use std::fs;

use anyhow::{Context, Result, bail};
use elf::ElfBytes;
use elf::abi::{SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE, SHT_NOBITS};
use elf::endian::LittleEndian;

use crate::board::{Board, Image};
use crate::images::build_all;

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
pub fn print(boards: &[&Board]) -> Result<()> {
    build_all(boards)?;
    let mut over = Vec::new();
    for board in boards {
        over.extend(table(board)?);
    }
    if !over.is_empty() {
        bail!("over budget: {}", over.join(", "));
    }
    Ok(())
}

/// Prints the rows of a board, whose images are built; returns which are over their budgets.
///
/// # Errors
///
/// If an image cannot be read.
pub fn table(board: &Board) -> Result<Vec<String>> {
    println!(
        "{:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "image", "text", "rodata", "data", "bss", "stacks", "budget"
    );
    let mut over = Vec::new();
    for image in board.images {
        let name = format!("{}/{}", board.name, image.name);
        let sizes = measure(board, image)?;
        let budget = image.budget * 1024;
        println!(
            "{name:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {budget:>9}",
            sizes.text, sizes.constants, sizes.data, sizes.zeroed, sizes.stacks
        );
        if sizes.text + sizes.constants > budget {
            over.push(name);
        }
    }
    Ok(over)
}

fn measure(board: &Board, image: &Image) -> Result<Sizes> {
    let bytes = fs::read(board.elf(image))?;
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
