// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The disks are the host's, and are used through the kernel's own driver.

use std::fs::{self, OpenOptions};
use std::io::Result;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use crate::report::Tally;

const DISKS: [&str; 2] = ["/dev/nvme0n1", "/dev/nvme1n1"];
/// Size of each, in bytes.
const BYTES: usize = 4 << 20;
const BLOCK: usize = 512;
/// What is written to the block before the last; `cargo xtask` looks for it in the image.
const MARK: &[u8] = b"written by Linux";
/// The driver probes beside us.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads both disks to their end and writes a block of each.
pub fn check(tally: &mut Tally) {
    let deadline = Instant::now() + PATIENCE;
    while !DISKS.iter().all(|disk| fs::metadata(disk).is_ok()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    for disk in DISKS {
        let seen = read(disk);
        let pass = matches!(seen, Ok(BYTES));
        tally.check(
            "disk-is-read",
            format!("{disk}: {seen:?} bytes are right"),
            pass,
        );
        let seen = write(disk);
        let pass = seen.is_ok();
        tally.check("disk-is-written", format!("{disk}: {seen:?}"), pass);
    }
}

/// Returns how many bytes from the start are what they were made, as `cargo xtask` makes them.
fn read(disk: &str) -> Result<usize> {
    let bytes = fs::read(disk)?;
    let made = |at: usize| (at as u8).wrapping_mul(7) ^ ((at / BLOCK) as u8) ^ ((at >> 17) as u8);
    let end = bytes.len() - 2 * BLOCK;
    let wrong = (0..end).find(|at| bytes[*at] != made(*at));
    Ok(wrong.unwrap_or(bytes.len()))
}

/// Writes the mark past the kernel's cache of blocks.
fn write(disk: &str) -> Result<()> {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_SYNC)
        .open(disk)?;
    let mut page = Page([0; 4096]);
    page.0[..MARK.len()].copy_from_slice(MARK);
    file.write_all_at(&page.0[..BLOCK], (BYTES - 2 * BLOCK) as u64)
}
