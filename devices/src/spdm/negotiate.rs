// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Version, capabilities and algorithms.

use super::{Header, MESSAGE_LIMIT, Reader, Refusal, VERSION_1_0, VERSION_1_2, code, response};

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
/// DSP0274 1.2: the least data transfer size.
const LEAST_TRANSFER_SIZE: u32 = 42;

const MEASUREMENT_SPEC_DMTF: u8 = 1;
const OPAQUE_FORMAT_1: u8 = 2;
const ECDSA_P384: u32 = 0x80;
const SHA_384: u32 = 0x02;
const MEASUREMENT_SHA_384: u32 = 0x04;

/// What the requester told about itself.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) flags: u32,
    /// Largest message that the requester takes, in bytes.
    pub(super) transfer_size: usize,
    /// Whether opaque data may be present.
    pub(super) opaque: bool,
    /// Whether key agreement, cipher and key schedule were agreed on.
    pub(super) sessions: bool,
}

impl Peer {
    pub(super) fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

/// Answers GET_VERSION: 1.2 only.
pub(super) fn version(header: Header) -> Result<Vec<u8>, Refusal> {
    if header.version != VERSION_1_0 {
        return Err(Refusal::VersionMismatch);
    }
    let [minor, major] = [0, VERSION_1_2];
    Ok(vec![
        VERSION_1_0,
        code::GET_VERSION & !code::REQUEST,
        0,
        0,
        0,
        1,
        minor,
        major,
    ])
}

/// Length of GET_CAPABILITIES and CAPABILITIES.
pub(super) const CAPABILITIES_SIZE: usize = 20;

/// Checks what the requester can do and tells what we can.
pub(super) fn capabilities(mut request: Reader<'_>) -> Result<(Peer, Vec<u8>), Refusal> {
    request.bytes(4)?;
    let flags = request.u32()?;
    let transfer_size = request.u32()?;
    let message_size = request.u32()?;

    let any = |set: u32| flags & set != 0;
    let contradictory = (any(flag::ENCRYPT | flag::MAC) != any(flag::KEY_EX | flag::PSK))
        || flags & flag::PSK == flag::PSK
        || any(flag::MUT_AUTH) && !any(flag::ENCAP)
        || transfer_size < LEAST_TRANSFER_SIZE
        || message_size < transfer_size;
    if contradictory {
        return Err(Refusal::InvalidRequest);
    }
    let peer = Peer {
        flags,
        transfer_size: (transfer_size as usize).min(MESSAGE_LIMIT),
        opaque: false,
        sessions: false,
    };

    let mut answer = response(code::GET_CAPABILITIES, 0, 0);
    answer.extend([0, CT_EXPONENT, 0, 0]);
    answer.extend(RESPONDER_FLAGS.to_le_bytes());
    answer.extend((MESSAGE_LIMIT as u32).to_le_bytes());
    answer.extend((MESSAGE_LIMIT as u32).to_le_bytes());
    Ok((peer, answer))
}

/// Chooses algorithms. Returns the length of the request, which its padding is not part of, and
/// the answer.
pub(super) fn algorithms(
    header: Header,
    mut request: Reader<'_>,
    peer: &mut Peer,
) -> Result<(usize, Vec<u8>), Refusal> {
    let available = 4 + request.0.len();
    let length = usize::from(request.u16()?);
    let measurement_spec = request.u8()?;
    let other = request.u8()?;
    let asymmetric = request.u32()?;
    let hash = request.u32()?;
    request.bytes(12)?;
    let [extended_asymmetric, extended_hash, _, _] = request.array()?;
    // Extended algorithms are four bytes each; we have none to match, but must step over them.
    let extended = usize::from(extended_asymmetric) + usize::from(extended_hash);
    request.bytes(4 * extended)?;
    if length > available || length > 128 || extended > 20 {
        return Err(Refusal::InvalidRequest);
    }

    let mut structures = Vec::new();
    let mut agreed = 0;
    let mut last_kind = 0;
    for _ in 0..header.param1 {
        let [kind, count] = request.array()?;
        let offered = request.u16()?;
        // DSP0274 1.2: ascending types, two bytes of fixed algorithms each.
        if kind <= last_kind || count >> 4 != 2 {
            return Err(Refusal::InvalidRequest);
        }
        request.bytes(4 * usize::from(count & 0xf))?;
        last_kind = kind;
        let supported = match kind {
            2 => 0x10, // secp384r1
            3 => 0x02, // AES-256-GCM
            5 => 0x01, // the SPDM key schedule
            4 => 0,    // we never ask the requester to authenticate
            _ => return Err(Refusal::InvalidRequest),
        };
        agreed += u32::from(offered & supported != 0);
        structures.extend([kind, 0x20]);
        structures.extend((offered & supported).to_le_bytes());
    }
    let consumed = available - request.0.len();
    if length != consumed || asymmetric & ECDSA_P384 == 0 || hash & SHA_384 == 0 {
        return Err(Refusal::InvalidRequest);
    }

    peer.opaque = other & OPAQUE_FORMAT_1 != 0;
    peer.sessions = agreed == 3 && peer.has(flag::KEY_EX | flag::ENCRYPT | flag::MAC);
    let measured = measurement_spec & MEASUREMENT_SPEC_DMTF;
    let measurement_hash = if measured != 0 {
        MEASUREMENT_SHA_384
    } else {
        0
    };

    let mut answer = response(code::NEGOTIATE_ALGORITHMS, header.param1, 0);
    answer.extend(((36 + structures.len()) as u16).to_le_bytes());
    answer.extend([measured, other & OPAQUE_FORMAT_1]);
    answer.extend(measurement_hash.to_le_bytes());
    answer.extend(ECDSA_P384.to_le_bytes());
    answer.extend(SHA_384.to_le_bytes());
    answer.extend([0; 16]);
    answer.extend(structures);
    Ok((length, answer))
}
