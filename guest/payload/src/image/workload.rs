// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Using the disk.

use core::fmt;

use guest_payload::policy::Policy;
use guest_payload::sha384;
use tsm_payload_support::nvme::{BLOCK, Error, Nvme};

use super::board;
use super::report::{Result, Stopped, check, step};

/// The disk, and room for a block.
pub struct Disk<'a> {
    nvme: Nvme,
    policy: &'a Policy,
    block: [u8; BLOCK],
}

fn must<T>(name: &str, outcome: core::result::Result<T, Error>) -> Result<T> {
    match outcome {
        Ok(value) => Ok(value),
        Err(error) => {
            check(name, format_args!("{error:?}"), false)?;
            Err(Stopped)
        }
    }
}

/// Text of a disk: printable bytes, up to the padding.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.trim_ascii() {
            let printable = byte.is_ascii_graphic() || *byte == b' ';
            let shown = if printable { char::from(*byte) } else { '?' };
            fmt::Write::write_char(out, shown)?;
        }
        Ok(())
    }
}

impl<'a> Disk<'a> {
    /// Starts the disk with queues in private memory, and asks who it is.
    pub fn start(policy: &'a Policy) -> Result<Self> {
        let nvme = must("disk-start", Nvme::new(board::disk(), &mut board::dma()))?;
        let mut this = Self {
            nvme,
            policy,
            block: [0; BLOCK],
        };
        must("disk-identify", this.nvme.identify(&mut this.block))?;
        let serial = this.block.get(4..24).unwrap_or_default();
        let model = this.block.get(24..64).unwrap_or_default();
        step(
            "35",
            "NVMe Identify",
            format_args!("{}, serial {}", Text(model), Text(serial)),
        );
        // Completion is no proof: a refused write leaves the page as it was, zero.
        check(
            "disk-identity",
            format_args!("serial {}", Text(serial)),
            !serial.iter().all(|byte| *byte == 0),
        )?;
        Ok(this)
    }

    /// Reads the block that the owner knows and compares it.
    pub fn read_known(&mut self, name: &str) -> Result {
        let lba = self.policy.known_lba.get();
        self.block.fill(0);
        must(name, self.nvme.read(lba, &mut self.block))?;
        let same = sha384(&self.block) == self.policy.known_block;
        check(
            name,
            format_args!("block {lba} read by private DMA, as the owner knows it: {same}"),
            same,
        )
    }

    /// Writes a pattern and reads it back.
    pub fn write_and_read_back(&mut self) -> Result {
        let lba = self.policy.scratch_lba.get();
        let pattern: [u8; BLOCK] =
            core::array::from_fn(|index| (index as u8) ^ (index >> 8) as u8 ^ 0xa5);
        must("disk-write", self.nvme.write(lba, &pattern))?;
        self.block.fill(0);
        must("disk-write", self.nvme.read(lba, &mut self.block))?;
        let same = self.block == pattern;
        check(
            "disk-write",
            format_args!("block {lba} written and read back: {same}"),
            same,
        )
    }

    /// Stops the disk: it makes no more accesses.
    pub fn stop(self) -> Result {
        let stopped = self.nvme.shut_down();
        check("disk-stop", format_args!("{stopped:?}"), stopped.is_ok())
    }
}
