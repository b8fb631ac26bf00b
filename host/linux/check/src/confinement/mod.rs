// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What Linux is kept from, as a user with all rights and as the kernel. Each way has a control: the
//! same way leads to what is not protected.

#[cfg(target_arch = "aarch64")]
#[path = "qemu_virt.rs"]
mod board;
#[cfg(target_arch = "x86_64")]
#[path = "qemu_q35.rs"]
mod board;

use std::fs::{self, OpenOptions};
use std::io::Result;
use std::os::unix::fs::FileExt;

use crate::attempt::{self, Outcome};
use crate::report::Tally;
use crate::sys::Door;

pub use board::{TSM, while_delegated};

/// First base address register of a function.
const BAR0: u64 = 0x10;

/// Tries everything.
pub fn check(tally: &mut Tally, door: &Door) {
    let control = attempt::read(board::UNPROTECTED);
    let pass = matches!(control, Outcome::Value(_));
    tally.check("control-unprotected-is-read", control, pass);
    for (name, tried, address) in board::READS {
        tally.must_fault(name, tried, &attempt::read(*address));
    }
    for (name, tried, address) in board::WRITES {
        tally.must_fault(name, tried, &attempt::write(*address, 0));
    }
    configuration(tally);
    board::check(tally, door);
}

/// Configuration space, by the kernel's own door to it.
fn configuration(tally: &mut Tally) {
    let hidden = fs::metadata(function(board::KEY_UNIT_FUNCTION)).is_err();
    tally.check(
        "key-unit-is-hidden",
        format!("{} is not there: {hidden}", board::KEY_UNIT_FUNCTION),
        hidden,
    );
    let told = moves(tally);
    if let Err(error) = told {
        tally.check("configuration-space", error, false);
    }
}

/// Moves a BAR to where nothing is, and to where it would cover what is protected.
fn moves(tally: &mut Tally) -> Result<()> {
    let before = bar(None)?;
    let free = bar(Some(board::FREE_MMIO))?;
    tally.check(
        "control-bar-moves",
        format!("from {before:#x} to {free:#x}"),
        free & !0xf == board::FREE_MMIO,
    );
    for (name, tried, place) in board::BAR_TARGETS {
        let after = bar(Some(*place))?;
        tally.attack(name, tried, format!("BAR {after:#x}"), after == free);
    }
    let back = bar(Some(before))?;
    tally.check("bar-is-back", format!("{back:#x}"), back == before);
    Ok(())
}

/// Writes the BAR if asked, and returns what it is then.
fn bar(value: Option<u32>) -> Result<u32> {
    let path = function(board::MOVED_FUNCTION) + "/config";
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if let Some(value) = value {
        file.write_all_at(&value.to_le_bytes(), BAR0)?;
    }
    let mut word = [0; 4];
    file.read_exact_at(&mut word, BAR0)?;
    Ok(u32::from_le_bytes(word))
}

fn function(name: &str) -> String {
    format!("/sys/bus/pci/devices/{name}")
}
