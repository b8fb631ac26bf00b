// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The machine as the core sees it.

use heapless::Vec;
use tsm_abi::el3::{StreamAssociation, stream_info, stream_register};
use tsm_platform::{
    Abandoned, ConfigSpace, Entropy, FaultSyndrome, GRANULE_SIZE, Granule, GranuleMemory,
    GranuleRange, GuestCpu, GuestEntry, GuestExit, HostFault, HostMemory, HostPa, Iommu,
    IommuFault, Ipa, KeySlot, MOST_STREAM_RANGES, MemoryError, MemoryFault, Object, Ownership, Pa,
    Platform, PlatformError, Processor, Rid, RootPort, Stage2, StreamId, StreamRegisters, Trace,
    TraceRecord, VcpuParams, Vmid,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::arch;
use crate::ecam::{BUSES, Ecam};
use crate::isolation::isolated;
use crate::kinds::Kind;
use crate::memory::{Memory, Window};

/// Most ranges of addresses that the platform keeps.
pub const MOST_RESERVED: usize = 8;

/// Everything that the TSM owns of the machine. All CPUs share it.
pub struct Machine {
    /// Granules.
    pub memory: Memory,
    /// Host memory, in the Non-secure address space.
    pub host: Window,
    /// The IOMMU, if the monitor gave it to the TSM.
    pub iommu: Option<arch::Iommu>,
    /// The register base of [`Self::iommu`], by which hosts name it.
    pub units: Vec<Pa, 1>,
    /// Configuration space, if the monitor gave it to the TSM.
    pub ecam: Option<Ecam>,
    /// Whether host accesses to configuration space come to the TSM.
    pub mediated: bool,
    /// Addresses that the platform keeps: no function may answer there.
    pub reserved: Vec<GranuleRange, MOST_RESERVED>,
    /// The function that the platform keeps.
    pub hidden: Option<Rid>,
}

impl Machine {
    /// Copies host memory `[address, address + length)`, which must be in one bank of DRAM, granule by
    /// granule: `copy` is given where a piece is seen, its offset in the whole, and its length.
    ///
    /// Each granule is held as the host's meanwhile, so that it cannot become the TSM's under the copy. A
    /// processor that checks the owner of memory at each access would refuse; one with nested paging lets
    /// the TSM reach everything.
    fn copy_host(
        &self,
        address: HostPa,
        length: usize,
        copy: impl Fn(*mut u8, usize, usize) -> Result<(), HostFault>,
    ) -> Result<(), HostFault> {
        let end = address.0.checked_add(length as u64).ok_or(HostFault)?;
        let first = Granule::containing(address.0).address();
        let top = end
            .checked_next_multiple_of(GRANULE_SIZE)
            .ok_or(HostFault)?;
        let range = GranuleRange::new(first, top).ok_or(HostFault)?;
        let kinds = &self.memory.kinds;
        if kinds.span(range).ok_or(HostFault)?.is_device() {
            return Err(HostFault);
        }
        let granules = kinds
            .share_each(range, Kind::Absent)
            .map_err(|_| HostFault)?;
        let mut done = 0;
        for held in granules {
            let _held = held.map_err(|_| HostFault)?;
            let at = address.0.checked_add(done as u64).ok_or(HostFault)?;
            let left = (GRANULE_SIZE - at % GRANULE_SIZE) as usize;
            let count = left.min(length.saturating_sub(done));
            copy(
                self.host.at(at, count as u64).ok_or(HostFault)?,
                done,
                count,
            )?;
            done = done.saturating_add(count);
        }
        Ok(())
    }

    /// Changes the owner of `range` from one kind of use to another.
    fn change_owner(&self, range: GranuleRange, realm: bool) -> Result<(), PlatformError> {
        let kinds = &self.memory.kinds;
        let span = kinds.span(range).ok_or(PlatformError::Refused)?;
        let owned = if span.is_device() {
            Kind::Device
        } else {
            Kind::Raw
        };
        let (from, to) = if realm {
            (Kind::Absent, owned)
        } else {
            (owned, Kind::Absent)
        };
        let claimed = kinds
            .claim_range(range, from)
            .map_err(|_| PlatformError::Refused)?;
        let outcome = arch::set_owner(range, realm);
        claimed.become_kind(if outcome.is_ok() { to } else { from });
        outcome
    }

    fn iommu(&self) -> Result<&arch::Iommu, PlatformError> {
        self.iommu.as_ref().ok_or(PlatformError::Unsupported)
    }

    fn ecam(&self) -> Result<&Ecam, PlatformError> {
        self.ecam.as_ref().ok_or(PlatformError::Unsupported)
    }
}

impl GranuleMemory for Machine {
    fn zero(&self, granule: Granule) -> Result<(), MemoryError> {
        self.memory.zero(granule)
    }
    fn zero_range(&self, range: GranuleRange) -> Result<(), MemoryError> {
        self.memory.zero_range(range)
    }
    fn read(&self, granule: Granule, offset: usize, out: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(granule, offset, out)
    }
    fn write(&self, granule: Granule, offset: usize, data: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(granule, offset, data)
    }
    fn place<T: Object>(&self, granule: Granule, value: T) -> Result<(), MemoryError> {
        self.memory.place(granule, value)
    }
    fn with<T: Object, R>(
        &self,
        granule: Granule,
        work: impl FnOnce(&mut T) -> R,
    ) -> Result<R, MemoryError> {
        self.memory.with(granule, work)
    }
    fn discard<T: Object>(&self, granule: Granule) -> Result<(), MemoryError> {
        self.memory.discard::<T>(granule)
    }
    fn table_create(&self, granule: Granule, first: u64, step: u64) -> Result<(), MemoryError> {
        self.memory.table_create(granule, first, step)
    }
    fn table_read(&self, granule: Granule, index: usize) -> Result<u64, MemoryError> {
        self.memory.table_read(granule, index)
    }
    fn table_read_run(
        &self,
        granule: Granule,
        index: usize,
        out: &mut [u64],
    ) -> Result<(), MemoryError> {
        self.memory.table_read_run(granule, index, out)
    }
    fn table_write(&self, granule: Granule, index: usize, entry: u64) -> Result<(), MemoryError> {
        self.memory.table_write(granule, index, entry)
    }
    fn table_write_run(
        &self,
        granule: Granule,
        index: usize,
        entries: impl ExactSizeIterator<Item = u64>,
    ) -> Result<(), MemoryError> {
        self.memory.table_write_run(granule, index, entries)
    }
    fn table_discard(&self, granule: Granule) -> Result<(), MemoryError> {
        self.memory.table_discard(granule)
    }
}

impl HostMemory for Machine {
    fn host_read(&self, from: HostPa, out: &mut [u8]) -> Result<(), HostFault> {
        let first = out.as_mut_ptr();
        self.copy_host(from, out.len(), |place, offset, count| {
            // SAFETY: the piece is inside `out`; the other side is in the window of host memory.
            unsafe { arch::copy(first.wrapping_add(offset), place, count) }
        })
    }
    fn host_write(&self, to: HostPa, data: &[u8]) -> Result<(), HostFault> {
        let first = data.as_ptr();
        self.copy_host(to, data.len(), |place, offset, count| {
            // SAFETY: as in `host_read`.
            unsafe { arch::copy(place, first.wrapping_add(offset), count) }
        })
    }
}

impl Ownership for Machine {
    fn delegate(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.change_owner(range, true)
    }
    fn undelegate(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.change_owner(range, false)
    }
    fn is_checked_on_access(&self) -> bool {
        arch::OWNER_IS_CHECKED_ON_ACCESS
    }
}

impl Iommu for Machine {
    fn units(&self) -> &[Pa] {
        &self.units
    }
    fn covers(&self, stream: StreamId) -> bool {
        self.iommu
            .as_ref()
            .is_some_and(|iommu| iommu.covers(stream))
    }
    fn next_fault(&self) -> Option<IommuFault> {
        self.iommu.as_ref()?.next_fault()
    }
    // Without an IOMMU of its own the TSM assigns no devices, and what a host's device reaches is
    // the business of the monitor that kept the IOMMU.
    fn host_map(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.iommu
            .as_ref()
            .map_or(Ok(()), |iommu| iommu.host_map(range))
    }
    fn host_unmap(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.iommu
            .as_ref()
            .map_or(Ok(()), |iommu| iommu.host_unmap(range))
    }
    fn block(&self, stream: StreamId) -> Result<(), PlatformError> {
        self.iommu()?.block(stream)
    }
    fn attach(&self, stream: StreamId, stage2: &Stage2) -> Result<(), PlatformError> {
        self.iommu()?.attach(stream, stage2)
    }
    fn release(&self, stream: StreamId) -> Result<(), PlatformError> {
        self.iommu()?.release(stream)
    }
    fn invalidate(&self, vmid: Vmid, base: Ipa, bytes: u64) -> Result<(), PlatformError> {
        self.iommu()?.invalidate(vmid, base, bytes)
    }
    fn invalidate_all(&self, vmid: Vmid) -> Result<(), PlatformError> {
        self.iommu()?.invalidate_all(vmid)
    }
}

impl ConfigSpace for Machine {
    fn config_read(&self, rid: Rid, offset: u16, width: u8) -> u32 {
        self.ecam
            .as_ref()
            .map_or(u32::MAX, |ecam| ecam.read(rid, offset, width))
    }
    fn config_write(&self, rid: Rid, offset: u16, width: u8, value: u32) {
        if let Some(ecam) = &self.ecam {
            ecam.write(rid, offset, width, value);
        }
    }
    fn buses(&self) -> u16 {
        self.ecam.as_ref().map_or(0, |_| BUSES)
    }
    fn reserved_mmio(&self) -> &[GranuleRange] {
        &self.reserved
    }
    fn is_hidden(&self, rid: Rid) -> bool {
        self.hidden == Some(rid)
    }
    fn is_mediated(&self) -> bool {
        self.mediated
    }
}

impl RootPort for Machine {
    fn stream_set(&self, port: Rid, registers: &StreamRegisters) -> Result<(), PlatformError> {
        let ecam = self.ecam()?.physical();
        let write = |pair, words| {
            arch::stream_write(ecam, port.0, stream_register(registers.stream, pair), words)
        };
        for (pair, range) in (1..=u8::MAX).zip(&registers.ranges) {
            write(
                pair,
                range.map_or([0; 2], |range| [range.base(), range.top()]),
            )?;
        }
        let association = StreamAssociation {
            first: registers.rids.0.0,
            last: registers.rids.1.0,
            enabled: registers.enabled,
        };
        write(0, [association.word(), 0])
    }
    fn stream_read(&self, port: Rid, stream: u8) -> Result<Option<StreamRegisters>, PlatformError> {
        let ecam = self.ecam()?.physical();
        let read = |pair| arch::stream_read(ecam, port.0, stream_register(stream, pair));
        let [word, _] = read(0)?;
        let Some(association) = StreamAssociation::from_word(word) else {
            return Ok(None);
        };
        let mut registers = StreamRegisters {
            stream,
            enabled: association.enabled,
            rids: (Rid(association.first), Rid(association.last)),
            ranges: [None; MOST_STREAM_RANGES],
        };
        for (pair, range) in (1..=u8::MAX).zip(&mut registers.ranges) {
            let [base, top] = read(pair)?;
            *range = GranuleRange::new(base, top);
        }
        Ok(Some(registers))
    }
    fn stream_clear(&self, port: Rid, stream: u8) -> Result<(), PlatformError> {
        arch::stream_clear(self.ecam()?.physical(), port.0, stream)
    }
    fn key_prog(
        &self,
        port: Rid,
        slot: KeySlot,
        key: &[u8; 32],
        iv: u64,
    ) -> Result<(), PlatformError> {
        arch::key_program(self.ecam()?.physical(), port.0, info(slot), key, iv)
    }
    fn key_set_go(&self, port: Rid, slot: KeySlot) -> Result<(), PlatformError> {
        arch::key_go(self.ecam()?.physical(), port.0, info(slot))
    }
    fn key_set_stop(&self, port: Rid, slot: KeySlot) -> Result<(), PlatformError> {
        arch::key_stop(self.ecam()?.physical(), port.0, info(slot))
    }
}

fn info(slot: KeySlot) -> u64 {
    stream_info(slot.stream, slot.key_set, slot.sub_stream, slot.transmit)
}

impl Entropy for Machine {
    fn fill(&self, out: &mut [u8]) -> Result<(), PlatformError> {
        if arch::random_fill(out) {
            Ok(())
        } else {
            Err(PlatformError::Entropy)
        }
    }
}

impl Trace for Machine {
    fn call(&self, record: TraceRecord) {
        #[cfg(all(target_os = "none", feature = "log-calls"))]
        {
            let [a, b, c] = record.arguments;
            defmt::println!(
                "call {=u64:#x}({=u64:#x}, {=u64:#x}, {=u64:#x}) = {=u64:#x}",
                record.function,
                a,
                b,
                c,
                record.status
            );
        }
        let _ = record;
    }
}

impl Processor for Machine {
    fn invalidate_stage2(&self, stage2: &Stage2, base: Ipa, bytes: u64) {
        arch::invalidate_range(stage2, base, bytes);
    }
    fn invalidate_stage2_all(&self, stage2: &Stage2) {
        arch::invalidate_all(stage2);
    }
    fn cpu_index(&self) -> usize {
        arch::cpu_index()
    }
    fn isolated<S, B, R, W>(
        &self,
        state: &mut S,
        bytes: &mut B,
        otherwise: fn() -> S,
        work: W,
    ) -> Result<R, Abandoned>
    where
        S: Send + 'static,
        B: FromBytes + IntoBytes,
        R: Send + 'static,
        W: FnOnce(&Self, &mut S, &mut B) -> R + Send + 'static,
    {
        isolated(self, state, bytes, otherwise, work)
    }
    fn sha256(&self, state: &mut [u32; 8], blocks: &[[u8; 64]]) -> bool {
        arch::sha256(state, blocks)
    }
    fn sha512(&self, state: &mut [u64; 8], blocks: &[[u8; 128]]) -> bool {
        arch::sha512(state, blocks)
    }
}

impl GuestCpu for Machine {
    type Context = arch::Context;

    fn new_context(&self, params: &VcpuParams, stage2: &Stage2) -> Self::Context {
        arch::new_context(params, stage2)
    }
    fn run(&self, context: &mut Self::Context, entry: &GuestEntry) -> GuestExit {
        let mut last = GuestExit::HostInterrupt;
        let leave = |_: &mut Self::Context, exit| {
            last = exit;
            false
        };
        arch::run_while(context, |context| context, entry, leave);
        last
    }
    fn run_while<T>(
        &self,
        owner: &mut T,
        select: impl Fn(&mut T) -> &mut Self::Context,
        entry: &GuestEntry,
        handle: impl FnMut(&mut T, GuestExit) -> bool,
    ) {
        arch::run_while(owner, select, entry, handle);
    }
    fn gpr(&self, context: &Self::Context, index: usize) -> u64 {
        context.gpr(index)
    }
    fn set_gpr(&self, context: &mut Self::Context, index: usize, value: u64) {
        context.set_gpr(index, value);
    }
    fn skip_instruction(&self, context: &mut Self::Context) {
        context.skip();
    }
    fn inject_abort(&self, context: &mut Self::Context, fault: &MemoryFault) {
        context.inject_abort(fault);
    }
    fn timers(&self, context: &Self::Context) -> [u64; 4] {
        context.timers()
    }
    fn conceal(&self, syndrome: &FaultSyndrome) -> FaultSyndrome {
        arch::conceal(syndrome)
    }
    fn reveal(&self, syndrome: &FaultSyndrome) -> FaultSyndrome {
        arch::reveal(syndrome)
    }
    fn missing_memory(&self, ipa: Ipa, level: u8) -> FaultSyndrome {
        arch::missing_memory(ipa, level)
    }
}

impl Platform for Machine {}

impl tsm_core::Machine for Machine {
    type Stage2 = arch::Stage2Tables;
}
