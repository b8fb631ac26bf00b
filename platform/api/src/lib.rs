// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Traits that a platform implements for the TSM core, and address types.
//!
//! The core is generic over one [`Platform`], which bundles small traits. Every method is safe to
//! call with any argument: an implementation that hides unsafe code checks what it is given.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod address;
mod guest;
mod memory;

pub use address::{GRANULE_SIZE, Granule, GranuleRange, HostPa, Ipa, Pa, Rid, StreamId, Vmid};
pub use guest::{
    Access, FaultSyndrome, GuestCpu, GuestEntry, GuestExit, MemoryFault, Transfer, VcpuParams,
};
pub use memory::{GranuleMemory, HostFault, HostMemory, MemoryError, Object};
use zerocopy::{FromBytes, IntoBytes};

/// Reports that the hardware refused or did not finish an operation.
///
/// The state of the hardware is unchanged, or the operation can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformError {
    /// The platform has no such unit or service.
    Unsupported,
    /// The unit refused the argument.
    Refused,
    /// The unit did not complete in bounded time; the effect may still be pending.
    Timeout,
    /// No entropy was available.
    Entropy,
}

/// Changes which world a physical granule belongs to (GPT, RMP or nested tables).
pub trait Ownership {
    /// Takes `range` from the host. All host CPU translations are gone when this returns.
    fn delegate(&self, range: GranuleRange) -> Result<(), PlatformError>;
    /// Gives `range` to the host. The caller has scrubbed it.
    fn undelegate(&self, range: GranuleRange) -> Result<(), PlatformError>;
    /// Returns whether hardware checks the owner of memory on every access of a CPU. Otherwise a
    /// guest reaches whatever its tables name.
    fn is_checked_on_access(&self) -> bool {
        true
    }
}

/// The stage 2 tables that a guest's CPUs and devices share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// Physical address of the root table; concatenated root tables follow it.
    pub root: Pa,
    /// Level at which a walk starts (0 to 2).
    pub start_level: u8,
    /// Width of the intermediate physical address, in bits.
    pub ipa_bits: u8,
    /// Tag of the translations.
    pub vmid: Vmid,
}

/// Requests of one stream that an IOMMU refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuFault {
    /// Whose requests.
    pub stream: StreamId,
    /// A guest had the stream. Then nothing else is said of the requests than their number.
    pub of_guest: bool,
    /// They were writes.
    pub write: bool,
    /// The page that they named.
    pub page: u64,
    /// Their number, or the largest one.
    pub count: u32,
    /// Number of requests before, of any stream, of which no record was kept.
    pub lost: u32,
}

/// The IOMMU in front of every DMA master. Each method returns when its effect is complete in
/// hardware: invalidations are done and synchronised, or an error is returned.
pub trait Iommu {
    /// Returns the register base of each IOMMU, by which hosts name it; none if they cannot.
    fn units(&self) -> &[Pa] {
        &[]
    }
    /// Returns whether `stream` is behind an IOMMU that the TSM owns.
    fn covers(&self, stream: StreamId) -> bool;
    /// Takes the oldest record of refused requests that is kept.
    fn next_fault(&self) -> Option<IommuFault> {
        None
    }
    /// Makes `range` reachable for host streams again.
    fn host_map(&self, range: GranuleRange) -> Result<(), PlatformError>;
    /// Makes `range` unreachable for host streams.
    fn host_unmap(&self, range: GranuleRange) -> Result<(), PlatformError>;
    /// Blocks every access of `stream`.
    fn block(&self, stream: StreamId) -> Result<(), PlatformError>;
    /// Lets `stream` through the guest's stage 2.
    fn attach(&self, stream: StreamId, stage2: &Stage2) -> Result<(), PlatformError>;
    /// Gives `stream` back to the host's identity translation.
    fn release(&self, stream: StreamId) -> Result<(), PlatformError>;
    /// Forgets the translations of `bytes` bytes at `base` tagged `vmid`.
    fn invalidate(&self, vmid: Vmid, base: Ipa, bytes: u64) -> Result<(), PlatformError>;
    /// Forgets all translations tagged `vmid`.
    fn invalidate_all(&self, vmid: Vmid) -> Result<(), PlatformError>;
}

/// Configuration space of PCI functions, as the TSM sees it.
pub trait ConfigSpace {
    /// Reads `width` bytes (1, 2 or 4) at the naturally aligned `offset`; all ones if absent.
    fn config_read(&self, rid: Rid, offset: u16, width: u8) -> u32;
    /// Writes `width` bytes (1, 2 or 4) at the naturally aligned `offset`.
    fn config_write(&self, rid: Rid, offset: u16, width: u8, value: u32);
    /// Returns the number of buses that the configuration window covers.
    fn buses(&self) -> u16;
    /// Returns MMIO that no host BAR may overlap (units that the platform keeps).
    fn reserved_mmio(&self) -> &[GranuleRange];
    /// Returns whether the platform keeps the function for itself: hosts see nothing there.
    fn is_hidden(&self, rid: Rid) -> bool;
    /// Returns whether host accesses to configuration space reach the TSM on this platform.
    fn is_mediated(&self) -> bool;
    /// Returns the size of the system's cache lines in bytes, of which devices are told.
    fn cache_line_bytes(&self) -> u32 {
        64
    }
}

/// One of the six keys of a key set, as a root port names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// IDE stream id.
    pub stream: u8,
    /// Key set: 0 or 1.
    pub key_set: u8,
    /// Sub-stream: 0 posted, 1 non-posted, 2 completion.
    pub sub_stream: u8,
    /// Direction seen from the root port: false receives, true transmits.
    pub transmit: bool,
}

/// Most address ranges of a stream (`RmiPdevStreamParams`).
pub const MOST_STREAM_RANGES: usize = 16;

/// Which packets a root port puts on a selective IDE stream, and whether the stream is enabled: its
/// control, requester id association and address association registers (PCIe 6.0, 7.9.26.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRegisters {
    /// IDE stream id.
    pub stream: u8,
    /// Whether the stream is enabled.
    pub enabled: bool,
    /// First and last requester id behind the port that is on the stream.
    pub rids: (Rid, Rid),
    /// Memory behind the port that is reached on the stream.
    pub ranges: [Option<GranuleRange>; MOST_STREAM_RANGES],
}

/// The IDE side of a root port. Its registers are out of reach of the host.
pub trait RootPort {
    /// Writes the registers of the stream `registers.stream`.
    fn stream_set(&self, port: Rid, registers: &StreamRegisters) -> Result<(), PlatformError>;
    /// Reads the registers of a stream; `None` if no packet takes it.
    fn stream_read(&self, port: Rid, stream: u8) -> Result<Option<StreamRegisters>, PlatformError>;
    /// Disables a stream and makes no packet take it.
    fn stream_clear(&self, port: Rid, stream: u8) -> Result<(), PlatformError>;
    /// Programs one key. `key` is in AES-GCM byte order, `iv` is the initial invocation field.
    fn key_prog(
        &self,
        port: Rid,
        slot: KeySlot,
        key: &[u8; 32],
        iv: u64,
    ) -> Result<(), PlatformError>;
    /// Starts using the programmed keys of `key_set` for one sub-stream and direction.
    fn key_set_go(&self, port: Rid, slot: KeySlot) -> Result<(), PlatformError>;
    /// Stops one sub-stream and direction of a key set, and forgets its key.
    fn key_set_stop(&self, port: Rid, slot: KeySlot) -> Result<(), PlatformError>;
}

/// Unpredictable bytes.
pub trait Entropy {
    /// Fills `out` or fails as a whole.
    fn fill(&self, out: &mut [u8]) -> Result<(), PlatformError>;
}

/// One line of trace: a call and its outcome, never its secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRecord {
    /// Function id of the call.
    pub function: u64,
    /// First three arguments.
    pub arguments: [u64; 3],
    /// Returned status word.
    pub status: u64,
}

/// Where trace goes.
pub trait Trace {
    /// Records one finished call.
    fn call(&self, record: TraceRecord);
}

/// Reports that isolated work did not end: it panicked or ran out of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned;

/// Processor-wide duties beside running a guest.
pub trait Processor {
    /// Forgets this guest's CPU translations of `bytes` bytes at `base`, on all CPUs.
    fn invalidate_stage2(&self, stage2: &Stage2, base: Ipa, bytes: u64);
    /// Forgets all of this guest's CPU translations, on all CPUs.
    fn invalidate_stage2_all(&self, stage2: &Stage2);
    /// Returns the number of the CPU that runs this code.
    fn cpu_index(&self) -> usize;
    /// Lets time pass while another CPU has a lock that this one needs.
    fn relax(&self) {
        core::hint::spin_loop();
    }
    /// Runs `work` where it can neither harm nor be seen: on a stack of its own, which is erased
    /// afterwards. A platform that cannot do that runs it directly.
    ///
    /// Work that panics or runs out of stack is abandoned where it is, without its destructors. Then
    /// `bytes` is zero, and `state`, of which nothing is known any more, was erased and is
    /// `otherwise()`. What `work` reaches by other ways must bear to be left in the middle: it must
    /// take no lock.
    ///
    /// # Errors
    ///
    /// [`Abandoned`], also if other isolated work is under way; callers serialize it.
    fn isolated<S, B, R, W>(
        &self,
        state: &mut S,
        bytes: &mut B,
        otherwise: fn() -> S,
        work: W,
    ) -> Result<R, Abandoned>
    where
        Self: Sized,
        S: Send + 'static,
        B: FromBytes + IntoBytes,
        R: Send + 'static,
        W: FnOnce(&Self, &mut S, &mut B) -> R + Send + 'static,
    {
        let _ = otherwise;
        Ok(work(self, state, bytes))
    }
    /// Applies SHA-256's compression function for each block in order, if the processor has
    /// instructions for it. Returns whether it has; if not, `state` is as it was.
    fn sha256(&self, state: &mut [u32; 8], blocks: &[[u8; 64]]) -> bool {
        let _ = (state, blocks);
        false
    }
    /// Does the same for SHA-512, and so for SHA-384.
    fn sha512(&self, state: &mut [u64; 8], blocks: &[[u8; 128]]) -> bool {
        let _ = (state, blocks);
        false
    }
}

/// Everything that the core needs from a machine.
pub trait Platform:
    ConfigSpace
    + Entropy
    + GranuleMemory
    + GuestCpu
    + HostMemory
    + Iommu
    + Ownership
    + Processor
    + RootPort
    + Trace
{
}
