// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Versions, algorithms, certificate slots and measurements that a configuration chooses.

mod requester;

use requester::{Bench, FIRMWARE, Terms, hex, measurement_blocks, sha384};
use tsm_devices::{
    Cipher, Exchange, FUNCTION_NAME, Hash, Identity, IdentityPlan, Measurements, Offer, Signing,
    Version,
};

const INVALID_REQUEST: u8 = 0x01;
const UNEXPECTED_REQUEST: u8 = 0x04;
const VERSION_MISMATCH: u8 = 0x41;

const VERSIONS: [Version; 3] = [Version::V1_2, Version::V1_3, Version::V1_4];

fn terms(version: Version, signing: Signing) -> Terms {
    let offer = Offer::suite(signing, &[version]);
    Terms {
        version,
        signing,
        hash: offer.hashes[0],
        exchange: offer.exchanges[0],
        cipher: offer.ciphers[0],
    }
}

fn plan(signing: Signing) -> IdentityPlan {
    IdentityPlan {
        seed: [5; 32],
        signings: vec![signing],
        slots: vec![0],
        chain_size: None,
    }
}

/// An offer of everything there is, in an order that no test's requester has.
fn everything() -> Offer {
    Offer {
        versions: VERSIONS.to_vec(),
        signings: vec![
            Signing::MlDsa87,
            Signing::EcdsaP256,
            Signing::MlDsa65,
            Signing::EcdsaP384,
        ],
        hashes: vec![Hash::Sha256, Hash::Sha384],
        exchanges: vec![
            Exchange::MlKem1024,
            Exchange::Secp256r1,
            Exchange::MlKem768,
            Exchange::Secp384r1,
        ],
        ciphers: vec![
            Cipher::ChaCha20Poly1305,
            Cipher::Aes128Gcm,
            Cipher::Aes256Gcm,
        ],
        ..Offer::default()
    }
}

/// A device that has exactly what `terms` say, and a requester that takes chunks.
fn bench(terms: Terms) -> Bench {
    let mut bench = Bench::with(|config| {
        config.offer = Offer::suite(terms.signing, &VERSIONS);
        config.offer.hashes = vec![terms.hash];
        config.offer.exchanges = vec![terms.exchange];
        config.offer.ciphers = vec![terms.cipher];
        config.identity = Identity::new(&plan(terms.signing));
    });
    bench.terms = terms;
    bench.sizes = (0x1000, 0x3000);
    bench
}

fn ready(terms: Terms) -> Bench {
    let mut bench = bench(terms);
    bench.negotiate();
    bench.chain = bench.read_chain(0x800);
    bench
}

/// GET_MEASUREMENTS of all blocks, signed.
fn signed_request(bench: &Bench) -> Vec<u8> {
    let mut request = bench.request(0xe0, 1, 0xff);
    request.extend([0x33; 32]);
    request.push(bench.slot);
    if bench.terms.version >= Version::V1_3 {
        request.extend(*b"context!");
    }
    request
}

/// Checks a signed MEASUREMENTS of all blocks.
fn check_measurements(bench: &Bench, request: &[u8], answer: &[u8]) {
    let blocks = measurement_blocks();
    assert_eq!(answer[..4], bench.request(0x60, 0, 0x20 | bench.slot));
    assert_eq!(answer[8..8 + blocks.len()], blocks);
    let mut end = 8 + blocks.len() + 32;
    assert_eq!(answer[end..end + 2], [0, 0]);
    end += 2;
    if bench.terms.version >= Version::V1_3 {
        assert_eq!(answer[end..end + 8], *b"context!");
        end += 8;
    }
    let signature = &answer[end..end + bench.terms.signature_size()];
    let transcript = [bench.vca(), request, &answer[..end]].concat();
    bench.verify("responder-measurements signing", &transcript, signature);
}

/// Runs everything that a session has to do with.
fn run(terms: Terms) {
    let mut bench = ready(terms);
    let digests = bench.ask(&bench.request(0x81, 0, 0));
    assert_eq!(
        digests[4..4 + terms.hash_size()],
        terms.digest(&bench.chain)
    );
    let request = signed_request(&bench);
    let answer = bench.ask(&request);
    check_measurements(&bench, &request, &answer);

    let mut session = bench.establish();
    let heartbeat = bench.request(0xe8, 0, 0);
    assert_eq!(bench.send(&mut session, &heartbeat)[1], 0x68);
    let answer = bench.ask_in(&mut session, &request);
    check_measurements(&bench, &request, &answer);
    let update = bench.request(0xe9, 2, 0x42);
    let record = session.seal(&update);
    session.update_response();
    let (_, answer) = bench.object(2, &record);
    assert_eq!(session.open(&answer), bench.request(0x69, 2, 0x42));
    session.update_request();
    let verify = bench.request(0xe9, 3, 0x43);
    assert_eq!(bench.send(&mut session, &verify)[1], 0x69);
    assert_eq!(bench.tdisp(&mut session, 0x81, &[]), [1, 0x10]);
    let end = bench.request(0xec, 0, 0);
    assert_eq!(bench.send(&mut session, &end), bench.request(0x6c, 0, 0));
    bench.establish();
}

#[test]
fn every_version_and_suite_runs_from_the_chain_to_the_end_of_the_session() {
    for version in VERSIONS {
        for signing in [Signing::EcdsaP256, Signing::EcdsaP384] {
            run(terms(version, signing));
        }
    }
    for signing in [Signing::MlDsa65, Signing::MlDsa87] {
        run(terms(Version::V1_4, signing));
    }
}

#[test]
fn signature_hash_key_agreement_and_cipher_are_independent() {
    let base = terms(Version::V1_3, Signing::EcdsaP256);
    for cipher in [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305] {
        run(Terms { cipher, ..base });
    }
    run(Terms {
        hash: Hash::Sha384,
        exchange: Exchange::Secp384r1,
        ..base
    });
    run(Terms {
        version: Version::V1_4,
        signing: Signing::EcdsaP384,
        hash: Hash::Sha256,
        exchange: Exchange::MlKem768,
        cipher: Cipher::Aes128Gcm,
    });
    run(Terms {
        version: Version::V1_4,
        signing: Signing::MlDsa65,
        hash: Hash::Sha256,
        exchange: Exchange::Secp256r1,
        cipher: Cipher::ChaCha20Poly1305,
    });
}

#[test]
fn only_what_was_offered_is_selected() {
    let mut bench = Bench::with(|config| {
        config.offer = everything();
        config.identity = Identity::new(&IdentityPlan {
            signings: everything().signings,
            ..plan(Signing::EcdsaP384)
        });
    });
    bench.sizes = (0x1000, 0x3000);
    for signing in everything().signings {
        for hash in [Hash::Sha256, Hash::Sha384] {
            for (exchange, cipher) in [
                (Exchange::MlKem768, Cipher::Aes256Gcm),
                (Exchange::Secp384r1, Cipher::Aes128Gcm),
                (Exchange::MlKem1024, Cipher::ChaCha20Poly1305),
                (Exchange::Secp256r1, Cipher::Aes256Gcm),
            ] {
                bench.terms = Terms {
                    version: Version::V1_4,
                    signing,
                    hash,
                    exchange,
                    cipher,
                };
                bench.negotiate();
                let algorithms = &bench.vca()[bench.vca().len() - 48..];
                let (classic, post_quantum, digest) = bench.terms.masks();
                assert_eq!(algorithms[12..16], classic.to_le_bytes());
                assert_eq!(algorithms[16..20], digest.to_le_bytes());
                assert_eq!(algorithms[20..24], post_quantum.to_le_bytes());
                assert_eq!(algorithms[36..], bench.terms.structures().concat());
            }
        }
    }
}

#[test]
fn the_device_chooses_by_its_own_preference() {
    let mut bench = Bench::with(|config| {
        config.offer = everything();
        config.identity = Identity::new(&IdentityPlan {
            // No chain for the algorithm that it would like best.
            signings: vec![Signing::EcdsaP256, Signing::EcdsaP384],
            ..plan(Signing::EcdsaP384)
        });
    });
    bench.terms.version = Version::V1_4;
    bench.ask(&hex("10840000"));
    bench.ask(&bench.get_capabilities());
    let mut request = hex("14e306004c000102");
    request[4] = 32 + 6 * 4;
    for mask in [0xffff_ffff_u32, 0xffff_ffff, 0xffff_ffff] {
        request.extend(mask.to_le_bytes());
    }
    request.resize(32, 0);
    for kind in 2..8 {
        request.extend([kind, 0x20, 0xff, 0xff]);
    }
    let answer = bench.ask(&request);
    assert_eq!(
        answer[12..24],
        hex("10000000 01000000 00000000"),
        "{answer:02x?}"
    );
    let chosen = hex("02200000 03200400 04200000 05200100 06200000 07200400");
    assert_eq!(answer[36..60], chosen);
}

#[test]
fn without_a_common_signature_or_hash_there_is_no_connection() {
    let device = terms(Version::V1_4, Signing::EcdsaP384);
    for other in [
        Terms {
            signing: Signing::EcdsaP256,
            ..device
        },
        Terms {
            signing: Signing::MlDsa87,
            ..device
        },
        Terms {
            hash: Hash::Sha256,
            ..device
        },
    ] {
        let mut bench = bench(device);
        bench.terms = other;
        bench.ask(&hex("10840000"));
        bench.ask(&bench.get_capabilities());
        assert_eq!(
            bench.refused(&bench.negotiate_algorithms()),
            INVALID_REQUEST
        );
    }
}

#[test]
fn without_a_common_key_agreement_there_are_no_sessions() {
    let device = terms(Version::V1_4, Signing::EcdsaP384);
    for exchange in [Exchange::Secp256r1, Exchange::MlKem768] {
        let mut bench = bench(device);
        bench.terms.exchange = exchange;
        bench.negotiate();
        let request = bench.key_exchange_message(1);
        assert_eq!(bench.refused(&request), UNEXPECTED_REQUEST);
    }
}

#[test]
fn post_quantum_algorithms_do_not_exist_before_1_4() {
    let mut bench = bench(terms(Version::V1_4, Signing::MlDsa87));
    bench.terms.version = Version::V1_3;
    bench.ask(&hex("10840000"));
    bench.ask(&bench.get_capabilities());
    assert_eq!(
        bench.refused(&bench.negotiate_algorithms()),
        INVALID_REQUEST
    );
}

#[test]
fn a_connection_has_the_version_that_it_began_with() {
    let mut bench = Bench::with(|config| {
        config.offer.versions = vec![Version::V1_2, Version::V1_4];
    });
    let answer = bench.ask(&hex("10840000"));
    assert_eq!(answer[..10], hex("10040000 0002 0012 0014"));
    bench.terms.version = Version::V1_3;
    let capabilities = bench.get_capabilities();
    assert_eq!(
        bench.plain(&capabilities)[..3],
        [0x10, 0x7f, VERSION_MISMATCH]
    );
    for version in [Version::V1_2, Version::V1_4] {
        bench.terms.version = version;
        bench.negotiate();
        for other in VERSIONS.iter().filter(|other| **other != version) {
            let answer = bench.plain(&[other.byte(), 0x81, 0, 0]);
            assert_eq!(answer[..3], [version.byte(), 0x7f, VERSION_MISMATCH]);
        }
    }
}

/// Reads the content of a DER value; returns it and what follows.
fn value(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (head, length) = match bytes[1] {
        0x82 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
        0x81 => (3, usize::from(bytes[2])),
        length => (2, usize::from(length)),
    };
    bytes[head..].split_at(length)
}

#[test]
fn each_certificate_is_signed_by_the_one_before() {
    for signing in [
        Signing::EcdsaP256,
        Signing::EcdsaP384,
        Signing::MlDsa65,
        Signing::MlDsa87,
    ] {
        let bench = ready(terms(Version::V1_4, signing));
        let certificates = bench.certificates();
        assert_eq!(certificates.len(), 3);
        let mut issuer = &certificates[0];
        for certificate in &certificates {
            let body = value(certificate).0;
            let after = value(body).1;
            let signed = &body[..body.len() - after.len()];
            let (algorithm, after) = value(after);
            let signature = &value(after).0[1..];
            let (oid, ecdsa): (&[u8], bool) = match signing {
                Signing::EcdsaP256 => (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], true),
                Signing::EcdsaP384 => (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], true),
                Signing::MlDsa65 => (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 0x12], false),
                Signing::MlDsa87 => (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 0x13], false),
            };
            assert_eq!(algorithm, [&[6, oid.len() as u8], oid].concat());
            let raw = if ecdsa {
                let size = bench.terms.signature_size() / 2;
                let (r, s) = value(value(signature).0);
                let s = value(s).0;
                let pad = |number: &[u8]| {
                    let number = number.strip_prefix(&[0]).unwrap_or(number);
                    [&vec![0; size - number.len()], number].concat()
                };
                [pad(r), pad(s)].concat()
            } else {
                signature.to_vec()
            };
            let key = bench.terms.key_of(issuer);
            assert!(bench.terms.verifies(key, "", signed, &raw));
            issuer = certificate;
        }
        let name = FUNCTION_NAME.as_bytes();
        assert!(certificates[2].windows(name.len()).any(|at| at == name));
    }
}

#[test]
fn each_slot_has_a_chain_and_a_key_of_its_own() {
    let terms = terms(Version::V1_3, Signing::EcdsaP384);
    let mut bench = Bench::with(|config| {
        config.offer = Offer::suite(terms.signing, &VERSIONS);
        config.identity = Identity::new(&IdentityPlan {
            slots: vec![0, 2, 7],
            ..plan(terms.signing)
        });
    });
    bench.terms = terms;
    bench.negotiate();
    let digests = bench.ask(&bench.request(0x81, 0, 0));
    assert_eq!(digests[..4], bench.request(0x01, 0x85, 0x85));
    let mut leaves = Vec::new();
    for (place, slot) in [0, 2, 7].into_iter().enumerate() {
        bench.slot = slot;
        bench.chain = bench.read_chain(0x1000);
        let at = 4 + 48 * place;
        assert_eq!(digests[at..at + 48], sha384(&bench.chain));
        leaves.push(bench.certificates().pop().unwrap());
        let request = signed_request(&bench);
        let answer = bench.ask(&request);
        check_measurements(&bench, &request, &answer);
        bench.establish();
    }
    assert_ne!(leaves[0], leaves[1]);
    assert_ne!(leaves[1], leaves[2]);
    bench.slot = 1;
    let mut certificate = bench.request(0x82, 1, 0);
    certificate.extend([0, 0, 0, 4]);
    let signed = signed_request(&bench);
    for request in [certificate, signed, bench.key_exchange_message(1)] {
        assert_eq!(bench.refused(&request), INVALID_REQUEST);
    }
}

#[test]
fn a_chain_of_64_kib_is_read_in_portions_of_any_kind() {
    let terms = terms(Version::V1_4, Signing::EcdsaP256);
    let mut bench = Bench::with(|config| {
        config.offer = Offer::suite(terms.signing, &VERSIONS);
        config.identity = Identity::new(&IdentityPlan {
            chain_size: Some(0xffff),
            ..plan(terms.signing)
        });
    });
    bench.terms = terms;
    bench.sizes = (0x1000, 0x1_4000);
    bench.negotiate();
    bench.chain = bench.read_chain(0xff0);
    assert!(bench.chain.len() > 0xffc0);
    // All of it at once, in chunks.
    assert_eq!(bench.read_chain(0xffff), bench.chain);
    // Offset and length of 32 bits, the short fields being reserved.
    let mut request = bench.request(0x82, 0x80, 0);
    request.extend([0; 4]);
    request.extend(0x8000_u32.to_le_bytes());
    request.extend(0x10_0000_u32.to_le_bytes());
    let answer = bench.ask(&request);
    assert_eq!(answer[..8], hex("14028000 00000000"));
    let rest = (bench.chain.len() - 0x8000) as u32;
    assert_eq!(answer[8..12], rest.to_le_bytes());
    assert_eq!(answer[12..16], [0; 4]);
    assert_eq!(answer[16..], bench.chain[0x8000..]);
    bench.establish();
}

#[test]
fn a_slot_tells_its_size_from_1_3_on() {
    for version in [Version::V1_2, Version::V1_3] {
        let mut bench = ready(terms(version, Signing::EcdsaP384));
        let mut request = bench.request(0x82, 0, 1);
        request.extend([0, 0, 4, 0]);
        let answer = bench.ask(&request);
        let size = bench.chain.len() as u16;
        let expected = match version {
            Version::V1_2 => [4, size - 4],
            _ => [0, size],
        };
        assert_eq!(answer[4..8], expected.map(u16::to_le_bytes).concat());
    }
}

#[test]
fn a_challenge_repeats_the_context_of_1_3() {
    for version in VERSIONS {
        let mut bench = bench(terms(version, Signing::EcdsaP256));
        bench.negotiate();
        bench.chain = bench.read_chain(0x1000);
        bench.negotiate();
        let mut request = bench.request(0x83, 0, 1);
        request.extend([0x77; 32]);
        if version >= Version::V1_3 {
            assert_eq!(bench.refused(&request), INVALID_REQUEST);
            bench.negotiate();
            request.extend(*b"context!");
        }
        let answer = bench.ask(&request);
        // Header, chain digest, nonce, summary, opaque length.
        let mut end = 4 + 32 + 32 + 32 + 2;
        if version >= Version::V1_3 {
            assert_eq!(answer[end..end + 8], *b"context!");
            end += 8;
        }
        let transcript = [bench.vca(), &request, &answer[..end]].concat();
        let signature = &answer[end..end + 64];
        bench.verify("responder-challenge_auth signing", &transcript, signature);
    }
}

#[test]
fn new_measurements_are_told_to_who_asks_and_opaque_data_to_who_takes_it() {
    let opaque = hex("01000000 02000400 deadbeef");
    let terms = terms(Version::V1_3, Signing::EcdsaP384);
    let mut bench = Bench::with(|config| {
        config.offer = Offer::suite(terms.signing, &VERSIONS);
        config.offer.opaque = opaque.clone();
        config.measurements = Measurements::new(FIRMWARE, b"configuration");
        config.measurements.set_pending(b"the next firmware");
        config.measurements.add(3, 2, b"wiring");
    });
    bench.terms = terms;
    bench.negotiate();
    let ask = |bench: &mut Bench, attributes, index| {
        let mut request = bench.request(0xe0, attributes, index);
        request.extend(*b"context!");
        bench.ask(&request)
    };
    let now = ask(&mut bench, 0, 1);
    assert_eq!(now[15..63], sha384(FIRMWARE));
    assert_eq!(ask(&mut bench, 4, 1)[15..63], sha384(b"the next firmware"));
    assert_eq!(ask(&mut bench, 0, 0)[2], 3);
    let raw = ask(&mut bench, 2, 3);
    assert_eq!(raw[8..21], hex("03010900 82 0600 776972696e67"));
    let end = 8 + 55 + 32;
    assert_eq!(now[end..end + 2], (opaque.len() as u16).to_le_bytes());
    assert_eq!(now[end + 2..end + 2 + opaque.len()], opaque);
    assert_eq!(now[end + 2 + opaque.len()..][..8], *b"context!");

    // A requester without an opaque format gets none.
    let mut request = bench.negotiate_algorithms();
    request[7] = 0;
    bench.ask(&hex("10840000"));
    bench.ask(&bench.get_capabilities());
    bench.ask(&request);
    assert_eq!(ask(&mut bench, 0, 1)[end..end + 2], [0, 0]);
}
