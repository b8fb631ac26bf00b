// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! SPDM responder, versions 1.2 to 1.4, with encrypted handshake.

mod chunk;
mod conversation;
mod identity;
mod keys;
mod negotiate;
mod offer;
mod responder;
mod session;
mod vendor;

pub use offer::{Offer, UnknownName, Version};
pub(crate) use responder::{Application, Responder, Settings};

use crate::crypto::{Hash, SigningKey};

/// SPDM version of GET_VERSION and VERSION.
const VERSION_1_0: u8 = 0x10;
/// Bytes that a secured record adds to a message: session id, length, application length, tag.
pub(crate) const RECORD_OVERHEAD: usize = 4 + 2 + 2 + 16;
/// Bytes of a random value or nonce in a message.
const NONCE_SIZE: usize = 32;

/// Codes of the requests that the responder knows; a response has bit 7 clear.
pub(crate) mod code {
    pub(crate) const GET_DIGESTS: u8 = 0x81;
    pub(crate) const GET_CERTIFICATE: u8 = 0x82;
    pub(crate) const CHALLENGE: u8 = 0x83;
    pub(crate) const GET_VERSION: u8 = 0x84;
    pub(crate) const CHUNK_SEND: u8 = 0x85;
    pub(crate) const CHUNK_GET: u8 = 0x86;
    pub(crate) const GET_MEASUREMENTS: u8 = 0xe0;
    pub(crate) const GET_CAPABILITIES: u8 = 0xe1;
    pub(crate) const NEGOTIATE_ALGORITHMS: u8 = 0xe3;
    pub(crate) const KEY_EXCHANGE: u8 = 0xe4;
    pub(crate) const FINISH: u8 = 0xe5;
    pub(crate) const HEARTBEAT: u8 = 0xe8;
    pub(crate) const KEY_UPDATE: u8 = 0xe9;
    pub(crate) const END_SESSION: u8 = 0xec;
    pub(crate) const VENDOR_DEFINED: u8 = 0xfe;
    /// Asks for an answer that was not ready: ours always are.
    pub(crate) const RESPOND_IF_READY: u8 = 0xff;
    /// Code of the ERROR response.
    pub(crate) const ERROR: u8 = 0x7f;
    /// Bit that tells a request from a response.
    pub(crate) const REQUEST: u8 = 0x80;
}

/// Why a request got an ERROR response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    InvalidRequest,
    InvalidSession,
    UnexpectedRequest,
    Unspecified,
    DecryptError,
    UnsupportedRequest(u8),
    SessionLimit,
    SessionRequired,
    RequestTooLarge,
    ResponseTooLarge(u32),
    /// The answer is too large for one piece; it is fetched with this handle.
    LargeResponse(u8),
    VersionMismatch,
}

impl Refusal {
    /// Returns error code, error data and extended data.
    pub(crate) fn encode(self) -> (u8, u8, Vec<u8>) {
        match self {
            Self::InvalidRequest => (0x01, 0, vec![]),
            Self::InvalidSession => (0x02, 0, vec![]),
            Self::UnexpectedRequest => (0x04, 0, vec![]),
            Self::Unspecified => (0x05, 0, vec![]),
            Self::DecryptError => (0x06, 0, vec![]),
            Self::UnsupportedRequest(code) => (0x07, code, vec![]),
            Self::SessionLimit => (0x0a, 0, vec![]),
            Self::SessionRequired => (0x0b, 0, vec![]),
            Self::ResponseTooLarge(size) => (0x0d, 0, size.to_le_bytes().to_vec()),
            Self::RequestTooLarge => (0x0e, 0, vec![]),
            Self::LargeResponse(handle) => (0x0f, 0, vec![handle]),
            Self::VersionMismatch => (0x41, 0, vec![]),
        }
    }

    /// Returns the ERROR response in the given SPDM version.
    pub(crate) fn message(self, version: u8) -> Vec<u8> {
        let (error, data, extended) = self.encode();
        let mut message = vec![version, code::ERROR, error, data];
        message.extend(extended);
        message
    }
}

impl From<crate::crypto::NoEntropy> for Refusal {
    fn from(_: crate::crypto::NoEntropy) -> Self {
        Self::Unspecified
    }
}

/// Reads a received message front to back; a read past the end is an invalid request.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (head, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(Refusal::InvalidRequest)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Refusal::InvalidRequest)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Refusal> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Refusal> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Refusal> {
        self.array().map(u32::from_le_bytes)
    }
}

/// The four bytes that every message starts with.
#[derive(Clone, Copy)]
struct Header {
    version: u8,
    code: u8,
    param1: u8,
    param2: u8,
}

impl Header {
    fn decode(message: &[u8]) -> Result<(Self, Reader<'_>), Refusal> {
        let mut reader = Reader(message);
        let [version, code, param1, param2] = reader.array()?;
        Ok((
            Self {
                version,
                code,
                param1,
                param2,
            },
            reader,
        ))
    }
}

/// Begins a response to request `code`.
fn response(version: Version, code: u8, param1: u8, param2: u8) -> Vec<u8> {
    vec![version.byte(), code & !code::REQUEST, param1, param2]
}

/// Signs the digest of a transcript for `context` (DSP0274: combined prefix, then the digest).
fn sign(
    key: &SigningKey,
    version: Version,
    hash: Hash,
    context: &str,
    transcript: &[u8],
) -> Vec<u8> {
    let mut message = format!("dmtf-spdm-v1.{}.*", version.minor())
        .repeat(4)
        .into_bytes();
    message.resize(100 - context.len(), 0);
    message.extend_from_slice(context.as_bytes());
    message.extend_from_slice(transcript);
    key.sign(hash, context, &message)
}
