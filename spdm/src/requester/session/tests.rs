// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use zeroize::ZeroizeOnDrop;

use super::{Payload, Session, Task};
use crate::crypto::{
    Digest, HandshakeSecrets, PublicKey, RECORD_LIMIT, RecordKey, Secret, Seed, SharedSecret,
    Suite, Transcript,
};
use crate::requester::api::UPDATE_AFTER;
use crate::requester::state::State;
use crate::requester::{Config, Input, MIN_BUFFER, Operation, Output, Phase, Requester, Workspace};
use crate::wire::session::SessionId;
use crate::{Error, PeerMisbehaved, crypto::RecordError};

/// A requester in a session whose keys have sealed `sent` and opened `received` records.
fn requester(sent: u64, received: u64) -> Requester {
    let signing = p384::ecdsa::SigningKey::from_slice(&[3; 48]).unwrap();
    let point = signing.verifying_key().to_sec1_point(false);
    let key = PublicKey::new(point.as_bytes()).unwrap();
    let suite = Suite::STRONGEST;
    let th = Digest::zero(suite.hash);
    let shared = SharedSecret::new(&[1; 48]);
    let secrets = HandshakeSecrets::new(suite.schedule(), &shared, &th).data_secrets(&th);
    let vca = Transcript::new(suite.hash);
    let mut session = Session::new(SessionId(1), &suite, &vca, key, th, secrets);
    session.tx.key.set_sequence(sent);
    session.rx.key.set_sequence(received);
    let mut requester = Requester::new(Config::new(1));
    requester.state = State::Session(session, Task::Idle);
    requester.shared.common = requester.shared.config.capabilities;
    requester
}

fn step(requester: &mut Requester, out: &mut [u8]) -> Result<Output, Error> {
    requester.step(Input::Begin, out, &mut Workspace::new(), &mut |_| Ok(()))
}

#[test]
fn keys_near_their_limit_can_only_be_updated_or_ended() {
    let limit = UPDATE_AFTER;
    let mut out = [0; MIN_BUFFER];
    for (sent, received) in [(limit, 0), (0, limit)] {
        let mut requester = requester(sent, received);
        assert_eq!(
            requester.start(Operation::Heartbeat),
            Err(Error::KeyUpdateDue)
        );
        let measure = Operation::Measure {
            nonce: [0; 32],
            raw: false,
        };
        assert_eq!(requester.start(measure), Err(Error::KeyUpdateDue));
        assert_eq!(
            requester.start_vendor(&[0], &mut out, &mut Workspace::new()),
            Err(Error::KeyUpdateDue)
        );
        assert_eq!(requester.phase(), Phase::Established);
        assert_eq!(requester.start(Operation::UpdateKeys), Ok(()));
    }
    assert_eq!(requester(limit, limit).start(Operation::End), Ok(()));
    assert_eq!(
        requester(limit - 1, limit - 1).start(Operation::Heartbeat),
        Ok(())
    );
}

#[test]
fn an_update_starts_both_counters_again() {
    let mut requester = requester(RECORD_LIMIT - 1, UPDATE_AFTER);
    requester.start(Operation::UpdateKeys).unwrap();
    let mut out = [0; MIN_BUFFER];
    let output = step(&mut requester, &mut out);
    assert!(matches!(output, Ok(Output::Send { .. })));
    let State::Session(session, _) = &requester.state else {
        panic!()
    };
    assert_eq!(
        (session.tx.key.sequence(), session.rx.key.sequence()),
        (0, 0)
    );
}

#[test]
fn a_key_that_is_used_up_seals_nothing() {
    let mut requester = requester(RECORD_LIMIT, 0);
    requester.start(Operation::UpdateKeys).unwrap();
    let mut out = [0; MIN_BUFFER];
    let output = step(&mut requester, &mut out);
    let exhausted = PeerMisbehaved::Record(RecordError::Exhausted);
    assert_eq!(output, Err(Error::Peer(exhausted)));
    assert_eq!(requester.phase(), Phase::Dead);
}

#[test]
fn whatever_holds_a_secret_erases_it() {
    fn erases<T: ZeroizeOnDrop>() {}
    erases::<Secret>();
    erases::<SharedSecret>();
    erases::<RecordKey>();
    erases::<Payload>();
    erases::<p256::SecretKey>();
    erases::<p384::SecretKey>();
    erases::<Seed>();
    erases::<ml_kem::DecapsulationKey<ml_kem::MlKem1024>>();
}
