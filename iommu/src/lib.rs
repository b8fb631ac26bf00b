// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! IOMMU and stage 2 table encodings and invalidation plans.
//!
//! Nothing here touches hardware. Functions return the words to write and the [`Step`]s to take, in
//! order; the runtime and the fake platform carry out the same steps.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
    )
)]

pub mod arm;
pub mod faults;
pub mod host_map;
pub mod identity;
pub mod plan;
pub mod smmuv3;
pub mod stage2;
pub mod step;
pub mod vtd;
pub mod x86;

pub use arm::ArmStage2;
pub use faults::FaultLog;
pub use host_map::{HOST_VMID, HostMap, TableWrite};
pub use stage2::{Entry, Ripas, SharedAttributes, SharedMemory, Stage2Format};
pub use step::Step;
pub use x86::X86Stage2;
