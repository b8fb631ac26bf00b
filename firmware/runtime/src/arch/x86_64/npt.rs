// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Nested page tables of the host.

use tsm_platform::{GranuleRange, PlatformError};

/// Moves `range` to the realms or back to the host.
pub fn set_owner(_range: GranuleRange, _realm: bool) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported)
}

/// Returns the root of the host's tables, once there are any.
pub fn host_root() -> Option<u64> {
    None
}
