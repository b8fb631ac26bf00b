// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A requester for tests: straightforward, trusting nothing, with its own key schedule.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::sync::{Arc, Mutex};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use ecdsa::signature::Verifier;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use p384::ecdsa::{Signature, VerifyingKey};
use p384::elliptic_curve::sec1::ToSec1Point;
use sha2::{Digest, Sha384};
use tsm_devices::{
    Bar, Config, Dsm, EndKeys, Event, FunctionSource, FunctionView, KeySlot, LinkKey, LinkKeys,
    LinkStatus, SessionId, State, TdiState,
};
use zeroize::Zeroizing;

pub const RID: u16 = 0x0100;
pub const STREAM: u8 = 7;
pub const FIRMWARE: &[u8] = b"the device's firmware";

/// Capabilities of a requester that wants sessions, heartbeats and key updates.
pub const GET_CAPABILITIES: &str = "12e1000000000000c66200000010000000100000";
pub const NEGOTIATE_ALGORITHMS: &str = "12e303002c00010280000000020000000000000000000000000000000000\
                                        0000022010000320020005200100";

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .map(|digit| digit.to_digit(16).unwrap() as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

pub fn sha384(bytes: &[u8]) -> [u8; 48] {
    Sha384::digest(bytes).into()
}

fn hmac384(key: &[u8], bytes: &[u8]) -> [u8; 48] {
    let mut mac = <Hmac<Sha384> as hmac::KeyInit>::new_from_slice(key).unwrap();
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

fn expand<const N: usize>(secret: &[u8], label: &str, context: &[u8]) -> [u8; N] {
    let info = [
        &(N as u16).to_le_bytes()[..],
        b"spdm1.2 ",
        label.as_bytes(),
        context,
    ]
    .concat();
    let mut out = [0; N];
    Hkdf::<Sha384>::from_prk(secret)
        .unwrap()
        .expand(&info, &mut out)
        .unwrap();
    out
}

/// Stream, name at the root port, and key.
type PortKey = (u8, KeySlot, [u8; 32]);

/// The root port's keys, which a test sets by hand.
#[derive(Clone, Default)]
pub struct RootPort {
    keys: Arc<Mutex<Vec<PortKey>>>,
    status: Arc<Mutex<LinkStatus>>,
}

impl RootPort {
    pub fn set(&self, stream: u8, slot: KeySlot, key: [u8; 32]) {
        self.stop(stream, slot);
        self.keys.lock().unwrap().push((stream, slot, key));
    }

    pub fn stop(&self, stream: u8, slot: KeySlot) {
        self.keys
            .lock()
            .unwrap()
            .retain(|(other, at, _)| (*other, *at) != (stream, slot));
    }

    pub fn status(&self) -> LinkStatus {
        *self.status.lock().unwrap()
    }
}

impl LinkKeys for RootPort {
    fn keys(&mut self, stream: u8) -> EndKeys {
        let mut keys = [const { None }; 12];
        for (other, slot, key) in self.keys.lock().unwrap().iter() {
            if *other == stream {
                keys[slot.index()] = Some(LinkKey {
                    key: Zeroizing::new(*key),
                    iv: 1,
                });
            }
        }
        keys
    }

    fn publish(&mut self, _: u8, status: LinkStatus) {
        *self.status.lock().unwrap() = status;
    }
}

/// The function as the host configures it.
#[derive(Clone)]
pub struct Host(pub Arc<Mutex<Option<FunctionView>>>, pub Arc<Mutex<bool>>);

impl FunctionSource for Host {
    fn view(&mut self) -> Option<FunctionView> {
        self.0.lock().unwrap().clone()
    }

    fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.1.lock().unwrap())
    }
}

pub fn function() -> FunctionView {
    let bars = vec![Bar {
        index: 0,
        address: 0x1020_0000,
        size: 0x4000,
    }];
    FunctionView {
        rid: Some(RID),
        bars,
    }
}

/// A device on the bench.
pub struct Bench {
    pub dsm: Dsm,
    pub port: RootPort,
    pub host: Host,
    pub events: Arc<Mutex<Vec<Event>>>,
    vca: Vec<u8>,
    pub chain: Vec<u8>,
}

/// One established or half established session of a test.
pub struct Session {
    pub id: u32,
    handshake: [u8; 48],
    transcript: Vec<u8>,
    request: Direction,
    response: Direction,
    request_secret: [u8; 48],
}

pub struct Direction {
    secret: [u8; 48],
    sequence: u64,
}

impl Direction {
    fn new(secret: [u8; 48]) -> Self {
        Self {
            secret,
            sequence: 0,
        }
    }

    pub fn update(&mut self) {
        *self = Self::new(expand(&self.secret, "traffic upd", &[]));
    }

    fn cipher(&mut self) -> (Aes256Gcm, Nonce<aes_gcm::aead::consts::U12>) {
        let key: [u8; 32] = expand(&self.secret, "key", &[]);
        let mut nonce: [u8; 12] = expand(&self.secret, "iv", &[]);
        for (byte, count) in nonce.iter_mut().zip(self.sequence.to_le_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        (Aes256Gcm::new(&key.into()), nonce.into())
    }
}

impl Session {
    pub fn seal(&mut self, message: &[u8]) -> Vec<u8> {
        let mut record = self.id.to_le_bytes().to_vec();
        record.extend((message.len() as u16 + 18).to_le_bytes());
        let mut text = (message.len() as u16).to_le_bytes().to_vec();
        text.extend(message);
        let (cipher, nonce) = self.request.cipher();
        let tag = cipher
            .encrypt_inout_detached(&nonce, &record, (&mut text[..]).into())
            .unwrap();
        record.extend(text);
        record.extend(tag);
        record
    }

    pub fn open(&mut self, record: &[u8]) -> Vec<u8> {
        assert_eq!(record[..4], self.id.to_le_bytes());
        let length = usize::from(u16::from_le_bytes([record[4], record[5]]));
        let (text, tag) = record[6..6 + length].split_last_chunk::<16>().unwrap();
        let mut text = text.to_vec();
        let (cipher, nonce) = self.response.cipher();
        cipher
            .decrypt_inout_detached(
                &nonce,
                &record[..6],
                (&mut text[..]).into(),
                &Tag::from(*tag),
            )
            .expect("the response opens");
        let application = usize::from(u16::from_le_bytes([text[0], text[1]]));
        text[2..2 + application].to_vec()
    }

    pub fn update_request(&mut self) {
        self.request.update();
    }

    pub fn update_response(&mut self) {
        self.response.update();
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(0xf0)
    }
}

impl Bench {
    pub fn new(heartbeat_period: u8) -> Self {
        let port = RootPort::default();
        let host = Host(Arc::new(Mutex::new(Some(function()))), Arc::default());
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        let mut config = Config::new(FIRMWARE, function()).unwrap();
        config.heartbeat_period = heartbeat_period;
        config.function = Box::new(host.clone());
        config.link = Box::new(port.clone());
        config.observer = Box::new(move |event: &Event| heard.lock().unwrap().push(*event));
        Self {
            dsm: Dsm::new(config),
            port,
            host,
            events,
            vca: Vec::new(),
            chain: Vec::new(),
        }
    }

    /// A device with a connection up to algorithms and a known certificate chain.
    pub fn negotiated() -> Self {
        let mut bench = Self::default();
        bench.negotiate();
        bench.chain = bench.read_chain(0x1000);
        bench
    }

    pub fn state(&self) -> State {
        self.dsm.state()
    }

    pub fn interface(&self) -> TdiState {
        self.dsm.state().interface
    }

    pub fn heard(&self, event: Event) -> bool {
        self.events.lock().unwrap().contains(&event)
    }

    /// Exchanges a payload of data object type `kind`; returns type and padded payload.
    pub fn object(&mut self, kind: u8, payload: &[u8]) -> (u8, Vec<u8>) {
        let mut object = vec![1, 0, kind, 0];
        object.extend((2 + payload.len().div_ceil(4) as u32).to_le_bytes());
        object.extend(payload);
        object.resize(object.len().next_multiple_of(4), 0);
        let answer = self.dsm.handle_doe(&object).expect("an answer");
        assert!(answer.len() <= 0x1008);
        assert_eq!(
            u32::from_le_bytes(answer[4..8].try_into().unwrap()) as usize * 4,
            answer.len()
        );
        (answer[2], answer[8..].to_vec())
    }

    /// Sends a plain message.
    pub fn plain(&mut self, message: &[u8]) -> Vec<u8> {
        let (kind, answer) = self.object(1, message);
        assert_eq!(kind, 1);
        answer
    }

    /// Sends a plain message that must be refused; returns the error code.
    pub fn refused(&mut self, message: &[u8]) -> u8 {
        let answer = self.plain(message);
        assert_eq!(answer[1], 0x7f, "not refused: {answer:02x?}");
        answer[2]
    }

    pub fn negotiate(&mut self) {
        self.vca.clear();
        for (request, size) in [
            ("10840000", 8),
            (GET_CAPABILITIES, 20),
            (NEGOTIATE_ALGORITHMS, 48),
        ] {
            let answer = self.plain(&hex(request));
            assert_ne!(answer[1], 0x7f, "{request} is refused: {answer:02x?}");
            self.vca.extend(hex(request));
            self.vca.extend(&answer[..size]);
        }
    }

    /// Reads the certificate chain in portions of at most `length` bytes.
    pub fn read_chain(&mut self, length: u16) -> Vec<u8> {
        let mut chain = Vec::new();
        loop {
            let mut request = vec![0x12, 0x82, 0, 0];
            request.extend((chain.len() as u16).to_le_bytes());
            request.extend(length.to_le_bytes());
            let answer = self.plain(&request);
            assert_eq!(answer[1], 0x02);
            let word = |at| u16::from_le_bytes([answer[at], answer[at + 1]]);
            assert!(word(4) <= length);
            chain.extend(&answer[8..8 + usize::from(word(4))]);
            if word(6) == 0 {
                return chain;
            }
        }
    }

    /// The key in the last certificate of the chain.
    pub fn leaf_key(&self) -> VerifyingKey {
        let mut rest = &self.chain[52..];
        let mut leaf = rest;
        while !rest.is_empty() {
            let length = 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            (leaf, rest) = rest.split_at(length);
        }
        let at = leaf
            .windows(4)
            .position(|bytes| bytes == [0x03, 0x62, 0x00, 0x04])
            .unwrap();
        VerifyingKey::from_sec1_bytes(&leaf[at + 3..at + 100]).unwrap()
    }

    /// Checks a signature over a transcript.
    pub fn verify(&self, context: &str, transcript: &[u8], signature: &[u8]) {
        let mut message = b"dmtf-spdm-v1.2.*".repeat(4);
        message.resize(100 - context.len(), 0);
        message.extend(context.as_bytes());
        message.extend(sha384(transcript));
        let signature = Signature::from_slice(signature).unwrap();
        self.leaf_key()
            .verify(&message, &signature)
            .expect("a valid signature");
    }

    pub fn vca(&self) -> &[u8] {
        &self.vca
    }

    /// KEY_EXCHANGE up to the checks of the response.
    pub fn key_exchange(&mut self, requester_half: u16) -> Session {
        let secret = p384::SecretKey::from_slice(&[0x11; 48]).unwrap();
        let mut request = vec![0x12, 0xe4, 0xff, 0];
        request.extend(requester_half.to_le_bytes());
        request.extend([0, 0]);
        request.extend([0x22; 32]);
        request.extend(&secret.public_key().to_sec1_point(false).as_bytes()[1..]);
        request.extend(hex("1400 01000000 00000900 01010300 10001100 12000000"));
        let answer = self.plain(&request);
        assert_eq!(answer[1], 0x64, "{answer:02x?}");
        assert_eq!(answer[136..184], sha384(&measurement_blocks()));
        assert_eq!(answer[184..198], hex("0c00 01000000 00000400 01000012"));
        let (signed, rest) = answer.split_at(198);
        let (signature, verify_data) = rest.split_at(96);

        let mut transcript = self.vca.clone();
        transcript.extend(sha384(&self.chain));
        transcript.extend(&request);
        transcript.extend(signed);
        self.verify("responder-key_exchange_rsp signing", &transcript, signature);
        transcript.extend(signature);

        let mut point = vec![4];
        point.extend(&answer[40..136]);
        let theirs = p384::PublicKey::from_sec1_bytes(&point).unwrap();
        let shared = p384::ecdh::diffie_hellman(secret.to_nonzero_scalar(), theirs.as_affine());
        let handshake = hmac384(&[0; 48], shared.raw_secret_bytes());
        let th1 = sha384(&transcript);
        let request_secret: [u8; 48] = expand(&handshake, "req hs data", &th1);
        let response_secret: [u8; 48] = expand(&handshake, "rsp hs data", &th1);
        let finished: [u8; 48] = expand(&response_secret, "finished", &[]);
        assert_eq!(verify_data[..48], hmac384(&finished, &th1));
        transcript.extend(&verify_data[..48]);
        let responder_half = u16::from_le_bytes([answer[4], answer[5]]);
        Session {
            id: u32::from(responder_half) << 16 | u32::from(requester_half),
            handshake,
            transcript,
            request: Direction::new(request_secret),
            response: Direction::new(response_secret),
            request_secret,
        }
    }

    /// The FINISH message of a session.
    pub fn finish_message(session: &Session) -> Vec<u8> {
        let mut message = vec![0x12, 0xe5, 0, 0];
        let covered = [&session.transcript[..], &message].concat();
        let finished: [u8; 48] = expand(&session.request_secret, "finished", &[]);
        message.extend(hmac384(&finished, &sha384(&covered)));
        message
    }

    pub fn finish(&mut self, session: &mut Session) {
        let message = Self::finish_message(session);
        let answer = self.send(session, &message);
        assert_eq!(answer, [0x12, 0x65, 0, 0]);
        session.transcript.extend(&message);
        session.transcript.extend(&answer);
        let salt: [u8; 48] = expand(&session.handshake, "derived", &[]);
        let main = hmac384(&salt, &[0; 48]);
        let th2 = sha384(&session.transcript);
        session.request = Direction::new(expand(&main, "req app data", &th2));
        session.response = Direction::new(expand(&main, "rsp app data", &th2));
    }

    /// Establishes a session.
    pub fn establish(&mut self) -> Session {
        let mut session = self.key_exchange(0x5555);
        self.finish(&mut session);
        session
    }

    /// Exchanges a message inside a session.
    pub fn send(&mut self, session: &mut Session, message: &[u8]) -> Vec<u8> {
        let record = session.seal(message);
        let (kind, answer) = self.object(2, &record);
        assert_eq!(kind, 2, "not a record: {answer:02x?}");
        session.open(&answer)
    }

    /// Sends a message inside a session that must be refused; returns the error code.
    pub fn refused_in(&mut self, session: &mut Session, message: &[u8]) -> u8 {
        let answer = self.send(session, message);
        assert_eq!(answer[1], 0x7f, "not refused: {answer:02x?}");
        answer[2]
    }

    /// Exchanges a PCI-SIG payload.
    pub fn vendor(&mut self, session: &mut Session, payload: &[u8]) -> Vec<u8> {
        let mut message = hex("12fe0000 0300 02 0100");
        message.extend((payload.len() as u16).to_le_bytes());
        message.extend(payload);
        let answer = self.send(session, &message);
        assert_eq!(answer[..9], hex("127e0000 0300 02 0100"), "{answer:02x?}");
        let length = usize::from(u16::from_le_bytes([answer[9], answer[10]]));
        assert_eq!(answer.len(), 11 + length);
        assert_eq!(answer[11], payload[0]);
        answer[11..].to_vec()
    }

    /// Programs one key at both ends and starts it.
    pub fn program(&mut self, session: &mut Session, stream: u8, slot: KeySlot) {
        let at = slot.key_set | u8::from(slot.transmit) << 1 | slot.sub_stream << 4;
        let key = std::array::from_fn(|index| at ^ index as u8);
        let mut payload = vec![0, 2, 0, 0, stream, 0, at, 0];
        for word in key.chunks(4) {
            payload.extend(word.iter().rev());
        }
        payload.extend([0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(
            self.vendor(session, &payload),
            [0, 3, 0, 0, stream, 0, at, 0]
        );
        self.port.set(stream, slot.opposite(), key);
        let ack = [0, 6, 0, 0, stream, 0, at, 0];
        assert_eq!(self.vendor(session, &[0, 4, 0, 0, stream, 0, at, 0]), ack);
    }

    /// Stops one key at both ends.
    pub fn stop_key(&mut self, session: &mut Session, stream: u8, slot: KeySlot) {
        let at = slot.key_set | u8::from(slot.transmit) << 1 | slot.sub_stream << 4;
        self.port.stop(stream, slot.opposite());
        let ack = [0, 6, 0, 0, stream, 0, at, 0];
        assert_eq!(self.vendor(session, &[0, 5, 0, 0, stream, 0, at, 0]), ack);
    }

    /// Makes a stream secure with key set 0.
    pub fn secure(&mut self, session: &mut Session, stream: u8) {
        for slot in KeySlot::of_set(0) {
            self.program(session, stream, slot);
        }
    }

    /// Exchanges a TDISP message; returns type and body.
    pub fn tdisp_for(
        &mut self,
        session: &mut Session,
        rid: u16,
        kind: u8,
        body: &[u8],
    ) -> (u8, Vec<u8>) {
        let mut payload = vec![1, 0x10, kind, 0, 0];
        payload.extend(rid.to_le_bytes());
        payload.extend([0; 10]);
        payload.extend(body);
        let answer = self.vendor(session, &payload);
        assert_eq!(answer[1], 0x10);
        assert_eq!(answer[3..17], payload[3..17]);
        (answer[2], answer[17..].to_vec())
    }

    pub fn tdisp(&mut self, session: &mut Session, kind: u8, body: &[u8]) -> Vec<u8> {
        let (answer, body) = self.tdisp_for(session, RID, kind, body);
        assert_eq!(answer, kind & 0x7f, "TDISP error {body:02x?}");
        body
    }

    /// Sends a TDISP message that must be refused; returns the error code.
    pub fn tdisp_refused(&mut self, session: &mut Session, kind: u8, body: &[u8]) -> u32 {
        let (answer, body) = self.tdisp_for(session, RID, kind, body);
        assert_eq!((answer, body.len()), (0x7f, 8), "not refused");
        u32::from_le_bytes(body[..4].try_into().unwrap())
    }

    pub fn lock_body(flags: u16, stream: u8, mmio_offset: u64) -> Vec<u8> {
        let mut body = flags.to_le_bytes().to_vec();
        body.extend([stream, 0]);
        body.extend(mmio_offset.to_le_bytes());
        body.extend([0; 8]);
        body
    }

    /// Locks and returns the nonce.
    pub fn lock(&mut self, session: &mut Session) -> Vec<u8> {
        let nonce = self.tdisp(session, 0x83, &Self::lock_body(5, STREAM, 0));
        assert_eq!(nonce.len(), 32);
        nonce
    }

    pub fn ended(&self, session: &Session) -> bool {
        self.state()
            .sessions
            .iter()
            .all(|(id, _)| *id != SessionId(session.id))
    }
}

/// All measurement blocks in digest form.
pub fn measurement_blocks() -> Vec<u8> {
    let configuration = concat!("portcullis-dsm ", env!("CARGO_PKG_VERSION"));
    let mut blocks = hex("01013300 01 3000");
    blocks.extend(sha384(FIRMWARE));
    blocks.extend(hex("02013300 03 3000"));
    blocks.extend(sha384(configuration.as_bytes()));
    blocks
}
