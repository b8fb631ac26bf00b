// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A device in a few lines. It answers one requester at a time, and lies where it is told to.

use p384::ecdsa::SigningKey;
use p384::ecdsa::signature::Signer;
use tsm_spdm::crypto::{
    Ecdhe, HandshakeSecrets, KeyAgreement, PublicKey, RecordKey, Secret, SigningContext,
    Transcript, sha384, signing_input,
};
use tsm_spdm::wire::certificate::{Certificate, ChainHeader, Digests, GetCertificate};
use tsm_spdm::wire::challenge::{Challenge, ChallengeAuth, SummaryType};
use tsm_spdm::wire::error::{ErrorCode, ErrorResponse};
use tsm_spdm::wire::measurements::{Block, GetMeasurements, Measurements};
use tsm_spdm::wire::negotiation::{
    Algorithms, Capabilities, CapabilitiesMessage, NegotiateAlgorithms, VersionResponse,
};
use tsm_spdm::wire::opaque::{emit_version_selection, supported_versions};
use tsm_spdm::wire::record::{MESSAGE_OFFSET, OVERHEAD};
use tsm_spdm::wire::session::{Finish, KeyExchange, KeyExchangeResponse, SessionId};
use tsm_spdm::wire::vendor::VendorDefined;
use tsm_spdm::wire::{Code, Digest, Header, Malformed, Version};
use tsm_spdm::{Config, Error, Input, Operation, Outcome, Output, Protocol, Requester, Workspace};
use zerocopy::IntoBytes;

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

fn channel(secret: Secret) -> (Secret, RecordKey) {
    let key = RecordKey::new(&secret);
    (secret, key)
}

/// The device.
pub struct Responder {
    pub key: SigningKey,
    pub chain: Vec<u8>,
    /// Most bytes of the chain in one portion.
    pub portion: usize,
    /// Told the message before it is signed, without signature.
    pub before_signing: Hook,
    /// Told the message before it is sealed.
    pub before_sealing: Hook,
    /// Told what goes over the wire.
    pub on_wire: Hook,
    vca: Transcript,
    m1: Transcript,
    session: Option<Session>,
    randoms: u8,
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ ..0x80) => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    out.extend(content);
    out
}

/// Makes something with the outline of a certificate for the key with this point.
pub fn certificate(point: &[u8], filler: usize) -> Vec<u8> {
    let algorithm = [
        0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
        0x04, 0x00, 0x22,
    ];
    let bits = der(3, &[&[0], point].concat());
    let key_info = der(0x30, &[&algorithm[..], &bits].concat());
    let name = der(0x30, &vec![0; filler]);
    let parts = [
        der(0xa0, &[2, 1, 2]),
        der(2, &[7; 20]),
        der(0x30, &[6, 1, 1]),
        name.clone(),
        der(0x30, &[0x17, 1, 1]),
        name,
        key_info,
        der(0xa3, &[0; 30]),
    ];
    let signature = [der(0x30, &[6, 1, 1]), der(3, &[0; 104])].concat();
    der(0x30, &[der(0x30, &parts.concat()), signature].concat())
}

/// Puts certificates into a chain.
pub fn chain(certificates: &[Vec<u8>]) -> Vec<u8> {
    let header = ChainHeader::new(certificates.concat().len(), sha384(&certificates[0])).unwrap();
    [header.as_bytes(), &certificates.concat()].concat()
}

pub fn point(key: &SigningKey) -> [u8; 97] {
    key.verifying_key()
        .to_sec1_point(false)
        .as_bytes()
        .try_into()
        .unwrap()
}

impl Responder {
    pub fn new() -> Self {
        let key = SigningKey::from_slice(&[0x11; 48]).unwrap();
        let authority = SigningKey::from_slice(&[0x12; 48]).unwrap();
        let certificates = [
            certificate(&point(&authority), 20),
            certificate(&point(&key), 90),
        ];
        Self {
            chain: chain(&certificates),
            key,
            portion: 256,
            before_signing: Box::new(|_, _| ()),
            before_sealing: Box::new(|_, _| ()),
            on_wire: Box::new(|_, _| ()),
            vca: Transcript::new(),
            m1: Transcript::new(),
            session: None,
            randoms: 0,
        }
    }

    pub fn public_key(&self) -> PublicKey {
        PublicKey::new(&point(&self.key)).unwrap()
    }

    fn random(&mut self, bytes: &mut [u8]) {
        self.randoms = self.randoms.wrapping_add(1);
        bytes.fill(self.randoms);
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
        let code = Header::peek(request)?.code;
        let mut out = vec![0; 8192];
        let len = match code {
            Code::GET_VERSION => {
                self.vca = Transcript::new();
                let entries = [0x1000.into(), 0x1100.into(), 0x1200.into()];
                VersionResponse { entries: &entries }.emit(&mut out)?
            }
            Code::GET_CAPABILITIES => {
                CapabilitiesMessage::parse(request, code)?;
                CapabilitiesMessage::new(Code::CAPABILITIES, 10, CAPABILITIES, 4096)
                    .emit(&mut out)?
            }
            Code::NEGOTIATE_ALGORITHMS => {
                NegotiateAlgorithms::parse(request)?;
                Algorithms::SUITE.emit(&mut out)?
            }
            Code::GET_DIGESTS => {
                let digests = [sha384(&self.chain)];
                Digests {
                    slot_mask: 1,
                    digests: &digests,
                }
                .emit(&mut out)?
            }
            Code::GET_CERTIFICATE => {
                let (get, _) = GetCertificate::parse(request)?;
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
                    portion,
                    remainder,
                }
                .emit(&mut out)?
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
        let input = signing_input(context, &transcript.digest());
        let signature: p384::ecdsa::Signature = self.key.sign(&input);
        unsigned.extend(signature.to_bytes());
        unsigned
    }

    fn challenge(&mut self, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let (challenge, used) = Challenge::parse(request)?;
        let summary = (challenge.summary() == SummaryType::ALL).then_some(&[9; 48]);
        let mut nonce = [0; 32];
        self.random(&mut nonce);
        let mut out = vec![0; 1024];
        let auth = ChallengeAuth {
            attributes: challenge.slot(),
            slot_mask: 1,
            chain_digest: &sha384(&self.chain),
            nonce: &nonce,
            summary,
            opaque: &[],
            signature: &[0; 96],
        };
        let len = auth.emit(&mut out)?;
        out.truncate(len - 96);
        let mut m1 = self.m1.clone().with(&request[..used]);
        let mut message = self.sign(SigningContext::ChallengeAuth, out, &mut m1);
        (self.before_sealing)(Code::CHALLENGE_AUTH, &mut message);
        Ok(message)
    }

    fn key_exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let (exchange, used) = KeyExchange::parse(request)?;
        if !supported_versions(exchange.opaque)?
            .iter()
            .any(|version| version.get() == 0x1200)
        {
            return Err(Malformed::Value);
        }
        let summary = (exchange.summary == SummaryType::ALL).then_some(&[9; 48]);
        let mut nonce = [0; 32];
        self.random(&mut nonce);
        let mut source = |bytes: &mut [u8]| {
            self.random(bytes);
            Ok(())
        };
        let (agreement, half) = Ecdhe::generate(&mut source).unwrap();
        let mut opaque = [0; 12];
        emit_version_selection(0x1200, &mut opaque)?;
        let response = KeyExchangeResponse {
            heartbeat: 20,
            session_id: 0xabcd,
            mutual_authentication: 0,
            random: &nonce,
            exchange: &half,
            summary,
            opaque: &opaque,
            signature: &[0; 96],
            verify_data: &[0; 48],
        };
        let mut out = vec![0; 1024];
        let len = response.emit(&mut out)?;
        out.truncate(len - KeyExchangeResponse::AFTER_SIGNED);
        let mut th = self
            .vca
            .clone()
            .with(&sha384(&self.chain))
            .with(&request[..used]);
        let mut message = self.sign(SigningContext::KeyExchangeRsp, out, &mut th);
        th.update(message.last_chunk::<96>().unwrap());
        let th1 = th.digest();
        let secrets = HandshakeSecrets::new(&agreement.agree(exchange.exchange)?, &th1);
        let verify_data = secrets.response.finished_key().hmac(&th1);
        message.extend(verify_data);
        (self.before_sealing)(Code::KEY_EXCHANGE_RSP, &mut message);
        self.session = Some(Session {
            id: SessionId::new(exchange.session_id, 0xabcd),
            request: channel(Secret::new(*secrets.request.as_bytes())),
            response: channel(Secret::new(*secrets.response.as_bytes())),
            handshake: Some(secrets),
            th: th.with(&verify_data),
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
        let mut answer = self.inside(&request)?;
        let code = Header::peek(&answer)?.code;
        (self.before_sealing)(code, &mut answer);
        let sealed = self.seal(&answer);
        if code == Code::FINISH_RSP {
            let session = self.session.as_mut().unwrap();
            let th2 = session.th.clone().with(&request).with(&answer).digest();
            let secrets = session.handshake.take().unwrap().data_secrets(&th2);
            session.request = channel(secrets.request);
            session.response = channel(secrets.response);
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
        let bare = |code| Header::new(code, header.param1, header.param2);
        let len = match header.code {
            Code::FINISH => {
                let (finish, _) = Finish::parse(request)?;
                let expected = self.verify_data(&request[..4]);
                if expected != finish.verify_data {
                    return Err(Malformed::Value);
                }
                Header::new(Code::FINISH_RSP, 0, 0).emit(&mut out)?
            }
            Code::HEARTBEAT => bare(Code::HEARTBEAT_ACK).emit(&mut out)?,
            Code::END_SESSION => Header::new(Code::END_SESSION_ACK, 0, 0).emit(&mut out)?,
            Code::KEY_UPDATE => {
                if header.param1 == 2 {
                    session.request = channel(session.request.0.updated());
                    session.response = channel(session.response.0.updated());
                }
                bare(Code::KEY_UPDATE_ACK).emit(&mut out)?
            }
            Code::VENDOR_DEFINED_REQUEST => {
                let (vendor, _) = VendorDefined::parse(request, header.code)?;
                vendor.emit(Code::VENDOR_DEFINED_RESPONSE, &mut out)?
            }
            Code::GET_MEASUREMENTS => return self.measure(request),
            _ => return Err(Malformed::Code),
        };
        out.truncate(len);
        Ok(out)
    }

    fn verify_data(&self, finish_header: &[u8]) -> Digest {
        let session = self.session.as_ref().unwrap();
        let digest = session.th.clone().with(finish_header).digest();
        session.request.0.finished_key().hmac(&digest)
    }

    fn measure(&mut self, request: &[u8]) -> Result<Vec<u8>, Malformed> {
        let (get, used) = GetMeasurements::parse(request)?;
        get.signed.ok_or(Malformed::Value)?;
        let mut record = vec![0; 256];
        let first = Block {
            index: 1,
            value_type: 0,
            value: &[0x77; 48],
        }
        .emit(&mut record)?;
        let second = Block {
            index: 2,
            value_type: 0x81,
            value: b"raw",
        }
        .emit(&mut record[first..])?;
        let measurements = Measurements {
            total: 0,
            attributes: 0,
            block_count: 2,
            record: &record[..first + second],
            nonce: &[8; 32],
            opaque: &[],
            signature: None,
        };
        let mut out = vec![0; 1024];
        let len = measurements.emit(&mut out)?;
        out.truncate(len);
        let mut l1 = self.vca.clone().with(&request[..used]);
        Ok(self.sign(SigningContext::Measurements, out, &mut l1))
    }
}

/// Makes an ERROR message.
pub fn error(code: ErrorCode) -> Vec<u8> {
    let mut out = vec![0; 4];
    ErrorResponse {
        version: Version::V1_2,
        code,
        data: 0,
    }
    .emit(&mut out)
    .unwrap();
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
    /// What the host keeps of VCA.
    pub kept_vca: Vec<u8>,
    /// What the source of entropy gave last.
    pub randoms: u8,
}

impl Pair {
    pub fn new(challenge: bool) -> Self {
        Self {
            requester: Requester::new(Config {
                challenge,
                ..Config::new(0x1234)
            }),
            workspace: Workspace::new(),
            responder: Responder::new(),
            on_request: Box::new(|_| ()),
            sent: Vec::new(),
            kept_vca: Vec::new(),
            randoms: 100,
        }
    }

    pub fn step(&mut self, input: Input<'_>, out: &mut [u8]) -> Result<Output, Error> {
        let randoms = &mut self.randoms;
        self.requester
            .step(input, out, &mut self.workspace, &mut |bytes| {
                *randoms = randoms.wrapping_add(1);
                bytes.fill(*randoms);
                Ok(())
            })
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
            if cache_request.is_some() {
                self.kept_vca.extend(&request);
            }
            (self.on_request)(&mut request);
            let mut response = self.responder.exchange(&request, protocol);
            output = self.step(Input::Response(&mut response), out)?;
            let (Output::Send { cache_response, .. } | Output::Done { cache_response, .. }) =
                output;
            if let Some(slice) = cache_response
                && slice.object == tsm_spdm::Object::Vca
            {
                self.kept_vca.extend(&response[slice.offset..][..slice.len]);
            }
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
