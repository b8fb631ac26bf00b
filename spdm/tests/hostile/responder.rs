// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A device in a few lines. It answers one requester at a time, and lies where it is told to.

use tsm_spdm::crypto::{
    Digest, HandshakeSecrets, PublicKey, RecordKey, Secret, Signed, SigningContext, Suite,
    Transcript,
};
use tsm_spdm::wire::certificate::{Certificate, Digests, GetCertificate};
use tsm_spdm::wire::challenge::{Challenge, ChallengeAuth, SummaryType};
use tsm_spdm::wire::error::{ErrorCode, ErrorResponse, Extended, NotReady};
use tsm_spdm::wire::measurements::{Block, GetMeasurements, Measurements};
use tsm_spdm::wire::negotiation::{
    Capabilities, CapabilitiesMessage, NegotiateAlgorithms, VersionResponse,
};
use tsm_spdm::wire::opaque::{emit_version_selection, supported_versions};
use tsm_spdm::wire::record::{MESSAGE_OFFSET, OVERHEAD};
use tsm_spdm::wire::session::{
    Finish, FinishResponse, KeyExchange, KeyExchangeResponse, SessionId,
};
use tsm_spdm::wire::vendor::VendorDefined;
use tsm_spdm::wire::{Code, Header, Layout, Malformed, Version};
use tsm_spdm::{
    Config, Error, Input, Operation, Outcome, Output, Protocol, Requester, Slice, Workspace,
};

use crate::chunker::{Chunker, Taken};
use crate::identity::{Key, OFFER, SUITE, agree, certificate, chain, select};

pub const CAPABILITIES: Capabilities = Capabilities::CERT
    .union(Capabilities::CHAL)
    .union(Capabilities::MEAS_SIGNED)
    .union(Capabilities::ENCRYPT)
    .union(Capabilities::MAC)
    .union(Capabilities::KEY_EX)
    .union(Capabilities::HBEAT)
    .union(Capabilities::KEY_UPD);

/// Changes a message of the device, by its code.
pub type Hook = Box<dyn FnMut(Code, &mut Vec<u8>)>;
/// Changes bytes on their way.
pub type Bend = Box<dyn FnMut(&mut Vec<u8>)>;

struct Session {
    id: SessionId,
    handshake: Option<HandshakeSecrets>,
    request: (Secret, RecordKey),
    response: (Secret, RecordKey),
    th: Transcript,
}

fn channel(suite: &Suite, secret: Secret) -> (Secret, RecordKey) {
    let key = RecordKey::new(suite.aead, &secret);
    (secret, key)
}

/// The device.
pub struct Responder {
    /// What it selects.
    pub suite: Suite,
    pub key: Key,
    pub chain: Vec<u8>,
    /// Most bytes of the chain in one portion.
    pub portion: usize,
    /// The slot that holds the chain.
    pub slot: u8,
    /// Told the message before it is signed, without signature.
    pub before_signing: Hook,
    /// Told the message before it is sealed.
    pub before_sealing: Hook,
    /// Told what goes over the wire.
    pub on_wire: Hook,
    /// Takes large messages apart and puts them together.
    pub chunker: Chunker,
    /// Bytes of the largest transfer that the device takes.
    pub transfer_size: u32,
    vca: Transcript,
    m1: Transcript,
    session: Option<Session>,
    randoms: u32,
}

impl Responder {
    pub fn new(suite: Suite) -> Self {
        let key = Key::new(suite.signature, 0x11);
        let authority = Key::new(suite.signature, 0x12);
        let certificates = [certificate(&authority, 20), certificate(&key, 90)];
        Self {
            suite,
            chain: chain(&suite, &certificates),
            key,
            portion: 256,
            slot: 0,
            before_signing: Box::new(|_, _| ()),
            before_sealing: Box::new(|_, _| ()),
            on_wire: Box::new(|_, _| ()),
            chunker: Chunker::new(),
            transfer_size: 4096,
            vca: Transcript::new(suite.hash),
            m1: Transcript::new(suite.hash),
            session: None,
            randoms: 0,
        }
    }

    fn layout(&self) -> Layout {
        self.suite.layout()
    }

    fn hash(&self, bytes: &[u8]) -> Digest {
        Transcript::new(self.suite.hash).with(bytes).digest()
    }

    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    fn random(&mut self, bytes: &mut [u8]) {
        self.randoms = self.randoms.wrapping_add(1);
        fill(bytes, self.randoms);
    }

    /// Answers what came over the wire.
    pub fn exchange(&mut self, request: &[u8], protocol: Protocol) -> Vec<u8> {
        let (code, mut answer) = match protocol {
            Protocol::Spdm => self.plain(request),
            Protocol::Secured => self.secured(request),
        }
        .unwrap_or_else(|_| (Code::ERROR, error(ErrorCode::INVALID_REQUEST)));
        (self.on_wire)(code, &mut answer);
        answer
    }

    fn plain(&mut self, request: &[u8]) -> Result<(Code, Vec<u8>), Malformed> {
        match self.chunker.take(request)? {
            Taken::Chunk(code, answer) => Ok((code, answer)),
            Taken::Whole(request) => {
                let (code, answer) = self.plain_message(&request)?;
                Ok(self.chunker.give(code, answer))
            }
        }
    }

    fn plain_message(&mut self, request: &[u8]) -> Result<(Code, Vec<u8>), Malformed> {
        let code = Header::peek(request)?.code;
        let (layout, version) = (self.layout(), self.suite.version);
        let mut out = vec![0; 8192];
        let len = match code {
            Code::GET_VERSION => {
                self.vca = Transcript::new(self.suite.hash);
                let own = u16::from_be_bytes([version.0, 0]);
                let entries = [0x1000.into(), own.into(), 0x1100.into()];
                VersionResponse { entries: &entries }.emit(&mut out)?
            }
            Code::GET_CAPABILITIES => {
                CapabilitiesMessage::parse(request, version, code)?;
                let flags = if self.chunker.is_on() {
                    CAPABILITIES.union(Capabilities::CHUNK)
                } else {
                    CAPABILITIES
                };
                let code = Code::CAPABILITIES;
                let mut message =
                    CapabilitiesMessage::new(version, code, 10, flags, self.transfer_size);
                if self.chunker.is_on() {
                    message.max_message_size.set(8192);
                }
                message.emit(&mut out)?
            }
            Code::NEGOTIATE_ALGORITHMS => {
                NegotiateAlgorithms::parse(request, version)?;
                select(&self.suite, &mut out)?
            }
            Code::GET_DIGESTS => {
                let digest = self.hash(&self.chain);
                Digests {
                    supported_mask: 1 << self.slot,
                    slot_mask: 1 << self.slot,
                    digests: digest.as_bytes(),
                }
                .emit(&layout, &mut out)?
            }
            Code::GET_CERTIFICATE => {
                let (get, _) = GetCertificate::parse(request, version)?;
                if get.slot() != self.slot {
                    return Err(Malformed::Value);
                }
                let rest = self
                    .chain
                    .get(usize::from(get.offset.get())..)
                    .ok_or(Malformed::Length)?;
                let length = usize::from(get.length.get())
                    .min(self.portion)
                    .min(rest.len());
                let (portion, rest) = rest.split_at(length);
                let remainder = rest.len().try_into().unwrap();
                Certificate {
                    slot: get.slot(),
                    model: 0,
                    portion,
                    remainder,
                }
                .emit(version, &mut out)?
            }
            Code::CHALLENGE => return self.challenge(request).map(|m| (Code::CHALLENGE_AUTH, m)),
            Code::KEY_EXCHANGE => {
                return self
                    .key_exchange(request)
                    .map(|m| (Code::KEY_EXCHANGE_RSP, m));
            }
            _ => return Err(Malformed::Code),
        };
        out.truncate(len);
        let answer = Header::peek(&out)?.code;
        (self.before_sealing)(answer, &mut out);
        let transcript = match code {
            Code::GET_DIGESTS | Code::GET_CERTIFICATE => &mut self.m1,
            _ => &mut self.vca,
        };
        transcript.update(request);
        transcript.update(&out);
        if code == Code::NEGOTIATE_ALGORITHMS {
            self.m1 = self.vca.clone();
        }
        Ok((answer, out))
    }

    /// Lies, signs, and lies again.
    fn sign(
        &mut self,
        context: SigningContext,
        mut unsigned: Vec<u8>,
        transcript: &mut Transcript,
    ) -> Vec<u8> {
        let code = Header::peek(&unsigned).unwrap().code;
        (self.before_signing)(code, &mut unsigned);
        transcript.update(&unsigned);
        let signed = Signed {
            version: self.suite.version,
            hash: self.suite.hash,
            context,
            digest: &transcript.digest(),
        };
        unsigned.extend(self.key.sign(&signed));
        unsigned
    }

    fn challenge(&mut self, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let layout = self.layout();
        let (challenge, used) = Challenge::parse(request, layout.version)?;
        let summary = self.summary(challenge.summary);
        let mut nonce = [0; 32];
        self.random(&mut nonce);
        let mut out = vec![0; 8192];
        let chain = self.hash(&self.chain);
        let auth = ChallengeAuth {
            attributes: challenge.slot,
            slot_mask: 1 << self.slot,
            chain_digest: chain.as_bytes(),
            nonce: &nonce,
            summary: summary.as_deref(),
            opaque: &[],
            context: challenge.context,
            signature: &vec![0; layout.signature],
        };
        let len = auth.emit(&layout, &mut out)?;
        out.truncate(len - layout.signature);
        let mut m1 = self.m1.clone().with(&request[..used]);
        let mut message = self.sign(SigningContext::ChallengeAuth, out, &mut m1);
        (self.before_sealing)(Code::CHALLENGE_AUTH, &mut message);
        Ok(message)
    }

    fn key_exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let (suite, layout) = (self.suite, self.layout());
        let (exchange, used) = KeyExchange::parse(request, &layout)?;
        if !supported_versions(exchange.opaque)?
            .iter()
            .any(|version| version.get() == 0x1200)
        {
            return Err(Malformed::Value);
        }
        let summary = self.summary(exchange.summary);
        let mut nonce = [0; 32];
        self.random(&mut nonce);
        let mut source = |bytes: &mut [u8]| {
            self.random(bytes);
            Ok(())
        };
        let (half, shared) = agree(&suite, exchange.exchange, &mut source)?;
        let mut opaque = [0; 12];
        emit_version_selection(0x1200, &mut opaque)?;
        let response = KeyExchangeResponse {
            heartbeat: 20,
            session_id: 0xabcd,
            mutual_authentication: 0,
            random: &nonce,
            exchange: &half,
            summary: summary.as_deref(),
            opaque: &opaque,
            signature: &vec![0; layout.signature],
            verify_data: &vec![0; layout.hash],
        };
        let mut out = vec![0; 8192];
        let len = response.emit(&layout, &mut out)?;
        out.truncate(len - KeyExchangeResponse::after_signed(&layout));
        let mut th = self
            .vca
            .clone()
            .with(self.hash(&self.chain).as_bytes())
            .with(&request[..used]);
        let mut message = self.sign(SigningContext::KeyExchangeRsp, out, &mut th);
        th.update(&message[message.len() - layout.signature..]);
        let th1 = th.digest();
        let secrets = HandshakeSecrets::new(suite.schedule(), &shared, &th1);
        let key = secrets.response.finished_key();
        let verify_data = key.hmac(th1.as_bytes());
        message.extend(verify_data.as_bytes());
        (self.before_sealing)(Code::KEY_EXCHANGE_RSP, &mut message);
        self.session = Some(Session {
            id: SessionId::new(exchange.session_id, 0xabcd),
            request: channel(&suite, copy(&suite, &secrets.request)),
            response: channel(&suite, copy(&suite, &secrets.response)),
            handshake: Some(secrets),
            th: th.with(verify_data.as_bytes()),
        });
        Ok(message)
    }

    fn secured(&mut self, record: &[u8]) -> Result<(Code, Vec<u8>), Malformed> {
        let session = self.session.as_mut().ok_or(Malformed::Value)?;
        let mut buffer = record.to_vec();
        let len = session
            .request
            .1
            .open(session.id, &mut buffer)
            .map_err(|_| Malformed::Value)?;
        let request = buffer[MESSAGE_OFFSET..][..len].to_vec();
        let request = match self.chunker.take(&request)? {
            Taken::Chunk(code, answer) => return Ok((code, self.seal(&answer))),
            Taken::Whole(request) => request,
        };
        let mut answer = self.inside(&request)?;
        let code = Header::peek(&answer)?.code;
        (self.before_sealing)(code, &mut answer);
        let (_, given) = self.chunker.give(code, answer.clone());
        let sealed = self.seal(&given);
        if code == Code::FINISH_RSP {
            let session = self.session.as_mut().unwrap();
            let th2 = session.th.clone().with(&request).with(&answer).digest();
            let secrets = session.handshake.take().unwrap().data_secrets(&th2);
            session.request = channel(&self.suite, secrets.request);
            session.response = channel(&self.suite, secrets.response);
        }
        Ok((code, sealed))
    }

    /// Seals a message as the next record of the session.
    pub fn seal(&mut self, message: &[u8]) -> Vec<u8> {
        let session = self.session.as_mut().unwrap();
        let mut out = vec![0; message.len() + OVERHEAD];
        out[MESSAGE_OFFSET..][..message.len()].copy_from_slice(message);
        session
            .response
            .1
            .seal(session.id, &mut out, message.len())
            .unwrap();
        out
    }

    fn inside(&mut self, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let header = Header::peek(request)?;
        let mut out = vec![0; 4096];
        let session = self.session.as_mut().unwrap();
        // Until FINISH nothing else is answered, and FINISH only then.
        if session.handshake.is_some() != (header.code == Code::FINISH) {
            return Err(Malformed::Code);
        }
        let (suite, version) = (self.suite, self.suite.version);
        let bare = |code| Header::new(version, code, header.param1, header.param2);
        let len = match header.code {
            Code::FINISH => {
                let (finish, used) = Finish::parse(request, &suite.layout())?;
                let expected = self.verify_data(&request[..used - suite.hash.length()]);
                if !expected.equals(finish.verify_data) {
                    return Err(Malformed::Value);
                }
                FinishResponse { opaque: &[] }.emit(version, &mut out)?
            }
            Code::HEARTBEAT => bare(Code::HEARTBEAT_ACK).emit(&mut out)?,
            Code::END_SESSION => {
                Header::new(version, Code::END_SESSION_ACK, 0, 0).emit(&mut out)?
            }
            Code::KEY_UPDATE => {
                if header.param1 == 2 {
                    session.request = channel(&suite, session.request.0.updated());
                    session.response = channel(&suite, session.response.0.updated());
                }
                bare(Code::KEY_UPDATE_ACK).emit(&mut out)?
            }
            Code::VENDOR_DEFINED_REQUEST => {
                let (vendor, _) = VendorDefined::parse(request, version, header.code)?;
                vendor.emit(version, Code::VENDOR_DEFINED_RESPONSE, &mut out)?
            }
            Code::GET_MEASUREMENTS => return self.measure(request),
            _ => return Err(Malformed::Code),
        };
        out.truncate(len);
        Ok(out)
    }

    fn verify_data(&self, covered: &[u8]) -> Digest {
        let session = self.session.as_ref().unwrap();
        let digest = session.th.clone().with(covered).digest();
        session.request.0.finished_key().hmac(digest.as_bytes())
    }

    fn summary(&self, kind: SummaryType) -> Option<Vec<u8>> {
        (kind == SummaryType::ALL).then(|| self.hash(&record().1).as_bytes().to_vec())
    }

    fn measure(&mut self, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let layout = self.layout();
        let (get, used) = GetMeasurements::parse(request, layout.version)?;
        get.signed.ok_or(Malformed::Value)?;
        let (block_count, record) = record();
        let measurements = Measurements {
            total: 0,
            attributes: self.slot,
            block_count,
            record: &record,
            nonce: &[8; 32],
            opaque: &[],
            context: get.context,
            signature: None,
        };
        let mut out = vec![0; 1024];
        let len = measurements.emit(&layout, &mut out)?;
        out.truncate(len);
        let mut l1 = self.vca.clone().with(&request[..used]);
        Ok(self.sign(SigningContext::Measurements, out, &mut l1))
    }
}

fn copy(suite: &Suite, secret: &Secret) -> Secret {
    Secret::new(suite.schedule(), secret.as_bytes())
}

/// Returns what the device measured: the number of blocks, and the blocks.
fn record() -> (u8, Vec<u8>) {
    let mut record = vec![0; 256];
    let digest = Block {
        index: 1,
        value_type: 0,
        value: &[0x77; 48],
    };
    let raw = Block {
        index: 2,
        value_type: 0x81,
        value: b"raw",
    };
    let first = digest.emit(&mut record).unwrap();
    let second = raw.emit(&mut record[first..]).unwrap();
    record.truncate(first + second);
    (2, record)
}

/// Fills bytes with what the `count`th draw from a source of entropy gives.
fn fill(bytes: &mut [u8], count: u32) {
    let values = count.to_le_bytes().into_iter().cycle();
    bytes
        .iter_mut()
        .zip(values)
        .for_each(|(byte, value)| *byte = value);
}

/// Makes an ERROR message.
pub fn error(code: ErrorCode) -> Vec<u8> {
    let extended = match code {
        ErrorCode::LARGE_RESPONSE => Extended::Large { handle: 0x4c },
        ErrorCode::RESPONSE_NOT_READY => Extended::NotReady(NotReady {
            exponent: 1,
            request: Code::GET_DIGESTS,
            token: 2,
            multiplier: 3,
        }),
        _ => Extended::Nothing,
    };
    let mut out = vec![0; 8];
    let len = ErrorResponse {
        version: Version::V1_2,
        code,
        data: 0,
        extended,
    }
    .emit(&mut out)
    .unwrap();
    out.truncate(len);
    out
}

/// A requester and the device it talks to.
pub struct Pair {
    pub requester: Requester,
    pub workspace: Workspace,
    pub responder: Responder,
    /// Told every request on its way.
    pub on_request: Bend,
    /// What was said to send, in order.
    pub sent: Vec<Output>,
    /// What the host keeps.
    pub kept: [Vec<u8>; 3],
    /// What the source of entropy gave last.
    pub randoms: u32,
}

impl Pair {
    pub fn new(challenge: bool) -> Self {
        Self::with(Config {
            challenge,
            offer: OFFER,
            ..Config::new(0x1234)
        })
    }

    /// Makes a pair whose requester has this configuration.
    pub fn with(config: Config) -> Self {
        Self {
            requester: Requester::new(config),
            workspace: Workspace::new(),
            responder: Responder::new(SUITE),
            on_request: Box::new(|_| ()),
            sent: Vec::new(),
            kept: Default::default(),
            randoms: 100,
        }
    }

    pub fn step(&mut self, input: Input<'_>, out: &mut [u8]) -> Result<Output, Error> {
        let randoms = &mut self.randoms;
        self.requester
            .step(input, out, &mut self.workspace, &mut |bytes| {
                *randoms = randoms.wrapping_add(1);
                fill(bytes, *randoms);
                Ok(())
            })
    }

    fn keep(&mut self, slice: Option<Slice>, from: &[u8]) {
        if let Some(slice) = slice {
            self.kept[slice.object as usize].extend(&from[slice.offset..][..slice.len]);
        }
    }

    /// Carries messages until the operation is done.
    pub fn carry(&mut self, mut output: Output, out: &mut [u8]) -> Result<Outcome, Error> {
        for _ in 0..1000 {
            let Output::Send {
                len,
                protocol,
                cache_request,
                ..
            } = output
            else {
                break;
            };
            self.sent.push(output);
            let mut request = out[..len].to_vec();
            self.keep(cache_request, &request);
            (self.on_request)(&mut request);
            let mut response = self.responder.exchange(&request, protocol);
            output = self.step(Input::Response(&mut response), out)?;
            let (Output::Send { cache_response, .. } | Output::Done { cache_response, .. }) =
                output;
            self.keep(cache_response, &response);
        }
        match output {
            Output::Done { outcome, .. } => Ok(outcome),
            Output::Send { .. } => panic!("the conversation does not end"),
        }
    }

    pub fn operate(&mut self, operation: Operation) -> Result<Outcome, Error> {
        self.requester.start(operation)?;
        let mut out = vec![0; 4096];
        let output = self.step(Input::Begin, &mut out)?;
        self.carry(output, &mut out)
    }

    pub fn begin_vendor(&mut self, payload: &[u8], out: &mut [u8]) -> Result<Output, Error> {
        self.requester
            .start_vendor(payload, out, &mut self.workspace)
    }

    pub fn vendor(&mut self, payload: &[u8]) -> Result<Outcome, Error> {
        let mut out = vec![0; 4096];
        let output = self.begin_vendor(payload, &mut out)?;
        self.carry(output, &mut out)
    }

    /// Opens a session.
    pub fn establish(&mut self) -> Result<Outcome, Error> {
        self.operate(Operation::Discover)?;
        let key = self.responder.public_key();
        self.operate(Operation::Establish { key })
    }
}
