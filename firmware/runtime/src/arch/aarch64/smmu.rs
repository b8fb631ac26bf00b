// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Driver of the SMMUv3. What is written, and in which order, comes from `tsm_iommu`; here it is
//! carried out.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;
use tsm_iommu::smmuv3::{EVENT_BYTES, Event, STREAM_ENTRY_WORDS, Smmuv3, StreamEntry, registers};
use tsm_iommu::{ArmStage2, FaultLog, HOST_VMID, HostMap, Step, plan};
use tsm_platform::{GranuleRange, IommuFault, Ipa, PlatformError, Stage2, StreamId, Vmid};

use crate::arch;
use crate::log::{info, warning};

/// Streams that have an entry, as a power of two: PCI buses 0 to 15. Others are aborted.
pub const LOG2_STREAMS: u8 = 12;
/// Commands that fit into the queue, as a power of two.
pub const LOG2_COMMANDS: u8 = 8;
/// Events that fit into the queue, as a power of two. A refused transfer makes one for each word.
pub const LOG2_EVENTS: u8 = 13;

const STREAMS: usize = 1 << LOG2_STREAMS;
/// Polls of a register before the unit counts as stuck. The unit needs some hundred cycles for
/// each command; a poll takes longer than one.
const POLLS: u32 = 1_000_000;

/// Size of the stream table in bytes, to which it is aligned.
pub const STREAM_TABLE_BYTES: u64 = (STREAMS * STREAM_ENTRY_WORDS * 8) as u64;
/// Size of the command queue in bytes, to which it is aligned.
pub const COMMAND_QUEUE_BYTES: u64 = 16 << LOG2_COMMANDS;
/// Size of the event queue in bytes, to which it is aligned.
pub const EVENT_QUEUE_BYTES: u64 = (EVENT_BYTES as u64) << LOG2_EVENTS;

/// Memory that the unit reads and writes. Each part is aligned to its size, and addressed by the
/// TSM at its physical address.
pub struct Parts {
    /// The stream table.
    pub streams: &'static [AtomicU64],
    /// The command queue.
    pub commands: &'static [AtomicU64],
    /// The event queue.
    pub events: &'static [AtomicU64],
    /// The identity tables of the host.
    pub tables: &'static [AtomicU64],
}

fn address(words: &[AtomicU64]) -> u64 {
    words.as_ptr() as u64
}

/// Registers of the unit.
struct Registers(*mut u8);

// SAFETY: registers may be used from any CPU; those that need an order are used under the lock.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    fn read(&self, offset: u64) -> u32 {
        // SAFETY: `Smmu::start` was promised that the registers are mapped; offsets are those of
        // `tsm_iommu::smmuv3::registers`.
        unsafe { self.0.add(offset as usize).cast::<u32>().read_volatile() }
    }

    fn write(&self, offset: u64, value: u32) {
        // SAFETY: as in `read`. What the unit then reads from memory is made of `Parts`.
        unsafe {
            self.0
                .add(offset as usize)
                .cast::<u32>()
                .write_volatile(value);
        }
    }

    fn write_long(&self, offset: u64, value: u64) {
        self.write(offset, value as u32);
        self.write(offset + 4, (value >> 32) as u32);
    }

    fn wait(&self, offset: u64, done: impl Fn(u32) -> bool) -> Result<(), PlatformError> {
        for _ in 0..POLLS {
            if done(self.read(offset)) {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        Err(PlatformError::Timeout)
    }
}

/// The unit.
pub struct Smmu {
    registers: Registers,
    parts: Parts,
    map: HostMap<ArmStage2>,
    /// How entries and commands are written.
    unit: Smmuv3,
    /// The producer index of the command queue, with its wrap bit.
    producer: Mutex<u32>,
    faults: Mutex<FaultLog>,
}

impl Smmu {
    /// Takes the unit whose registers are mapped at `base`: blocks every stream, then lets all
    /// through the identity map of `map` without `holes`.
    ///
    /// # Safety
    ///
    /// `base` must be the mapped registers of an SMMUv3, both pages, that nothing else uses, and
    /// `map` must describe `parts.tables`.
    pub unsafe fn start(
        base: *mut u8,
        parts: Parts,
        map: HostMap<ArmStage2>,
        holes: &[GranuleRange],
    ) -> Result<Self, PlatformError> {
        let registers = Registers(base);
        let features = registers.read(registers::IDR0);
        let needed = registers::IDR0_S2P | registers::IDR0_TTF_AARCH64 | registers::IDR0_COHACC;
        if features & needed != needed {
            return Err(PlatformError::Unsupported);
        }
        let ranges = registers.read(registers::IDR3) & registers::IDR3_RIL != 0;
        let smmu = Self {
            registers,
            parts,
            map,
            unit: Smmuv3 { ranges },
            producer: Mutex::new(0),
            faults: Mutex::new(FaultLog::new()),
        };
        smmu.fill(holes)?;
        smmu.enable()?;
        Ok(smmu)
    }

    /// Writes all tables; the unit does not read them yet.
    fn fill(&self, holes: &[GranuleRange]) -> Result<(), PlatformError> {
        let filled = self.map.fill(self.parts.tables, holes);
        filled.ok_or(PlatformError::Refused)?;
        let entry = StreamEntry::through(&self.map.stage2()).ok_or(PlatformError::Refused)?;
        for entry_words in self.parts.streams.chunks_exact(STREAM_ENTRY_WORDS) {
            for (word, value) in entry_words.iter().zip(entry.words()) {
                word.store(value, Ordering::Relaxed);
            }
        }
        arch::publish_to_device();
        Ok(())
    }

    /// Brings the unit up (facts of IHI 0070, 6.3: abort while off, tables, queues, caches, on).
    fn enable(&self) -> Result<(), PlatformError> {
        let unit = &self.registers;
        unit.write(registers::GBPA, registers::GBPA_ABORT);
        unit.wait(registers::GBPA, |value| value & registers::GBPA_UPDATE == 0)?;
        unit.write(registers::CR0, 0);
        unit.wait(registers::CR0_ACK, |value| value == 0)?;
        unit.write(registers::IRQ_CTRL, 0);
        unit.write(registers::CR1, registers::CR1_WRITE_BACK);
        unit.write(registers::CR2, registers::CR2_RECINVSID);
        let streams = registers::strtab_base(address(self.parts.streams));
        unit.write_long(registers::STRTAB_BASE, streams);
        let shape = registers::strtab_base_cfg(LOG2_STREAMS);
        unit.write(registers::STRTAB_BASE_CFG, shape);
        let commands = registers::queue_base(address(self.parts.commands), LOG2_COMMANDS);
        unit.write_long(registers::CMDQ_BASE, commands);
        unit.write(registers::CMDQ_PROD, 0);
        unit.write(registers::CMDQ_CONS, 0);
        let events = registers::queue_base(address(self.parts.events), LOG2_EVENTS);
        unit.write_long(registers::EVENTQ_BASE, events);
        unit.write(registers::EVENTQ_PROD, 0);
        unit.write(registers::EVENTQ_CONS, 0);
        let queues = registers::CR0_CMDQEN | registers::CR0_EVENTQEN;
        unit.write(registers::CR0, queues);
        unit.wait(registers::CR0_ACK, |value| value == queues)?;
        self.carry_out(plan::reset(&self.unit))?;
        let all = queues | registers::CR0_SMMUEN;
        unit.write(registers::CR0, all);
        unit.wait(registers::CR0_ACK, |value| value == all)?;
        info!("smmu: {=usize} streams, host identity map", STREAMS);
        Ok(())
    }

    fn carry_out(&self, plan: impl Iterator<Item = Step>) -> Result<(), PlatformError> {
        let mut producer = self.producer.lock();
        for step in plan {
            match step {
                Step::Stream {
                    stream,
                    word,
                    value,
                } => self.write_stream(stream, word, value)?,
                Step::Table(write) => write
                    .store(self.parts.tables)
                    .ok_or(PlatformError::Refused)?,
                Step::Command(words) => self.command(&mut producer, words)?,
                Step::Wait => {
                    self.wait(*producer)?;
                    self.drain_events();
                }
            }
        }
        arch::publish_to_device();
        Ok(())
    }

    fn write_stream(&self, stream: StreamId, word: usize, value: u64) -> Result<(), PlatformError> {
        if word >= STREAM_ENTRY_WORDS {
            return Err(PlatformError::Refused);
        }
        let index = stream.0 as usize * STREAM_ENTRY_WORDS + word;
        let place = self.parts.streams.get(index);
        place
            .ok_or(PlatformError::Refused)?
            .store(value, Ordering::Relaxed);
        Ok(())
    }

    fn command(&self, producer: &mut u32, words: [u64; 2]) -> Result<(), PlatformError> {
        const WRAP: u32 = 1 << LOG2_COMMANDS;
        let full = *producer ^ WRAP;
        let unit = &self.registers;
        unit.wait(registers::CMDQ_CONS, |consumer| {
            consumer & (2 * WRAP - 1) != full
        })?;
        let index = (*producer & (WRAP - 1)) as usize;
        for (place, word) in self.parts.commands.iter().skip(2 * index).zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        *producer = producer.wrapping_add(1) & (2 * WRAP - 1);
        arch::publish_to_device();
        unit.write(registers::CMDQ_PROD, *producer);
        Ok(())
    }

    /// Waits until everything up to `producer` is consumed. A SYNC is consumed when all before it
    /// is complete.
    fn wait(&self, producer: u32) -> Result<(), PlatformError> {
        const INDEX: u32 = (2 << LOG2_COMMANDS) - 1;
        let unit = &self.registers;
        let stopped = |consumer: u32| {
            consumer & registers::CONS_ERROR != 0
                && (unit.read(registers::GERROR) ^ unit.read(registers::GERRORN))
                    & registers::GERROR_CMDQ
                    != 0
        };
        unit.wait(registers::CMDQ_CONS, |consumer| {
            consumer & INDEX == producer || stopped(consumer)
        })?;
        if stopped(unit.read(registers::CMDQ_CONS)) {
            // The queue stays stopped, so that no later invalidation is believed to be done.
            warning!("smmu: command queue stopped");
            return Err(PlatformError::Timeout);
        }
        Ok(())
    }

    /// Empties the event queue. What is more than the log can take is counted only.
    fn drain_events(&self) {
        const WRAP: u32 = 1 << LOG2_EVENTS;
        /// Events that are looked at, so that a device cannot make calls of the host slow.
        const MOST: u32 = 64;
        let unit = &self.registers;
        let mut faults = self.faults.lock();
        let producer = unit.read(registers::EVENTQ_PROD) & (2 * WRAP - 1);
        let consumer = unit.read(registers::EVENTQ_CONS) & (2 * WRAP - 1);
        if producer == consumer {
            return;
        }
        let count = producer.wrapping_sub(consumer) & (2 * WRAP - 1);
        info!("smmu: {=u32} requests refused", count);
        for number in 0..count.min(MOST) {
            let index = consumer.wrapping_add(number) & (WRAP - 1);
            let mut words = [0; EVENT_BYTES / 8];
            let places = self.parts.events.iter().skip(words.len() * index as usize);
            for (word, place) in words.iter_mut().zip(places) {
                *word = place.load(Ordering::Relaxed);
            }
            let event = Event::decode(words);
            faults.add(event.stream, !event.read, event.input);
        }
        faults.lose(count.saturating_sub(MOST));
        unit.write(registers::EVENTQ_CONS, producer);
        let lost = (unit.read(registers::GERROR) ^ unit.read(registers::GERRORN))
            & registers::GERROR_EVENTQ_ABORT;
        if lost != 0 {
            let acknowledged = unit.read(registers::GERRORN) ^ lost;
            unit.write(registers::GERRORN, acknowledged);
        }
    }

    /// Returns the next refused requests that the host has not been told of.
    pub fn next_fault(&self) -> Option<IommuFault> {
        self.drain_events();
        self.faults.lock().take()
    }

    /// Returns whether `stream` has an entry.
    pub fn covers(&self, stream: StreamId) -> bool {
        (stream.0 as usize) < STREAMS
    }

    fn check(&self, stream: StreamId) -> Result<(), PlatformError> {
        if self.covers(stream) {
            Ok(())
        } else {
            Err(PlatformError::Unsupported)
        }
    }

    /// Makes `range` reachable for host streams.
    pub fn host_map(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.carry_out(plan::host_map(&self.unit, &self.map, range))
    }

    /// Makes `range` unreachable for host streams.
    pub fn host_unmap(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.carry_out(plan::host_unmap(&self.unit, &self.map, range))
    }

    /// Blocks `stream`.
    pub fn block(&self, stream: StreamId) -> Result<(), PlatformError> {
        self.check(stream)?;
        self.carry_out(plan::block(&self.unit, stream))
    }

    /// Lets `stream` through a guest's tables.
    pub fn attach(&self, stream: StreamId, stage2: &Stage2) -> Result<(), PlatformError> {
        self.check(stream)?;
        if stage2.vmid == HOST_VMID {
            return Err(PlatformError::Refused);
        }
        let plan = plan::attach(&self.unit, stream, stage2).ok_or(PlatformError::Refused)?;
        self.faults.lock().set_of_guest(stream, true);
        self.carry_out(plan)
    }

    /// Gives `stream` back to the host.
    pub fn release(&self, stream: StreamId) -> Result<(), PlatformError> {
        self.check(stream)?;
        let plan = plan::release(&self.unit, stream, &self.map).ok_or(PlatformError::Refused)?;
        // Faults up to here are the guest's; a blocked stream makes no new ones.
        self.carry_out(plan::block(&self.unit, stream))?;
        self.faults.lock().set_of_guest(stream, false);
        self.carry_out(plan)
    }

    /// Forgets translations of a range.
    pub fn invalidate(&self, vmid: Vmid, base: Ipa, bytes: u64) -> Result<(), PlatformError> {
        self.carry_out(plan::invalidate(&self.unit, vmid, base, bytes))
    }

    /// Forgets all translations with a tag.
    pub fn invalidate_all(&self, vmid: Vmid) -> Result<(), PlatformError> {
        self.carry_out(plan::invalidate_all(&self.unit, vmid))
    }
}
