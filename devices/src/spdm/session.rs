// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sessions: key exchange, finish, heartbeat, key update.

use std::time::Instant;

use subtle::ConstantTimeEq;

use super::chunk::Chunks;
use super::identity::Evidence;
use super::keys::{Direction, Schedule, Stage};
use super::negotiate::flag;
use super::{Header, NONCE_SIZE, Reader, Refusal, Version, code, response};
use crate::crypto::{Transcript, random};
use crate::event::SessionId;
use crate::secrets::Confidant;

/// Opaque data format 1 of one element, secured message version selection 1.2.
const SELECTED_VERSION: [u8; 12] = [1, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0x00, 0x12];
/// Largest opaque data that DSP0274 allows.
const OPAQUE_LIMIT: usize = 1024;

/// What FINISH is judged by.
struct Handshake {
    stage: Stage,
    transcript: Transcript,
    hash_size: usize,
}

/// How far a session has come.
enum Progress {
    /// KEY_EXCHANGE_RSP is sent. Only FINISH is welcome.
    Handshake(Box<Handshake>),
    /// FINISH_RSP is made, and will be the last record under handshake keys.
    Finished(Box<Stage>),
    /// FINISH_RSP is sent.
    Established {
        /// The requester has new keys and must prove it before anything else.
        unverified: bool,
    },
}

/// One SPDM session.
pub(super) struct Session {
    pub(super) id: SessionId,
    version: Version,
    progress: Progress,
    request: Direction,
    response: Direction,
    /// L1/L2 inside this session.
    pub(super) measured: Transcript,
    pub(super) chunks: Chunks,
    pub(super) last_heard: Instant,
    confidant: Confidant,
}

/// What KEY_EXCHANGE needs from the connection.
pub(super) struct Parameters<'a> {
    pub(super) evidence: Evidence<'a>,
    pub(super) vca: &'a [u8],
    pub(super) heartbeat_period: u8,
    /// Responder halves of session ids that are taken.
    pub(super) taken: &'a [u16],
    pub(super) confidant: &'a Confidant,
}

/// Checks the requester's opaque data: it must offer a secured message version that we speak.
///
/// Versions 1.0 to 1.2 are the same on the wire for AES-GCM over PCI DOE; we announce 1.2 and take
/// a requester that knows it.
fn offers_our_version(opaque: &[u8]) -> Result<bool, Refusal> {
    let mut reader = Reader(opaque);
    let [elements, _, _, _] = reader.array()?;
    for _ in 0..elements {
        let [registry, vendor_length] = reader.array()?;
        reader.bytes(usize::from(vendor_length))?;
        let length = usize::from(reader.u16()?);
        let data = reader.bytes(length)?;
        let used = 4 + usize::from(vendor_length) + length;
        reader.bytes(used.next_multiple_of(4) - used)?;
        let mut data = Reader(data);
        let kind: [u8; 2] = data.array()?;
        if registry == 0 && kind == [1, 1] {
            let count = usize::from(data.u8()?);
            return Ok(data
                .bytes(2 * count)?
                .chunks(2)
                .any(|version| version == [0x00, 0x12]));
        }
    }
    Ok(false)
}

/// Answers KEY_EXCHANGE with a session in its handshake.
pub(super) fn key_exchange(
    header: Header,
    message: &[u8],
    mut request: Reader<'_>,
    parameters: &Parameters<'_>,
) -> Result<(Session, Vec<u8>), Refusal> {
    let evidence = &parameters.evidence;
    let agreed = evidence.agreed;
    let (exchange, cipher) = agreed.session.ok_or(Refusal::UnexpectedRequest)?;
    let requester_half = request.u16()?;
    let _policy_and_reserved = request.u16()?;
    request.bytes(NONCE_SIZE)?;
    let share = request.bytes(exchange.request_size())?;
    let opaque_length = usize::from(request.u16()?);
    let opaque = request.bytes(opaque_length)?;
    let size = message.len() - request.0.len();
    let summary = evidence.summary(header.param1)?;
    let (key, chain_digest) = evidence.slot(header.param2)?;
    if opaque_length > OPAQUE_LIMIT {
        return Err(Refusal::InvalidRequest);
    }
    let selection: &[u8] = match opaque {
        [] => &[],
        _ if agreed.opaque && offers_our_version(opaque)? => &SELECTED_VERSION,
        _ => return Err(Refusal::InvalidRequest),
    };
    let (our_share, shared) = exchange.answer(share)?.ok_or(Refusal::InvalidRequest)?;

    let responder_half = loop {
        let half = u16::from_le_bytes(random()?);
        if half != 0 && !parameters.taken.contains(&half) {
            break half;
        }
    };
    let heartbeat = if agreed.peer.has(flag::HBEAT) {
        parameters.heartbeat_period
    } else {
        0
    };
    let mut answer = response(agreed.version, code::KEY_EXCHANGE, heartbeat, 0);
    answer.extend(responder_half.to_le_bytes());
    // Neither mutual authentication nor a slot for it.
    answer.extend([0, 0]);
    answer.extend(random::<NONCE_SIZE>()?);
    answer.extend(our_share);
    answer.extend(summary);
    answer.extend((selection.len() as u16).to_le_bytes());
    answer.extend(selection);

    let mut transcript = Transcript::new(agreed.hash);
    transcript.append(parameters.vca);
    transcript.append(chain_digest);
    transcript.append(&message[..size]);
    transcript.append(&answer);
    let context = "responder-key_exchange_rsp signing";
    let signature = evidence.sign(key, context, &transcript);
    transcript.append(&signature);
    answer.extend(signature);

    let schedule = Schedule {
        version: agreed.version,
        hash: agreed.hash,
        cipher,
    };
    let stage = Stage::handshake(schedule, &shared, &transcript.digest());
    parameters.confidant.tell("shared-secret", &shared);
    let verify = stage.finished(&stage.response, &transcript.digest());
    transcript.append(&verify);
    answer.extend(verify);

    let id = u32::from(responder_half) << 16 | u32::from(requester_half);
    let (request, response) = stage.directions();
    stage.tell("handshake", parameters.confidant);
    let handshake = Handshake {
        stage,
        transcript,
        hash_size: agreed.hash.size(),
    };
    let session = Session {
        id: SessionId(id),
        version: agreed.version,
        request,
        response,
        progress: Progress::Handshake(Box::new(handshake)),
        measured: Transcript::new(agreed.hash),
        chunks: Chunks::default(),
        last_heard: Instant::now(),
        confidant: parameters.confidant.clone(),
    };
    Ok((session, answer))
}

impl Session {
    /// Returns whether FINISH is done.
    pub(super) fn established(&self) -> bool {
        matches!(self.progress, Progress::Established { .. })
    }

    /// Returns whether the requester owes the proof of its new keys.
    pub(super) fn unverified(&self) -> bool {
        matches!(self.progress, Progress::Established { unverified: true })
    }

    /// Unwraps a record of this session.
    pub(super) fn open(&mut self, record: &[u8]) -> Option<Vec<u8>> {
        let message = self.request.open(record)?;
        self.last_heard = Instant::now();
        Some(message)
    }

    /// Wraps a response of this session.
    pub(super) fn seal(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        self.response.seal(self.id, message)
    }

    /// Answers FINISH. The answer is to be sealed before [`Self::establish`].
    ///
    /// A verification value that does not match is [`Refusal::DecryptError`]; the session is then
    /// to be dropped.
    pub(super) fn finish(&mut self, header: Header, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Progress::Handshake(handshake) = &self.progress else {
            return Err(Refusal::UnexpectedRequest);
        };
        let Handshake {
            stage,
            transcript,
            hash_size,
        } = handshake.as_ref();
        let mut head_size = 4;
        // 1.4 puts opaque data before the verification value.
        if self.version >= Version::V1_4 {
            let (_, mut request) = Header::decode(message)?;
            head_size += 2 + usize::from(request.u16()?);
        }
        let (head, verify) = message
            .split_at_checked(head_size)
            .and_then(|(head, rest)| Some((head, rest.get(..*hash_size)?)))
            .filter(|_| message.len() <= head_size + hash_size)
            .ok_or(Refusal::InvalidRequest)?;
        // A signature belongs to mutual authentication, which we did not ask for.
        if header.param1 != 0 || header.param2 != 0 {
            return Err(Refusal::InvalidRequest);
        }
        let mut covered = transcript.clone();
        covered.append(head);
        let expected = stage.finished(&stage.request, &covered.digest());
        if !bool::from(expected.ct_eq(verify)) {
            return Err(Refusal::DecryptError);
        }
        let mut answer = response(self.version, code::FINISH, 0, 0);
        if self.version >= Version::V1_4 {
            answer.extend([0, 0]);
        }
        covered.append(verify);
        covered.append(&answer);
        let application = stage.application(&covered.digest());
        self.progress = Progress::Finished(Box::new(application));
        Ok(answer)
    }

    /// Begins to use application keys: FINISH_RSP is sealed.
    pub(super) fn establish(&mut self) {
        if let Progress::Finished(stage) = &self.progress {
            (self.request, self.response) = stage.directions();
            stage.tell("application", &self.confidant);
            self.progress = Progress::Established { unverified: false };
        }
    }

    /// Answers KEY_UPDATE.
    pub(super) fn key_update(&mut self, header: Header) -> Result<Vec<u8>, Refusal> {
        const UPDATE_KEY: u8 = 1;
        const UPDATE_ALL_KEYS: u8 = 2;
        const VERIFY_NEW_KEY: u8 = 3;
        let unverified = match (header.param1, self.unverified()) {
            (UPDATE_KEY | UPDATE_ALL_KEYS, false) => true,
            (VERIFY_NEW_KEY, true) => false,
            (UPDATE_KEY | UPDATE_ALL_KEYS, true) => return Err(Refusal::UnexpectedRequest),
            _ => return Err(Refusal::InvalidRequest),
        };
        if unverified {
            self.request.update();
            self.request.tell("updated-request", &self.confidant);
        }
        if header.param1 == UPDATE_ALL_KEYS {
            // The acknowledgment is the first record under the new response key.
            self.response.update();
            self.response.tell("updated-response", &self.confidant);
        }
        self.progress = Progress::Established { unverified };
        let Header { param1, param2, .. } = header;
        Ok(response(self.version, code::KEY_UPDATE, param1, param2))
    }
}

#[cfg(test)]
mod tests {
    use super::offers_our_version;

    #[test]
    fn the_version_list_of_other_requesters_is_understood() {
        let offer = [
            1, 0, 0, 0, 0, 0, 9, 0, 1, 1, 3, 0, 0x10, 0, 0x11, 0, 0x12, 0, 0, 0,
        ];
        assert_eq!(offers_our_version(&offer), Ok(true));
        for cut in 0..offer.len() {
            assert!(offers_our_version(&offer[..cut]).is_err());
        }
        let older = [1, 0, 0, 0, 0, 0, 7, 0, 1, 1, 2, 0, 0x10, 0, 0x11, 0];
        assert_eq!(offers_our_version(&older), Ok(false));
        assert_eq!(offers_our_version(&[0, 0, 0, 0]), Ok(false));
    }
}
