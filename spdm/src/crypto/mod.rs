// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The suites: hashes, signatures, key exchanges and encryption as SPDM 1.2 to 1.4 put them
//! together.
//!
//! Functions of their arguments, for either side of the conversation. Secrets erase themselves when
//! dropped, and can be neither printed nor copied by accident.

mod agreement;
mod record;
mod schedule;
mod signature;
mod suite;
mod transcript;

#[cfg(test)]
pub(crate) use self::agreement::Seed;
pub use self::agreement::{Ephemeral, Exchange, KeyAgreement, MAX_EXCHANGE_LENGTH};
pub use self::record::{RECORD_LIMIT, RecordError, RecordKey};
pub use self::schedule::{DataSecrets, HandshakeSecrets, Secret, SharedSecret};
pub use self::signature::{
    MAX_POINT_LENGTH, PublicKey, SIGNING_PREFIX_LENGTH, Signed, SigningContext, signing_prefix,
};
pub use self::suite::{
    AeadAlgorithm, ExchangeAlgorithm, HashAlgorithm, Schedule, SignatureAlgorithm, Suite,
};
pub use self::transcript::{Digest, Fingerprint, MAX_HASH_LENGTH, Opening, Transcript, sha384};

/// Reports that the source of entropy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

/// The source of entropy that a caller lends: fills the slice with fresh random bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<(), NoEntropy>;

#[cfg(test)]
mod tests;
