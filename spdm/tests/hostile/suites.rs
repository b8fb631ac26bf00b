// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Each version with each suite, and what a device may select of an offer.

use tsm_spdm::crypto::{
    AeadAlgorithm, ExchangeAlgorithm, HashAlgorithm, SignatureAlgorithm, Suite, sha384,
};
use tsm_spdm::wire::negotiation::{
    AEAD_AES_256_GCM, ASYM_ECDSA_P256, ASYM_ECDSA_P384, DHE_SECP384R1, HASH_SHA384,
};
use tsm_spdm::wire::{Code, Version};
use tsm_spdm::{Config, Error, Offer, Operation, Outcome, PeerMisbehaved, Phase};

use crate::identity::SUITE;
use crate::responder::{Pair, Responder};

const VERSIONS: [Version; 3] = [Version::V1_2, Version::V1_3, Version::V1_4];

/// A pair in which the device selects `suite` of everything that there is.
fn pair(suite: Suite, challenge: bool) -> Pair {
    Pair {
        responder: Responder::new(suite),
        ..Pair::with(Config {
            challenge,
            // What post-quantum signatures need in one piece.
            data_transfer_size: 8192,
            ..Config::new(7)
        })
    }
}

/// Every post-quantum suite, and each algorithm with classical ones.
fn post_quantum_suites() -> Vec<Suite> {
    let with = |signature, exchange| Suite {
        signature,
        exchange,
        ..Suite::STRONGEST
    };
    vec![
        with(SignatureAlgorithm::MlDsa65, ExchangeAlgorithm::MlKem768),
        with(SignatureAlgorithm::MlDsa87, ExchangeAlgorithm::MlKem1024),
        with(SignatureAlgorithm::MlDsa65, ExchangeAlgorithm::Secp256r1),
        with(SignatureAlgorithm::EcdsaP256, ExchangeAlgorithm::MlKem1024),
        Suite {
            hash: HashAlgorithm::Sha256,
            aead: AeadAlgorithm::ChaCha20Poly1305,
            ..with(SignatureAlgorithm::MlDsa87, ExchangeAlgorithm::MlKem768)
        },
    ]
}

/// Every version with every combination of algorithms.
fn suites() -> Vec<Suite> {
    let mut suites = Vec::new();
    for version in VERSIONS {
        for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
            for signature in [SignatureAlgorithm::EcdsaP256, SignatureAlgorithm::EcdsaP384] {
                for exchange in [ExchangeAlgorithm::Secp256r1, ExchangeAlgorithm::Secp384r1] {
                    for aead in [
                        AeadAlgorithm::Aes128Gcm,
                        AeadAlgorithm::Aes256Gcm,
                        AeadAlgorithm::ChaCha20Poly1305,
                    ] {
                        suites.push(Suite {
                            version,
                            hash,
                            signature,
                            exchange,
                            aead,
                        });
                    }
                }
            }
        }
    }
    suites
}

fn everything(pair: &mut Pair) -> Result<(), Error> {
    pair.establish()?;
    pair.operate(Operation::Measure {
        nonce: [3; 32],
        raw: false,
    })?;
    pair.vendor(&[0, 1, 2, 3])?;
    pair.operate(Operation::UpdateKeys)?;
    pair.operate(Operation::Heartbeat)?;
    assert_eq!(pair.operate(Operation::End)?, Outcome::Ended);
    Ok(())
}

#[test]
fn every_suite_of_every_version_carries_a_session() {
    for suite in suites().into_iter().chain(post_quantum_suites()) {
        let mut pair = pair(suite, true);
        assert_eq!(everything(&mut pair), Ok(()), "{suite:?}");
        // Evidence is known by SHA-384, whatever was agreed on.
        let digests = pair.requester.digests();
        assert_eq!(digests.vca(), Some(&sha384(&pair.kept[0])));
        assert_eq!(digests.certificate(), Some(&sha384(&pair.responder.chain)));
        let key = sha384(&pair.responder.key.raw());
        assert_eq!(digests.public_key(), Some(&key));
    }
}

#[test]
fn the_latest_version_of_both_is_spoken_in_whatever_order_they_are_listed() {
    // B05. Versions of the device, whether the requester may speak all of them, and what is spoken.
    let rows: [(&[u16], u8, Option<Version>); 9] = [
        (&[0x1400, 0x1300, 0x1200], 0x1c, Some(Version::V1_4)),
        (&[0x1200, 0x1400, 0x1000, 0x1300], 0x1c, Some(Version::V1_4)),
        (&[0x1500, 0x1300, 0x1100], 0x1c, Some(Version::V1_3)),
        // A draft of 1.4.
        (&[0x1200, 0x1401], 0x1c, Some(Version::V1_2)),
        (&[0x1400, 0x1300, 0x1200], 0x0c, Some(Version::V1_3)),
        (&[0x1400, 0x1300, 0x1200], 0xe7, Some(Version::V1_2)),
        (&[0x1400], 0x0c, None),
        (&[0x1100, 0x1000], 0xff, None),
        (&[], 0x1c, None),
    ];
    for (row, (versions, allowed, expected)) in rows.into_iter().enumerate() {
        let mut pair = Pair::with(Config {
            offer: Offer {
                versions: allowed,
                ..Offer::ALL
            },
            ..Config::new(7)
        });
        pair.responder.before_sealing = Box::new(move |code, message| {
            if code == Code::VERSION {
                *message = vec![0x10, 4, 0, 0, 0, versions.len() as u8];
                message.extend(versions.iter().flat_map(|version| version.to_le_bytes()));
            }
        });
        let spoken = std::rc::Rc::new(std::cell::Cell::new(None));
        let seen = spoken.clone();
        pair.on_request = Box::new(move |request| {
            if request[1] == Code::GET_CAPABILITIES.0 {
                seen.set(Some(Version(request[0])));
            }
        });
        let outcome = pair.operate(Operation::Discover);
        assert_eq!(spoken.get(), expected, "row {row}");
        if expected.is_none() {
            let none = Err(Error::Peer(PeerMisbehaved::NoCommonVersion));
            assert_eq!(outcome, none, "row {row}");
        }
    }
}

#[test]
fn an_answer_of_another_version_than_agreed_on_is_refused_at_every_step() {
    let codes = [
        Code::CAPABILITIES,
        Code::ALGORITHMS,
        Code::DIGESTS,
        Code::CERTIFICATE,
        Code::CHALLENGE_AUTH,
        Code::KEY_EXCHANGE_RSP,
        Code::FINISH_RSP,
        Code::MEASUREMENTS,
        Code::VENDOR_DEFINED_RESPONSE,
        Code::HEARTBEAT_ACK,
        Code::KEY_UPDATE_ACK,
        Code::END_SESSION_ACK,
    ];
    for agreed in VERSIONS {
        for other in VERSIONS.into_iter().filter(|other| *other != agreed) {
            for code in codes {
                let suite = Suite {
                    version: agreed,
                    ..Suite::STRONGEST
                };
                let mut pair = pair(suite, true);
                pair.responder.before_sealing = Box::new(move |this, message| {
                    if this == code {
                        message[0] = other.0;
                    }
                });
                assert!(
                    everything(&mut pair).is_err(),
                    "{agreed:?} {other:?} {code:?}"
                );
                assert_eq!(pair.requester.phase(), Phase::Dead);
            }
        }
    }
}

#[test]
fn exactly_one_of_what_was_offered_is_to_be_selected() {
    // B06. Where in ALGORITHMS each selection stands, and the bits that the offer has there.
    let offer = Offer {
        asym: ASYM_ECDSA_P384 | ASYM_ECDSA_P256,
        pqc_asym: 0,
        hash: HASH_SHA384,
        dhe: DHE_SECP384R1,
        kem: 0,
        aead: AEAD_AES_256_GCM,
        ..Offer::ALL
    };
    let fields: [(usize, u32); 4] = [
        (12, offer.asym),
        (16, offer.hash),
        (38, offer.dhe.into()),
        (42, offer.aead.into()),
    ];
    for (at, offered) in fields {
        for selected in 0..=0xff_u8 {
            let mut pair = Pair::with(Config {
                offer,
                ..Config::new(7)
            });
            pair.responder = Responder::new(SUITE);
            pair.responder.before_sealing = Box::new(move |code, message| {
                if code == Code::ALGORITHMS {
                    message[at] = selected;
                }
            });
            let outcome = pair.operate(Operation::Discover);
            let one = selected.is_power_of_two() && offered & u32::from(selected) != 0;
            let wrong = Err(Error::Peer(PeerMisbehaved::WrongAlgorithm));
            assert_eq!(
                outcome == wrong,
                !one,
                "byte {at}, {selected:#x}: {outcome:?}"
            );
        }
    }
}

#[test]
fn a_leaf_of_another_algorithm_than_selected_is_refused() {
    let mut pair = pair(SUITE, true);
    pair.responder.chain = Responder::new(Suite {
        signature: SignatureAlgorithm::EcdsaP256,
        ..SUITE
    })
    .chain;
    let wrong = Err(Error::Peer(PeerMisbehaved::WrongKey));
    assert_eq!(pair.operate(Operation::Discover), wrong);
}

#[test]
fn every_slot_can_answer_for_the_device_and_no_other_does() {
    for slot in 0..8 {
        let with = |slot| {
            Pair::with(Config {
                slot,
                ..Config::new(7)
            })
        };
        let mut pair = with(slot);
        pair.responder.slot = slot;
        assert_eq!(everything(&mut pair), Ok(()), "slot {slot}");
        let mut pair = with((slot + 1) % 8);
        pair.responder.slot = slot;
        let none = Err(Error::Peer(PeerMisbehaved::NoChain));
        assert_eq!(pair.operate(Operation::Discover), none);
    }
}

#[test]
fn what_an_answer_is_to_repeat_is_looked_at() {
    // Version 1.3: eight bytes before the signature.
    for code in [Code::CHALLENGE_AUTH, Code::MEASUREMENTS] {
        let suite = Suite {
            version: Version::V1_3,
            ..Suite::STRONGEST
        };
        let mut pair = pair(suite, true);
        pair.responder.before_signing = Box::new(move |this, message| {
            if this == code {
                *message.last_mut().unwrap() ^= 1;
            }
        });
        let wrong = Err(Error::Peer(PeerMisbehaved::WrongEcho));
        assert_eq!(everything(&mut pair), wrong, "{code:?}");
    }
}

#[test]
fn a_chain_longer_than_portions_can_say_is_refused_where_the_header_can_say_it() {
    for (version, refused) in [(Version::V1_3, false), (Version::V1_4, true)] {
        let suite = Suite {
            version,
            ..Suite::STRONGEST
        };
        let mut pair = pair(suite, true);
        // The upper half of the length in version 1.4, reserved before.
        pair.responder.chain[2] = 1;
        let long = Err(Error::Peer(PeerMisbehaved::ChainLength));
        assert_eq!(pair.operate(Operation::Discover) == long, refused);
    }
}

#[test]
fn classical_and_post_quantum_are_never_both_selected() {
    // B06. Each change adds a second selection, which was offered as well.
    type Change = fn(&mut Vec<u8>);
    let rows: [(Suite, Change); 4] = [
        (Suite::STRONGEST, |m| m[20] = 4),
        (Suite::STRONGEST, |m| {
            m[2] += 1;
            m[4] += 4;
            m.extend([7, 0x20, 4, 0]);
        }),
        (post_quantum_suites()[1], |m| m[12] = 0x80),
        (post_quantum_suites()[1], |m| {
            m[2] += 1;
            m[4] += 4;
            m.extend([2, 0x20, 0x10, 0]);
        }),
    ];
    for (row, (suite, change)) in rows.into_iter().enumerate() {
        let mut pair = pair(suite, true);
        pair.responder.before_sealing = Box::new(move |code, message| {
            if code == Code::ALGORITHMS {
                change(message);
            }
        });
        let wrong = Err(Error::Peer(PeerMisbehaved::WrongAlgorithm));
        assert_eq!(pair.operate(Operation::Discover), wrong, "row {row}");
    }
}

#[test]
fn post_quantum_algorithms_are_of_version_1_4_only() {
    for version in [Version::V1_2, Version::V1_3] {
        // A device that selects what that version could not offer.
        let suite = Suite {
            version,
            exchange: ExchangeAlgorithm::MlKem1024,
            ..Suite::STRONGEST
        };
        let mut pair = pair(suite, true);
        let offered = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let seen = offered.clone();
        pair.on_request = Box::new(move |request| {
            if request[1] == Code::NEGOTIATE_ALGORITHMS.0 {
                seen.borrow_mut().clone_from(request);
            }
        });
        let wrong = Err(Error::Peer(PeerMisbehaved::WrongAlgorithm));
        assert_eq!(pair.operate(Operation::Discover), wrong);
        let offered = offered.borrow();
        assert_eq!((offered.len(), &offered[16..28]), (44, &[0; 12][..]));
    }
}

#[test]
fn a_long_key_is_looked_at_again_after_it_was_in_lent_memory() {
    for suite in post_quantum_suites() {
        if !suite.signature.has_long_keys() {
            continue;
        }
        let mut pair = pair(suite, true);
        pair.operate(Operation::Discover).unwrap();
        assert!(pair.requester.uses_workspace());
        let key = pair.responder.public_key();
        pair.workspace = tsm_spdm::Workspace::new();
        let refused = Err(Error::Peer(PeerMisbehaved::Signature));
        assert_eq!(pair.operate(Operation::Establish { key }), refused);
        assert!(!pair.requester.uses_workspace());
    }
}

#[test]
fn a_ciphertext_that_was_changed_ends_the_exchange() {
    for suite in post_quantum_suites() {
        if suite.exchange == ExchangeAlgorithm::Secp256r1 {
            continue;
        }
        let mut pair = pair(suite, false);
        // Before it is signed: the device itself sends another one than it made.
        pair.responder.before_signing = Box::new(|code, message| {
            if code == Code::KEY_EXCHANGE_RSP {
                message[300] ^= 1;
            }
        });
        let wrong = Err(Error::Peer(PeerMisbehaved::VerifyData));
        assert_eq!(pair.establish(), wrong, "{suite:?}");
    }
}

#[test]
fn a_long_signature_serves_nothing_else_and_has_no_other_length() {
    for suite in post_quantum_suites() {
        for code in [
            Code::CHALLENGE_AUTH,
            Code::KEY_EXCHANGE_RSP,
            Code::MEASUREMENTS,
        ] {
            let at = move |message: &[u8]| {
                let after = if code == Code::KEY_EXCHANGE_RSP {
                    suite.hash.length()
                } else {
                    0
                };
                message.len() - after - suite.signature.length() / 2
            };
            let mut pair = pair(suite, true);
            pair.responder.before_sealing = Box::new(move |this, message| {
                if this == code {
                    let at = at(message);
                    message[at] ^= 1;
                }
            });
            let refused = Err(Error::Peer(PeerMisbehaved::Signature));
            assert_eq!(everything(&mut pair), refused, "{suite:?} {code:?}");
        }
    }
}

#[test]
fn measurements_are_summed_up_in_one_way_only() {
    // B09. A summary stands in CHALLENGE_AUTH behind digest and nonce, and in KEY_EXCHANGE_RSP
    // behind the exchange value.
    let rows = [
        (Code::CHALLENGE_AUTH, 84, false),
        (Code::KEY_EXCHANGE_RSP, 136, false),
        // Without a challenge it is the measurements that contradict.
        (Code::KEY_EXCHANGE_RSP, 136, true),
    ];
    for (code, at, is_found_later) in rows {
        let mut pair = pair(SUITE, !is_found_later);
        pair.responder.before_signing = Box::new(move |this, message| {
            if this == code {
                message[at] ^= 1;
            }
        });
        assert_eq!(pair.establish().is_ok(), is_found_later, "{code:?}");
        if is_found_later {
            // Raw values are not what a summary is over.
            let measured = pair.operate(Operation::Measure {
                nonce: [3; 32],
                raw: true,
            });
            assert_eq!(measured, Ok(Outcome::Measured { blocks: 2 }));
            let wrong = Err(Error::Peer(PeerMisbehaved::MeasurementSummary));
            let measured = pair.operate(Operation::Measure {
                nonce: [4; 32],
                raw: false,
            });
            assert_eq!(measured, wrong);
        }
        assert_eq!(pair.requester.phase(), Phase::Dead);
    }
}

#[test]
fn nothing_but_finish_rsp_ends_a_handshake_and_only_once() {
    // B10. PSK_FINISH_RSP, another version's, and everything that follows an exchange otherwise.
    for code in (0..=0xff).filter(|code| *code != Code::FINISH_RSP.0) {
        let mut pair = pair(SUITE, false);
        pair.responder.before_sealing = Box::new(move |this, message| {
            if this == Code::FINISH_RSP {
                *message = vec![0x12, code, 0, 0];
            }
        });
        assert!(pair.establish().is_err(), "{code:#x}");
        assert_eq!(pair.requester.phase(), Phase::Dead);
    }
    // Once in a session, the answer to a handshake is no answer to anything.
    let mut pair = pair(SUITE, false);
    pair.establish().unwrap();
    pair.responder.before_sealing = Box::new(|this, message| {
        if this == Code::HEARTBEAT_ACK {
            *message = vec![0x12, Code::FINISH_RSP.0, 0, 0];
        }
    });
    assert!(pair.operate(Operation::Heartbeat).is_err());
    assert_eq!(pair.requester.phase(), Phase::Dead);
}
