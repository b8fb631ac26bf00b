// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What device and TSM agreed on: GET_VERSION to ALGORITHMS.

use serde::Serialize;
use sha2::{Digest as _, Sha256, Sha384};

/// Hash algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
}

impl Hash {
    pub(crate) fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
        }
    }

    pub(crate) const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }
}

/// Signature algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Signature {
    EcdsaP256,
    EcdsaP384,
    MlDsa65,
    MlDsa87,
}

impl Signature {
    /// Returns the bytes of a signature.
    pub(crate) const fn length(self) -> usize {
        match self {
            Self::EcdsaP256 => 64,
            Self::EcdsaP384 => 96,
            Self::MlDsa65 => 3309,
            Self::MlDsa87 => 4627,
        }
    }
}

/// Version and algorithms.
#[derive(Clone, Debug, Serialize)]
pub struct Negotiation {
    /// SPDM version, major in the upper four bits.
    pub version: u8,
    pub(crate) hash: Hash,
    pub(crate) signature: Signature,
    /// The six messages.
    #[serde(skip)]
    pub(crate) bytes: Vec<u8>,
}

const GET_VERSION: u8 = 0x84;
const VERSION: u8 = 0x04;
const GET_CAPABILITIES: u8 = 0xe1;
const CAPABILITIES: u8 = 0x61;
const NEGOTIATE_ALGORITHMS: u8 = 0xe3;
const ALGORITHMS: u8 = 0x63;
/// Bytes of both messages about capabilities when no block of algorithms follows.
const CAPABILITIES_BYTES: usize = 20;

/// Takes the message `code` of `length` bytes from the front of `bytes`.
fn message<'a>(bytes: &mut &'a [u8], code: u8, length: usize) -> Result<&'a [u8], String> {
    let (message, rest) = bytes
        .split_at_checked(length)
        .filter(|(message, _)| message.get(1) == Some(&code))
        .ok_or_else(|| format!("message {code:#04x} is missing or cut short"))?;
    *bytes = rest;
    Ok(message)
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    let field = bytes.get(offset..).and_then(<[u8]>::first_chunk::<4>);
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

fn half(bytes: &[u8], offset: usize) -> usize {
    let field = bytes.get(offset..).and_then(<[u8]>::first_chunk::<2>);
    field.map_or(0, |field| usize::from(u16::from_le_bytes(*field)))
}

impl Negotiation {
    /// Returns the names of the algorithms.
    #[must_use]
    pub fn algorithms(&self) -> String {
        format!("{:?} over {:?}", self.signature, self.hash)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = bytes;
        message(&mut rest, GET_VERSION, 4)?;
        let count = usize::from(rest.get(5).copied().unwrap_or(0));
        message(&mut rest, VERSION, 6 + 2 * count)?;
        let capabilities = message(&mut rest, GET_CAPABILITIES, CAPABILITIES_BYTES)?;
        message(&mut rest, CAPABILITIES, CAPABILITIES_BYTES)?;
        let length = half(rest, 4);
        message(&mut rest, NEGOTIATE_ALGORITHMS, length)?;
        let length = half(rest, 4);
        let algorithms = message(&mut rest, ALGORITHMS, length)?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow ALGORITHMS", rest.len()));
        }
        let version = capabilities.first().copied().unwrap_or(0);
        if !matches!(version, 0x12..=0x14) {
            return Err(format!("version {version:#04x} is not 1.2, 1.3 or 1.4"));
        }
        let post_quantum = if version >= 0x14 {
            word(algorithms, 20)
        } else {
            0
        };
        let signature = match (word(algorithms, 12), post_quantum) {
            (0x10, 0) => Signature::EcdsaP256,
            (0x80, 0) => Signature::EcdsaP384,
            (0, 2) => Signature::MlDsa65,
            (0, 4) => Signature::MlDsa87,
            other => return Err(format!("signature algorithm {other:x?} is not known")),
        };
        let hash = match word(algorithms, 16) {
            1 => Hash::Sha256,
            2 => Hash::Sha384,
            other => return Err(format!("hash algorithm {other:#x} is not known")),
        };
        Ok(Self {
            version,
            hash,
            signature,
            bytes: bytes.to_vec(),
        })
    }
}
