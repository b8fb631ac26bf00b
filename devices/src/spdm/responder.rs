// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The connection: which request is welcome when, and what each one does to the transcripts.

use std::time::{Duration, Instant};

use super::chunk::Chunks;
use super::identity::{Evidence, Slot};
use super::negotiate::{self, CAPABILITIES_SIZE};
use super::offer::{Agreed, Offer, Peer, Version};
use super::session::{self, Parameters, Session};
use super::vendor::vendor_defined;
use super::{Header, RECORD_OVERHEAD, Reader, Refusal, VERSION_1_0, code, response};
use crate::crypto::{Hash, Transcript};
use crate::event::{Event, SessionEnd, SessionId};
use crate::secrets::Confidant;
use crate::{Identity, Measurements};

/// Sessions at a time, unfinished handshakes included.
const SESSION_LIMIT: usize = 4;

/// What the responder needs from the rest of the device.
pub(crate) trait Application {
    /// Answers a PCI-SIG vendor-defined request that came in `session`.
    ///
    /// Both payloads start with the protocol byte. `room` is the most that the answer may hold.
    fn vendor_request(
        &mut self,
        session: SessionId,
        payload: &[u8],
        room: usize,
    ) -> Result<Vec<u8>, Refusal>;
    /// Looks at a request before the responder reads it. May change it, or answer in its place.
    fn receive(&mut self, session: Option<SessionId>, request: &mut Vec<u8>) -> Option<Vec<u8>>;
    /// Looks at an answer before it is sealed or sent, and may change it.
    fn send(&mut self, session: Option<SessionId>, answer: &mut Vec<u8>);
    /// Forgets what hung on `session`.
    fn session_ended(&mut self, session: SessionId);
    /// Takes note of an event.
    fn note(&mut self, event: Event);
}

/// What does not change while the responder runs.
pub(crate) struct Settings {
    pub(crate) identity: Identity,
    pub(crate) measurements: Measurements,
    /// Seconds; 0 means that sessions live without heartbeats.
    pub(crate) heartbeat_period: u8,
    pub(crate) offer: Offer,
    pub(crate) confidant: Confidant,
}

/// How far the connection has come.
#[derive(Clone, Copy)]
pub(super) enum Phase {
    Start,
    Version,
    Capabilities(Peer),
    Negotiated(Agreed),
}

impl Phase {
    pub(super) fn peer(&self) -> Option<Peer> {
        match self {
            Self::Start | Self::Version => None,
            Self::Capabilities(peer) => Some(*peer),
            Self::Negotiated(agreed) => Some(agreed.peer),
        }
    }
}

/// An SPDM responder on one connection.
pub(crate) struct Responder {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    /// The slots that can be used with what was agreed on.
    slots: Vec<Slot>,
    /// Version, capabilities and algorithms messages, which every transcript begins with.
    vca: Vec<u8>,
    /// M1/M2: the VCA and all digests and certificates since the last reset.
    challenged: Transcript,
    /// L1/L2 outside of sessions.
    measured: Transcript,
    sessions: Vec<Session>,
    pub(super) chunks: Chunks,
}

/// Where a request came from.
pub(super) type Place<'a> = Option<&'a mut Session>;

/// An answer, and what follows from it once it is sealed.
pub(super) struct Reply {
    pub(super) answer: Vec<u8>,
    pub(super) then: Then,
}

/// What follows from an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    /// The session changes to application keys.
    Established,
    /// The session is over.
    Ended(SessionEnd),
}

impl From<Vec<u8>> for Reply {
    fn from(answer: Vec<u8>) -> Self {
        Self {
            answer,
            then: Then::Nothing,
        }
    }
}

impl Responder {
    pub(crate) fn new(settings: Settings) -> Self {
        // Replaced as soon as a hash is agreed on.
        let transcript = Transcript::new(Hash::Sha384);
        Self {
            settings,
            phase: Phase::Start,
            slots: Vec::new(),
            vca: Vec::new(),
            challenged: transcript.clone(),
            measured: transcript,
            sessions: Vec::new(),
            chunks: Chunks::default(),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Lists sessions, and whether each is established.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (SessionId, bool)> {
        self.sessions
            .iter()
            .map(|session| (session.id, session.established()))
    }

    /// Ends all sessions and forgets the connection.
    pub(crate) fn reset(&mut self, application: &mut dyn Application) {
        while let Some(session) = self.sessions.pop() {
            end(session, SessionEnd::Reset, application);
        }
        self.phase = Phase::Start;
        self.vca.clear();
        self.slots.clear();
        self.chunks.forget();
    }

    /// Ends one session, or all of them for `None`. The connection stays.
    pub(crate) fn forget(
        &mut self,
        session: Option<SessionId>,
        why: SessionEnd,
        application: &mut dyn Application,
    ) {
        let named = |other: &mut Session| session.is_none_or(|session| other.id == session);
        for session in self.sessions.extract_if(.., named) {
            end(session, why, application);
        }
    }

    /// Ends sessions that were silent for two heartbeat periods.
    pub(crate) fn tick(&mut self, now: Instant, application: &mut dyn Application) {
        let limit = 2 * Duration::from_secs(u64::from(self.settings.heartbeat_period));
        if limit.is_zero() {
            return;
        }
        let silent = |session: &mut Session| {
            session.established() && now.saturating_duration_since(session.last_heard) > limit
        };
        for session in self.sessions.extract_if(.., silent) {
            end(session, SessionEnd::Silent, application);
        }
    }

    /// Answers a message that came outside of any session.
    pub(crate) fn plain(&mut self, message: &[u8], application: &mut dyn Application) -> Vec<u8> {
        self.converse(None, message, application).answer
    }

    /// Answers a secured record. The flag tells whether the answer is a record, too.
    pub(crate) fn secured(
        &mut self,
        record: &[u8],
        application: &mut dyn Application,
    ) -> (bool, Vec<u8>) {
        let id = record
            .first_chunk()
            .map(|bytes| SessionId(u32::from_le_bytes(*bytes)));
        let place = self
            .sessions
            .iter()
            .position(|session| Some(session.id) == id);
        let version = self.session_version();
        let Some(mut session) = place.map(|index| self.sessions.remove(index)) else {
            // There is no key to answer with.
            note(Some(&Refusal::InvalidSession), &[], id, application);
            return (false, Refusal::InvalidSession.message(version));
        };
        // The session is out of the list while its request runs, and goes back unless it ended.
        let reply = self.session_request(&mut session, record, application);
        let answer = session.seal(&reply.answer);
        match reply.then {
            Then::Nothing => self.sessions.push(session),
            Then::Established => {
                session.establish();
                application.note(Event::SessionStarted(session.id));
                self.sessions.push(session);
            }
            Then::Ended(why) => end(session, why, application),
        }
        match answer {
            Some(answer) => (true, answer),
            None => (false, Refusal::Unspecified.message(version)),
        }
    }

    /// Returns the version of an ERROR response to a record.
    fn session_version(&self) -> u8 {
        self.phase
            .peer()
            .map_or(Version::V1_2, |peer| peer.version)
            .byte()
    }

    /// Returns the version that an ERROR response to a plain `message` carries.
    fn error_version(&self, message: &[u8]) -> u8 {
        if message.get(1) == Some(&code::GET_VERSION) {
            return VERSION_1_0;
        }
        if let Some(peer) = self.phase.peer() {
            return peer.version.byte();
        }
        let known = self.version_of(message.first().copied().unwrap_or(0));
        known.map_or(VERSION_1_0, Version::byte)
    }

    /// Returns the version that a message starts with, if it is one that we offer.
    fn version_of(&self, byte: u8) -> Option<Version> {
        let mut versions = self.settings.offer.versions.iter().copied();
        versions.find(|version| version.byte() == byte)
    }

    /// Answers a whole request, be it with an ERROR.
    pub(super) fn answer(
        &mut self,
        mut place: Place<'_>,
        message: &[u8],
        application: &mut dyn Application,
    ) -> Reply {
        let id = place.as_ref().map(|session| session.id);
        let mut message = message.to_vec();
        let mut reply = match application.receive(id, &mut message) {
            Some(answer) => Reply::from(answer),
            None => {
                let result = match &mut place {
                    Some(session) => self.in_session(session, &message, application),
                    None => self.outside(&message, application).map(Reply::from),
                };
                note(result.as_ref().err(), &message, id, application);
                result.unwrap_or_else(|refusal| self.refuse(refusal, id, &message))
            }
        };
        application.send(id, &mut reply.answer);
        reply
    }

    /// Makes the ERROR response to a request.
    pub(super) fn refuse(
        &self,
        refusal: Refusal,
        session: Option<SessionId>,
        message: &[u8],
    ) -> Reply {
        let version = match session {
            Some(_) => self.session_version(),
            None => self.error_version(message),
        };
        Reply {
            answer: refusal.message(version),
            // What does not authenticate ends a session or its handshake.
            then: match refusal {
                Refusal::DecryptError => Then::Ended(SessionEnd::Forged),
                _ => Then::Nothing,
            },
        }
    }

    /// Answers a whole request that came outside of any session.
    fn outside(
        &mut self,
        message: &[u8],
        application: &mut dyn Application,
    ) -> Result<Vec<u8>, Refusal> {
        let (header, request) = Header::decode(message)?;
        if header.code == code::GET_VERSION {
            let answer = negotiate::version(header, &self.settings.offer)?;
            self.reset(application);
            self.phase = Phase::Version;
            self.remember(&message[..4], &answer);
            return Ok(answer);
        }
        let version = self
            .version_of(header.version)
            .filter(|version| {
                self.phase
                    .peer()
                    .is_none_or(|peer| peer.version == *version)
            })
            .ok_or(Refusal::VersionMismatch)?;
        match (self.phase, header.code) {
            (Phase::Version, code::GET_CAPABILITIES) => {
                let offer = &self.settings.offer;
                let (peer, answer) = negotiate::capabilities(version, request, offer)?;
                self.phase = Phase::Capabilities(peer);
                self.remember(&message[..CAPABILITIES_SIZE], &answer);
                Ok(answer)
            }
            (Phase::Capabilities(peer), code::NEGOTIATE_ALGORITHMS) => {
                let Settings {
                    offer, identity, ..
                } = &self.settings;
                let (agreed, size, answer) =
                    negotiate::algorithms(header, request, peer, offer, identity)?;
                self.slots = Slot::list(identity, &agreed);
                self.phase = Phase::Negotiated(agreed);
                self.remember(&message[..size], &answer);
                self.challenged = self.fresh_transcript(&agreed);
                self.measured = self.fresh_transcript(&agreed);
                Ok(answer)
            }
            (Phase::Negotiated(agreed), _) => {
                self.negotiated(header, request, message, &agreed, application)
            }
            _ => Err(Refusal::UnexpectedRequest),
        }
    }

    /// Answers a request that is legal once algorithms are agreed on.
    fn negotiated(
        &mut self,
        header: Header,
        request: Reader<'_>,
        message: &[u8],
        agreed: &Agreed,
        application: &mut dyn Application,
    ) -> Result<Vec<u8>, Refusal> {
        match header.code {
            code::GET_CAPABILITIES
            | code::NEGOTIATE_ALGORITHMS
            | code::FINISH
            | code::RESPOND_IF_READY => Err(Refusal::UnexpectedRequest),
            code::KEY_EXCHANGE => self.key_exchange(header, request, message, agreed, application),
            code::HEARTBEAT | code::KEY_UPDATE | code::END_SESSION | code::VENDOR_DEFINED => {
                Err(Refusal::SessionRequired)
            }
            _ => self.evidence(header, request, message, None, agreed),
        }
    }

    /// Answers a request for identity or measurements, in a session or outside.
    fn evidence(
        &mut self,
        header: Header,
        request: Reader<'_>,
        message: &[u8],
        place: Place<'_>,
        agreed: &Agreed,
    ) -> Result<Vec<u8>, Refusal> {
        let in_session = place.is_some();
        let fresh = self.fresh_transcript(agreed);
        let measured = match place {
            Some(session) => &mut session.measured,
            None => &mut self.measured,
        };
        // L1/L2 covers consecutive GET_MEASUREMENTS only, and starts again after an error.
        let mut covered = std::mem::replace(measured, fresh.clone());
        let evidence = Evidence {
            agreed: *agreed,
            slots: &self.slots,
            identity: &self.settings.identity,
            measurements: &self.settings.measurements,
            opaque: &self.settings.offer.opaque,
        };
        match header.code {
            code::GET_DIGESTS => {
                let answer = evidence.digests();
                self.cover(in_session, &message[..4], &answer);
                Ok(answer)
            }
            code::GET_CERTIFICATE => {
                let peer = agreed.peer;
                let limit = match in_session {
                    _ if peer.chunks => peer.message_size,
                    true => peer.transfer_size.saturating_sub(RECORD_OVERHEAD),
                    false => peer.transfer_size,
                };
                let size = evidence.certificate_size(header);
                let answer = evidence.certificate(header, request, limit)?;
                self.cover(in_session, &message[..size], &answer);
                Ok(answer)
            }
            code::CHALLENGE if !in_session => {
                let mut transcript = std::mem::replace(&mut self.challenged, fresh);
                let size = evidence.challenge_size();
                transcript.append(message.get(..size).unwrap_or_default());
                evidence.challenge(header, request, &mut transcript)
            }
            code::GET_MEASUREMENTS => {
                let (signed, size) = evidence.measurements_form(header);
                covered.append(message.get(..size).ok_or(Refusal::InvalidRequest)?);
                let answer = evidence.measurements(header, request, &mut covered)?;
                if !signed {
                    *measured = covered;
                }
                self.challenged = fresh;
                Ok(answer)
            }
            code::CHALLENGE => Err(Refusal::UnexpectedRequest),
            other => Err(Refusal::UnsupportedRequest(other)),
        }
    }

    fn key_exchange(
        &mut self,
        header: Header,
        request: Reader<'_>,
        message: &[u8],
        agreed: &Agreed,
        application: &mut dyn Application,
    ) -> Result<Vec<u8>, Refusal> {
        if agreed.session.is_none() {
            return Err(Refusal::UnexpectedRequest);
        }
        self.challenged = self.fresh_transcript(agreed);
        self.measured = self.fresh_transcript(agreed);
        if self.sessions.len() >= SESSION_LIMIT {
            // Handshakes that nobody finished must not lock others out.
            let stale = self
                .sessions
                .iter()
                .position(|session| !session.established());
            let stale = self.sessions.remove(stale.ok_or(Refusal::SessionLimit)?);
            end(stale, SessionEnd::Displaced, application);
        }
        let taken: Vec<u16> = self
            .sessions
            .iter()
            .map(|session| (session.id.0 >> 16) as u16)
            .collect();
        let parameters = Parameters {
            evidence: Evidence {
                agreed: *agreed,
                slots: &self.slots,
                identity: &self.settings.identity,
                measurements: &self.settings.measurements,
                opaque: &self.settings.offer.opaque,
            },
            vca: &self.vca,
            heartbeat_period: self.settings.heartbeat_period,
            taken: &taken,
            confidant: &self.settings.confidant,
        };
        let (mut session, answer) = session::key_exchange(header, message, request, &parameters)?;
        session.measured = self.fresh_transcript(agreed);
        self.sessions.push(session);
        Ok(answer)
    }

    /// Runs one secured request.
    fn session_request(
        &mut self,
        session: &mut Session,
        record: &[u8],
        application: &mut dyn Application,
    ) -> Reply {
        let id = session.id;
        match session.open(record) {
            Some(message) => self.converse(Some(session), &message, application),
            None => {
                note(Some(&Refusal::DecryptError), &[], Some(id), application);
                self.refuse(Refusal::DecryptError, Some(id), &[])
            }
        }
    }

    fn in_session(
        &mut self,
        session: &mut Session,
        message: &[u8],
        application: &mut dyn Application,
    ) -> Result<Reply, Refusal> {
        let (header, request) = Header::decode(message)?;
        let Phase::Negotiated(agreed) = self.phase else {
            return Err(Refusal::UnexpectedRequest);
        };
        let peer = agreed.peer;
        if header.version != peer.version.byte() {
            return Err(Refusal::VersionMismatch);
        }
        let proving = header.code == code::KEY_UPDATE;
        if (!session.established() && header.code != code::FINISH)
            || (session.unverified() && !proving)
        {
            return Err(Refusal::UnexpectedRequest);
        }
        let is_evidence = matches!(
            header.code,
            code::GET_DIGESTS | code::GET_CERTIFICATE | code::GET_MEASUREMENTS
        );
        if !is_evidence {
            session.measured = self.fresh_transcript(&agreed);
        }
        let empty = |code| response(agreed.version, code, 0, 0);
        let answer = match header.code {
            code::FINISH => {
                return session.finish(header, message).map(|answer| Reply {
                    answer,
                    then: Then::Established,
                });
            }
            code::END_SESSION => {
                return Ok(Reply {
                    answer: empty(code::END_SESSION),
                    then: Then::Ended(SessionEnd::Requested),
                });
            }
            code::HEARTBEAT => empty(code::HEARTBEAT),
            // The acknowledgment is sealed with the response key as the update leaves it.
            code::KEY_UPDATE => session.key_update(header)?,
            code::VENDOR_DEFINED => {
                let room = peer.transfer_size.saturating_sub(RECORD_OVERHEAD);
                vendor_defined(session.id, header, request, &peer, room, application)?
            }
            code::GET_VERSION
            | code::GET_CAPABILITIES
            | code::NEGOTIATE_ALGORITHMS
            | code::KEY_EXCHANGE
            | code::RESPOND_IF_READY => return Err(Refusal::UnexpectedRequest),
            _ => self.evidence(header, request, message, Some(session), &agreed)?,
        };
        Ok(Reply::from(answer))
    }

    /// Adds an exchange to the messages that every transcript begins with.
    fn remember(&mut self, request: &[u8], answer: &[u8]) {
        self.vca.extend(request);
        self.vca.extend(answer);
    }

    /// Adds an exchange to M1/M2. Those inside a session are not part of it.
    fn cover(&mut self, in_session: bool, request: &[u8], answer: &[u8]) {
        if !in_session {
            self.challenged.append(request);
            self.challenged.append(answer);
        }
    }

    fn fresh_transcript(&self, agreed: &Agreed) -> Transcript {
        let mut transcript = Transcript::new(agreed.hash);
        transcript.append(&self.vca);
        transcript
    }
}

fn end(session: Session, why: SessionEnd, application: &mut dyn Application) {
    application.session_ended(session.id);
    application.note(Event::SessionEnded(session.id, why));
}

pub(super) fn note(
    refusal: Option<&Refusal>,
    message: &[u8],
    session: Option<SessionId>,
    application: &mut dyn Application,
) {
    let request = message.get(1).copied().unwrap_or(0);
    application.note(match refusal {
        Some(refusal) => Event::Refused {
            request,
            error: refusal.encode().0,
        },
        None => Event::Answered { request, session },
    });
}
