// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sans-IO SPDM requester and wire formats, with IDE_KM and TDISP.
//!
//! [`wire`] knows layouts, [`crypto`] the suite, and neither keeps state: a responder can be built
//! on them as well.

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
pub mod wire;
