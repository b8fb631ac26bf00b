// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Driver of the IOMMU.

use tsm_platform::{GranuleRange, Ipa, PlatformError, Stage2, StreamId, Vmid};

/// The unit.
pub struct VtD;

impl VtD {
    /// Returns whether `stream` has an entry.
    pub fn covers(&self, _stream: StreamId) -> bool {
        false
    }

    /// Makes `range` reachable for host streams.
    pub fn host_map(&self, _range: GranuleRange) -> Result<(), PlatformError> {
        Err(PlatformError::Unsupported)
    }

    /// Makes `range` unreachable for host streams.
    pub fn host_unmap(&self, _range: GranuleRange) -> Result<(), PlatformError> {
        Err(PlatformError::Unsupported)
    }

    /// Blocks `stream`.
    pub fn block(&self, _stream: StreamId) -> Result<(), PlatformError> {
        Err(PlatformError::Unsupported)
    }

    /// Lets `stream` through a guest's tables.
    pub fn attach(&self, _stream: StreamId, _stage2: &Stage2) -> Result<(), PlatformError> {
        Err(PlatformError::Unsupported)
    }

    /// Gives `stream` back to the host.
    pub fn release(&self, _stream: StreamId) -> Result<(), PlatformError> {
        Err(PlatformError::Unsupported)
    }

    /// Forgets translations of a range.
    pub fn invalidate(&self, _vmid: Vmid, _base: Ipa, _bytes: u64) -> Result<(), PlatformError> {
        Err(PlatformError::Unsupported)
    }

    /// Forgets all translations with a tag.
    pub fn invalidate_all(&self, _vmid: Vmid) -> Result<(), PlatformError> {
        Err(PlatformError::Unsupported)
    }
}
