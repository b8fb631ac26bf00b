// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! SPDM 1.2 responder: ECDSA P-384, SHA-384, ECDHE secp384r1, AES-256-GCM, encrypted handshake.

mod identity;
mod keys;
mod negotiate;
mod responder;
mod session;

pub(crate) use responder::{Application, Responder, Settings};

/// SPDM version of every message but GET_VERSION and VERSION.
const VERSION_1_2: u8 = 0x12;
/// SPDM version of GET_VERSION and VERSION.
const VERSION_1_0: u8 = 0x10;
/// Largest message or record in either direction, in bytes. A data object adds its 8-byte header,
/// which stays below the 0x1200 bytes that QEMU's mailbox takes.
pub(crate) const MESSAGE_LIMIT: usize = 4096;
/// Bytes that a secured record adds to a message: session id, length, application length, tag.
pub(crate) const RECORD_OVERHEAD: usize = 4 + 2 + 2 + 16;
/// The only certificate slot.
const SLOT: u8 = 0;
/// Bytes of a random value or nonce in a message.
const NONCE_SIZE: usize = 32;

/// Codes of the requests that the responder knows; a response has bit 7 clear.
pub(crate) mod code {
    pub(crate) const GET_DIGESTS: u8 = 0x81;
    pub(crate) const GET_CERTIFICATE: u8 = 0x82;
    pub(crate) const CHALLENGE: u8 = 0x83;
    pub(crate) const GET_VERSION: u8 = 0x84;
    pub(crate) const GET_MEASUREMENTS: u8 = 0xe0;
    pub(crate) const GET_CAPABILITIES: u8 = 0xe1;
    pub(crate) const NEGOTIATE_ALGORITHMS: u8 = 0xe3;
    pub(crate) const KEY_EXCHANGE: u8 = 0xe4;
    pub(crate) const FINISH: u8 = 0xe5;
    pub(crate) const HEARTBEAT: u8 = 0xe8;
    pub(crate) const KEY_UPDATE: u8 = 0xe9;
    pub(crate) const END_SESSION: u8 = 0xec;
    pub(crate) const VENDOR_DEFINED: u8 = 0xfe;
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
fn response(code: u8, param1: u8, param2: u8) -> Vec<u8> {
    vec![VERSION_1_2, code & !code::REQUEST, param1, param2]
}

/// Signs `transcript` for `context` (DSP0274 1.2: combined prefix, then the digest).
fn sign(identity: &crate::Identity, context: &str, transcript: &crate::crypto::Digest) -> [u8; 96] {
    let mut prefix = b"dmtf-spdm-v1.2.*".repeat(4);
    prefix.resize(100 - context.len(), 0);
    prefix.extend_from_slice(context.as_bytes());
    prefix.extend_from_slice(transcript);
    identity.key().sign(&prefix)
}
