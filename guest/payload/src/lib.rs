// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a confidential guest must check before it trusts a device.
//!
//! The host brings the evidence; the TSM vouches for digests of it and for the state of the device;
//! the guest's owner says in a policy which device is wanted. Everything here is pure: bytes in,
//! accepted or a reason out.

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

pub mod agreed;
pub mod certificate;
pub mod claims;
mod der;
pub mod key;
pub mod measurement;
pub mod policy;
pub mod report;

use sha2::{Digest as _, Sha384};

/// A SHA-384 digest.
pub type Digest = [u8; 48];

/// Returns the SHA-384 digest of `bytes`.
#[must_use]
pub fn sha384(bytes: &[u8]) -> Digest {
    Sha384::digest(bytes).into()
}
