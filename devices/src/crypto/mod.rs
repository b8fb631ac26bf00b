// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The algorithms of the device: digests, signatures, key agreement and ciphers.

mod agree;
mod cipher;
mod hash;
mod sign;

use std::fs::File;
use std::io::Read;

pub use agree::Exchange;
pub use cipher::Cipher;
pub(crate) use cipher::TAG_SIZE;
pub use hash::Hash;
pub(crate) use hash::{Secret, Transcript};
pub use sign::Signing;
pub(crate) use sign::SigningKey;

/// Reports that the operating system gave no entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

impl std::fmt::Display for NoEntropy {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("no entropy")
    }
}

impl std::error::Error for NoEntropy {}

/// Returns `N` unpredictable bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|_| NoEntropy)?;
    Ok(bytes)
}
