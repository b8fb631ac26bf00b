// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Digests, certificates, challenge and measurements.

use super::offer::Agreed;
use super::{Header, NONCE_SIZE, Reader, Refusal, Version, code, response, sign};
use crate::crypto::{SigningKey, Transcript, random};
use crate::{Identity, Measurements};

/// A provisioned slot under the agreed algorithms.
pub(super) struct Slot {
    number: u8,
    chain: Vec<u8>,
    digest: Vec<u8>,
}

impl Slot {
    /// Lists the slots that can be used with what was agreed on.
    pub(super) fn list(identity: &Identity, agreed: &Agreed) -> Vec<Self> {
        identity
            .holders(agreed.signing)
            .map(|holder| {
                let chain = holder.chain(agreed.hash);
                Self {
                    number: holder.slot(),
                    digest: agreed.hash.digest(&[&chain]),
                    chain,
                }
            })
            .collect()
    }
}

/// What the device can tell about itself, and in which form.
#[derive(Clone, Copy)]
pub(super) struct Evidence<'a> {
    pub(super) agreed: Agreed,
    pub(super) slots: &'a [Slot],
    pub(super) identity: &'a Identity,
    pub(super) measurements: &'a Measurements,
    /// Opaque data of CHALLENGE_AUTH and MEASUREMENTS.
    pub(super) opaque: &'a [u8],
}

/// Bytes of the requester's context (1.3), which the response repeats.
const CONTEXT_SIZE: usize = 8;

impl Evidence<'_> {
    /// Returns key and chain digest of a slot.
    pub(super) fn slot(&self, number: u8) -> Result<(&SigningKey, &[u8]), Refusal> {
        let slot = self.slots.iter().find(|slot| slot.number == number);
        let holder = self
            .identity
            .holders(self.agreed.signing)
            .find(|holder| holder.slot() == number);
        slot.zip(holder)
            .map(|(slot, holder)| (holder.key(), &slot.digest[..]))
            .ok_or(Refusal::InvalidRequest)
    }

    pub(super) fn sign(&self, key: &SigningKey, context: &str, transcript: &Transcript) -> Vec<u8> {
        let Agreed { version, hash, .. } = self.agreed;
        sign(key, version, hash, context, &transcript.digest())
    }

    /// Bit mask of the provisioned slots.
    fn mask(&self) -> u8 {
        self.slots
            .iter()
            .fold(0, |mask, slot| mask | 1 << slot.number)
    }

    fn context_size(&self) -> usize {
        if self.agreed.version >= Version::V1_3 {
            CONTEXT_SIZE
        } else {
            0
        }
    }

    /// Ends a response: opaque data, and the requester's context.
    fn finish(&self, answer: &mut Vec<u8>, context: &[u8]) {
        let opaque = if self.agreed.opaque { self.opaque } else { &[] };
        answer.extend((opaque.len() as u16).to_le_bytes());
        answer.extend(opaque);
        answer.extend(context);
    }

    /// Answers GET_DIGESTS.
    pub(super) fn digests(&self) -> Vec<u8> {
        let supported = if self.agreed.version >= Version::V1_3 {
            self.mask()
        } else {
            0
        };
        let mut answer = response(
            self.agreed.version,
            code::GET_DIGESTS,
            supported,
            self.mask(),
        );
        for slot in self.slots {
            answer.extend(&slot.digest);
        }
        answer
    }

    /// Returns the length of a GET_CERTIFICATE.
    pub(super) fn certificate_size(&self, header: Header) -> usize {
        if self.is_large(header) { 16 } else { 8 }
    }

    fn is_large(&self, header: Header) -> bool {
        self.agreed.peer.large && header.param1 & LARGE != 0
    }

    /// Answers GET_CERTIFICATE with a portion that fits into `limit` bytes.
    pub(super) fn certificate(
        &self,
        header: Header,
        mut request: Reader<'_>,
        limit: usize,
    ) -> Result<Vec<u8>, Refusal> {
        let large = self.is_large(header);
        let (offset, length) = (request.u16()?, request.u16()?);
        let (offset, length) = if large {
            (request.u32()? as usize, request.u32()? as usize)
        } else {
            (usize::from(offset), usize::from(length))
        };
        let number = header.param1 & if large { !LARGE } else { 0xff };
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.number == number)
            .ok_or(Refusal::InvalidRequest)?;
        let size_only = self.agreed.version >= Version::V1_3 && header.param2 & SLOT_SIZE != 0;
        // A slot that nobody can write has room for what is in it.
        let rest = if size_only {
            &slot.chain[..]
        } else {
            slot.chain.get(offset..).unwrap_or_default()
        };
        let room = if size_only {
            0
        } else {
            length.min(limit.saturating_sub(if large { 16 } else { 8 }))
        };
        let portion = &rest[..rest.len().min(room)];
        if portion.is_empty() && !size_only {
            return Err(Refusal::InvalidRequest);
        }
        let left = rest.len() - portion.len();
        let mut answer = response(self.agreed.version, code::GET_CERTIFICATE, header.param1, 0);
        if large {
            answer.extend([0; 4]);
            answer.extend((portion.len() as u32).to_le_bytes());
            answer.extend((left as u32).to_le_bytes());
        } else {
            answer.extend((portion.len() as u16).to_le_bytes());
            answer.extend((left as u16).to_le_bytes());
        }
        answer.extend(portion);
        Ok(answer)
    }

    /// Returns the summary that a request asks for: nothing, or a digest over measurements.
    pub(super) fn summary(&self, kind: u8) -> Result<Vec<u8>, Refusal> {
        match kind {
            0 => Ok(vec![]),
            1 | 0xff => Ok(self.measurements.summary(self.agreed.hash, kind == 0xff)),
            _ => Err(Refusal::InvalidRequest),
        }
    }

    /// Returns the length of CHALLENGE.
    pub(super) fn challenge_size(&self) -> usize {
        4 + NONCE_SIZE + self.context_size()
    }

    /// Answers CHALLENGE. `transcript` is M1/M2 up to and including the request.
    pub(super) fn challenge(
        &self,
        header: Header,
        mut request: Reader<'_>,
        transcript: &mut Transcript,
    ) -> Result<Vec<u8>, Refusal> {
        request.bytes(NONCE_SIZE)?;
        let context = request.bytes(self.context_size())?;
        let (key, digest) = self.slot(header.param1)?;
        let mut answer = response(
            self.agreed.version,
            code::CHALLENGE,
            header.param1,
            self.mask(),
        );
        answer.extend(digest);
        answer.extend(random::<NONCE_SIZE>()?);
        answer.extend(self.summary(header.param2)?);
        self.finish(&mut answer, context);
        transcript.append(&answer);
        answer.extend(self.sign(key, "responder-challenge_auth signing", transcript));
        Ok(answer)
    }

    /// Returns whether a GET_MEASUREMENTS asks for a signature, and its length.
    pub(super) fn measurements_form(&self, header: Header) -> (bool, usize) {
        let signed = header.param1 & WANTS_SIGNATURE != 0;
        let signature = if signed { NONCE_SIZE + 1 } else { 0 };
        (signed, 4 + signature + self.context_size())
    }

    /// Answers GET_MEASUREMENTS. `transcript` is L1/L2 up to and including the request.
    pub(super) fn measurements(
        &self,
        header: Header,
        mut request: Reader<'_>,
        transcript: &mut Transcript,
    ) -> Result<Vec<u8>, Refusal> {
        let (signed, _) = self.measurements_form(header);
        let mut signer = None;
        if signed {
            request.bytes(NONCE_SIZE)?;
            let slot = request.u8()? & 0x0f;
            signer = Some((slot, self.slot(slot)?.0));
        }
        let context = request.bytes(self.context_size())?;
        let raw = header.param1 & WANTS_RAW != 0;
        let new = self.agreed.version >= Version::V1_3 && header.param1 & WANTS_NEW != 0;
        let count = self.measurements.count();
        let (total, blocks, record) = match header.param2 {
            COUNT_ONLY => (count, 0, vec![]),
            ALL => (0, count, self.measurements.all(raw, new)),
            index => {
                let block = self.measurements.block(index, raw, new);
                (0, 1, block.ok_or(Refusal::InvalidRequest)?)
            }
        };
        let slot = signer.map_or(0, |(slot, _)| slot | UNCHANGED);
        let mut answer = response(self.agreed.version, code::GET_MEASUREMENTS, total, slot);
        answer.push(blocks);
        answer.extend(&(record.len() as u32).to_le_bytes()[..3]);
        answer.extend(record);
        answer.extend(random::<NONCE_SIZE>()?);
        self.finish(&mut answer, context);
        transcript.append(&answer);
        if let Some((_, key)) = signer {
            answer.extend(self.sign(key, "responder-measurements signing", transcript));
        }
        Ok(answer)
    }
}

/// GET_CERTIFICATE (1.4): offset and length have 32 bits.
const LARGE: u8 = 1 << 7;
/// GET_CERTIFICATE (1.3): asks for the size of the slot only.
const SLOT_SIZE: u8 = 1 << 0;
/// GET_MEASUREMENTS attributes; the last is of 1.3.
const WANTS_SIGNATURE: u8 = 1 << 0;
const WANTS_RAW: u8 = 1 << 1;
const WANTS_NEW: u8 = 1 << 2;
/// GET_MEASUREMENTS operations.
const COUNT_ONLY: u8 = 0;
const ALL: u8 = 0xff;
/// "No change detected" in a signed MEASUREMENTS: the measurements cannot change while we run.
const UNCHANGED: u8 = 0x20;
