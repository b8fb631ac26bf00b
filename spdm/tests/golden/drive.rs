// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Lets the real requester relive the recording.
//!
//! Nonces and key update tags come from the recorded requests; instead of a private half, which was
//! not recorded, the agreed secret is handed in. With these, what the requester sends is determined:
//!
//! | records | compared |
//! |---|---|
//! | 7-16, version to certificate of slot 0 | byte for byte |
//! | 17/18, certificate of slot 1 | not sent: this requester knows one slot |
//! | 19/20, challenge | request byte for byte; the answer signs records 17/18 too, so that this requester has to refuse it (`walk` verifies the signature over the recorded transcript) |
//! | 21-28, digests and certificate again, measurements without a session | not sent |
//! | 29-32, key exchange and finish | byte for byte, FINISH as a sealed record |
//! | 33-92, IDE_KM and TDISP | byte for byte as sealed records |
//! | 93-146, CXL and a second session | not sent; CXL records count in the sequence numbers |
//! | 147/148, heartbeat; 149, key update | message byte for byte, under the sequence number without CXL; the recorded answer is sealed anew likewise |
//! | 150-156, rest of the key update, measurements, end | byte for byte as sealed records |

use tsm_spdm::crypto::{
    Exchange, ExchangeAlgorithm, KeyAgreement, NoEntropy, PublicKey, Random, RecordKey,
    SharedSecret, sha384,
};
use tsm_spdm::wire::negotiation::{
    AEAD_AES_256_GCM, ASYM_ECDSA_P384, Capabilities, DHE_SECP384R1, HASH_SHA384,
    MEASUREMENT_HASH_SHA384,
};
use tsm_spdm::wire::record::{MESSAGE_OFFSET, OVERHEAD};
use tsm_spdm::wire::session::{KeyExchange, KeyExchangeResponse, SessionId};
use tsm_spdm::wire::vendor::VendorDefined;
use tsm_spdm::wire::{Code, Malformed};
use tsm_spdm::{
    Config, Error, Input, Object, Offer, Operation, Outcome, Output, PeerMisbehaved, Phase,
    Protocol, Requester, Slice, Workspace,
};

use crate::recording::{Kind, Recording, SUITE, hex, record_key};
use crate::walk::leaf_point;

const SESSION: SessionId = SessionId(0xffff_ffff);

/// Knows the outcome of the recorded exchange.
struct RecordedAgreement;

impl KeyAgreement for RecordedAgreement {
    fn generate(
        algorithm: ExchangeAlgorithm,
        _: Random<'_>,
    ) -> Result<(Self, Exchange), NoEntropy> {
        assert_eq!(algorithm, SUITE.exchange);
        let recording = Recording::open().unwrap();
        let (message, _) = KeyExchange::parse(recording.message(29), &SUITE.layout()).unwrap();
        Ok((Self, Exchange::new(message.exchange).unwrap()))
    }

    fn agree(self, other: &[u8]) -> Result<SharedSecret, Malformed> {
        let recording = Recording::open().unwrap();
        let response = recording.message(30);
        let (message, _) = KeyExchangeResponse::parse(response, &SUITE.layout(), true).unwrap();
        assert_eq!(message.exchange, other);
        Ok(recording.shared_secret())
    }
}

/// What the recorded requester offered.
const OFFER: Offer = Offer {
    versions: 1 << 2,
    asym: ASYM_ECDSA_P384,
    pqc_asym: 0,
    hash: HASH_SHA384,
    dhe: DHE_SECP384R1,
    kem: 0,
    aead: AEAD_AES_256_GCM,
    measurement_hash: MEASUREMENT_HASH_SHA384,
};

/// A requester that announces what the recorded one did.
fn requester(challenge: bool) -> Requester<RecordedAgreement> {
    Requester::with_key_agreement(Config {
        capabilities: Capabilities(0x66c6),
        data_transfer_size: 0x1200,
        session_id: 0xffff,
        session_policy: 1,
        challenge,
        offer: OFFER,
        ..Config::new(0xffff)
    })
}

/// The requester, what it will draw from its source of entropy, and what the host keeps.
struct Run {
    recording: &'static Recording,
    requester: Requester<RecordedAgreement>,
    workspace: Workspace,
    random: Vec<Vec<u8>>,
    out: Vec<u8>,
    kept: [Vec<u8>; 3],
}

impl Run {
    fn new(recording: &'static Recording, challenge: bool) -> Self {
        let requester = requester(challenge);
        let (random, out) = (Vec::new(), vec![0; 4096]);
        Self {
            recording,
            requester,
            workspace: Workspace::new(),
            random,
            out,
            kept: Default::default(),
        }
    }

    fn keep(&mut self, slice: Option<Slice>, buffer: &[u8]) {
        if let Some(Slice {
            object,
            offset,
            len,
        }) = slice
        {
            let kept = &mut self.kept[match object {
                Object::Vca => 0,
                Object::Certificate => 1,
                Object::Measurements => 2,
            }];
            kept.extend(&buffer[offset..offset + len]);
        }
    }

    fn step(&mut self, input: Input<'_>) -> Result<Output, Error> {
        let mut draws = self.random.drain(..);
        let mut random = |bytes: &mut [u8]| {
            bytes.copy_from_slice(&draws.next().expect("more entropy is drawn than recorded"));
            Ok(())
        };
        let output = self
            .requester
            .step(input, &mut self.out, &mut self.workspace, &mut random);
        let left: Vec<_> = draws.collect();
        self.random = left;
        output
    }

    /// Checks a request against the recorded one, bytes of the mailbox object and all.
    fn check_sent(&mut self, output: Output, number: u64) {
        let Output::Send {
            len,
            protocol,
            delay_us,
            cache_request,
            ..
        } = output
        else {
            panic!("nothing is sent for record {number}: {output:?}");
        };
        let record = self.recording.record(number);
        let (payload, padding) = record.payload().split_at(len);
        assert_eq!(
            hex(&self.out[..len]),
            hex(payload),
            "{} {number}",
            record.name
        );
        assert!(padding.len() < 4 && padding.iter().all(|byte| *byte == 0));
        assert_eq!(protocol == Protocol::Secured, record.kind == Kind::Secured);
        assert_eq!(delay_us, 0);
        let sent = self.out.clone();
        self.keep(cache_request, &sent);
    }

    /// Brings the recorded answer, and keeps what the requester says to keep.
    fn bring(&mut self, number: u64) -> Result<Output, Error> {
        self.bring_bytes(self.recording.record(number).payload().to_vec())
    }

    fn bring_bytes(&mut self, mut response: Vec<u8>) -> Result<Output, Error> {
        let output = self.step(Input::Response(&mut response))?;
        let (Output::Send { cache_response, .. } | Output::Done { cache_response, .. }) = output;
        self.keep(cache_response, &response);
        Ok(output)
    }

    /// Runs one operation over recorded exchanges, each a request and the number after it.
    fn operation(&mut self, operation: Operation, requests: &[u64]) -> Outcome {
        self.requester.start(operation).unwrap();
        let mut output = self.step(Input::Begin).unwrap();
        for number in requests {
            self.check_sent(output, *number);
            output = self.bring(number + 1).unwrap();
        }
        match output {
            Output::Done { outcome, .. } => outcome,
            Output::Send { .. } => panic!("more is sent than recorded"),
        }
    }

    fn discover(&mut self) {
        let outcome = self.operation(Operation::Discover, &[7, 9, 11, 13, 15]);
        assert_eq!(outcome, Outcome::Discovered);
        let recording = self.recording;
        let digests = *self.requester.digests();
        let vca: Vec<u8> = (7..=12)
            .flat_map(|number| recording.message(number))
            .copied()
            .collect();
        assert_eq!(hex(&self.kept[0]), hex(&vca));
        assert_eq!(digests.vca(), Some(&sha384(&vca)));
        assert_eq!(hex(&self.kept[1]), hex(&recording.message(16)[8..]));
        assert_eq!(digests.certificate(), Some(&sha384(&self.kept[1])));
    }

    fn key(&self) -> PublicKey {
        PublicKey::new(&leaf_point(self.recording)).unwrap()
    }
}

#[test]
fn the_requester_relives_the_session() {
    let Some(recording) = Recording::open() else {
        return;
    };
    let mut run = Run::new(recording, false);
    run.discover();

    let wrong = p384::ecdsa::SigningKey::from_slice(&[5; 48]).unwrap();
    let point = wrong.verifying_key().to_sec1_point(false);
    let wrong = PublicKey::new(point.as_bytes()).unwrap();
    assert_eq!(
        run.requester.start(Operation::Establish { key: wrong }),
        Err(Error::KeyMismatch)
    );
    assert_eq!(run.requester.phase(), Phase::Discovered);

    run.random = vec![recording.message(29)[8..40].to_vec()];
    let key = run.key();
    let outcome = run.operation(Operation::Establish { key }, &[29, 31]);
    assert_eq!(
        outcome,
        Outcome::Established {
            session: SESSION,
            heartbeat: 0xf0
        }
    );
    assert_eq!(
        run.requester.digests().public_key(),
        Some(&sha384(&leaf_point(recording)))
    );

    for number in (33..=91).step_by(2) {
        let (request, _) = VendorDefined::parse(
            recording.message(number),
            SUITE.version,
            Code::VENDOR_DEFINED_REQUEST,
        )
        .unwrap();
        let output = run
            .requester
            .start_vendor(request.payload, &mut run.out, &mut run.workspace)
            .unwrap();
        run.check_sent(output, number);
        let mut response = recording.record(number + 1).payload().to_vec();
        let output = run.step(Input::Response(&mut response)).unwrap();
        let Output::Done {
            outcome: Outcome::Vendor { offset, len, .. },
            ..
        } = output
        else {
            panic!("{output:?}");
        };
        let (expected, _) = VendorDefined::parse(
            recording.message(number + 1),
            SUITE.version,
            Code::VENDOR_DEFINED_RESPONSE,
        )
        .unwrap();
        assert_eq!(hex(&response[offset..offset + len]), hex(expected.payload));
    }

    heartbeat_and_first_half_of_key_update(&mut run, 30);
    let output = run.bring(150).unwrap();
    run.check_sent(output, 151);
    let Output::Done { outcome, .. } = run.bring(152).unwrap() else {
        panic!()
    };
    assert_eq!(outcome, Outcome::KeysUpdated);

    let nonce = recording.message(153)[4..36].try_into().unwrap();
    let outcome = run.operation(Operation::Measure { nonce, raw: false }, &[153]);
    assert_eq!(outcome, Outcome::Measured { blocks: 8 });
    assert_eq!(hex(&run.kept[2]), hex(recording.message(154)));
    assert_eq!(
        run.requester.digests().measurements(),
        Some(&sha384(&run.kept[2]))
    );

    assert_eq!(run.operation(Operation::End, &[155]), Outcome::Ended);
    assert_eq!(run.requester.phase(), Phase::Ended);
    assert!(run.random.is_empty());
}

/// Exchanges whose records have other sequence numbers here: `exchanges` came before them.
fn heartbeat_and_first_half_of_key_update(run: &mut Run, exchanges: usize) {
    let recording = run.recording;
    let mut request = record_key(&recording.secret("request_data_secret"));
    let mut response = record_key(&recording.secret("response_data_secret"));
    let sealed = |key: &mut RecordKey, message: &[u8]| {
        let mut buffer = vec![0; message.len() + OVERHEAD];
        buffer[MESSAGE_OFFSET..][..message.len()].copy_from_slice(message);
        key.seal(SESSION, &mut buffer, message.len()).unwrap();
        buffer
    };
    for _ in 0..exchanges {
        sealed(&mut request, &[]);
        sealed(&mut response, &[]);
    }

    run.requester.start(Operation::Heartbeat).unwrap();
    let output = run.step(Input::Begin).unwrap();
    let Output::Send { len, .. } = output else {
        panic!()
    };
    let expected = sealed(&mut request, recording.message(147));
    assert_eq!(hex(&run.out[..len]), hex(&expected));
    let answer = sealed(&mut response, recording.message(148));
    let Output::Done { outcome, .. } = run.bring_bytes(answer).unwrap() else {
        panic!()
    };
    assert_eq!(outcome, Outcome::Alive);

    run.random = vec![
        vec![recording.message(149)[3]],
        vec![recording.message(151)[3]],
    ];
    run.requester.start(Operation::UpdateKeys).unwrap();
    let output = run.step(Input::Begin).unwrap();
    let Output::Send { len, .. } = output else {
        panic!()
    };
    let expected = sealed(&mut request, recording.message(149));
    assert_eq!(hex(&run.out[..len]), hex(&expected));
}

#[test]
fn the_challenge_is_the_recorded_one_and_an_answer_over_more_than_we_asked_is_refused() {
    let Some(recording) = Recording::open() else {
        return;
    };
    let mut run = Run::new(recording, true);
    run.discover();
    run.random = vec![recording.message(19)[4..36].to_vec()];
    let key = run.key();
    run.requester.start(Operation::Establish { key }).unwrap();
    let output = run.step(Input::Begin).unwrap();
    run.check_sent(output, 19);
    assert_eq!(run.bring(20), Err(Error::Peer(PeerMisbehaved::Signature)));
    assert_eq!(run.requester.phase(), Phase::Dead);
}
