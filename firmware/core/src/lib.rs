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

mod context;
mod device;
mod digest;
mod dispatch;
mod error;
mod granule;
mod measurement;
mod ownership;
mod realm;
mod rec;
mod rsi;
mod rtt;
mod system;
pub mod tables;

pub use context::Machine;
pub use dispatch::Tsm;
pub use error::Error;
pub use granule::{Kind, Region, State, Table};
