// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What can go wrong, and whose fault it is.

use crate::crypto::{NoEntropy, RecordError};
use crate::wire::Malformed;
use crate::wire::error::ErrorCode;

/// Why the requester cannot go on, or did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The operation or input is out of order. Nothing changed.
    Phase,
    /// The output buffer is smaller than [`MIN_BUFFER`](crate::MIN_BUFFER). Nothing changed.
    Buffer,
    /// The vendor's payload is longer than [`MAX_PAYLOAD`](crate::MAX_PAYLOAD), or empty. Nothing
    /// changed.
    Payload,
    /// The key is not that of the leaf certificate. Nothing changed.
    KeyMismatch,
    /// The keys have sealed as many records as they may: update them first. Nothing changed.
    KeyUpdateDue,
    /// The device refused the operation, which is over. The session holds.
    Refused(ErrorCode),
    /// One of the two sides did not announce the capability. Nothing changed.
    Unsupported,
    /// The requester contradicted itself. It is dead.
    Internal,
    /// No entropy. The requester is dead.
    NoEntropy,
    /// The device broke the protocol. The requester is dead.
    Peer(PeerMisbehaved),
}

impl Error {
    /// Returns whether the requester is dead, its keys erased.
    #[must_use]
    pub const fn is_fatal(self) -> bool {
        matches!(self, Self::Internal | Self::NoEntropy | Self::Peer(_))
    }
}

/// What the device, or whoever carries its messages, did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMisbehaved {
    /// A message is not what it must be.
    Malformed(Malformed),
    /// A message is followed by more bytes than padding.
    TrailingBytes,
    /// A message is longer than the size announced.
    Oversized,
    /// The device refused.
    Refused(ErrorCode),
    /// The device asked for more time through every retry.
    BusyForever,
    /// No version is offered that the requester may speak.
    NoCommonVersion,
    /// A capability that a session needs is missing.
    MissingCapability,
    /// The time for cryptography is not a time.
    CryptoTime,
    /// The device wants to be asked again after too long a time, or never.
    NotReadyTime,
    /// A chunk is not the next of its message, is not of the size that it must have, or ends the
    /// message where it does not end.
    Chunk,
    /// The device takes messages that are too small, or contradicts itself about it.
    TransferSize,
    /// An algorithm was selected that was not offered, or more than one, or none.
    WrongAlgorithm,
    /// The slot has no certificate chain.
    NoChain,
    /// A portion of the chain is for another slot, empty, or longer than asked for.
    WrongPortion,
    /// The length of the chain is too large, or changed on the way.
    ChainLength,
    /// The chain took more portions than it may.
    TooManyPortions,
    /// The chain is not a list of certificates whose last holds a key.
    ChainFormat,
    /// The key in the leaf certificate is not one for the signatures that were selected.
    WrongKey,
    /// The chain is not the one its digest promised.
    ChainDigest,
    /// Mutual authentication is demanded.
    MutualAuthentication,
    /// A signature is not that of the device's key over this conversation.
    Signature,
    /// The exchange value is not a point of the curve.
    ExchangeValue,
    /// The version of secured messages is not one that was offered.
    SecuredVersion,
    /// The HMAC that ends the key exchange is wrong.
    VerifyData,
    /// A record could not be opened.
    Record(RecordError),
    /// An answer does not repeat what it must of its request.
    WrongEcho,
    /// A measurement record is not made of blocks.
    MeasurementRecord,
    /// What the device measured is not what it summed up, or it summed it up in two ways.
    MeasurementSummary,
}

impl From<PeerMisbehaved> for Error {
    fn from(fault: PeerMisbehaved) -> Self {
        Self::Peer(fault)
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Peer(PeerMisbehaved::Malformed(malformed))
    }
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::Peer(PeerMisbehaved::Record(error))
    }
}

impl From<NoEntropy> for Error {
    fn from(_: NoEntropy) -> Self {
        Self::NoEntropy
    }
}
