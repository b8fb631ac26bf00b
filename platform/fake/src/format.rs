// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which processors the machine has, as far as it shows: how they keep the tables of realms.

/// Format of the tables of realms.
#[cfg(not(feature = "x86-tables"))]
pub type Format = tsm_iommu::ArmStage2;
/// Format of the tables of realms.
#[cfg(feature = "x86-tables")]
pub type Format = tsm_iommu::X86Stage2;

/// Level at which walks start. Nested paging starts at level 0 whatever the width.
pub const START_LEVEL: u8 = if cfg!(feature = "x86-tables") { 0 } else { 1 };

/// Width of the addresses of a realm that [`crate::Host::realm`] builds, in bits: one root table is
/// enough for them, and no entry of it is of both halves.
pub const IPA_BITS: u8 = if cfg!(feature = "x86-tables") { 40 } else { 39 };
