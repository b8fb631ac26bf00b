// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sans-IO SPDM requester and wire formats, with IDE_KM and TDISP.
//!
//! [`wire`] knows layouts, [`crypto`] the suites, and neither keeps state: a responder can be built
//! on them as well. [`Requester`] is the state machine of the other side.

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

pub mod crypto;
mod error;
mod requester;
pub mod wire;

pub use crypto::{NoEntropy, PublicKey, Random};
pub use error::{Error, PeerMisbehaved};
pub use requester::{
    Config, Digests, Event, Input, MAX_LARGE_MESSAGE, MAX_MESSAGE, MAX_PAYLOAD, MAX_RAW_KEY,
    MIN_BUFFER, Object, Offer, Operation, Outcome, Output, Phase, Protocol, Requester, Slice,
    Source, SpdmRequester, TRANSITIONS, Workspace,
};
