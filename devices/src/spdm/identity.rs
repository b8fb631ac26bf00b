// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Digests, certificates, challenge and measurements.

use super::{Header, NONCE_SIZE, Reader, Refusal, SLOT, code, response, sign};
use crate::Identity;
use crate::Measurements;
use crate::crypto::{SIGNATURE_SIZE, Transcript, random};

/// Bit mask of the provisioned slots.
const SLOT_MASK: u8 = 1 << SLOT;
/// Bytes of CERTIFICATE before the portion.
const CERTIFICATE_HEADER: usize = 8;

/// Answers GET_DIGESTS.
pub(super) fn digests(identity: &Identity) -> Vec<u8> {
    let mut answer = response(code::GET_DIGESTS, 0, SLOT_MASK);
    answer.extend(identity.chain_digest());
    answer
}

/// Length of GET_CERTIFICATE.
pub(super) const GET_CERTIFICATE_SIZE: usize = 8;

/// Answers GET_CERTIFICATE with a portion that fits into `limit` bytes.
pub(super) fn certificate(
    header: Header,
    mut request: Reader<'_>,
    identity: &Identity,
    limit: usize,
) -> Result<Vec<u8>, Refusal> {
    let offset = usize::from(request.u16()?);
    let length = usize::from(request.u16()?);
    let rest = identity.chain().get(offset..).unwrap_or_default();
    let room = limit.saturating_sub(CERTIFICATE_HEADER);
    let portion = &rest[..rest.len().min(length).min(room)];
    if header.param1 != SLOT || portion.is_empty() {
        return Err(Refusal::InvalidRequest);
    }
    let mut answer = response(code::GET_CERTIFICATE, SLOT, 0);
    answer.extend((portion.len() as u16).to_le_bytes());
    answer.extend(((rest.len() - portion.len()) as u16).to_le_bytes());
    answer.extend(portion);
    Ok(answer)
}

/// Returns the summary that a request asks for: nothing, or a digest over the measurements.
///
/// All measurements are of the trusted computing base, so both kinds are the same.
pub(super) fn summary(kind: u8, measurements: &Measurements) -> Result<Vec<u8>, Refusal> {
    match kind {
        0 => Ok(vec![]),
        1 | 0xff => Ok(measurements.summary().to_vec()),
        _ => Err(Refusal::InvalidRequest),
    }
}

/// Length of CHALLENGE.
pub(super) const CHALLENGE_SIZE: usize = 36;

/// Answers CHALLENGE. `transcript` is M1/M2 up to and including the request.
pub(super) fn challenge(
    header: Header,
    mut request: Reader<'_>,
    identity: &Identity,
    measurements: &Measurements,
    transcript: &mut Transcript,
) -> Result<Vec<u8>, Refusal> {
    request.bytes(NONCE_SIZE)?;
    if header.param1 != SLOT {
        return Err(Refusal::InvalidRequest);
    }
    let mut answer = response(code::CHALLENGE, SLOT, SLOT_MASK);
    answer.extend(identity.chain_digest());
    answer.extend(random::<NONCE_SIZE>()?);
    answer.extend(summary(header.param2, measurements)?);
    answer.extend([0, 0]);
    transcript.append(&answer);
    let context = "responder-challenge_auth signing";
    answer.extend(sign(identity, context, &transcript.digest()));
    Ok(answer)
}

/// GET_MEASUREMENTS attributes.
const WANTS_SIGNATURE: u8 = 1 << 0;
const WANTS_RAW: u8 = 1 << 1;
/// GET_MEASUREMENTS operations.
const COUNT_ONLY: u8 = 0;
const ALL: u8 = 0xff;
/// "No change detected" in a signed MEASUREMENTS: the measurements cannot change while we run.
const UNCHANGED: u8 = 0x20;

/// Returns whether a GET_MEASUREMENTS asks for a signature, and its length.
pub(super) fn measurements_form(header: Header) -> (bool, usize) {
    let signed = header.param1 & WANTS_SIGNATURE != 0;
    (signed, if signed { 4 + NONCE_SIZE + 1 } else { 4 })
}

/// Answers GET_MEASUREMENTS. `transcript` is L1/L2 up to and including the request.
pub(super) fn measurements(
    header: Header,
    mut request: Reader<'_>,
    identity: &Identity,
    measurements: &Measurements,
    transcript: &mut Transcript,
) -> Result<Vec<u8>, Refusal> {
    let (signed, _) = measurements_form(header);
    if signed {
        request.bytes(NONCE_SIZE)?;
        if request.u8()? & 0x0f != SLOT {
            return Err(Refusal::InvalidRequest);
        }
    }
    let raw = header.param1 & WANTS_RAW != 0;
    let (total, blocks, record) = match header.param2 {
        COUNT_ONLY => (Measurements::COUNT, 0, vec![]),
        ALL => (0, Measurements::COUNT, measurements.all(raw)),
        index => (
            0,
            1,
            measurements
                .block(index, raw)
                .ok_or(Refusal::InvalidRequest)?,
        ),
    };
    let changed = if signed { SLOT | UNCHANGED } else { 0 };
    let mut answer = response(code::GET_MEASUREMENTS, total, changed);
    answer.push(blocks);
    answer.extend(&(record.len() as u32).to_le_bytes()[..3]);
    answer.extend(record);
    answer.extend(random::<NONCE_SIZE>()?);
    answer.extend([0, 0]);
    transcript.append(&answer);
    if signed {
        let context = "responder-measurements signing";
        let signature: [u8; SIGNATURE_SIZE] = sign(identity, context, &transcript.digest());
        answer.extend(signature);
    }
    Ok(answer)
}
