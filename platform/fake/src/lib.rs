// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A platform for the TSM that is a process.
//!
//! [`Fake`] keeps memory, the granule protection table, the IOMMU, configuration space and root
//! ports as tables that a test can look into. Everything that hardware may refuse is a *fault
//! point*: [`Fake::fail_after`] makes one of them fail. [`Host`] drives the TSM as a host would.
//!
//! Translations are cached, by CPUs and by the IOMMU, until they are invalidated: a test that
//! forgets nothing sees a stale translation as hardware would use it.

#![forbid(unsafe_code)]

mod fault;
mod format;
mod guard;
mod guest;
mod host;
mod iommu;
mod memory;
mod pci;
mod schedule;
mod tracked;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tsm_core::Machine;
use tsm_platform::{
    Abandoned, Entropy, Granule, GranuleRange, Ipa, KeySlot, Ownership, Pa, Platform,
    PlatformError, Processor, Rid, RootPort, Stage2, StreamRegisters, Trace, TraceRecord,
};

use zerocopy::{FromBytes, IntoBytes};

pub use fault::FaultPoint;
pub use format::{Format, IPA_BITS, START_LEVEL};
pub use guard::Guard;
pub use guest::{Script, Step, Vcpu, fault};
pub use host::{Host, Realm, STATUS_SUCCESS, Snapshot, Watcher, success};
pub use iommu::{Invalidation, Stream};
pub use memory::Owner;
pub use pci::{ENDPOINT, ENDPOINT_BAR, ENDPOINT_BAR_BYTES, Function, ROOT_PORT};
pub use schedule::{MOST_CPUS, Work};

/// First address of memory.
pub const DRAM_BASE: u64 = 0x8000_0000;
/// Address after memory.
pub const DRAM_TOP: u64 = 0x8400_0000;
/// First address of the devices' window.
pub const MMIO_BASE: u64 = 0x1000_0000;
/// Address after the devices' window.
pub const MMIO_TOP: u64 = 0x1100_0000;

/// What a root port did with one key slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key and its initial invocation field, while they are programmed.
    pub key: Option<([u8; 32], u64)>,
    /// Whether it is in use.
    pub going: bool,
}

/// What a host's other CPU does right after the TSM has read host memory: it is told the address and
/// length of what was read.
pub type Meddler = Box<dyn FnMut(&Fake, u64, usize) + Send>;

/// The machine.
pub struct Fake {
    faults: Mutex<fault::Faults>,
    removed: Mutex<BTreeSet<Guard>>,
    memory: Mutex<memory::Memory>,
    iommu: Mutex<iommu::State>,
    units: OnceLock<[Pa; 1]>,
    cpu_translations: Mutex<iommu::Translations>,
    functions: Mutex<BTreeMap<Rid, Function>>,
    config_writes: Mutex<Vec<(Rid, u16)>>,
    reserved: Vec<GranuleRange>,
    hidden: Vec<Rid>,
    keys: Mutex<BTreeMap<KeyPlace, KeyRecord>>,
    associations: Mutex<BTreeMap<(Rid, u8), StreamRegisters>>,
    script: Script,
    schedule: schedule::Schedule,
    operations: AtomicU64,
    meddler: Mutex<Option<Meddler>>,
    trace: Mutex<Vec<TraceRecord>>,
    random: Mutex<u64>,
}

/// Locks state that a failed test may have poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// Makes a machine whose memory all belongs to the host.
    #[must_use]
    pub fn new() -> Self {
        Self {
            faults: Mutex::default(),
            removed: Mutex::default(),
            memory: Mutex::default(),
            iommu: Mutex::default(),
            units: OnceLock::new(),
            cpu_translations: Mutex::default(),
            functions: Mutex::new(pci::tree()),
            config_writes: Mutex::default(),
            reserved: vec![pci::RESERVED],
            hidden: vec![pci::HIDDEN],
            keys: Mutex::default(),
            associations: Mutex::default(),
            script: Script::default(),
            schedule: schedule::Schedule::default(),
            operations: AtomicU64::new(0),
            meddler: Mutex::default(),
            trace: Mutex::default(),
            random: Mutex::new(1),
        }
    }

    /// Returns what the root port `port` has in `slot`.
    #[must_use]
    pub fn key(&self, port: Rid, slot: KeySlot) -> KeyRecord {
        lock(&self.keys)
            .get(&key_of(port, slot))
            .copied()
            .unwrap_or_default()
    }

    /// Returns how many keys root ports hold.
    #[must_use]
    pub fn keys(&self) -> usize {
        let keys = lock(&self.keys);
        keys.values().filter(|record| record.key.is_some()).count()
    }

    /// Returns what the root port `port` knows of `stream`.
    #[must_use]
    pub fn stream_registers(&self, port: Rid, stream: u8) -> Option<StreamRegisters> {
        lock(&self.associations).get(&(port, stream)).copied()
    }

    /// Changes what the root port `port` knows of `stream`, as hardware that fails would.
    pub fn spoil_stream(&self, port: Rid, stream: u8, change: impl FnOnce(&mut StreamRegisters)) {
        if let Some(registers) = lock(&self.associations).get_mut(&(port, stream)) {
            change(registers);
        }
    }

    /// Returns the calls that were traced.
    #[must_use]
    pub fn calls(&self) -> Vec<TraceRecord> {
        lock(&self.trace).clone()
    }

    /// Lets `meddler` act after every copy from host memory, or nobody.
    pub fn set_meddler(&self, meddler: Option<Meddler>) {
        *lock(&self.meddler) = meddler;
    }

    /// Forgets what is kept only to be looked at: calls, copies, invalidations, writes to
    /// configuration space.
    pub fn forget_history(&self) {
        lock(&self.trace).clear();
        self.take_copies_in();
        self.take_config_writes();
        self.forget_invalidations();
    }

    /// Returns the script of the guests.
    #[must_use]
    pub const fn script(&self) -> &Script {
        &self.script
    }
}

/// Port, stream, key set, sub-stream, and whether it transmits.
type KeyPlace = (Rid, u8, u8, u8, bool);

const fn key_of(port: Rid, slot: KeySlot) -> KeyPlace {
    (
        port,
        slot.stream,
        slot.key_set,
        slot.sub_stream,
        slot.transmit,
    )
}

impl Machine for Fake {
    type Stage2 = Format;
}

impl Platform for Fake {}

impl Ownership for Fake {
    fn delegate(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.reach(FaultPoint::Ownership)
            .map_err(|()| PlatformError::Refused)?;
        lock(&self.memory).give(range, Owner::Realm)
    }

    fn undelegate(&self, range: GranuleRange) -> Result<(), PlatformError> {
        self.reach(FaultPoint::Ownership)
            .map_err(|()| PlatformError::Refused)?;
        lock(&self.memory).give(range, Owner::Host)
    }

    fn is_checked_on_access(&self) -> bool {
        self.has(Guard::OwnerOnAccess)
    }
}

impl RootPort for Fake {
    fn stream_set(&self, port: Rid, registers: &StreamRegisters) -> Result<(), PlatformError> {
        self.reach(FaultPoint::RootPort)
            .map_err(|()| PlatformError::Refused)?;
        lock(&self.associations).insert((port, registers.stream), *registers);
        Ok(())
    }

    fn stream_read(&self, port: Rid, stream: u8) -> Result<Option<StreamRegisters>, PlatformError> {
        self.reach(FaultPoint::RootPort)
            .map_err(|()| PlatformError::Refused)?;
        Ok(self.stream_registers(port, stream))
    }

    fn stream_clear(&self, port: Rid, stream: u8) -> Result<(), PlatformError> {
        self.reach(FaultPoint::RootPort)
            .map_err(|()| PlatformError::Refused)?;
        lock(&self.associations).remove(&(port, stream));
        Ok(())
    }

    fn key_prog(
        &self,
        port: Rid,
        slot: KeySlot,
        key: &[u8; 32],
        iv: u64,
    ) -> Result<(), PlatformError> {
        self.reach(FaultPoint::RootPort)
            .map_err(|()| PlatformError::Refused)?;
        let record = KeyRecord {
            key: Some((*key, iv)),
            going: false,
        };
        lock(&self.keys).insert(key_of(port, slot), record);
        Ok(())
    }

    fn key_set_go(&self, port: Rid, slot: KeySlot) -> Result<(), PlatformError> {
        self.reach(FaultPoint::RootPort)
            .map_err(|()| PlatformError::Refused)?;
        let mut keys = lock(&self.keys);
        let record = keys
            .get_mut(&key_of(port, slot))
            .ok_or(PlatformError::Refused)?;
        record.going = true;
        Ok(())
    }

    fn key_set_stop(&self, port: Rid, slot: KeySlot) -> Result<(), PlatformError> {
        self.reach(FaultPoint::RootPort)
            .map_err(|()| PlatformError::Refused)?;
        lock(&self.keys).remove(&key_of(port, slot));
        Ok(())
    }
}

impl Entropy for Fake {
    /// Fills `out` from a sequence that repeats in every run and never repeats within one.
    fn fill(&self, out: &mut [u8]) -> Result<(), PlatformError> {
        self.reach(FaultPoint::Entropy)
            .map_err(|()| PlatformError::Entropy)?;
        let mut state = lock(&self.random);
        for chunk in out.chunks_mut(8) {
            // SplitMix64: every state is reached once, so no two full chunks are equal.
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = *state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl Trace for Fake {
    fn call(&self, record: TraceRecord) {
        self.pause();
        lock(&self.trace).push(record);
    }
}

impl Processor for Fake {
    fn invalidate_stage2(&self, stage2: &Stage2, base: Ipa, bytes: u64) {
        self.pause();
        if self.has(Guard::CpuInvalidation) {
            lock(&self.cpu_translations).forget(stage2.vmid, base, bytes);
        }
    }

    fn invalidate_stage2_all(&self, stage2: &Stage2) {
        self.pause();
        if self.has(Guard::CpuInvalidation) {
            lock(&self.cpu_translations).forget_all(stage2.vmid);
        }
    }

    fn cpu_index(&self) -> usize {
        self.schedule.cpu().unwrap_or(0)
    }

    fn relax(&self) {
        self.schedule.relax();
    }

    /// Abandons the work for the panic of [`FaultPoint::Isolation`] only: another one is a fault of
    /// the TSM, which a test must see.
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
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let result = work(self, state, bytes);
            match self.reach(FaultPoint::Isolation) {
                Ok(()) => result,
                Err(()) => resume_unwind(Box::new(Abandoned)),
            }
        }));
        unwound.map_err(|payload| {
            if !payload.is::<Abandoned>() {
                resume_unwind(payload);
            }
            *state = otherwise();
            bytes.zero();
            Abandoned
        })
    }
}

/// Returns the granule at `address`, which must be aligned.
fn granule(address: u64) -> Granule {
    Granule::new(address).expect("aligned to a granule")
}
