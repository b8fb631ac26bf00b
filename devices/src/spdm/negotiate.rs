// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Version, capabilities and algorithms.

use super::offer::{Agreed, LEAST_TRANSFER_SIZE, Offer, Peer};
use super::{Header, Reader, Refusal, VERSION_1_0, Version, code, response};
use crate::Identity;
use crate::crypto::{Cipher, Exchange, Hash, Signing};

/// Capability flags that matter to this responder.
pub(super) mod flag {
    pub(crate) const CERT: u32 = 1 << 1;
    pub(crate) const CHAL: u32 = 1 << 2;
    pub(crate) const MEAS_SIG: u32 = 2 << 3;
    pub(crate) const MEAS_FRESH: u32 = 1 << 5;
    pub(crate) const ENCRYPT: u32 = 1 << 6;
    pub(crate) const MAC: u32 = 1 << 7;
    pub(crate) const MUT_AUTH: u32 = 1 << 8;
    pub(crate) const KEY_EX: u32 = 1 << 9;
    pub(crate) const PSK: u32 = 3 << 10;
    pub(crate) const ENCAP: u32 = 1 << 12;
    pub(crate) const HBEAT: u32 = 1 << 13;
    pub(crate) const KEY_UPD: u32 = 1 << 14;
    pub(crate) const CHUNK: u32 = 1 << 17;
    /// 1.4: lengths of 32 bits.
    pub(crate) const LARGE_RESP: u32 = 1 << 31;
}

const RESPONDER_FLAGS: u32 = flag::CERT
    | flag::CHAL
    | flag::MEAS_SIG
    | flag::MEAS_FRESH
    | flag::ENCRYPT
    | flag::MAC
    | flag::KEY_EX
    | flag::HBEAT
    | flag::KEY_UPD;

/// Time for a cryptographic answer is 2^20 microseconds: a debug build on a slow machine keeps it.
const CT_EXPONENT: u8 = 20;

const MEASUREMENT_SPEC_DMTF: u8 = 1;
const OPAQUE_FORMAT_1: u8 = 2;
const MEASUREMENT_SHA_384: u32 = 0x04;
const SPDM_KEY_SCHEDULE: u16 = 0x01;

/// Answers GET_VERSION.
pub(super) fn version(header: Header, offer: &Offer) -> Result<Vec<u8>, Refusal> {
    if header.version != VERSION_1_0 {
        return Err(Refusal::VersionMismatch);
    }
    let count = offer.versions.len() as u8;
    let mut answer = vec![
        VERSION_1_0,
        code::GET_VERSION & !code::REQUEST,
        0,
        0,
        0,
        count,
    ];
    for version in &offer.versions {
        answer.extend([0, version.byte()]);
    }
    Ok(answer)
}

/// Length of GET_CAPABILITIES and CAPABILITIES.
pub(super) const CAPABILITIES_SIZE: usize = 20;

/// Checks what the requester can do and tells what we can.
pub(super) fn capabilities(
    version: Version,
    mut request: Reader<'_>,
    offer: &Offer,
) -> Result<(Peer, Vec<u8>), Refusal> {
    request.bytes(4)?;
    let flags = request.u32()?;
    let transfer_size = request.u32()? as usize;
    let message_size = request.u32()? as usize;

    let any = |set: u32| flags & set != 0;
    let contradictory = (any(flag::ENCRYPT | flag::MAC) != any(flag::KEY_EX | flag::PSK))
        || flags & flag::PSK == flag::PSK
        || any(flag::MUT_AUTH) && !any(flag::ENCAP)
        || transfer_size < LEAST_TRANSFER_SIZE
        || message_size < transfer_size
        // Without chunks there is no message that is larger than a transfer.
        || !any(flag::CHUNK) && message_size != transfer_size;
    if contradictory {
        return Err(Refusal::InvalidRequest);
    }
    let mut ours = RESPONDER_FLAGS;
    if offer.chunks() {
        ours |= flag::CHUNK;
        if version >= Version::V1_4 {
            ours |= flag::LARGE_RESP;
        }
    }
    let both = |set: u32| flags & ours & set != 0;
    let peer = Peer {
        version,
        flags,
        transfer_size: transfer_size.min(offer.piece()),
        message_size: message_size.min(offer.message_size),
        chunks: both(flag::CHUNK),
        large: both(flag::LARGE_RESP),
    };

    let piece = offer.piece() as u32;
    let whole = if offer.chunks() {
        offer.message_size as u32
    } else {
        piece
    };
    let mut answer = response(version, code::GET_CAPABILITIES, 0, 0);
    answer.extend([0, CT_EXPONENT, 0, 0]);
    answer.extend(ours.to_le_bytes());
    answer.extend(piece.to_le_bytes());
    answer.extend(whole.to_le_bytes());
    Ok((peer, answer))
}

/// Where a signature algorithm stands in the two masks of an algorithms message: the one that
/// there always was, and the post-quantum one of 1.4.
fn signing_bits(signing: Signing) -> (u32, u32) {
    match signing {
        Signing::EcdsaP256 => (0x10, 0),
        Signing::EcdsaP384 => (0x80, 0),
        Signing::MlDsa65 => (0, 0x02),
        Signing::MlDsa87 => (0, 0x04),
    }
}

fn hash_bit(hash: Hash) -> u32 {
    match hash {
        Hash::Sha256 => 0x01,
        Hash::Sha384 => 0x02,
    }
}

/// Types of the structures in an algorithms message.
mod kind {
    pub(super) const DHE: u8 = 2;
    pub(super) const AEAD: u8 = 3;
    pub(super) const REQUESTER_SIGNING: u8 = 4;
    pub(super) const KEY_SCHEDULE: u8 = 5;
    /// 1.4.
    pub(super) const REQUESTER_POST_QUANTUM: u8 = 6;
    /// 1.4.
    pub(super) const KEM: u8 = 7;
}

/// Returns type of structure and bit of a key agreement.
fn exchange_bit(exchange: Exchange) -> (u8, u16) {
    match exchange {
        Exchange::Secp256r1 => (kind::DHE, 0x08),
        Exchange::Secp384r1 => (kind::DHE, 0x10),
        Exchange::MlKem768 => (kind::KEM, 0x02),
        Exchange::MlKem1024 => (kind::KEM, 0x04),
    }
}

fn cipher_bit(cipher: Cipher) -> u16 {
    match cipher {
        Cipher::Aes128Gcm => 0x01,
        Cipher::Aes256Gcm => 0x02,
        Cipher::ChaCha20Poly1305 => 0x04,
    }
}

/// What NEGOTIATE_ALGORITHMS offers.
struct Offered {
    /// Length of the message without padding.
    length: usize,
    measurement_spec: u8,
    other: u8,
    asymmetric: u32,
    post_quantum: u32,
    hash: u32,
    /// Type and mask of each structure.
    structures: Vec<(u8, u16)>,
}

impl Offered {
    fn decode(version: Version, structures: u8, mut request: Reader<'_>) -> Result<Self, Refusal> {
        let available = 4 + request.0.len();
        let length = usize::from(request.u16()?);
        let measurement_spec = request.u8()?;
        let other = request.u8()?;
        let asymmetric = request.u32()?;
        let hash = request.u32()?;
        let post_quantum = request.u32()?;
        request.bytes(8)?;
        let [extended_asymmetric, extended_hash, _, _] = request.array()?;
        // Extended algorithms are four bytes each; we have none to match, but must step over them.
        let extended = usize::from(extended_asymmetric) + usize::from(extended_hash);
        request.bytes(4 * extended)?;
        if length > available || length > 128 || extended > 20 {
            return Err(Refusal::InvalidRequest);
        }
        let last_known = if version >= Version::V1_4 {
            kind::KEM
        } else {
            kind::KEY_SCHEDULE
        };
        let mut list: Vec<(u8, u16)> = Vec::new();
        for _ in 0..structures {
            let [kind, count] = request.array()?;
            let mask = request.u16()?;
            // DSP0274: ascending types, two bytes of fixed algorithms each.
            let last = list.last().map_or(kind::DHE - 1, |(kind, _)| *kind);
            if kind <= last || kind > last_known || count >> 4 != 2 {
                return Err(Refusal::InvalidRequest);
            }
            request.bytes(4 * usize::from(count & 0xf))?;
            list.push((kind, mask));
        }
        if length != available - request.0.len() {
            return Err(Refusal::InvalidRequest);
        }
        Ok(Self {
            length,
            measurement_spec,
            other,
            asymmetric,
            post_quantum: if version >= Version::V1_4 {
                post_quantum
            } else {
                0
            },
            hash,
            structures: list,
        })
    }

    fn has(&self, kind: u8, bit: u16) -> bool {
        self.structures
            .iter()
            .any(|(other, mask)| *other == kind && mask & bit != 0)
    }
}

/// Chooses algorithms. Returns the choice, the length of the request, which its padding is not
/// part of, and the answer.
pub(super) fn algorithms(
    header: Header,
    request: Reader<'_>,
    peer: Peer,
    offer: &Offer,
    identity: &Identity,
) -> Result<(Agreed, usize, Vec<u8>), Refusal> {
    let version = peer.version;
    let offered = Offered::decode(version, header.param1, request)?;
    let signing = offer.signings.iter().copied().find(|signing| {
        let (classic, post_quantum) = signing_bits(*signing);
        let common = offered.asymmetric & classic | offered.post_quantum & post_quantum;
        common != 0 && identity.holders(*signing).next().is_some()
    });
    let hash = offer
        .hashes
        .iter()
        .copied()
        .find(|hash| offered.hash & hash_bit(*hash) != 0);
    let (Some(signing), Some(hash)) = (signing, hash) else {
        return Err(Refusal::InvalidRequest);
    };
    let exchange = offer.exchanges.iter().copied().find(|exchange| {
        let (kind, bit) = exchange_bit(*exchange);
        offered.has(kind, bit)
    });
    let cipher = offer
        .ciphers
        .iter()
        .copied()
        .find(|cipher| offered.has(kind::AEAD, cipher_bit(*cipher)));
    let schedule = offered.has(kind::KEY_SCHEDULE, SPDM_KEY_SCHEDULE)
        && peer.has(flag::KEY_EX | flag::ENCRYPT | flag::MAC);
    let agreed = Agreed {
        peer,
        version,
        signing,
        hash,
        session: exchange.zip(cipher).filter(|_| schedule),
        opaque: offered.other & OPAQUE_FORMAT_1 != 0,
    };

    let mut structures = Vec::new();
    for (kind, mask) in &offered.structures {
        let chosen = match *kind {
            kind::DHE | kind::KEM => exchange
                .map(exchange_bit)
                .filter(|(of, _)| of == kind)
                .map_or(0, |(_, bit)| bit),
            kind::AEAD => cipher.map_or(0, cipher_bit),
            kind::KEY_SCHEDULE => mask & SPDM_KEY_SCHEDULE,
            // We never ask the requester to authenticate.
            kind::REQUESTER_SIGNING | kind::REQUESTER_POST_QUANTUM => 0,
            _ => return Err(Refusal::InvalidRequest),
        };
        structures.extend([*kind, 0x20]);
        structures.extend(chosen.to_le_bytes());
    }
    let measured = offered.measurement_spec & MEASUREMENT_SPEC_DMTF;
    let measurement_hash = if measured != 0 {
        MEASUREMENT_SHA_384
    } else {
        0
    };
    let (classic, post_quantum) = signing_bits(signing);
    let mut answer = response(version, code::NEGOTIATE_ALGORITHMS, header.param1, 0);
    answer.extend(((36 + structures.len()) as u16).to_le_bytes());
    answer.extend([measured, offered.other & OPAQUE_FORMAT_1]);
    answer.extend(measurement_hash.to_le_bytes());
    answer.extend(classic.to_le_bytes());
    answer.extend(hash_bit(hash).to_le_bytes());
    answer.extend(post_quantum.to_le_bytes());
    answer.extend([0; 12]);
    answer.extend(structures);
    Ok((agreed, offered.length, answer))
}
