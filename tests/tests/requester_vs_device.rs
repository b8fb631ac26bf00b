// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The firmware's requester against the device: two implementations that share no code.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha384};
use tsm_devices::{
    Bar, Cipher, Config, Dsm, EndKeys, Exchange, FunctionView, Hash, Identity, IdentityPlan,
    KeySlot as EndSlot, LinkKey, LinkKeys, LinkStatus, Offer, Signing, TdiState, Version,
};
use tsm_spdm::crypto::SignatureAlgorithm;
use tsm_spdm::wire::pci_sig::ide_km::{
    Direction, IdeKey, Ifv, KeySet, KeySlot, KeyStatus, Message as IdeKm, SubStream,
};
use tsm_spdm::wire::pci_sig::tdisp::{
    Body, InterfaceId, InterfaceReport, InterfaceState, LockFlags, LockRequest, Message as Tdisp,
    TdispError,
};
use tsm_spdm::{
    Error, Input, NoEntropy, Object, Operation, Outcome, Output, Protocol, PublicKey, Requester,
    Slice, Source, Workspace,
};
use zeroize::Zeroizing;

const RID: u16 = 0x0100;
const STREAM: u8 = 3;
const BAR: u64 = 0x1020_0000;
const FIRMWARE: &[u8] = b"what the device runs";

/// Keys by stream and place.
type Keys = HashMap<(u8, usize), [u8; 32]>;

/// The root port's end of the link.
#[derive(Clone, Default)]
struct RootPort(Arc<Mutex<Keys>>);

impl LinkKeys for RootPort {
    fn keys(&mut self, stream: u8) -> EndKeys {
        let keys = self.0.lock().unwrap();
        std::array::from_fn(|index| {
            let key = Zeroizing::new(*keys.get(&(stream, index))?);
            Some(LinkKey { key, iv: 1 })
        })
    }

    fn publish(&mut self, _: u8, _: LinkStatus) {}
}

/// Carries bytes between the two, as a host does, and keeps what it is told to keep.
struct Courier {
    dsm: Dsm,
    port: RootPort,
    requester: Requester,
    workspace: Workspace,
    out: Vec<u8>,
    answer: Vec<u8>,
    cache: HashMap<&'static str, Vec<u8>>,
    exchanges: usize,
    /// Changes the n-th answer, counted from the start of a test.
    tamper: Option<usize>,
}

fn name(object: Object) -> &'static str {
    match object {
        Object::Vca => "vca",
        Object::Certificate => "certificate",
        Object::Measurements => "measurements",
    }
}

fn random(out: &mut [u8]) -> Result<(), NoEntropy> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(out))
        .map_err(|_| NoEntropy)
}

fn requester(session: u16) -> Requester {
    Requester::new(tsm_spdm::Config::new(session))
}

impl Courier {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// A device that is configured by the test.
    fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let bars = vec![Bar {
            index: 0,
            address: BAR,
            size: 0x4000,
        }];
        let function = FunctionView {
            rid: Some(RID),
            bars,
        };
        let port = RootPort::default();
        let mut config = Config::new(FIRMWARE, function).unwrap();
        config.link = Box::new(port.clone());
        configure(&mut config);
        Self {
            dsm: Dsm::new(config),
            port,
            requester: requester(1),
            workspace: Workspace::new(),
            out: vec![0; 4096],
            answer: Vec::new(),
            cache: HashMap::new(),
            exchanges: 0,
            tamper: None,
        }
    }

    fn keep(&mut self, slice: Option<Slice>, from_answer: bool) {
        if let Some(Slice {
            object,
            offset,
            len,
        }) = slice
        {
            let buffer = if from_answer { &self.answer } else { &self.out };
            let bytes = buffer[offset..offset + len].to_vec();
            self.cache.entry(name(object)).or_default().extend(bytes);
        }
    }

    /// Takes a request to the device and leaves the answer, padding included.
    fn carry(&mut self, len: usize, protocol: Protocol) {
        let kind = match protocol {
            Protocol::Spdm => 1,
            Protocol::Secured => 2,
        };
        let padded = len.next_multiple_of(4);
        let mut object = vec![1, 0, kind, 0];
        object.extend((2 + padded as u32 / 4).to_le_bytes());
        object.extend(&self.out[..len]);
        object.resize(8 + padded, 0);
        let answer = self.dsm.handle_doe(&object).expect("an answer");
        self.answer = answer[8..].to_vec();
        if self.tamper == Some(self.exchanges) {
            let middle = self.answer.len() / 2;
            self.answer[middle] ^= 0x10;
        }
        self.exchanges += 1;
    }

    fn run(&mut self, operation: Operation) -> Result<Outcome, Error> {
        self.requester.start(operation)?;
        let output = self.requester.step(
            Input::Begin,
            &mut self.out,
            &mut self.workspace,
            &mut random,
        )?;
        self.pump(output)
    }

    /// Goes on until the operation is done.
    fn pump(&mut self, mut output: Output) -> Result<Outcome, Error> {
        loop {
            match output {
                Output::Done {
                    outcome,
                    cache_response,
                } => {
                    self.keep(cache_response, true);
                    return Ok(outcome);
                }
                Output::Send {
                    len,
                    protocol,
                    cache_request,
                    cache_response,
                    ..
                } => {
                    self.keep(cache_response, true);
                    self.keep(cache_request, false);
                    self.carry(len, protocol);
                }
            }
            output = self.requester.step(
                Input::Response(&mut self.answer),
                &mut self.out,
                &mut self.workspace,
                &mut random,
            )?;
        }
    }

    fn vendor(&mut self, payload: &[u8]) -> Vec<u8> {
        let output = self
            .requester
            .start_vendor(payload, &mut self.out, &mut self.workspace)
            .unwrap();
        match self.pump(output).unwrap() {
            Outcome::Vendor {
                source,
                offset,
                len,
            } => {
                let bytes: &[u8] = match source {
                    Source::Response => &self.answer,
                    Source::Workspace => self.workspace.message(),
                };
                bytes[offset..offset + len].to_vec()
            }
            other => panic!("a vendor exchange ended as {other:?}"),
        }
    }

    fn ide(&mut self, message: &IdeKm<'_>) -> Vec<u8> {
        let mut payload = [0; 256];
        let length = message.emit(&mut payload).unwrap();
        self.vendor(&payload[..length])
    }

    fn tdisp(&mut self, body: Body<'_>) -> Vec<u8> {
        let mut payload = [0; 256];
        let message = Tdisp::new(InterfaceId::new(RID), body);
        let length = message.emit(&mut payload).unwrap();
        self.vendor(&payload[..length])
    }

    fn interface_state(&mut self) -> InterfaceState {
        match Tdisp::parse(&self.tdisp(Body::GetState)).unwrap().body {
            Body::State(state) => state,
            other => panic!("not a state: {other:?}"),
        }
    }

    /// The device's key, as a verifier takes it from the leaf certificate.
    fn device_key(&self) -> PublicKey {
        let mut rest = &self.dsm.identity().chain()[52..];
        let mut leaf = rest;
        while !rest.is_empty() {
            let length = 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            (leaf, rest) = rest.split_at(length);
        }
        // A BIT STRING with a key of ML-DSA, by its length.
        for algorithm in [SignatureAlgorithm::MlDsa65, SignatureAlgorithm::MlDsa87] {
            let [high, low] = (algorithm.key_length() as u16 + 1).to_be_bytes();
            if let Some(at) = leaf.windows(5).position(|b| b == [3, 0x82, high, low, 0]) {
                let key = &leaf[at + 5..][..algorithm.key_length()];
                return PublicKey::from_raw(algorithm, key).unwrap();
            }
        }
        // A BIT STRING with an uncompressed point of P-256 or P-384.
        let at = leaf
            .windows(4)
            .position(|bytes| matches!(bytes, [0x03, 0x42 | 0x62, 0x00, 0x04]))
            .unwrap();
        let length = usize::from(leaf[at + 1]) - 1;
        PublicKey::new(&leaf[at + 3..][..length]).unwrap()
    }

    fn establish(&mut self) {
        assert_eq!(self.run(Operation::Discover), Ok(Outcome::Discovered));
        let key = self.device_key();
        let outcome = self.run(Operation::Establish { key }).unwrap();
        assert!(matches!(
            outcome,
            Outcome::Established {
                heartbeat: 0xf0,
                ..
            }
        ));
    }

    /// Programs and starts every key of a set at both ends.
    fn program(&mut self, key_set: KeySet) {
        for slot in slots(key_set) {
            let mut key = [0; 32];
            random(&mut key).unwrap();
            let answer = self.ide(&IdeKm::KeyProg {
                slot,
                key: IdeKey::new(key),
                ifv: Ifv::INITIAL,
            });
            let Ok(IdeKm::KeyProgAck {
                slot: acked,
                status,
            }) = IdeKm::parse(&answer)
            else {
                panic!("not KP_ACK: {answer:02x?}");
            };
            assert_eq!((acked, status), (slot, KeyStatus::SUCCESS));
            let at = (STREAM, port_slot(slot).index());
            self.port.0.lock().unwrap().insert(at, key);
            let answer = self.ide(&IdeKm::KeySetGo(slot));
            assert!(
                matches!(IdeKm::parse(&answer), Ok(IdeKm::KeyGoStopAck(acked)) if acked == slot)
            );
        }
    }

    fn stop(&mut self, key_set: KeySet) {
        for slot in slots(key_set) {
            let answer = self.ide(&IdeKm::KeySetStop(slot));
            assert!(
                matches!(IdeKm::parse(&answer), Ok(IdeKm::KeyGoStopAck(acked)) if acked == slot)
            );
            let at = (STREAM, port_slot(slot).index());
            self.port.0.lock().unwrap().remove(&at);
        }
    }

    fn lock(&mut self) -> [u8; 32] {
        let flags = LockFlags(LockFlags::NO_FIRMWARE_UPDATE.0 | LockFlags::LOCK_MSIX.0);
        let answer = self.tdisp(Body::Lock(LockRequest::new(flags, STREAM, 0)));
        match Tdisp::parse(&answer).unwrap().body {
            Body::Locked(nonce) => nonce,
            other => panic!("not locked: {other:?}"),
        }
    }

    /// Reads the report in portions of at most `length` bytes.
    fn report(&mut self, length: u16) -> Vec<u8> {
        let mut report = Vec::new();
        loop {
            let offset = report.len() as u16;
            let answer = self.tdisp(Body::GetReport { offset, length });
            let Body::Report { portion, remainder } = Tdisp::parse(&answer).unwrap().body else {
                panic!("not a report: {answer:02x?}");
            };
            report.extend(portion);
            if remainder == 0 {
                return report;
            }
        }
    }
}

/// The device's names of the six keys of a set.
fn slots(key_set: KeySet) -> Vec<KeySlot> {
    let mut slots = Vec::new();
    for sub_stream in [
        SubStream::Posted,
        SubStream::NonPosted,
        SubStream::Completion,
    ] {
        for direction in [Direction::Receive, Direction::Transmit] {
            slots.push(KeySlot {
                stream_id: STREAM,
                key_set,
                direction,
                sub_stream,
                port_index: 0,
            });
        }
    }
    slots
}

/// The root port's name of a key that `slot` names at the device.
fn port_slot(slot: KeySlot) -> EndSlot {
    EndSlot {
        key_set: u8::from(slot.key_set == KeySet::K1),
        sub_stream: slot.sub_stream as u8,
        transmit: slot.direction == Direction::Receive,
    }
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    Sha384::digest(bytes).into()
}

#[test]
fn the_whole_life_of_a_device_runs_twice() {
    let mut courier = Courier::new();
    for session in 1..3 {
        courier.requester = requester(session);
        courier.cache.clear();
        courier.establish();
        assert_eq!(courier.dsm.state().sessions.len(), 1);

        // What the host keeps is what the digests in the firmware stand for.
        let measured = courier.run(Operation::Measure {
            nonce: [session as u8; 32],
            raw: false,
        });
        assert_eq!(measured, Ok(Outcome::Measured { blocks: 2 }));
        let digests = *courier.requester.digests();
        assert_eq!(courier.cache["certificate"], courier.dsm.identity().chain());
        assert_eq!(
            digests.certificate(),
            Some(courier.dsm.identity().chain_digest())
        );
        assert_eq!(digests.vca(), Some(&sha384(&courier.cache["vca"])));
        let measurements = &courier.cache["measurements"];
        assert_eq!(digests.measurements(), Some(&sha384(measurements)));
        let firmware = courier.dsm.measurements().firmware_digest();
        assert!(measurements.windows(48).any(|bytes| bytes == firmware));
        let key = courier.device_key().fingerprint();
        assert_eq!(digests.public_key(), Some(&key));

        courier.program(KeySet::K0);
        assert!(courier.dsm.state().streams[0].status.secure);
        assert_eq!(courier.interface_state(), InterfaceState::ConfigUnlocked);
        let nonce = courier.lock();
        assert_eq!(courier.interface_state(), InterfaceState::ConfigLocked);
        let report = courier.report(30);
        assert_eq!(courier.report(4000), report);
        let parsed = InterfaceReport::parse(&report).unwrap();
        let ranges: Vec<(u64, u32, u16)> = parsed
            .ranges
            .iter()
            .map(|range| {
                (
                    range.first_page.get(),
                    range.pages.get(),
                    range.attributes.get(),
                )
            })
            .collect();
        let page = BAR >> 12;
        assert_eq!(ranges, [(page, 2, 0), (page + 2, 1, 1), (page + 3, 1, 2)]);
        let started = courier.tdisp(Body::Start(nonce));
        assert_eq!(Tdisp::parse(&started).unwrap().body, Body::Started);
        assert_eq!(courier.interface_state(), InterfaceState::Run);

        assert_eq!(courier.run(Operation::Heartbeat), Ok(Outcome::Alive));
        assert_eq!(courier.run(Operation::UpdateKeys), Ok(Outcome::KeysUpdated));
        assert_eq!(courier.interface_state(), InterfaceState::Run);
        // Fresh link keys under traffic.
        courier.program(KeySet::K1);
        courier.stop(KeySet::K0);
        assert_eq!(courier.interface_state(), InterfaceState::Run);

        let stopped = courier.tdisp(Body::Stop);
        assert_eq!(Tdisp::parse(&stopped).unwrap().body, Body::Stopped);
        assert_eq!(courier.interface_state(), InterfaceState::ConfigUnlocked);
        courier.stop(KeySet::K1);
        assert_eq!(courier.run(Operation::End), Ok(Outcome::Ended));
        let state = courier.dsm.state();
        assert!(state.sessions.is_empty() && state.streams.is_empty());
    }
}

#[test]
fn the_firmware_reads_what_the_device_refuses() {
    let mut courier = Courier::new();
    courier.establish();
    let flags = LockFlags::NO_FIRMWARE_UPDATE;
    let refused = |answer: Vec<u8>| match Tdisp::parse(&answer).unwrap().body {
        Body::Error { code, .. } => code,
        other => panic!("not refused: {other:?}"),
    };
    let lock = Body::Lock(LockRequest::new(flags, STREAM, 0));
    assert_eq!(refused(courier.tdisp(lock)), TdispError::INVALID_REQUEST);
    let start = Body::Start([0; 32]);
    assert_eq!(
        refused(courier.tdisp(start)),
        TdispError::INVALID_INTERFACE_STATE
    );
    courier.program(KeySet::K0);
    courier.lock();
    assert_eq!(refused(courier.tdisp(start)), TdispError::INVALID_NONCE);
    assert_eq!(courier.interface_state(), InterfaceState::ConfigLocked);
}

#[test]
fn a_root_port_with_another_key_gets_no_lock() {
    let mut courier = Courier::new();
    courier.establish();
    courier.program(KeySet::K0);
    courier.port.0.lock().unwrap().insert((STREAM, 0), [0; 32]);
    let lock = Body::Lock(LockRequest::new(LockFlags::default(), STREAM, 0));
    let answer = courier.tdisp(lock);
    assert!(matches!(
        Tdisp::parse(&answer).unwrap().body,
        Body::Error { .. }
    ));
    assert!(!courier.dsm.state().streams[0].status.secure);
}

#[test]
fn another_device_behind_the_mailbox_is_found_out() {
    let mut courier = Courier::new();
    let other = Courier::new().device_key();
    assert_eq!(courier.run(Operation::Discover), Ok(Outcome::Discovered));
    assert!(courier.run(Operation::Establish { key: other }).is_err());
    assert!(courier.dsm.state().sessions.is_empty());
}

/// What a device agrees to: version, signature, hash, key agreement, cipher.
type Row = (Version, Signing, Hash, Exchange, Cipher);

const ROWS: [Row; 13] = {
    use Cipher::{Aes128Gcm, Aes256Gcm, ChaCha20Poly1305};
    use Exchange::{MlKem768, MlKem1024, Secp256r1, Secp384r1};
    use Hash::{Sha256, Sha384};
    use Signing::{EcdsaP256, EcdsaP384, MlDsa65, MlDsa87};
    use Version::{V1_2, V1_3, V1_4};
    [
        (V1_2, EcdsaP384, Sha384, Secp384r1, Aes256Gcm),
        (V1_3, EcdsaP384, Sha384, Secp384r1, Aes256Gcm),
        (V1_4, EcdsaP384, Sha384, Secp384r1, Aes256Gcm),
        (V1_2, EcdsaP256, Sha256, Secp256r1, Aes128Gcm),
        (V1_3, EcdsaP256, Sha256, Secp256r1, ChaCha20Poly1305),
        (V1_4, EcdsaP256, Sha256, Secp256r1, Aes256Gcm),
        (V1_2, EcdsaP256, Sha384, Secp384r1, ChaCha20Poly1305),
        (V1_3, EcdsaP384, Sha256, Secp256r1, Aes128Gcm),
        (V1_4, EcdsaP384, Sha384, Secp256r1, ChaCha20Poly1305),
        (V1_4, MlDsa65, Sha384, MlKem768, Aes256Gcm),
        (V1_4, MlDsa87, Sha384, MlKem1024, Aes256Gcm),
        (V1_4, MlDsa65, Sha384, Secp384r1, Aes256Gcm),
        (V1_4, EcdsaP384, Sha384, MlKem1024, ChaCha20Poly1305),
    ]
};

#[test]
fn every_version_and_suite_of_the_device_serves_the_firmware() {
    for (version, signing, hash, exchange, cipher) in ROWS {
        let mut courier = Courier::with(|config| {
            config.offer = Offer::suite(signing, &[version]);
            config.offer.hashes = vec![hash];
            config.offer.exchanges = vec![exchange];
            config.offer.ciphers = vec![cipher];
            config.identity = Identity::new(&IdentityPlan::new(signing).unwrap());
        });
        let row = format!("{version:?} {signing:?} {hash:?} {exchange:?} {cipher:?}");
        to_locked(&mut courier).unwrap_or_else(|error| panic!("{row}: {error:?}"));
        let chain = courier.dsm.identity().chain_of(0, signing, hash).unwrap();
        assert_eq!(courier.cache["certificate"], chain, "{row}");
        let digests = courier.requester.digests();
        assert_eq!(digests.certificate(), Some(&sha384(&chain)), "{row}");
        courier.program(KeySet::K0);
        courier.lock();
        assert_eq!(courier.interface_state(), InterfaceState::ConfigLocked);
        assert_eq!(courier.run(Operation::End), Ok(Outcome::Ended), "{row}");
    }
}

/// Large messages of either side in chunks, down to the smallest transfers that there are.
#[test]
fn a_device_with_small_transfers_serves_the_firmware_in_chunks() {
    for version in [Version::V1_2, Version::V1_3, Version::V1_4] {
        let mut fewest = usize::MAX;
        for transfer_size in [42, 70, 256, 1024] {
            let mut courier = Courier::with(|config| {
                config.offer = Offer::suite(Signing::EcdsaP256, &[version]);
                config.offer.transfer_size = transfer_size;
                let plan = IdentityPlan::new(Signing::EcdsaP256).unwrap();
                config.identity = Identity::new(&plan);
            });
            let row = format!("{version:?} {transfer_size}");
            let exchanges =
                to_locked(&mut courier).unwrap_or_else(|error| panic!("{row}: {error:?}"));
            assert!(exchanges < fewest, "{row}");
            fewest = exchanges;
            let digests = *courier.requester.digests();
            let kept = [
                (digests.vca(), "vca"),
                (digests.certificate(), "certificate"),
                (digests.measurements(), "measurements"),
            ];
            for (digest, name) in kept {
                assert_eq!(digest, Some(&sha384(&courier.cache[name])), "{row} {name}");
            }
            courier.program(KeySet::K0);
            courier.lock();
            // The device lets portions of a report fit one transfer.
            if transfer_size >= 256 {
                let report = courier.report(4000);
                assert!(InterfaceReport::parse(&report).is_ok(), "{row}");
            }
            assert_eq!(courier.run(Operation::End), Ok(Outcome::Ended), "{row}");
        }
    }
}

#[test]
fn a_device_with_every_classical_algorithm_and_slot_is_taken_at_its_best() {
    let mut courier = Courier::with(|config| {
        config.offer = Offer::suite(
            Signing::EcdsaP384,
            &[Version::V1_2, Version::V1_3, Version::V1_4],
        );
        config.offer.hashes.push(Hash::Sha256);
        config.offer.exchanges.push(Exchange::Secp256r1);
        let mut plan = IdentityPlan::new(Signing::EcdsaP384).unwrap();
        plan.slots = vec![0, 3, 7];
        plan.chain_size = Some(0xffff);
        config.identity = Identity::new(&plan);
    });
    to_locked(&mut courier).unwrap();
    // Version 1.4 is the last of three that VERSION lists.
    assert_eq!(courier.cache["vca"][4 + 12], 0x14);
    assert_eq!(courier.cache["certificate"], courier.dsm.identity().chain());
}

/// Runs until the session has a locked interface; returns the number of exchanges.
fn to_locked(courier: &mut Courier) -> Result<usize, Error> {
    courier.run(Operation::Discover)?;
    let key = courier.device_key();
    courier.run(Operation::Establish { key })?;
    courier.run(Operation::Measure {
        nonce: [9; 32],
        raw: true,
    })?;
    courier.run(Operation::Heartbeat)?;
    courier.run(Operation::UpdateKeys)?;
    Ok(courier.exchanges)
}

#[test]
fn an_answer_changed_on_the_way_is_never_believed_and_the_device_recovers() {
    let exchanges = to_locked(&mut Courier::new()).unwrap();
    let mut survived = Vec::new();
    for place in 0..exchanges {
        let mut courier = Courier::new();
        courier.tamper = Some(place);
        if to_locked(&mut courier).is_ok() {
            survived.push(place);
        }
        // Whatever happened, a new requester is served.
        courier.tamper = None;
        courier.requester = requester(2);
        to_locked(&mut courier).unwrap();
        assert_eq!(courier.dsm.state().sessions.len(), 1);
    }
    assert_eq!(survived, [] as [usize; 0]);
}

#[test]
fn sessions_come_and_go_without_leaving_anything() {
    let mut courier = Courier::new();
    for session in 0..30 {
        courier.requester = requester(session);
        courier.establish();
        courier.program(KeySet::K0);
        courier.lock();
        // Every second one is abandoned rather than ended.
        if session % 2 == 0 {
            assert_eq!(courier.run(Operation::End), Ok(Outcome::Ended));
        }
        courier.port.0.lock().unwrap().clear();
        courier.requester = requester(0x8000 | session);
        courier.establish();
        assert_eq!(courier.dsm.state().interface, TdiState::Error);
        assert_eq!(courier.interface_state(), InterfaceState::Error);
        courier.tdisp(Body::Stop);
        assert_eq!(courier.dsm.state().sessions.len(), 1);
        assert!(courier.dsm.state().streams.is_empty());
    }
}
