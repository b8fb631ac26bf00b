// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The nested tables of the host: who owns a page, as far as processors are concerned.

use core::sync::atomic::AtomicU64;

use spin::{Mutex, Once};
use tsm_iommu::identity::{Access, IdentityMap};
use tsm_platform::{Granule, GranuleRange, PlatformError};

use super::smp;

/// Guests reach whatever their tables name: nothing looks at the owner of memory on each access.
pub const OWNER_IS_CHECKED_ON_ACCESS: bool = false;

/// One for all CPUs: changes of owner are rare, and each is complete before the next one starts.
static MAP: Once<Mutex<IdentityMap<'static>>> = Once::new();

/// Gives the host all addresses, as `lent` says where it says something, without `holes`. `words`
/// are zeroed tables, as many as `tsm_iommu::identity::table_count` says, that lie at their physical
/// address; all ranges, and all that change hands later, are in `areas`.
pub fn start(
    words: &'static [AtomicU64],
    areas: &'static [GranuleRange],
    lent: &[(GranuleRange, Access)],
    holes: &[GranuleRange],
) -> Result<(), PlatformError> {
    let physical = Granule::new(words.as_ptr() as u64).ok_or(PlatformError::Refused)?;
    let map = IdentityMap::new(words, physical, areas).map_err(|_| PlatformError::Refused)?;
    let holes = holes.iter().map(|hole| (*hole, Access::None));
    for (range, access) in lent.iter().copied().chain(holes) {
        // No host has run, so nothing has to be forgotten.
        map.set(range, access).map_err(|_| PlatformError::Refused)?;
    }
    MAP.call_once(|| Mutex::new(map));
    Ok(())
}

/// Returns the root of the host's tables, once there are any.
pub fn host_root() -> Option<u64> {
    Some(MAP.get()?.lock().root().0)
}

/// Moves `range` to the realms or back to the host. When this returns no CPU lets the host reach
/// what is not its own.
pub fn set_owner(range: GranuleRange, realm: bool) -> Result<(), PlatformError> {
    let map = MAP.get().ok_or(PlatformError::Unsupported)?.lock();
    let access = if realm { Access::None } else { Access::Full };
    let stale = map.set(range, access).map_err(|_| PlatformError::Refused)?;
    if stale {
        // Under the lock: a table that is out of use may not be filled again before all forgot it.
        smp::shootdown();
    }
    Ok(())
}
