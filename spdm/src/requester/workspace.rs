// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory that a conversation needs at times and that is too large for the requester itself.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zeroize::Zeroize;

/// Bytes of the largest message, in pieces, that either side sends.
pub const MAX_LARGE_MESSAGE: usize = 12288;
/// Bytes of the largest public key that is kept as the certificate has it: ML-DSA-87.
pub const MAX_RAW_KEY: usize = 2592;

/// A public key as the certificate has it, at the start.
pub(crate) type RawKey = [u8; MAX_RAW_KEY];

/// Memory that the caller lends for a step.
///
/// While [`SpdmRequester::uses_workspace`](super::SpdmRequester::uses_workspace) says so, the next
/// step needs the content as this one left it; otherwise the caller may lend it to another
/// requester. A step that begins and ends without using it leaves it as it was.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Zeroize)]
#[repr(C)]
pub struct Workspace {
    /// A large message that is being put together or taken apart.
    pub(crate) message: [u8; MAX_LARGE_MESSAGE],
    /// The public key of the leaf certificate, if it is of a kind that is not kept elsewhere.
    pub(crate) key: RawKey,
}

/// What four donated granules hold, each less its own header.
const _: () = assert!(size_of::<Workspace>() <= 4 * 4000);

impl Workspace {
    /// Makes an empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            message: [0; MAX_LARGE_MESSAGE],
            key: [0; MAX_RAW_KEY],
        }
    }

    /// Returns the memory of large messages.
    #[must_use]
    pub const fn message(&self) -> &[u8; MAX_LARGE_MESSAGE] {
        &self.message
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}
