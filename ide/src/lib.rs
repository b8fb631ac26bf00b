// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! IDE streams, key sets and their life cycle.
//!
//! A [`Stream`] says what to do next on which end; it sends nothing itself. The core joins it with
//! IDE_KM messages for the device and with the platform's root port.

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

mod capability;
mod ids;
mod key;
mod state;
mod stream;
pub mod unit;

pub use capability::{Capability, Shown, find_stream};
pub use ids::StreamIds;
pub use key::{End, Flow, INITIAL_IV, Key, KeyMaterial, KeySet, SubStream};
pub use state::{Event, StreamState, TRANSITIONS, Transition};
pub use stream::{Action, Error, NoEntropy, Stream};
