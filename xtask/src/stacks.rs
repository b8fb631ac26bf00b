// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The deepest that each stack of the firmware's images can get, from the code itself: the stack that
//! each function takes, summed over the deepest way through the calls.

use anyhow::{Result, bail};

use crate::board::Board;
use crate::code::{Depth, Firmware};
use crate::images::build_all;

/// Builds the images and prints one row a stack.
///
/// # Errors
///
/// If a stack can get deeper than it is, a function can come to call itself, or a call through a
/// register is not explained.
pub fn check(boards: &[&'static Board]) -> Result<()> {
    build_all(boards)?;
    report(boards, true)
}

/// Does the same with the images that were built; `ways` prints the deepest way of each.
///
/// # Errors
///
/// As [`check`].
pub fn report(boards: &[&'static Board], ways: bool) -> Result<()> {
    println!(
        "{:<18} {:<24} {:>9} {:>9}",
        "image", "stack", "deepest", "has"
    );
    let mut over = Vec::new();
    for firmware in Firmware::all(boards)? {
        let graph = firmware.graph();
        for stack in &firmware.rules.stacks {
            let deepest = |parts: &[String]| -> Result<Depth> {
                let mut deepest = Depth::default();
                for root in firmware.find(parts)? {
                    graph.check_explained(&graph.reach(&[root]))?;
                    let depth = graph.depth(root, &firmware.rules.dynamic)?;
                    if depth.bytes > deepest.bytes {
                        deepest = depth;
                    }
                }
                Ok(deepest)
            };
            let below = deepest(&stack.entries)?;
            let above = deepest(&stack.above)?;
            let bytes = below.bytes + above.bytes;
            println!(
                "{:<18} {:<24} {bytes:>9} {:>9}",
                firmware.name, stack.name, stack.bytes
            );
            if ways {
                for index in below.path.iter().chain(&above.path) {
                    let function = &firmware.code.functions[*index];
                    println!("          {:>8} {}", function.frame, function.name);
                }
            }
            if bytes > stack.bytes {
                over.push(format!("{}: {}", firmware.name, stack.name));
            }
        }
    }
    if !over.is_empty() {
        bail!("too small: {}", over.join(", "));
    }
    Ok(())
}
