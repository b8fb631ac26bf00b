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
    #[cfg(target_os = "none")]
    crate::arch::barrier();
    #[cfg(not(target_os = "none"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Error, Nvme};
    use crate::dma::{DmaMemory, DmaPage, PAGE};
    use crate::mmio::Mmio;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
    use std::thread::{self, JoinHandle};

    const REGISTER_WORDS: usize = 0x1100 / 4;
    const ERROR_STATUS: u32 = 0x81;

    /// Memory that both the driver and the thread below access by address.
    fn words(count: usize) -> &'static [AtomicU32] {
        let layout = std::alloc::Layout::from_size_align(count * 4, PAGE).unwrap();
        // SAFETY: Fresh zeroed memory of that size, never freed; zero is a valid `AtomicU32`.
        unsafe {
            std::slice::from_raw_parts(std::alloc::alloc_zeroed(layout).cast::<AtomicU32>(), count)
        }
    }

    fn at(address: u64) -> &'static [AtomicU32] {
        // SAFETY: The driver names only pages that `Pages` gave it.
        unsafe { std::slice::from_raw_parts(address as *const AtomicU32, PAGE / 4) }
    }

    struct Pages;

    impl DmaMemory for Pages {
        fn page(&mut self) -> Option<DmaPage> {
            let address = words(PAGE / 4).as_ptr() as usize;
            // SAFETY: The page was made for this.
            Some(unsafe { DmaPage::new(address, address as u64) })
        }
    }

    /// A controller with a disk of a few blocks, as a thread that polls the registers.
    struct Controller {
        registers: &'static [AtomicU32],
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    struct Ring {
        submission: u64,
        completion: u64,
        head: u32,
        tail: u32,
        phase: u32,
    }

    impl Ring {
        fn new(submission: u64, completion: u64) -> Self {
            Self {
                submission,
                completion,
                head: 0,
                tail: 0,
                phase: 1,
            }
        }
    }

    fn wide(words: &[AtomicU32], index: usize) -> u64 {
        u64::from(words[index].load(SeqCst)) | u64::from(words[index + 1].load(SeqCst)) << 32
    }

    fn serve(registers: &[AtomicU32], stop: &AtomicBool) {
        let mut disk = vec![[0_u32; BLOCK / 4]; 8];
        let mut rings: Vec<Ring> = Vec::new();
        let mut completion_queue = 0;
        while !stop.load(SeqCst) {
            let configuration = registers[0x14 / 4].load(SeqCst);
            let shut = if configuration & 1 << 14 != 0 {
                2 << 2
            } else {
                0
            };
            registers[0x1c / 4].store(configuration & 1 | shut, SeqCst);
            if configuration & 1 == 0 {
                rings.clear();
                continue;
            }
            if rings.is_empty() {
                rings.push(Ring::new(
                    wide(registers, 0x28 / 4),
                    wide(registers, 0x30 / 4),
                ));
            }
            for queue in 0..rings.len() {
                if registers[0x1000 / 4 + 2 * queue].load(SeqCst) == rings[queue].head {
                    continue;
                }
                let ring = &mut rings[queue];
                let command = &at(ring.submission)[ring.head as usize * 16..][..16];
                ring.head = (ring.head + 1) % 16;
                let first = command[0].load(SeqCst);
                let (data, argument) = (wide(command, 6), command[10].load(SeqCst));
                let (slot, phase) = (ring.tail as usize * 4, ring.phase);
                ring.tail = (ring.tail + 1) % 16;
                if ring.tail == 0 {
                    ring.phase ^= 1;
                }
                let completion = ring.completion;
                let mut status = 0;
                match (queue, first & 0xff) {
                    (0, 0x05) => completion_queue = data,
                    (0, 0x01) => rings.push(Ring::new(data, completion_queue)),
                    (0, 0x06) => at(data)[1].store(u32::from_le_bytes(*b"port"), SeqCst),
                    (1, code @ (0x01 | 0x02)) => match disk.get_mut(argument as usize / 8) {
                        Some(block) if command[12].load(SeqCst) == 7 => {
                            for (word, memory) in block.iter_mut().zip(at(data)) {
                                if code == 0x01 {
                                    *word = memory.load(SeqCst);
                                } else {
                                    memory.store(*word, SeqCst);
                                }
                            }
                        }
                        _ => status = ERROR_STATUS,
                    },
                    _ => status = ERROR_STATUS,
                }
                at(completion)[slot + 3].store(first >> 16 | phase << 16 | status << 17, SeqCst);
            }
        }
    }

    impl Controller {
        fn start() -> Self {
            let registers = words(REGISTER_WORDS);
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = stop.clone();
            Self {
                registers,
                stop,
                thread: Some(thread::spawn(move || serve(registers, &stopped))),
            }
        }

        fn mmio(&self) -> Mmio {
            // SAFETY: Memory that is only accessed by single loads and stores.
            unsafe { Mmio::new(self.registers.as_ptr() as usize) }
        }
    }

    impl Drop for Controller {
        fn drop(&mut self) {
            self.stop.store(true, SeqCst);
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }

    #[test]
    fn blocks_are_written_and_read_past_the_end_of_the_queues() {
        let controller = Controller::start();
        let mut disk = Nvme::new(controller.mmio(), &mut Pages).unwrap();
        let mut block = [0; BLOCK];
        disk.identify(&mut block).unwrap();
        assert_eq!(block[4..8], *b"port");
        for round in 0..40_u8 {
            let lba = u64::from(round % 8) * 8;
            disk.write(lba, &[round; BLOCK]).unwrap();
            disk.read(lba, &mut block).unwrap();
            assert_eq!(block, [round; BLOCK]);
        }
        disk.shut_down().unwrap();
    }

    #[test]
    fn a_command_that_fails_leaves_the_controller_usable() {
        let controller = Controller::start();
        let mut disk = Nvme::new(controller.mmio(), &mut Pages).unwrap();
        let mut block = [0; BLOCK];
        let beyond = disk.read(64 * 8, &mut block);
        assert_eq!(beyond, Err(Error::Command(ERROR_STATUS as u16)));
        disk.read(0, &mut block).unwrap();
    }

    #[test]
    fn a_controller_that_is_not_there_is_told_from_a_slow_one() {
        let registers = words(REGISTER_WORDS);
        for word in registers {
            word.store(u32::MAX, SeqCst);
        }
        // SAFETY: As in `Controller::mmio`.
        let mmio = unsafe { Mmio::new(registers.as_ptr() as usize) };
        assert_eq!(Nvme::new(mmio, &mut Pages).err(), Some(Error::Absent));
    }
}
