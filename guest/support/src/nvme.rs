// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A small NVMe driver: one I/O queue pair, one command at a time, polled.

use crate::dma::{DmaMemory, DmaPage, PAGE};
use crate::mmio::Mmio;
use crate::time::wait_until;

/// Size of the blocks that are read and written, in bytes.
pub const BLOCK: usize = PAGE;

/// Why an operation failed. The controller is unusable afterwards, except after
/// [`Error::Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No page for queues or data.
    Memory,
    /// The registers read as all ones: nothing is there.
    Absent,
    /// The controller did not become ready or idle in time.
    Timeout,
    /// The controller reports a fatal error.
    Fatal,
    /// A command ended with this status (status code and type).
    Command(u16),
}

struct Queue {
    submission: DmaPage,
    completion: DmaPage,
    number: usize,
    tail: usize,
    head: usize,
    phase: bool,
}

/// Entries of each queue.
const DEPTH: usize = 16;
const SUBMISSION_SIZE: usize = 64;
const COMPLETION_SIZE: usize = 16;
/// Longest wait for one command, in milliseconds.
const COMMAND_MS: u64 = 2000;
/// Longest wait for the controller to start or stop, in milliseconds.
const CONTROLLER_MS: u64 = 5000;

/// A command as the controller reads it, without queue-specific fields.
#[derive(Clone, Copy, Default)]
struct Command {
    opcode: u32,
    namespace: u32,
    data: u64,
    words: [u32; 3],
}

/// A running controller.
pub struct Nvme {
    registers: Mmio,
    doorbell_stride: usize,
    admin: Queue,
    io: Queue,
    data: DmaPage,
}

mod register {
    pub const CAPABILITIES: usize = 0x00;
    pub const CONFIGURATION: usize = 0x14;
    pub const STATUS: usize = 0x1c;
    pub const ADMIN_SIZES: usize = 0x24;
    pub const ADMIN_SUBMISSION: usize = 0x28;
    pub const ADMIN_COMPLETION: usize = 0x30;
    pub const DOORBELLS: usize = 0x1000;
    pub const ENABLE: u32 = 1;
    pub const SHUTDOWN: u32 = 1 << 14;
    /// Entry sizes: 2^6 bytes for commands, 2^4 for completions.
    pub const ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
    pub const READY: u32 = 1;
    pub const FATAL: u32 = 1 << 1;
    pub const SHUTDOWN_MASK: u32 = 3 << 2;
    pub const SHUTDOWN_DONE: u32 = 2 << 2;
}

impl Queue {
    fn new(number: usize, memory: &mut impl DmaMemory) -> Result<Self, Error> {
        Ok(Self {
            submission: memory.page().ok_or(Error::Memory)?,
            completion: memory.page().ok_or(Error::Memory)?,
            number,
            tail: 0,
            head: 0,
            phase: true,
        })
    }
}

impl Nvme {
    /// Resets the controller whose registers are `registers` and makes its queues in pages of
    /// `memory` (five are needed).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(registers: Mmio, memory: &mut impl DmaMemory) -> Result<Self, Error> {
        let low = registers.read32(register::CAPABILITIES);
        let high = registers.read32(register::CAPABILITIES + 4);
        if low == u32::MAX && high == u32::MAX {
            return Err(Error::Absent);
        }
        let mut this = Self {
            registers,
            doorbell_stride: 4 << (high & 0xf),
            admin: Queue::new(0, memory)?,
            io: Queue::new(1, memory)?,
            data: memory.page().ok_or(Error::Memory)?,
        };
        this.disable()?;
        let sizes = (DEPTH as u32 - 1) | (DEPTH as u32 - 1) << 16;
        registers.write32(register::ADMIN_SIZES, sizes);
        this.write_address(register::ADMIN_SUBMISSION, this.admin.submission.device());
        this.write_address(register::ADMIN_COMPLETION, this.admin.completion.device());
        registers.write32(
            register::CONFIGURATION,
            register::ENTRY_SIZES | register::ENABLE,
        );
        this.wait_status(register::READY, register::READY)?;
        this.create_io_queue()?;
        Ok(this)
    }

    fn write_address(&self, offset: usize, address: u64) {
        self.registers.write32(offset, address as u32);
        self.registers.write32(offset + 4, (address >> 32) as u32);
    }

    fn wait_status(&self, mask: u32, wanted: u32) -> Result<(), Error> {
        let mut status = 0;
        let reached = wait_until(CONTROLLER_MS, || {
            status = self.registers.read32(register::STATUS);
            status & mask == wanted || status == u32::MAX || status & register::FATAL != 0
        });
        match status {
            u32::MAX => Err(Error::Absent),
            _ if status & mask == wanted => Ok(()),
            _ if reached => Err(Error::Fatal),
            _ => Err(Error::Timeout),
        }
    }

    /// Turns the controller off, which also clears a fatal error.
    fn disable(&self) -> Result<(), Error> {
        self.registers.write32(register::CONFIGURATION, 0);
        let idle = wait_until(CONTROLLER_MS, || {
            self.registers.read32(register::STATUS) & register::READY == 0
        });
        if idle { Ok(()) } else { Err(Error::Timeout) }
    }

    fn create_io_queue(&mut self) -> Result<(), Error> {
        let size_and_id = (DEPTH as u32 - 1) << 16 | 1;
        let completion = Command {
            opcode: 0x05,
            data: self.io.completion.device(),
            // Physically contiguous, no interrupts.
            words: [size_and_id, 1, 0],
            ..Command::default()
        };
        let submission = Command {
            opcode: 0x01,
            data: self.io.submission.device(),
            // Physically contiguous, completions to queue 1.
            words: [size_and_id, 1 << 16 | 1, 0],
            ..Command::default()
        };
        run(
            self.registers,
            self.doorbell_stride,
            &mut self.admin,
            &completion,
        )?;
        run(
            self.registers,
            self.doorbell_stride,
            &mut self.admin,
            &submission,
        )
    }

    /// Fetches the controller's identification page.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn identify(&mut self, out: &mut [u8; BLOCK]) -> Result<(), Error> {
        self.identify_to(self.data)?;
        self.data.copy_out(out);
        Ok(())
    }

    /// Makes the controller write its identification to `target`, whoever owns that.
    ///
    /// # Errors
    /// See [`Error`]. A controller may report success for a write that never arrived.
    pub fn identify_to(&mut self, target: DmaPage) -> Result<(), Error> {
        let command = Command {
            opcode: 0x06,
            data: target.device(),
            words: [1, 0, 0],
            ..Command::default()
        };
        run(
            self.registers,
            self.doorbell_stride,
            &mut self.admin,
            &command,
        )
    }

    /// Reads the [`BLOCK`] that starts at logical block `lba` (of 512 bytes).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(&mut self, lba: u64, out: &mut [u8; BLOCK]) -> Result<(), Error> {
        self.transfer(0x02, lba, self.data)?;
        self.data.copy_out(out);
        Ok(())
    }

    /// Writes the [`BLOCK`] that starts at logical block `lba` (of 512 bytes).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn write(&mut self, lba: u64, block: &[u8; BLOCK]) -> Result<(), Error> {
        self.data.copy_in(block);
        self.transfer(0x01, lba, self.data)
    }

    /// Makes the controller fetch a block from `source`, whoever owns that, and write it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn write_from(&mut self, lba: u64, source: DmaPage) -> Result<(), Error> {
        self.transfer(0x01, lba, source)
    }

    fn transfer(&mut self, opcode: u32, lba: u64, page: DmaPage) -> Result<(), Error> {
        let command = Command {
            opcode,
            namespace: 1,
            data: page.device(),
            // The count is of 512-byte blocks, minus one.
            words: [lba as u32, (lba >> 32) as u32, (BLOCK / 512 - 1) as u32],
        };
        run(self.registers, self.doorbell_stride, &mut self.io, &command)
    }

    /// Shuts the controller down and turns it off; it makes no more accesses.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it does not stop.
    pub fn shut_down(self) -> Result<(), Error> {
        self.registers.write32(
            register::CONFIGURATION,
            register::ENTRY_SIZES | register::ENABLE | register::SHUTDOWN,
        );
        let stopped = self.wait_status(register::SHUTDOWN_MASK, register::SHUTDOWN_DONE);
        self.disable().and(stopped)
    }
}

/// Puts `command` into `queue` and waits for its completion.
fn run(registers: Mmio, stride: usize, queue: &mut Queue, command: &Command) -> Result<(), Error> {
    let slot = queue.tail * SUBMISSION_SIZE;
    let mut words = [0_u32; SUBMISSION_SIZE / 4];
    // One command at a time: the slot number identifies it.
    words[0] = command.opcode | (queue.tail as u32) << 16;
    words[1] = command.namespace;
    words[6] = command.data as u32;
    words[7] = (command.data >> 32) as u32;
    words[10] = command.words[0];
    words[11] = command.words[1];
    words[12] = command.words[2];
    for (index, word) in words.iter().enumerate() {
        queue.submission.write32(slot + index * 4, *word);
    }
    queue.tail = (queue.tail + 1) % DEPTH;
    fence();
    let doorbell = register::DOORBELLS + 2 * queue.number * stride;
    registers.write32(doorbell, queue.tail as u32);

    let entry = queue.head * COMPLETION_SIZE;
    let mut status = 0;
    let done = wait_until(COMMAND_MS, || {
        status = queue.completion.read32(entry + 12);
        (status & 1 << 16 != 0) == queue.phase
    });
    if !done {
        return Err(Error::Timeout);
    }
    queue.head = (queue.head + 1) % DEPTH;
    if queue.head == 0 {
        queue.phase = !queue.phase;
    }
    fence();
    registers.write32(doorbell + stride, queue.head as u32);
    match (status >> 17) as u16 & 0x7ff {
        0 => Ok(()),
        code => Err(Error::Command(code)),
    }
}

fn fence() {
    #[cfg(target_arch = "aarch64")]
    crate::aarch64::barrier();
    #[cfg(not(target_arch = "aarch64"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}
