// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Large messages in chunks, both ways.

mod requester;

use requester::{Bench, Session, Terms, hex};
use tsm_devices::{Cipher, Exchange, Hash, Identity, IdentityPlan, Offer, Signing, Version};

const INVALID_REQUEST: u8 = 0x01;
const UNEXPECTED_REQUEST: u8 = 0x04;
const UNSUPPORTED_REQUEST: u8 = 0x07;
const RESPONSE_TOO_LARGE: u8 = 0x0d;
const REQUEST_TOO_LARGE: u8 = 0x0e;
const LARGE_RESPONSE: u8 = 0x0f;

const LAST: u8 = 1;
const EARLY_ERROR: u8 = 1;

/// A device that takes `transfer` bytes at a time, and a requester with these sizes.
fn bench(terms: Terms, transfer: usize, sizes: (u32, u32)) -> Bench {
    let mut bench = Bench::with(|config| {
        config.offer = Offer::suite(terms.signing, &[terms.version]);
        config.offer.transfer_size = transfer;
        config.identity = Identity::new(&IdentityPlan {
            seed: [6; 32],
            signings: vec![terms.signing],
            slots: vec![0],
            chain_size: None,
        });
    });
    bench.terms = terms;
    bench.sizes = sizes;
    bench
}

fn classic(version: Version) -> Terms {
    Terms {
        version,
        ..Terms::default()
    }
}

fn post_quantum() -> Terms {
    Terms {
        version: Version::V1_4,
        signing: Signing::MlDsa87,
        hash: Hash::Sha384,
        exchange: Exchange::MlKem1024,
        cipher: Cipher::Aes256Gcm,
    }
}

/// Sends a message in chunks of `piece` bytes; returns the answer to the last.
fn send_in_chunks(
    bench: &mut Bench,
    mut session: Option<&mut Session>,
    message: &[u8],
    piece: usize,
) -> Vec<u8> {
    let count = message.len().div_ceil(piece);
    let head = if bench.terms.version >= Version::V1_4 {
        8
    } else {
        6
    };
    for (number, chunk) in message.chunks(piece).enumerate() {
        let last = number + 1 == count;
        let attributes = if last { LAST } else { 0 };
        let request = bench.chunk_send(attributes, number as u32, message.len(), chunk);
        let answer = match &mut session {
            Some(session) => bench.send(session, &request),
            None => bench.plain(&request),
        };
        assert_eq!(answer[..4], bench.request(0x05, 0, 0x31), "{answer:02x?}");
        assert_eq!(usize::from(answer[4]), number);
        if last {
            return answer[head..].to_vec();
        }
        assert!(answer.len() < head + 4, "{answer:02x?}");
    }
    unreachable!("no chunk was the last")
}

#[test]
fn an_answer_is_the_same_in_chunks_of_any_size() {
    for version in [Version::V1_2, Version::V1_4] {
        for transfer in [42, 61, 500, 4096] {
            let mut bench = bench(classic(version), 4096, (transfer, 0x3000));
            bench.negotiate();
            bench.chain = bench.read_chain(0xffff);
            let mut session = bench.key_exchange(9);
            // Tiny pieces leave no room for records that carry more than a few bytes.
            if transfer > 60 {
                bench.finish(&mut session);
                let request = bench.request(0x81, 0, 0);
                let digests = bench.ask_in(&mut session, &request);
                assert_eq!(digests[4..52], bench.terms.digest(&bench.chain));
            }
        }
    }
}

#[test]
fn post_quantum_answers_come_in_chunks_in_a_session_too() {
    let mut bench = bench(post_quantum(), 4096, (0x1000, 0x3000));
    bench.negotiate();
    bench.chain = bench.read_chain(0xffff);
    let mut session = bench.establish();
    let mut request = bench.request(0xe0, 1, 0xff);
    request.extend([0x33; 32]);
    request.extend([0; 9]);
    let first = bench.send(&mut session, &request);
    assert_eq!(first[..3], [0x14, 0x7f, LARGE_RESPONSE]);
    let answer = bench.fetch(Some(&mut session), first);
    let (covered, signature) = answer.split_at(answer.len() - 4627);
    let transcript = [bench.vca(), &request, covered].concat();
    bench.verify("responder-measurements signing", &transcript, signature);
}

#[test]
fn a_request_in_chunks_is_answered_as_a_whole_one() {
    for terms in [classic(Version::V1_2), post_quantum()] {
        let mut bench = bench(terms, 200, (0x1000, 0x3000));
        bench.negotiate();
        bench.chain = bench.read_chain(0xffff);
        let message = bench.key_exchange_message(3);
        let answer = send_in_chunks(&mut bench, None, &message, 100);
        let answer = bench.fetch(None, answer);
        let mut session = bench.check_key_exchange(&message, &answer);
        // FINISH, the last message under handshake keys, in chunks.
        let finish = Bench::finish_message(&session);
        let answer = send_in_chunks(&mut bench, Some(&mut session), &finish, 30);
        Bench::finished(&mut session, &finish, &answer);
        let heartbeat = bench.request(0xe8, 0, 0);
        assert_eq!(bench.send(&mut session, &heartbeat)[1], 0x68);
    }
}

#[test]
fn a_forged_finish_in_chunks_ends_the_handshake() {
    let mut bench = bench(classic(Version::V1_3), 4096, (0x1000, 0x3000));
    bench.negotiate();
    bench.chain = bench.read_chain(0xffff);
    let mut session = bench.key_exchange(3);
    let mut finish = Bench::finish_message(&session);
    finish[20] ^= 1;
    let answer = send_in_chunks(&mut bench, Some(&mut session), &finish, 30);
    assert_eq!(answer[1..3], [0x7f, 0x06]);
    assert!(bench.ended(&session));
}

#[test]
fn chunks_that_do_not_make_a_message_are_refused_early() {
    let mut bench = bench(classic(Version::V1_2), 4096, (0x1000, 0x3000));
    bench.negotiate();
    let whole = [0x12; 100];
    let chunk = |bench: &Bench, attributes, number, size, length: usize| {
        bench.chunk_send(attributes, number, size, &whole[..length])
    };
    let other_handle = {
        let mut request = chunk(&bench, 0, 1, 0, 10);
        request[3] ^= 1;
        request
    };
    for second in [
        chunk(&bench, 0, 0, 100, 50),  // the first one again
        chunk(&bench, 0, 2, 0, 10),    // one is missing
        chunk(&bench, 0, 1, 0, 0),     // nothing in it
        chunk(&bench, LAST, 1, 0, 10), // ends before the end
        chunk(&bench, 0, 1, 0, 50),    // complete, but not the last
        chunk(&bench, LAST, 1, 0, 51), // more than was promised
        other_handle,
    ] {
        let first = chunk(&bench, 0, 0, 100, 50);
        assert_eq!(bench.plain(&first)[1..3], [0x05, 0]);
        let answer = bench.plain(&second);
        assert_eq!(answer[1..3], [0x05, EARLY_ERROR], "{answer:02x?}");
        assert_eq!(answer[6..10], [0x12, 0x7f, INVALID_REQUEST, 0]);
    }
    // Larger than the device takes, and a chunk without a beginning.
    for request in [
        chunk(&bench, 0, 0, 0x2_0001, 50),
        chunk(&bench, LAST, 1, 0, 50),
    ] {
        let answer = bench.plain(&request);
        assert_eq!(answer[1..3], [0x05, EARLY_ERROR], "{answer:02x?}");
    }
    // Longer than the chunk that it carries, and cut short.
    let mut lying = chunk(&bench, 0, 0, 100, 50);
    lying[8] = 60;
    assert_eq!(bench.refused(&lying), INVALID_REQUEST);
    for cut in 4..16 {
        let request = chunk(&bench, 0, 0, 100, 50);
        assert_eq!(bench.refused(&request[..cut]), INVALID_REQUEST);
    }
    // Chunks of chunks.
    for inner in ["12860100 0000", "10840000"] {
        let answer = send_in_chunks(&mut bench, None, &hex(inner), 4);
        assert_eq!(answer[..3], [0x12, 0x7f, INVALID_REQUEST]);
    }
    assert_eq!(bench.ask(&hex("12810000"))[1], 0x01);
}

#[test]
fn another_request_gives_up_what_is_under_way() {
    let mut bench = bench(classic(Version::V1_2), 4096, (100, 0x3000));
    bench.negotiate();
    let certificate = hex("1282000000000002");
    let large = bench.plain(&certificate);
    assert_eq!(large[2], LARGE_RESPONSE);
    bench.ask(&hex("12810000"));
    let request = bench.chunk_get(large[4], 0);
    assert_eq!(bench.refused(&request), UNEXPECTED_REQUEST);

    let first = bench.chunk_send(0, 0, 100, &[0x12; 50]);
    bench.plain(&first);
    bench.ask(&hex("12810000"));
    let second = bench.chunk_send(LAST, 1, 0, &[0x12; 50]);
    assert_eq!(bench.plain(&second)[2], EARLY_ERROR);
}

#[test]
fn a_chunk_is_given_once_and_in_order() {
    let mut bench = bench(classic(Version::V1_2), 4096, (100, 0x3000));
    bench.negotiate();
    let certificate = hex("1282000000000002");
    for (handle, sequence) in [(1, 0), (0, 1), (0, 2)] {
        let large = bench.plain(&certificate);
        let request = bench.chunk_get(large[4] ^ handle, sequence);
        assert_eq!(bench.refused(&request), INVALID_REQUEST);
        // What was asked for wrongly is not to be had any more.
        let request = bench.chunk_get(large[4], 0);
        assert_eq!(bench.refused(&request), UNEXPECTED_REQUEST);
    }
    let large = bench.plain(&certificate);
    let request = bench.chunk_get(large[4], 0);
    assert_eq!(bench.plain(&request)[1], 0x06);
    assert_eq!(bench.refused(&request), INVALID_REQUEST);
}

#[test]
fn who_takes_no_chunks_gets_none() {
    // The requester does not.
    let mut bench = bench(post_quantum(), 4096, (0x1000, 0x1000));
    bench.negotiate();
    bench.chain = bench.read_chain(0x800);
    let request = bench.key_exchange_message(1);
    assert_eq!(bench.refused(&request), RESPONSE_TOO_LARGE);
    for request in [
        bench.chunk_get(1, 0),
        bench.chunk_send(LAST, 0, 4, &[0x14, 0x81, 0, 0]),
    ] {
        assert_eq!(bench.refused(&request), UNSUPPORTED_REQUEST);
    }
    // The device does not, and says so.
    let mut bench = Bench::with(|config| config.offer.message_size = 0);
    bench.sizes = (100, 0x3000);
    bench.negotiate();
    let capabilities = &bench.vca()[12 + 20..12 + 40];
    assert_eq!(capabilities[8..12], 0x62f6_u32.to_le_bytes());
    assert_eq!(capabilities[12..16], capabilities[16..20]);
    assert_eq!(bench.refused(&bench.chunk_get(1, 0)), UNSUPPORTED_REQUEST);
    // An answer that is larger than what the requester takes at all.
    let mut bench = self::bench(post_quantum(), 4096, (0x1000, 0x1001));
    bench.negotiate();
    bench.chain = bench.read_chain(0x800);
    let request = bench.key_exchange_message(1);
    assert_eq!(bench.refused(&request), RESPONSE_TOO_LARGE);
}

#[test]
fn a_request_over_the_transfer_size_is_too_large_for_one_piece() {
    let mut bench = bench(classic(Version::V1_2), 200, (0x1000, 0x3000));
    bench.negotiate();
    bench.chain = bench.read_chain(0xffff);
    let mut request = bench.key_exchange_message(1);
    request.resize(204, 0);
    assert_eq!(bench.refused(&request), REQUEST_TOO_LARGE);
    let mut session = bench.establish();
    let mut message = hex("12e80000");
    message.resize(201, 0);
    assert_eq!(bench.refused_in(&mut session, &message), REQUEST_TOO_LARGE);
}
