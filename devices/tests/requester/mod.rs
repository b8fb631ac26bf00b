// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A requester for tests: straightforward, trusting nothing, with its own key schedule.

// Each test program uses its own part of this.
#![allow(dead_code)]

mod place;
mod session;
mod terms;

use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha384};
use tsm_devices::{Config, Dsm, Event, KeySlot, SessionId, State, TdiState, Version};

pub use place::{Host, RootPort, function};
pub use session::{Direction, Session};
pub use terms::Terms;

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

/// A device on the bench.
pub struct Bench {
    pub dsm: Dsm,
    pub port: RootPort,
    pub host: Host,
    pub events: Arc<Mutex<Vec<Event>>>,
    pub terms: Terms,
    /// Data transfer and message size of the requester; chunks are offered if they differ.
    pub sizes: (u32, u32),
    /// The slot that is asked for.
    pub slot: u8,
    vca: Vec<u8>,
    pub chain: Vec<u8>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(0xf0)
    }
}

impl Bench {
    pub fn new(heartbeat_period: u8) -> Self {
        Self::with(|config| config.heartbeat_period = heartbeat_period)
    }

    /// A device that is configured by the test.
    pub fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let port = RootPort::default();
        let host = Host(Arc::new(Mutex::new(Some(function()))), Arc::default());
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        let mut config = Config::new(FIRMWARE, function()).unwrap();
        config.function = Box::new(host.clone());
        config.link = Box::new(port.clone());
        config.observer = Box::new(move |event: &Event| heard.lock().unwrap().push(*event));
        configure(&mut config);
        Self {
            dsm: Dsm::new(config),
            port,
            host,
            events,
            terms: Terms::default(),
            sizes: (0x1000, 0x1000),
            slot: 0,
            vca: Vec::new(),
            chain: Vec::new(),
        }
    }

    /// A device with a connection up to algorithms and a known certificate chain.
    pub fn negotiated() -> Self {
        Self::default().negotiate_all()
    }

    /// Goes on to a connection up to algorithms and a known certificate chain.
    pub fn negotiate_all(mut self) -> Self {
        self.negotiate();
        self.chain = self.read_chain(0x1000);
        self
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

    /// GET_CAPABILITIES of a requester that wants sessions, heartbeats and key updates.
    pub fn get_capabilities(&self) -> Vec<u8> {
        let (transfer, message) = self.sizes;
        let mut flags: u32 = 0x62c6;
        if message > transfer {
            flags |= 0x2_0000;
        }
        if message > transfer && self.terms.version >= Version::V1_4 {
            flags |= 0x8000_0000;
        }
        let mut request = vec![self.terms.version.byte(), 0xe1, 0, 0, 0, 0, 0, 0];
        request.extend(flags.to_le_bytes());
        request.extend(transfer.to_le_bytes());
        request.extend(message.to_le_bytes());
        request
    }

    /// NEGOTIATE_ALGORITHMS that offers the terms and nothing else.
    pub fn negotiate_algorithms(&self) -> Vec<u8> {
        let structures = self.terms.structures();
        let (classic, post_quantum, hash) = self.terms.masks();
        let mut request = vec![self.terms.version.byte(), 0xe3, structures.len() as u8, 0];
        request.extend((32 + 4 * structures.len() as u16).to_le_bytes());
        request.extend([1, 2]);
        for mask in [classic, hash, post_quantum] {
            request.extend(mask.to_le_bytes());
        }
        request.resize(32, 0);
        request.extend(structures.concat());
        request
    }

    pub fn negotiate(&mut self) {
        self.vca.clear();
        for request in [
            hex("10840000"),
            self.get_capabilities(),
            self.negotiate_algorithms(),
        ] {
            let answer = self.ask(&request);
            let size = match answer[1] {
                0x04 => 6 + 2 * usize::from(answer[5]),
                0x61 => 20,
                0x63 => usize::from(answer[4]),
                _ => panic!("{request:02x?} is refused: {answer:02x?}"),
            };
            self.vca.extend(&request);
            self.vca.extend(&answer[..size]);
        }
    }

    /// Begins a request in the agreed version.
    pub fn request(&self, code: u8, param1: u8, param2: u8) -> Vec<u8> {
        vec![self.terms.version.byte(), code, param1, param2]
    }

    /// Sends a plain message; fetches the answer in chunks if it is large.
    pub fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        let answer = self.plain(message);
        self.fetch(None, answer)
    }

    /// Sends a message inside a session; fetches the answer in chunks if it is large.
    pub fn ask_in(&mut self, session: &mut Session, message: &[u8]) -> Vec<u8> {
        let answer = self.send(session, message);
        self.fetch(Some(session), answer)
    }

    /// CHUNK_GET of one chunk.
    pub fn chunk_get(&self, handle: u8, sequence: u32) -> Vec<u8> {
        let mut request = self.request(0x86, 0, handle);
        if self.terms.version >= Version::V1_4 {
            request.extend(sequence.to_le_bytes());
        } else {
            request.extend((sequence as u16).to_le_bytes());
        }
        request
    }

    /// CHUNK_SEND of one chunk; the first one tells the size of the whole.
    pub fn chunk_send(&self, attributes: u8, sequence: u32, size: usize, chunk: &[u8]) -> Vec<u8> {
        let mut request = self.request(0x85, attributes, 0x31);
        request.extend(sequence.to_le_bytes());
        request.extend((chunk.len() as u32).to_le_bytes());
        if sequence == 0 {
            request.extend((size as u32).to_le_bytes());
        }
        request.extend(chunk);
        request
    }

    /// Returns `answer`, or what it says is to be fetched in chunks.
    pub fn fetch(&mut self, mut session: Option<&mut Session>, answer: Vec<u8>) -> Vec<u8> {
        if answer[1..3] != [0x7f, 0x0f] {
            return answer;
        }
        let handle = answer[4];
        let mut whole = Vec::new();
        let mut size = 0;
        for sequence in 0.. {
            let request = self.chunk_get(handle, sequence);
            let part = match &mut session {
                Some(session) => self.send(session, &request),
                None => self.plain(&request),
            };
            assert_eq!((part[1], part[3]), (0x06, handle), "{part:02x?}");
            let number = u32::from_le_bytes(part[4..8].try_into().unwrap());
            assert_eq!(number, sequence);
            let length = u32::from_le_bytes(part[8..12].try_into().unwrap()) as usize;
            let at = if sequence == 0 { 16 } else { 12 };
            assert!(at + length <= self.sizes.0 as usize);
            if sequence == 0 {
                size = u32::from_le_bytes(part[12..16].try_into().unwrap()) as usize;
            }
            whole.extend(&part[at..at + length]);
            if part[2] & 1 != 0 {
                break;
            }
        }
        assert_eq!(whole.len(), size);
        whole
    }

    /// Reads the certificate chain in portions of at most `length` bytes.
    pub fn read_chain(&mut self, length: u16) -> Vec<u8> {
        let mut chain = Vec::new();
        loop {
            let mut request = self.request(0x82, self.slot, 0);
            request.extend((chain.len() as u16).to_le_bytes());
            request.extend(length.to_le_bytes());
            let answer = self.ask(&request);
            assert_eq!(answer[1], 0x02, "{answer:02x?}");
            let word = |at| u16::from_le_bytes([answer[at], answer[at + 1]]);
            assert!(word(4) <= length);
            chain.extend(&answer[8..8 + usize::from(word(4))]);
            if word(6) == 0 {
                return chain;
            }
        }
    }

    /// The certificates of the chain, root first.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let mut rest = &self.chain[4 + self.terms.hash_size()..];
        let mut list = Vec::new();
        while !rest.is_empty() {
            let length = 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            let (certificate, after) = rest.split_at(length);
            list.push(certificate.to_vec());
            rest = after;
        }
        list
    }

    /// Checks a signature over a transcript.
    pub fn verify(&self, context: &str, transcript: &[u8], signature: &[u8]) {
        let leaf = self.certificates().pop().unwrap();
        let key = self.terms.key_of(&leaf);
        let message = self.terms.signed_message(context, transcript);
        assert!(
            self.terms.verifies(key, context, &message, signature),
            "{context} is wrong"
        );
    }

    pub fn vca(&self) -> &[u8] {
        &self.vca
    }

    /// A KEY_EXCHANGE message that asks for the summary of all measurements.
    pub fn key_exchange_message(&self, requester_half: u16) -> Vec<u8> {
        let mut request = self.request(0xe4, 0xff, self.slot);
        request.extend(requester_half.to_le_bytes());
        request.extend([0, 0]);
        request.extend([0x22; 32]);
        request.extend(self.terms.share());
        request.extend(hex("1400 01000000 00000900 01010300 10001100 12000000"));
        request
    }

    /// KEY_EXCHANGE up to the checks of the response.
    pub fn key_exchange(&mut self, requester_half: u16) -> Session {
        let request = self.key_exchange_message(requester_half);
        let answer = self.ask(&request);
        self.check_key_exchange(&request, &answer)
    }

    /// Checks the response to a KEY_EXCHANGE.
    pub fn check_key_exchange(&self, request: &[u8], answer: &[u8]) -> Session {
        let terms = self.terms;
        assert_eq!(answer[1], 0x64, "{answer:02x?}");
        let summary = 40 + terms.answer_size();
        let opaque = summary + terms.hash_size();
        let (share, rest) = (&answer[40..summary], &answer[summary..]);
        assert_eq!(
            rest[..terms.hash_size()],
            terms.digest(&measurement_blocks())
        );
        assert_eq!(
            answer[opaque..opaque + 14],
            hex("0c00 01000000 00000400 01000012")
        );
        let (signed, rest) = answer.split_at(opaque + 14);
        let (signature, verify_data) = rest.split_at(terms.signature_size());
        let verify_data = &verify_data[..terms.hash_size()];

        let mut transcript = self.vca.clone();
        transcript.extend(terms.digest(&self.chain));
        transcript.extend(request);
        transcript.extend(signed);
        self.verify("responder-key_exchange_rsp signing", &transcript, signature);
        transcript.extend(signature);

        let size = terms.hash_size();
        let handshake = terms.hmac(&vec![0; size], &terms.shared(share));
        let th1 = terms.digest(&transcript);
        let request_secret = terms.expand(&handshake, "req hs data", &th1, size);
        let response_secret = terms.expand(&handshake, "rsp hs data", &th1, size);
        let finished = terms.expand(&response_secret, "finished", &[], size);
        assert_eq!(verify_data, terms.hmac(&finished, &th1));
        transcript.extend(verify_data);
        let halves = [request[4], request[5], answer[4], answer[5]];
        Session {
            id: u32::from_le_bytes(halves),
            terms,
            handshake,
            transcript,
            request: Direction::new(terms, request_secret.clone()),
            response: Direction::new(terms, response_secret),
            request_secret,
        }
    }

    /// The FINISH message of a session.
    pub fn finish_message(session: &Session) -> Vec<u8> {
        let terms = session.terms;
        let mut message = vec![terms.version.byte(), 0xe5, 0, 0];
        if terms.version >= Version::V1_4 {
            message.extend([0, 0]);
        }
        let covered = [&session.transcript[..], &message].concat();
        let size = terms.hash_size();
        let finished = terms.expand(&session.request_secret, "finished", &[], size);
        message.extend(terms.hmac(&finished, &terms.digest(&covered)));
        message
    }

    pub fn finish(&mut self, session: &mut Session) {
        let message = Self::finish_message(session);
        let answer = self.send(session, &message);
        Self::finished(session, &message, &answer);
    }

    /// Goes on to application keys.
    pub fn finished(session: &mut Session, message: &[u8], answer: &[u8]) {
        let terms = session.terms;
        let mut expected = vec![terms.version.byte(), 0x65, 0, 0];
        if terms.version >= Version::V1_4 {
            expected.extend([0, 0]);
        }
        assert_eq!(answer, expected);
        session.transcript.extend(message);
        session.transcript.extend(answer);
        let size = terms.hash_size();
        let salt = terms.expand(&session.handshake, "derived", &[], size);
        let main = terms.hmac(&salt, &vec![0; size]);
        let th2 = terms.digest(&session.transcript);
        let secret = |label| Direction::new(terms, terms.expand(&main, label, &th2, size));
        session.request = secret("req app data");
        session.response = secret("rsp app data");
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
        let mut message = self.request(0xfe, 0, 0);
        message.extend(hex("0300 02 0100"));
        message.extend((payload.len() as u16).to_le_bytes());
        message.extend(payload);
        let answer = self.send(session, &message);
        assert_eq!(answer[1..9], hex("7e0000 0300 02 0100"), "{answer:02x?}");
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
