// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What happens inside a session.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::api::{Config, LEAST_UPDATE_AFTER, UPDATE_AFTER};
use super::establish::{Signer, draw_context};
use super::workspace::RawKey;
use super::{Answer, Object, Outcome, Phase, Progress, Request, Shared, Source, State};
use crate::crypto::{
    AeadAlgorithm, DataSecrets, Digest, PublicKey, Random, RecordKey, Secret, SigningContext,
    Suite, Transcript, sha384,
};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::measurements::{GetMeasurements, Measurements, OPERATION_ALL};
use crate::wire::session::{KeyUpdateOperation, SessionId};
use crate::wire::vendor::VendorDefined;
use crate::wire::{Code, Header, Nonce, RequesterContext, Version};

/// Bytes of the longest vendor-defined payload that can be sent. It is kept for a busy device.
pub const MAX_PAYLOAD: usize = 128;

/// Parameter of END_SESSION: the device forgets what was negotiated.
const CLEAR_NEGOTIATED_STATE: u8 = 1;

/// The keys of one direction.
struct Channel {
    secret: Secret,
    key: RecordKey,
}

impl Channel {
    fn new(aead: AeadAlgorithm, secret: Secret) -> Self {
        Self {
            key: RecordKey::new(aead, &secret),
            secret,
        }
    }

    /// Goes on to the next key.
    fn update(&mut self) {
        *self = Self::new(self.key.aead(), self.secret.updated());
    }
}

/// A session and its keys, which are erased when it goes.
pub(super) struct Session {
    id: SessionId,
    tx: Channel,
    rx: Channel,
    vca: Transcript,
    key: PublicKey,
    /// What KEY_EXCHANGE_RSP summed the measurements up to.
    summary: Digest,
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        suite: &Suite,
        vca: &Transcript,
        key: PublicKey,
        summary: Digest,
        secrets: DataSecrets,
    ) -> Self {
        let (tx, rx) = (
            Channel::new(suite.aead, secrets.request),
            Channel::new(suite.aead, secrets.response),
        );
        Self {
            id,
            tx,
            rx,
            vca: vca.clone(),
            key,
            summary,
        }
    }

    /// Returns whether the keys are all but used up.
    pub(super) fn update_due(&self, config: &Config) -> bool {
        let used = self.tx.key.sequence().max(self.rx.key.sequence());
        used >= config.update_after.clamp(LEAST_UPDATE_AFTER, UPDATE_AFTER)
    }

    pub(super) fn seal(&mut self, out: &mut [u8], message: usize) -> Result<usize, Error> {
        Ok(self.tx.key.seal(self.id, out, message)?)
    }

    pub(super) fn open(&mut self, response: &mut [u8]) -> Result<usize, Error> {
        Ok(self.rx.key.open(self.id, response)?)
    }
}

/// A vendor-defined payload, which may hold a key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Payload {
    bytes: [u8; MAX_PAYLOAD],
    len: usize,
}

/// What goes on in a session.
pub(super) enum Task {
    Idle,
    Measure {
        nonce: Nonce,
        raw: bool,
        /// What was drawn for the request that was sent.
        context: RequesterContext,
    },
    Vendor(Payload),
    Heartbeat,
    UpdateKeys {
        tag: u8,
    },
    VerifyKeys {
        tag: u8,
    },
    End,
}

impl Task {
    pub(super) const fn measure(nonce: Nonce, raw: bool) -> Self {
        Self::Measure {
            nonce,
            raw,
            context: [0; 8],
        }
    }

    pub(super) fn vendor(payload: &[u8]) -> Result<Self, Error> {
        let mut kept = Payload {
            bytes: [0; MAX_PAYLOAD],
            len: payload.len(),
        };
        if payload.is_empty() {
            return Err(Error::Payload);
        }
        kept.bytes
            .get_mut(..payload.len())
            .ok_or(Error::Payload)?
            .copy_from_slice(payload);
        Ok(Self::Vendor(kept))
    }

    pub(super) const fn phase(&self) -> Phase {
        match self {
            Self::Idle => Phase::Established,
            Self::Measure { .. } => Phase::Measurements,
            Self::Vendor(_) => Phase::Vendor,
            Self::Heartbeat => Phase::Heartbeat,
            Self::UpdateKeys { .. } => Phase::UpdateKeys,
            Self::VerifyKeys { .. } => Phase::VerifyKeys,
            Self::End => Phase::EndSession,
        }
    }

    pub(super) fn request(
        &mut self,
        session: &Session,
        shared: &mut Shared,
        out: &mut [u8],
        random: Random<'_>,
    ) -> Result<Request, Error> {
        let version = shared.suite.version;
        Ok(match self {
            Self::Idle => return Err(Error::Internal),
            Self::Measure {
                nonce,
                raw,
                context,
            } => {
                *context = draw_context(version, random)?;
                let message = GetMeasurements {
                    raw: *raw,
                    operation: OPERATION_ALL,
                    signed: Some((*nonce, shared.config.slot)),
                    context: *context,
                };
                let len = message.emit(version, out)?;
                // L1 begins with VCA and holds this one pair: whatever came before has reset it.
                shared.branch(&session.vca, out, len);
                Request::slow(len)
            }
            Self::Vendor(payload) => {
                let bytes = payload.bytes.get(..payload.len).ok_or(Error::Internal)?;
                let message = VendorDefined { payload: bytes };
                Request::slow(message.emit(version, Code::VENDOR_DEFINED_REQUEST, out)?)
            }
            Self::Heartbeat => {
                Request::quick(Header::new(version, Code::HEARTBEAT, 0, 0).emit(out)?)
            }
            Self::UpdateKeys { tag } => {
                let operation = KeyUpdateOperation::UPDATE_ALL_KEYS;
                Request::quick(emit_key_update(version, operation, tag, out, random)?)
            }
            Self::VerifyKeys { tag } => {
                let operation = KeyUpdateOperation::VERIFY_NEW_KEY;
                Request::quick(emit_key_update(version, operation, tag, out, random)?)
            }
            Self::End => {
                let header = Header::new(version, Code::END_SESSION, CLEAR_NEGOTIATED_STATE, 0);
                Request::quick(header.emit(out)?)
            }
        })
    }

    /// Does what follows from the request being on its way.
    pub(super) fn after_sealing(&self, session: &mut Session) {
        // The answer to UpdateAllKeys already comes under the new key.
        if matches!(self, Self::UpdateKeys { .. }) {
            session.tx.update();
            session.rx.update();
        }
    }

    pub(super) fn answer<K>(
        &self,
        session: &Session,
        shared: &mut Shared,
        answer: Answer<'_>,
        raw: &RawKey,
    ) -> Result<Progress<K>, Error> {
        let version = shared.suite.version;
        match self {
            Self::Idle => Err(Error::Internal),
            Self::Measure {
                context,
                raw: values,
                ..
            } => measured(session, shared, (context, !*values), answer, raw),
            Self::Vendor(payload) => vendor_answered(version, payload, answer),
            Self::Heartbeat => {
                answer.bare(version, Code::HEARTBEAT_ACK)?;
                Ok(Progress::to_task(Self::Idle).done(Outcome::Alive))
            }
            Self::UpdateKeys { tag } => {
                let operation = KeyUpdateOperation::UPDATE_ALL_KEYS;
                key_update_acknowledged(version, operation, *tag, answer)?;
                Ok(Progress::to_task(Self::VerifyKeys { tag: 0 }))
            }
            Self::VerifyKeys { tag } => {
                let operation = KeyUpdateOperation::VERIFY_NEW_KEY;
                key_update_acknowledged(version, operation, *tag, answer)?;
                Ok(Progress::to_task(Self::Idle).done(Outcome::KeysUpdated))
            }
            Self::End => {
                answer.bare(version, Code::END_SESSION_ACK)?;
                Ok(Progress::to(State::Ended).done(Outcome::Ended))
            }
        }
    }
}

fn emit_key_update(
    version: Version,
    operation: KeyUpdateOperation,
    tag: &mut u8,
    out: &mut [u8],
    random: Random<'_>,
) -> Result<usize, Error> {
    random(core::slice::from_mut(tag))?;
    Ok(Header::new(version, Code::KEY_UPDATE, operation.0, *tag).emit(out)?)
}

fn key_update_acknowledged(
    version: Version,
    operation: KeyUpdateOperation,
    tag: u8,
    answer: Answer<'_>,
) -> Result<(), Error> {
    let header = answer.bare(version, Code::KEY_UPDATE_ACK)?;
    if (header.param1, header.param2) == (operation.0, tag) {
        Ok(())
    } else {
        Err(PeerMisbehaved::WrongEcho.into())
    }
}

fn measured<K>(
    session: &Session,
    shared: &mut Shared,
    (context, as_digests): (&RequesterContext, bool),
    answer: Answer<'_>,
    raw: &RawKey,
) -> Result<Progress<K>, Error> {
    let layout = shared.suite.layout();
    let (measurements, used) = Measurements::parse(answer.bytes, &layout, true)?;
    let message = answer.exact(used)?;
    if measurements.attributes & 0xf != shared.config.slot || measurements.context != *context {
        return Err(PeerMisbehaved::WrongEcho.into());
    }
    if measurements.block_count == 0 || measurements.blocks().any(|block| block.is_err()) {
        return Err(PeerMisbehaved::MeasurementRecord.into());
    }
    let signed = message.len().saturating_sub(layout.signature);
    let l1 = shared.joined(message.get(..signed).ok_or(Error::Internal)?);
    let signature = measurements.signature.ok_or(Error::Internal)?;
    let signer = Signer {
        suite: &shared.suite,
        key: &session.key,
        raw,
    };
    signer.check(SigningContext::Measurements, &l1, signature)?;
    // A summary is over the blocks as they are without being asked for raw values; of those there
    // is nothing to compare with.
    let summary = Transcript::new(shared.suite.hash).with(measurements.record);
    if as_digests && summary.digest() != session.summary {
        return Err(PeerMisbehaved::MeasurementSummary.into());
    }
    shared.digests.measurements = Some(sha384(message));
    let outcome = Outcome::Measured {
        blocks: measurements.block_count,
    };
    Ok(Progress::to_task(Task::Idle)
        .caching(Object::Measurements, 0, used)
        .done(outcome))
}

fn vendor_answered<K>(
    version: Version,
    payload: &Payload,
    answer: Answer<'_>,
) -> Result<Progress<K>, Error> {
    let code = Code::VENDOR_DEFINED_RESPONSE;
    let (vendor, used) = VendorDefined::parse(answer.bytes, version, code)?;
    answer.exact(used)?;
    // The answer is of the protocol that the request was of.
    if vendor.payload.first() != payload.bytes.first() {
        return Err(PeerMisbehaved::WrongEcho.into());
    }
    let outcome = Outcome::Vendor {
        source: Source::Response,
        offset: VendorDefined::PAYLOAD_OFFSET,
        len: vendor.payload.len(),
    };
    Ok(Progress::to_task(Task::Idle).done(outcome))
}

#[cfg(test)]
mod tests;
