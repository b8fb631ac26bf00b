// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whoever looks for secrets is told all of them.

mod requester;

use std::sync::{Arc, Mutex};

use requester::{Bench, STREAM, hex};
use tsm_devices::Confidant;

type Told = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

fn listening() -> (Bench, Told) {
    let told = Told::default();
    let into = told.clone();
    let bench = Bench::with(|config| {
        config.confidant = Confidant::new(move |name, secret| {
            into.lock()
                .unwrap()
                .push((name.to_owned(), secret.to_vec()));
        });
    });
    (bench.negotiate_all(), told)
}

fn called<'a>(told: &'a [(String, Vec<u8>)], name: &str) -> Vec<&'a [u8]> {
    let named = told.iter().filter(|(other, _)| other == name);
    named.map(|(_, secret)| &secret[..]).collect()
}

#[test]
fn every_secret_is_told_as_soon_as_it_is_known() {
    let (mut bench, told) = listening();
    let count = || told.lock().unwrap().len();
    assert_eq!(count(), 1, "the key of the identity");
    let mut session = bench.establish();
    // The shared secret; of each stage a main secret, and of both directions secret, key and IV.
    assert_eq!(count(), 1 + 1 + 7 + 7);
    bench.secure(&mut session, STREAM);
    let nonce = bench.lock(&mut session);
    let told = told.lock().unwrap();
    assert_eq!(called(&told, "start-nonce"), [&nonce[..]]);
    let keys = called(&told, "link-key");
    assert!(keys.len() >= 6 && keys.iter().all(|key| key.len() == 32));
    for name in ["identity-key", "shared-secret", "handshake-main-secret"] {
        assert_eq!(called(&told, name).len(), 1, "{name}");
    }
    for direction in ["request", "response"] {
        assert_eq!(
            called(&told, &format!("application-{direction}-key")),
            [session.key(direction)]
        );
    }
}

#[test]
fn updated_keys_are_told_too() {
    let (mut bench, told) = listening();
    let mut session = bench.establish();
    told.lock().unwrap().clear();
    let record = session.seal(&hex("12e90242"));
    bench.object(2, &record);
    session.update_response();
    session.update_request();
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 6);
    for direction in ["request", "response"] {
        assert_eq!(
            called(&told, &format!("updated-{direction}-key")),
            [session.key(direction)]
        );
    }
}
