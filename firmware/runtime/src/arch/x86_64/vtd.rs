// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Driver of VT-d. What is written, and in which order, comes from `tsm_iommu`; here it is carried
//! out.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;
use tsm_iommu::vtd::registers::{self, Capabilities};
use tsm_iommu::vtd::{
    CONTEXT_WORDS, ContextEntry, ENTRIES, FaultRecord, RECORD_VALID, Vtd, root_entry,
};
use tsm_iommu::{FaultLog, HOST_VMID, HostMap, Step, X86Stage2, plan};
use tsm_platform::{
    GRANULE_SIZE, GranuleRange, IommuFault, Ipa, Pa, PlatformError, Stage2, StreamId, Vmid,
};

use crate::arch;
use crate::log::{info, warning};

/// Buses whose functions have an entry. Requests of others are refused.
const BUSES: usize = 16;
/// Descriptors of the invalidation queue, which is one page.
const DESCRIPTORS: usize = 256;
/// Polls before the unit counts as stuck. It needs some hundred cycles for each descriptor; a poll
/// takes longer than one.
const POLLS: u32 = 10_000_000;

/// Words of memory that [`VtD::start`] needs beside the tables of the map: root table, context
/// tables, queue, and a page for the status word.
pub const WORDS: usize = (1 + BUSES + 1 + 1) * PAGE_WORDS;
const PAGE_WORDS: usize = GRANULE_SIZE as usize / 8;
const _: () = assert!(ENTRIES * CONTEXT_WORDS == PAGE_WORDS && DESCRIPTORS * 2 == PAGE_WORDS);

/// Registers of the unit.
struct Registers(*mut u8);

// SAFETY: registers may be used from any CPU; those that need an order are used under the lock.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    fn read(&self, offset: u64) -> u32 {
        // SAFETY: `VtD::start` was promised that the registers are mapped; offsets are those of
        // `tsm_iommu::vtd::registers`, aligned to their size.
        unsafe { self.0.add(offset as usize).cast::<u32>().read_volatile() }
    }

    fn read_long(&self, offset: u64) -> u64 {
        // SAFETY: as in `read`.
        unsafe { self.0.add(offset as usize).cast::<u64>().read_volatile() }
    }

    fn write(&self, offset: u64, value: u32) {
        let register = self.0.wrapping_add(offset as usize).cast::<u32>();
        // SAFETY: as in `read`. What the unit then reads from memory is made of `Parts`.
        unsafe { register.write_volatile(value) };
    }

    fn write_long(&self, offset: u64, value: u64) {
        let register = self.0.wrapping_add(offset as usize).cast::<u64>();
        // SAFETY: as in `write`.
        unsafe { register.write_volatile(value) };
    }
}

/// Polls until `done`.
fn poll(done: impl Fn() -> bool) -> Result<(), PlatformError> {
    for _ in 0..POLLS {
        if done() {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(PlatformError::Timeout)
}

/// Memory that the unit reads and writes, addressed by the TSM at its physical address.
struct Parts {
    root: &'static [AtomicU64],
    contexts: &'static [AtomicU64],
    queue: &'static [AtomicU64],
    status: &'static AtomicU64,
    tables: &'static [AtomicU64],
}

/// The invalidation queue.
struct Queue {
    /// Where the next descriptor goes.
    tail: usize,
    /// Descriptors since the unit was last seen to be done with all.
    pending: usize,
    /// The unit did not complete something. No later completion would be believed.
    stuck: bool,
}

/// The unit.
pub struct VtD {
    registers: Registers,
    capabilities: Capabilities,
    parts: Parts,
    map: HostMap<X86Stage2>,
    unit: Vtd,
    queue: Mutex<Queue>,
    faults: Mutex<FaultLog>,
}

impl VtD {
    /// Takes the unit whose registers are mapped at `base`, and lets every function through the
    /// identity map of `map` without `holes`. `words` are [`WORDS`] zeroed words, aligned to 4 KiB.
    ///
    /// # Safety
    ///
    /// `base` must be the mapped registers of a VT-d unit, a page, that nothing else uses. `words`
    /// and `tables` must be seen at their physical address, and `map` describe `tables`.
    pub unsafe fn start(
        base: *mut u8,
        words: &'static [AtomicU64],
        tables: &'static [AtomicU64],
        map: HostMap<X86Stage2>,
        holes: &[GranuleRange],
    ) -> Result<Self, PlatformError> {
        let registers = Registers(base);
        let capabilities = Capabilities::new(
            registers.read_long(registers::CAP),
            registers.read_long(registers::ECAP),
        )
        .ok_or(PlatformError::Unsupported)?;
        let refused = PlatformError::Refused;
        let (root, rest) = words.split_at_checked(PAGE_WORDS).ok_or(refused)?;
        let (contexts, rest) = rest.split_at_checked(BUSES * PAGE_WORDS).ok_or(refused)?;
        let (queue, rest) = rest.split_at_checked(PAGE_WORDS).ok_or(refused)?;
        let status = rest.first().ok_or(refused)?;
        let unit = Vtd {
            most_pages: capabilities.most_pages,
            caches_faults: capabilities.caches_faults,
            status: Pa(status.as_ptr() as u64),
        };
        let unit = Self {
            registers,
            capabilities,
            parts: Parts {
                root,
                contexts,
                queue,
                status,
                tables,
            },
            map,
            unit,
            queue: Mutex::new(Queue {
                tail: 0,
                pending: 0,
                stuck: false,
            }),
            faults: Mutex::new(FaultLog::new()),
        };
        unit.fill(holes)?;
        unit.enable()?;
        Ok(unit)
    }

    /// Writes all tables; the unit does not read them yet.
    fn fill(&self, holes: &[GranuleRange]) -> Result<(), PlatformError> {
        let filled = self.map.fill(self.parts.tables, holes);
        filled.ok_or(PlatformError::Refused)?;
        let entry = ContextEntry::through(&self.map.stage2()).ok_or(PlatformError::Refused)?;
        for words in self.parts.contexts.chunks_exact(CONTEXT_WORDS) {
            store(words, entry.words());
        }
        let (contexts, _) = self.parts.contexts.as_chunks::<PAGE_WORDS>();
        let (entries, _) = self.parts.root.as_chunks::<2>();
        for (table, words) in contexts.iter().zip(entries) {
            store(words, root_entry(Pa(table.as_ptr() as u64)));
        }
        arch::publish_to_device();
        Ok(())
    }

    /// Brings the unit up (VT-d, chapter 10: off, root table, queue, caches, on).
    fn enable(&self) -> Result<(), PlatformError> {
        let unit = &self.registers;
        let wait = |bits, value| poll(|| unit.read(registers::GSTS) & bits == value);
        let running = registers::TRANSLATE | registers::QUEUE;
        unit.write(registers::GCMD, 0);
        wait(running, 0)?;
        unit.write(registers::FECTL, registers::FECTL_MASK);
        unit.write_long(registers::RTADDR, self.parts.root.as_ptr() as u64);
        unit.write(registers::GCMD, registers::SET_ROOT);
        wait(registers::SET_ROOT, registers::SET_ROOT)?;
        unit.write_long(registers::IQT, 0);
        let queue = registers::queue_address(self.parts.queue.as_ptr() as u64, 0);
        unit.write_long(registers::IQA, queue);
        unit.write(registers::GCMD, registers::QUEUE);
        wait(registers::QUEUE, registers::QUEUE)?;
        self.drain_faults();
        self.carry_out(plan::reset(&self.unit))?;
        unit.write(registers::GCMD, running);
        wait(running, running)?;
        info!("vt-d: {=usize} buses, host identity map", BUSES);
        Ok(())
    }

    fn carry_out(&self, plan: impl Iterator<Item = Step>) -> Result<(), PlatformError> {
        let mut queue = self.queue.lock();
        if queue.stuck {
            return Err(PlatformError::Timeout);
        }
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
                Step::Command(words) => self.command(&mut queue, words)?,
                Step::Wait => {
                    self.wait(&mut queue)?;
                    self.drain_faults();
                }
            }
        }
        arch::publish_to_device();
        Ok(())
    }

    fn write_stream(&self, stream: StreamId, word: usize, value: u64) -> Result<(), PlatformError> {
        if word >= CONTEXT_WORDS {
            return Err(PlatformError::Refused);
        }
        let index = stream.0 as usize * CONTEXT_WORDS + word;
        let place = self.parts.contexts.get(index);
        place
            .ok_or(PlatformError::Refused)?
            .store(value, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a descriptor into the queue. A plan waits long before the queue is full.
    fn command(&self, queue: &mut Queue, words: [u64; 2]) -> Result<(), PlatformError> {
        if queue.pending >= DESCRIPTORS - 1 {
            return Err(PlatformError::Refused);
        }
        let place = self.parts.queue.chunks_exact(2).nth(queue.tail);
        store(place.ok_or(PlatformError::Refused)?, words);
        queue.tail = (queue.tail + 1) % DESCRIPTORS;
        queue.pending += 1;
        arch::publish_to_device();
        let tail = (queue.tail as u64) << 4;
        self.registers.write_long(registers::IQT, tail);
        Ok(())
    }

    /// Waits until the unit has written the status word, which the last descriptor asks for.
    fn wait(&self, queue: &mut Queue) -> Result<(), PlatformError> {
        let unit = &self.registers;
        let status = self.parts.status;
        let done = || status.load(Ordering::Acquire) as u32 == Vtd::DONE;
        let stopped = || unit.read(registers::FSTS) & registers::FSTS_QUEUE != 0;
        let polled = poll(|| done() || stopped());
        if polled.is_err() || !done() {
            queue.stuck = true;
            warning!("vt-d: invalidation queue stopped");
            return Err(PlatformError::Timeout);
        }
        status.store(0, Ordering::Release);
        queue.pending = 0;
        Ok(())
    }

    /// Moves the fault records to the log and frees their registers.
    fn drain_faults(&self) {
        let unit = &self.registers;
        let mut faults = self.faults.lock();
        for index in 0..self.capabilities.fault_count as u64 {
            let low = self
                .capabilities
                .faults
                .wrapping_add(index.wrapping_mul(16));
            let high = low.wrapping_add(8);
            let words = [low, high].map(|offset| unit.read_long(offset));
            let Some(fault) = FaultRecord::decode(words) else {
                continue;
            };
            unit.write_long(high, RECORD_VALID);
            faults.add(fault.stream, !fault.read, fault.page);
            info!(
                "vt-d: refused, reason {=u8}, stream {=u32:#x}",
                fault.reason, fault.stream.0
            );
        }
        if unit.read(registers::FSTS) & registers::FSTS_OVERFLOW != 0 {
            unit.write(registers::FSTS, registers::FSTS_OVERFLOW);
            faults.lose(1);
        }
    }

    /// Returns the next refused request that the host has not been told of.
    pub fn next_fault(&self) -> Option<IommuFault> {
        self.drain_faults();
        self.faults.lock().take()
    }

    /// Returns whether `stream` has an entry.
    pub fn covers(&self, stream: StreamId) -> bool {
        (stream.0 as usize) < BUSES * ENTRIES
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

/// Writes the two words of an entry or descriptor that the unit does not use yet.
fn store(words: &[AtomicU64], values: [u64; 2]) {
    for (word, value) in words.iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
}
