// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The connection: which request is welcome when, and what each one does to the transcripts.

use std::time::{Duration, Instant};

use super::keys::Stage;
use super::negotiate::{self, CAPABILITIES_SIZE, Peer};
use super::session::{self, Parameters, Session};
use super::{
    Header, MESSAGE_LIMIT, RECORD_OVERHEAD, Reader, Refusal, VERSION_1_0, VERSION_1_2, code,
    identity, response,
};
use crate::crypto::Transcript;
use crate::event::{Event, SessionEnd, SessionId};
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
}

/// How far the connection has come.
#[derive(Clone, Copy)]
enum Phase {
    Start,
    Version,
    Capabilities(Peer),
    Negotiated(Peer),
}

/// An SPDM responder on one connection.
pub(crate) struct Responder {
    settings: Settings,
    phase: Phase,
    /// Version, capabilities and algorithms messages, which every transcript begins with.
    vca: Vec<u8>,
    /// M1/M2: the VCA and all digests and certificates since the last reset.
    challenged: Transcript,
    /// L1/L2 outside of sessions.
    measured: Transcript,
    sessions: Vec<Session>,
}

/// Where a request came from.
type Place<'a> = Option<&'a mut Session>;

impl Responder {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            phase: Phase::Start,
            vca: Vec::new(),
            challenged: Transcript::new(),
            measured: Transcript::new(),
            sessions: Vec::new(),
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
        let mut message = message.to_vec();
        let mut answer = match application.receive(None, &mut message) {
            Some(answer) => answer,
            None => {
                let result = self.plain_request(&message, application);
                note(result.as_ref().err(), &message, None, application);
                result.unwrap_or_else(|refusal| refusal.message(self.error_version(&message)))
            }
        };
        application.send(None, &mut answer);
        answer
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
        let Some(mut session) = place.map(|index| self.sessions.remove(index)) else {
            // There is no key to answer with.
            note(Some(&Refusal::InvalidSession), &[], id, application);
            return (false, Refusal::InvalidSession.message(VERSION_1_2));
        };
        // The session is out of the list while its request runs, and goes back unless it ended.
        let (answer, ended) = self.session_request(&mut session, record, application);
        match ended {
            Some(why) => end(session, why, application),
            None => self.sessions.push(session),
        }
        match answer {
            Some(answer) => (true, answer),
            None => (false, Refusal::Unspecified.message(VERSION_1_2)),
        }
    }

    /// Returns the version that an ERROR response to `message` carries.
    fn error_version(&self, message: &[u8]) -> u8 {
        let negotiated = matches!(self.phase, Phase::Capabilities(_) | Phase::Negotiated(_));
        let get_version = message.get(1) == Some(&code::GET_VERSION);
        let asked = message.first() == Some(&VERSION_1_2);
        if !get_version && (negotiated || asked) {
            VERSION_1_2
        } else {
            VERSION_1_0
        }
    }

    fn plain_request(
        &mut self,
        message: &[u8],
        application: &mut dyn Application,
    ) -> Result<Vec<u8>, Refusal> {
        let (header, request) = Header::decode(message)?;
        if message.len() > MESSAGE_LIMIT {
            return Err(Refusal::RequestTooLarge);
        }
        if header.code == code::GET_VERSION {
            let answer = negotiate::version(header)?;
            self.reset(application);
            self.phase = Phase::Version;
            self.remember(&message[..4], &answer);
            return Ok(answer);
        }
        if header.version != VERSION_1_2 {
            return Err(Refusal::VersionMismatch);
        }
        match (self.phase, header.code) {
            (Phase::Version, code::GET_CAPABILITIES) => {
                let (peer, answer) = negotiate::capabilities(request)?;
                self.phase = Phase::Capabilities(peer);
                self.remember(&message[..CAPABILITIES_SIZE], &answer);
                Ok(answer)
            }
            (Phase::Capabilities(mut peer), code::NEGOTIATE_ALGORITHMS) => {
                let (size, answer) = negotiate::algorithms(header, request, &mut peer)?;
                self.phase = Phase::Negotiated(peer);
                self.remember(&message[..size], &answer);
                self.challenged = self.fresh_transcript();
                self.measured = self.fresh_transcript();
                Ok(answer)
            }
            (Phase::Negotiated(peer), _) => {
                self.negotiated(header, request, message, peer, application)
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
        peer: Peer,
        application: &mut dyn Application,
    ) -> Result<Vec<u8>, Refusal> {
        let answer = match header.code {
            code::GET_VERSION | code::GET_CAPABILITIES | code::NEGOTIATE_ALGORITHMS => {
                return Err(Refusal::UnexpectedRequest);
            }
            code::KEY_EXCHANGE => {
                self.key_exchange(header, request, message, &peer, application)?
            }
            code::FINISH => return Err(Refusal::UnexpectedRequest),
            code::HEARTBEAT | code::KEY_UPDATE | code::END_SESSION | code::VENDOR_DEFINED => {
                return Err(Refusal::SessionRequired);
            }
            _ => self.evidence(header, request, message, None, &peer)?,
        };
        if answer.len() > peer.transfer_size {
            return Err(Refusal::ResponseTooLarge(answer.len() as u32));
        }
        Ok(answer)
    }

    /// Answers a request for identity or measurements, in a session or outside.
    fn evidence(
        &mut self,
        header: Header,
        request: Reader<'_>,
        message: &[u8],
        place: Place<'_>,
        peer: &Peer,
    ) -> Result<Vec<u8>, Refusal> {
        let in_session = place.is_some();
        let fresh = self.fresh_transcript();
        let measured = match place {
            Some(session) => &mut session.measured,
            None => &mut self.measured,
        };
        // L1/L2 covers consecutive GET_MEASUREMENTS only, and starts again after an error.
        let mut covered = std::mem::replace(measured, fresh.clone());
        let settings = &self.settings;
        let limit = peer.transfer_size - if in_session { RECORD_OVERHEAD } else { 0 };
        match header.code {
            code::GET_DIGESTS => {
                let answer = identity::digests(&settings.identity);
                self.cover(in_session, &message[..4], &answer);
                Ok(answer)
            }
            code::GET_CERTIFICATE => {
                let answer = identity::certificate(header, request, &settings.identity, limit)?;
                self.cover(
                    in_session,
                    &message[..identity::GET_CERTIFICATE_SIZE],
                    &answer,
                );
                Ok(answer)
            }
            code::CHALLENGE if !in_session => {
                let mut transcript = std::mem::replace(&mut self.challenged, fresh);
                transcript.append(message.get(..identity::CHALLENGE_SIZE).unwrap_or_default());
                let Settings {
                    identity,
                    measurements,
                    ..
                } = settings;
                identity::challenge(header, request, identity, measurements, &mut transcript)
            }
            code::GET_MEASUREMENTS => {
                let (signed, size) = identity::measurements_form(header);
                covered.append(message.get(..size).ok_or(Refusal::InvalidRequest)?);
                let Settings {
                    identity,
                    measurements,
                    ..
                } = settings;
                let answer =
                    identity::measurements(header, request, identity, measurements, &mut covered)?;
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
        peer: &Peer,
        application: &mut dyn Application,
    ) -> Result<Vec<u8>, Refusal> {
        if !peer.sessions {
            return Err(Refusal::UnexpectedRequest);
        }
        self.challenged = self.fresh_transcript();
        self.measured = self.fresh_transcript();
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
        let (mut session, answer) = session::key_exchange(
            header,
            message,
            request,
            &Parameters {
                identity: &self.settings.identity,
                measurements: &self.settings.measurements,
                peer,
                vca: &self.vca,
                heartbeat_period: self.settings.heartbeat_period,
                taken: &taken,
            },
        )?;
        session.measured = self.fresh_transcript();
        self.sessions.push(session);
        Ok(answer)
    }

    /// Runs one secured request. Returns the sealed answer, and why the session ends, if it does.
    fn session_request(
        &mut self,
        session: &mut Session,
        record: &[u8],
        application: &mut dyn Application,
    ) -> (Option<Vec<u8>>, Option<SessionEnd>) {
        let Some(mut message) = session.open(record) else {
            note(
                Some(&Refusal::DecryptError),
                &[],
                Some(session.id),
                application,
            );
            let answer = session.seal(&Refusal::DecryptError.message(VERSION_1_2));
            return (answer, Some(SessionEnd::Forged));
        };
        if let Some(mut answer) = application.receive(Some(session.id), &mut message) {
            application.send(Some(session.id), &mut answer);
            return (session.seal(&answer), None);
        }
        let established = session.established();
        let result = self.in_session(session, &message, application);
        note(
            result.as_ref().err(),
            &message,
            Some(session.id),
            application,
        );
        let mut ended = None;
        let mut finished = None;
        let mut answer = match result {
            Ok(Reply::Plain(answer)) => answer,
            Ok(Reply::Finished(answer, stage)) => {
                finished = Some(stage);
                answer
            }
            Ok(Reply::Last(answer)) => {
                ended = Some(SessionEnd::Requested);
                answer
            }
            Err(refusal) => {
                if refusal == Refusal::DecryptError && !established {
                    ended = Some(SessionEnd::Forged);
                }
                refusal.message(VERSION_1_2)
            }
        };
        application.send(Some(session.id), &mut answer);
        let sealed = session.seal(&answer);
        if let Some(stage) = finished {
            session.establish(&stage);
            application.note(Event::SessionStarted(session.id));
        }
        (sealed, ended)
    }

    fn in_session(
        &mut self,
        session: &mut Session,
        message: &[u8],
        application: &mut dyn Application,
    ) -> Result<Reply, Refusal> {
        let (header, request) = Header::decode(message)?;
        let Phase::Negotiated(peer) = self.phase else {
            return Err(Refusal::UnexpectedRequest);
        };
        if header.version != VERSION_1_2 {
            return Err(Refusal::VersionMismatch);
        }
        let proving = header.code == code::KEY_UPDATE;
        if (!session.established() && header.code != code::FINISH)
            || (session.unverified() && !proving)
        {
            return Err(Refusal::UnexpectedRequest);
        }
        let room = peer.transfer_size.saturating_sub(RECORD_OVERHEAD);
        let is_evidence = matches!(
            header.code,
            code::GET_DIGESTS | code::GET_CERTIFICATE | code::GET_MEASUREMENTS
        );
        if !is_evidence {
            session.measured = self.fresh_transcript();
        }
        let answer = match header.code {
            code::FINISH => {
                let (answer, stage) = session.finish(header, message)?;
                return Ok(Reply::Finished(answer, stage));
            }
            code::END_SESSION => return Ok(Reply::Last(response(code::END_SESSION, 0, 0))),
            code::HEARTBEAT => response(code::HEARTBEAT, 0, 0),
            // The acknowledgment is sealed with the response key as the update leaves it.
            code::KEY_UPDATE => session.key_update(header)?,
            code::VENDOR_DEFINED => vendor_defined(session.id, request, room, application)?,
            code::GET_VERSION
            | code::GET_CAPABILITIES
            | code::NEGOTIATE_ALGORITHMS
            | code::KEY_EXCHANGE => return Err(Refusal::UnexpectedRequest),
            _ => self.evidence(header, request, message, Some(session), &peer)?,
        };
        if answer.len() > room {
            return Err(Refusal::ResponseTooLarge(answer.len() as u32));
        }
        Ok(Reply::Plain(answer))
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

    fn fresh_transcript(&self) -> Transcript {
        let mut transcript = Transcript::new();
        transcript.append(&self.vca);
        transcript
    }
}

/// An answer inside a session.
enum Reply {
    /// To be sealed with the keys as they are now.
    Plain(Vec<u8>),
    /// To be sealed with the keys of the handshake, and then the session has those of this stage.
    Finished(Vec<u8>, Box<Stage>),
    /// To be sealed, and then the session is over.
    Last(Vec<u8>),
}

fn end(session: Session, why: SessionEnd, application: &mut dyn Application) {
    application.session_ended(session.id);
    application.note(Event::SessionEnded(session.id, why));
}

fn note(
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

/// Standards body and vendor id of PCI-SIG.
const STANDARD_PCI_SIG: u16 = 3;
const VENDOR_PCI_SIG: [u8; 2] = [0x01, 0x00];
/// Bytes of VENDOR_DEFINED before the payload.
const VENDOR_HEADER: usize = 11;

fn vendor_defined(
    session: SessionId,
    mut request: Reader<'_>,
    room: usize,
    application: &mut dyn Application,
) -> Result<Vec<u8>, Refusal> {
    let standard = request.u16()?;
    let vendor_length = usize::from(request.u8()?);
    let vendor = request.bytes(vendor_length)?;
    let length = usize::from(request.u16()?);
    let payload = request.bytes(length)?;
    if standard != STANDARD_PCI_SIG || vendor != VENDOR_PCI_SIG {
        return Err(Refusal::UnsupportedRequest(code::VENDOR_DEFINED));
    }
    let room = room.saturating_sub(VENDOR_HEADER);
    let reply = application.vendor_request(session, payload, room)?;
    let mut answer = response(code::VENDOR_DEFINED, 0, 0);
    answer.extend(STANDARD_PCI_SIG.to_le_bytes());
    answer.push(VENDOR_PCI_SIG.len() as u8);
    answer.extend(VENDOR_PCI_SIG);
    answer.extend((reply.len() as u16).to_le_bytes());
    answer.extend(reply);
    Ok(answer)
}
