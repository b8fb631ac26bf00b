// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Takes the recording apart and recomputes it.

use tsm_spdm::crypto::{
    Digest, HandshakeSecrets, PublicKey, RecordKey, Secret, Signed, SigningContext, Transcript,
    sha384,
};
use tsm_spdm::wire::certificate::{Certificate, Digests, GetCertificate};
use tsm_spdm::wire::challenge::{Challenge, ChallengeAuth};
use tsm_spdm::wire::doe::{DataObject, DiscoveryRequest, DiscoveryResponse, ObjectType};
use tsm_spdm::wire::measurements::{GetMeasurements, Measurements};
use tsm_spdm::wire::negotiation::{
    Algorithms, CapabilitiesMessage, GET_VERSION, NegotiateAlgorithms, VersionResponse,
};
use tsm_spdm::wire::pci_sig::{Protocol, ide_km, tdisp};
use tsm_spdm::wire::record::{MESSAGE_OFFSET, OVERHEAD};
use tsm_spdm::wire::session::{
    Finish, FinishResponse, KeyExchange, KeyExchangeResponse, SessionId,
};
use tsm_spdm::wire::vendor::VendorDefined;
use tsm_spdm::wire::{Code, Header, Malformed};
use zerocopy::FromBytes;

use crate::recording::{Kind, Record, Recording, SUITE, hex, record_key};

const SESSION: SessionId = SessionId(0xffff_ffff);

/// Takes a message apart, writes it again, and returns what was written.
fn rewrite(message: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = vec![0; 8192];
    let header = Header::peek(message)?;
    let (version, layout) = (SUITE.version, SUITE.layout());
    let (written, used) = match header.code {
        Code::GET_VERSION => (GET_VERSION.emit(&mut out)?, 4),
        Code::VERSION => {
            let (view, used) = VersionResponse::parse(message)?;
            (view.emit(&mut out)?, used)
        }
        Code::GET_CAPABILITIES | Code::CAPABILITIES => {
            let (view, used) = CapabilitiesMessage::parse(message, version, header.code)?;
            (view.emit(&mut out)?, used)
        }
        Code::NEGOTIATE_ALGORITHMS => {
            let (view, used) = NegotiateAlgorithms::parse(message, version)?;
            (view.emit(version, &mut out)?, used)
        }
        Code::ALGORITHMS => {
            let (view, used) = Algorithms::parse(message, version)?;
            (view.emit(version, &mut out)?, used)
        }
        Code::DIGESTS => {
            let (view, used) = Digests::parse(message, &layout)?;
            (view.emit(&layout, &mut out)?, used)
        }
        Code::GET_CERTIFICATE => {
            let (view, used) = GetCertificate::parse(message, version)?;
            (view.emit(&mut out)?, used)
        }
        Code::CERTIFICATE => {
            let (view, used) = Certificate::parse(message, version)?;
            (view.emit(version, &mut out)?, used)
        }
        Code::CHALLENGE => {
            let (view, used) = Challenge::parse(message, version)?;
            (view.emit(version, &mut out)?, used)
        }
        Code::CHALLENGE_AUTH => {
            let (view, used) = ChallengeAuth::parse(message, &layout, true)?;
            (view.emit(&layout, &mut out)?, used)
        }
        Code::GET_MEASUREMENTS => {
            let (view, used) = GetMeasurements::parse(message, version)?;
            (view.emit(version, &mut out)?, used)
        }
        Code::MEASUREMENTS => {
            let (view, used) = Measurements::parse(message, &layout, true)?;
            assert_eq!(
                view.blocks().filter(Result::is_ok).count(),
                usize::from(view.block_count)
            );
            (view.emit(&layout, &mut out)?, used)
        }
        Code::KEY_EXCHANGE => {
            let (view, used) = KeyExchange::parse(message, &layout)?;
            (view.emit(&layout, &mut out)?, used)
        }
        Code::KEY_EXCHANGE_RSP => {
            let (view, used) = KeyExchangeResponse::parse(message, &layout, true)?;
            (view.emit(&layout, &mut out)?, used)
        }
        Code::FINISH => {
            let (view, used) = Finish::parse(message, &layout)?;
            (view.emit(&layout, &mut out)?, used)
        }
        Code::FINISH_RSP => {
            let (view, used) = FinishResponse::parse(message, version)?;
            (view.emit(version, &mut out)?, used)
        }
        Code::VENDOR_DEFINED_REQUEST | Code::VENDOR_DEFINED_RESPONSE => {
            let (view, used) = VendorDefined::parse(message, version, header.code)?;
            let payload = rewrite_payload(view.payload)?;
            (
                VendorDefined { payload: &payload }.emit(version, header.code, &mut out)?,
                used,
            )
        }
        Code::GET_DIGESTS
        | Code::HEARTBEAT
        | Code::HEARTBEAT_ACK
        | Code::KEY_UPDATE
        | Code::KEY_UPDATE_ACK
        | Code::END_SESSION
        | Code::END_SESSION_ACK => {
            let (view, used) = Header::parse(message, version, header.code)?;
            (view.emit(&mut out)?, used)
        }
        _ => return Err(Malformed::Code),
    };
    assert_eq!(written, used);
    out.truncate(written);
    Ok(out)
}

fn rewrite_payload(payload: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = vec![0; 4096];
    let written = match Protocol::of(payload) {
        Some(Protocol::IDE_KM) => ide_km::Message::parse(payload)?.emit(&mut out)?,
        Some(Protocol::TDISP) => tdisp::Message::parse(payload)?.emit(&mut out)?,
        _ => return Err(Malformed::Code),
    };
    out.truncate(written);
    Ok(out)
}

/// Returns the length of the message that `bytes` begin with.
pub fn exact_length(bytes: &[u8]) -> Result<usize, Malformed> {
    rewrite(bytes).map(|written| written.len())
}

/// Returns the point in the leaf certificate of slot 0: what follows the last P-384 key info.
pub fn leaf_point(recording: &Recording) -> [u8; 97] {
    let (certificate, _) = Certificate::parse(recording.message(16), SUITE.version).unwrap();
    let curve_then_bit_string = [0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00];
    let at = certificate
        .portion
        .windows(curve_then_bit_string.len())
        .rposition(|window| window == curve_then_bit_string)
        .unwrap();
    certificate.portion[at + 8..][..97].try_into().unwrap()
}

fn key(recording: &Recording) -> PublicKey {
    PublicKey::new(&leaf_point(recording)).unwrap()
}

#[test]
fn every_message_is_understood_and_written_back_byte_for_byte() {
    let Some(recording) = Recording::open() else {
        return;
    };
    let mut not_ours = Vec::new();
    for record in &recording.records {
        let Record { number, kind, .. } = *record;
        let (object, length) = DataObject::parse(&record.doe).unwrap();
        assert_eq!(length, record.doe.len());
        let mut out = vec![0; length];
        assert_eq!(object.emit(&mut out), Ok(length));
        assert_eq!(out, record.doe, "object {number}");
        let expected = match kind {
            Kind::Discovery => ObjectType::DISCOVERY,
            Kind::Plain => ObjectType::SPDM,
            Kind::Secured => ObjectType::SECURED_SPDM,
        };
        assert_eq!(object.kind, expected);
        if kind == Kind::Discovery {
            continue;
        }
        match rewrite(&record.spdm) {
            Ok(written) => {
                let (message, padding) = record.spdm.split_at(written.len());
                assert_eq!(hex(&written), hex(message), "{} {number}", record.name);
                assert!(padding.len() < 4 && padding.iter().all(|byte| *byte == 0));
                assert!(padding.is_empty() || kind == Kind::Plain);
            }
            Err(error) => not_ours.push((record.name.as_str(), error)),
        }
    }
    // A CXL protocol under another vendor's id, and a second session with a pre-shared key.
    not_ours.sort_unstable_by_key(|(name, _)| *name);
    not_ours.dedup();
    assert_eq!(
        not_ours,
        [
            ("PSK_EXCHANGE", Malformed::Code),
            ("PSK_EXCHANGE_RSP", Malformed::Code),
            ("VENDOR_DEFINED_REQUEST", Malformed::Value),
            ("VENDOR_DEFINED_RESPONSE", Malformed::Value),
        ]
    );
}

#[test]
fn discovery_walks_from_entry_to_entry() {
    let Some(recording) = Recording::open() else {
        return;
    };
    let mut index = 0;
    for (request, response) in [(1, 2), (3, 4), (5, 6)] {
        let request =
            DiscoveryRequest::ref_from_bytes(recording.record(request).payload()).unwrap();
        assert_eq!(request.index, index);
        let response =
            DiscoveryResponse::ref_from_bytes(recording.record(response).payload()).unwrap();
        assert_eq!(response.vendor.get(), 1);
        assert_eq!(response.kind, ObjectType(index));
        index = response.next;
    }
    assert_eq!(index, 0);
}

#[test]
fn the_chain_is_the_one_that_its_digest_promises() {
    let Some(recording) = Recording::open() else {
        return;
    };
    let layout = SUITE.layout();
    let (digests, _) = Digests::parse(recording.message(14), &layout).unwrap();
    for (slot, number) in [(0, 16), (1, 18)] {
        let (certificate, _) =
            Certificate::parse(recording.message(number), SUITE.version).unwrap();
        let digest = sha384(certificate.portion);
        assert_eq!(digests.of_slot(slot, &layout), Some(&digest[..]));
    }
}

/// Checks the signature at the end of message `number`, or before its last `after` bytes.
fn verifies(
    recording: &Recording,
    context: SigningContext,
    before: Transcript,
    number: u64,
    after: usize,
) -> Transcript {
    let message = recording.message(number);
    let (message, _) = message.split_at(message.len() - after);
    let (signed, signature) = message.split_last_chunk::<96>().unwrap();
    let transcript = before.with(signed);
    let digest = transcript.digest();
    let verifies = |digest: &Digest| {
        let signed = Signed {
            version: SUITE.version,
            hash: SUITE.hash,
            context,
            digest,
        };
        key(recording).verifies(&[], &signed, signature)
    };
    assert!(verifies(&digest), "signature in {number}");
    let mut other = digest.as_bytes().to_vec();
    other[0] ^= 1;
    assert!(!verifies(&Digest::new(SUITE.hash, &other).unwrap()));
    transcript.with(signature)
}

#[test]
fn every_signature_is_over_the_transcript_that_we_compute() {
    let Some(recording) = Recording::open() else {
        return;
    };
    // M1: VCA, digests, the chains of both slots, and the challenge.
    let m1 = recording.transcript(7..=19);
    verifies(recording, SigningContext::ChallengeAuth, m1, 20, 0);
    // L1 outside of the session, and inside.
    let l1 = recording.transcript((7..=12).chain([27]));
    verifies(recording, SigningContext::Measurements, l1, 28, 0);
    let l1 = recording.transcript((7..=12).chain([153]));
    verifies(recording, SigningContext::Measurements, l1, 154, 0);
    verifies(
        recording,
        SigningContext::KeyExchangeRsp,
        before_exchange(recording),
        30,
        48,
    );
}

/// VCA, digest of the chain, KEY_EXCHANGE.
fn before_exchange(recording: &Recording) -> Transcript {
    let (chain, _) = Certificate::parse(recording.message(16), SUITE.version).unwrap();
    recording
        .transcript(7..=12)
        .with(&sha384(chain.portion))
        .with(recording.message(29))
}

#[test]
fn every_secret_and_key_of_the_schedule_is_the_recorded_one() {
    let Some(recording) = Recording::open() else {
        return;
    };
    let exchange = recording.message(30);
    let (before_hmac, verify_data) = exchange.split_at(exchange.len() - 48);
    let th = before_exchange(recording).with(before_hmac);
    let th1 = th.digest();
    let handshake = HandshakeSecrets::new(SUITE.schedule(), &recording.shared_secret(), &th1);
    let same = |ours: &Secret, name: &str| {
        assert_eq!(
            hex(ours.as_bytes()),
            hex(&recording.secret_bytes(name)),
            "{name}"
        );
    };
    same(handshake.root(), "handshake_secret");
    same(&handshake.request, "request_handshake_secret");
    same(&handshake.response, "response_handshake_secret");
    let finished = (
        handshake.request.finished_key(),
        handshake.response.finished_key(),
    );
    same(&finished.0, "request_finished_key");
    same(&finished.1, "response_finished_key");
    assert_eq!(
        hex(verify_data),
        hex(finished.1.hmac(th1.as_bytes()).as_bytes())
    );

    let th = th.with(verify_data);
    let (finish_header, requester_verify_data) = recording.message(31).split_at(4);
    let to_verify = th.clone().with(finish_header).digest();
    assert_eq!(
        hex(requester_verify_data),
        hex(finished.0.hmac(to_verify.as_bytes()).as_bytes())
    );

    let th2 = th
        .with(recording.message(31))
        .with(recording.message(32))
        .digest();
    let data = handshake.data_secrets(&th2);
    same(&data.master, "master_secret");
    same(&data.request, "request_data_secret");
    same(&data.response, "response_data_secret");
    same(&data.export, "export_master_secret");

    for (secret, name) in [
        (&handshake.request, "request_handshake"),
        (&handshake.response, "response_handshake"),
        (&data.request, "request_data"),
        (&data.response, "response_data"),
    ] {
        let key = record_key(secret);
        assert_eq!(
            key.key()[..],
            recording.secret_bytes(&format!("{name}_key"))
        );
        assert_eq!(key.iv()[..], recording.secret_bytes(&format!("{name}_iv")));
    }
}

/// The keys of one direction as the session goes on.
struct Direction {
    secret: Secret,
    key: RecordKey,
}

impl Direction {
    fn new(secret: Secret) -> Self {
        Self {
            key: record_key(&secret),
            secret,
        }
    }

    fn update(&mut self) {
        *self = Self::new(self.secret.updated());
    }
}

#[test]
fn every_record_opens_and_seals_to_the_same_bytes() {
    let Some(recording) = Recording::open() else {
        return;
    };
    // One set of keys opens, another with the same secrets seals.
    let both = |name: &str| {
        [
            Direction::new(recording.secret(name)),
            Direction::new(recording.secret(name)),
        ]
    };
    let mut request = both("request_handshake_secret");
    let mut response = both("response_handshake_secret");
    let mut count = 0;
    for record in recording
        .records
        .iter()
        .filter(|record| record.kind == Kind::Secured)
    {
        let [opening, sealing] = if record.is_request {
            &mut request
        } else {
            &mut response
        };
        let mut buffer = record.payload().to_vec();
        let length = opening.key.open(SESSION, &mut buffer).unwrap();
        let message = &buffer[MESSAGE_OFFSET..][..length];
        assert_eq!(hex(message), hex(&record.spdm), "record {}", record.number);

        let mut sealed = vec![0; length + OVERHEAD];
        sealed[MESSAGE_OFFSET..][..length].copy_from_slice(message);
        assert_eq!(
            sealing.key.seal(SESSION, &mut sealed, length),
            Ok(sealed.len())
        );
        assert_eq!(hex(&sealed), hex(&record.payload()[..sealed.len()]));
        count += 1;

        match (Header::peek(message).unwrap().code, message[2]) {
            (Code::FINISH_RSP, _) => {
                request = both("request_data_secret");
                response = both("response_data_secret");
            }
            // UpdateAllKeys: the acknowledgment is already under the new key.
            (Code::KEY_UPDATE, 2) => {
                request
                    .iter_mut()
                    .chain(&mut response)
                    .for_each(Direction::update);
            }
            _ => {}
        }
    }
    println!("{count} records opened and sealed");
    assert_eq!(
        count,
        recording
            .records
            .iter()
            .filter(|r| r.kind == Kind::Secured)
            .count()
    );
    assert!(count > 100);
}
