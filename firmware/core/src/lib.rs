// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Objects, state machines and call handlers of the TSM.
//!
//! [`Tsm`] is the whole state; a board makes one and hands every call of the host to
//! [`Tsm::host_call`] together with the [`Platform`](tsm_platform::Platform) of the CPU that took
//! the call.

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
// Without a `Tsm`, which holds words that the checker cannot make in a constant, much is unused.
#![cfg_attr(loom, allow(dead_code, unused_imports))]

mod context;
mod device;
mod digest;
mod dispatch;
mod error;
mod granule;
#[cfg(all(test, loom))]
mod loom_tests;
mod measurement;
mod ownership;
mod realm;
mod rec;
mod rsi;
mod rtt;
mod sync;
mod system;
pub mod tables;

pub use context::Machine;
pub use dispatch::Tsm;
pub use error::Error;
pub use granule::{Kind, Region, State, Table};
