// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Certificates, challenge and measurements.

mod requester;

use requester::{Bench, hex, measurement_blocks, sha384};

const INVALID_REQUEST: u8 = 0x01;

#[test]
fn the_chain_is_the_same_in_portions_of_any_size() {
    let mut bench = Bench::negotiated();
    let chain = bench.chain.clone();
    for length in [1, 7, 1000, 0xffff] {
        assert_eq!(bench.read_chain(length), chain);
    }
    for request in [
        "1282010000000010",
        "1282000000000000",
        "12820000ffff0010",
        "12820000",
    ] {
        assert_eq!(bench.refused(&hex(request)), INVALID_REQUEST);
    }
}

#[test]
fn a_challenge_covers_every_digest_and_certificate_since_the_last() {
    let mut bench = Bench::negotiated();
    bench.negotiate();
    for _ in 0..2 {
        let mut transcript = bench.vca().to_vec();
        for request in ["12810000", "1282000000002000", "1282000020000010"] {
            let answer = bench.plain(&hex(request));
            let size = match answer[1] {
                0x01 => 52,
                _ => 8 + usize::from(u16::from_le_bytes([answer[4], answer[5]])),
            };
            transcript.extend(hex(request));
            transcript.extend(&answer[..size]);
        }
        let mut challenge = hex("128300ff");
        challenge.extend([0x77; 32]);
        let answer = bench.plain(&challenge);
        assert_eq!(answer[..4], hex("12030001"));
        assert_eq!(answer[4..52], sha384(&bench.chain));
        assert_eq!(answer[84..132], sha384(&measurement_blocks()));
        transcript.extend(&challenge);
        transcript.extend(&answer[..134]);
        bench.verify(
            "responder-challenge_auth signing",
            &transcript,
            &answer[134..230],
        );
    }
    let mut challenge = hex("12830100");
    challenge.extend([0x77; 32]);
    assert_eq!(bench.refused(&challenge), INVALID_REQUEST);
    challenge[2..4].copy_from_slice(&[0, 2]);
    assert_eq!(bench.refused(&challenge), INVALID_REQUEST);
    assert_eq!(bench.refused(&challenge[..32]), INVALID_REQUEST);
}

/// Asks for measurements and returns the exact response.
fn measure(answer: Vec<u8>, signed: bool) -> Vec<u8> {
    assert_eq!(answer[1], 0x60, "{answer:02x?}");
    let record = usize::from(answer[5]) | usize::from(answer[6]) << 8;
    answer[..8 + record + 34 + if signed { 96 } else { 0 }].to_vec()
}

#[test]
fn a_signature_covers_all_measurements_since_the_last_one() {
    let mut bench = Bench::negotiated();
    let mut session = bench.establish();
    let mut signed = hex("12e001ff");
    signed.extend([0x33; 32]);
    signed.push(0);
    for inside in [false, true] {
        let mut ask = |bench: &mut Bench, request: &[u8], is_signed| {
            let answer = if inside {
                bench.send(&mut session, request)
            } else {
                bench.plain(request)
            };
            measure(answer, is_signed)
        };
        let mut transcript = bench.vca().to_vec();
        for request in ["12e00000", "12e00001", "12e00202"] {
            let answer = ask(&mut bench, &hex(request), false);
            transcript.extend(hex(request));
            transcript.extend(answer);
        }
        let answer = ask(&mut bench, &signed, true);
        assert_eq!(answer[..8], [0x12, 0x60, 0, 0x20, 2, 110, 0, 0]);
        assert_eq!(answer[8..118], measurement_blocks());
        let (covered, signature) = answer.split_at(answer.len() - 96);
        transcript.extend(&signed);
        transcript.extend(covered);
        bench.verify("responder-measurements signing", &transcript, signature);

        // The next one starts afresh.
        let answer = ask(&mut bench, &signed, true);
        let (covered, signature) = answer.split_at(answer.len() - 96);
        let transcript = [bench.vca(), &signed, covered].concat();
        bench.verify("responder-measurements signing", &transcript, signature);
    }
}

#[test]
fn a_request_in_between_starts_the_measurement_transcript_again() {
    let mut bench = Bench::negotiated();
    let mut signed = hex("12e00100");
    signed.extend([0x33; 32]);
    signed.push(0);
    for between in ["12810000", "12e00009"] {
        measure(bench.plain(&hex("12e00001")), false);
        bench.plain(&hex(between));
        let answer = measure(bench.plain(&signed), true);
        let (covered, signature) = answer.split_at(answer.len() - 96);
        let transcript = [bench.vca(), &signed, covered].concat();
        bench.verify("responder-measurements signing", &transcript, signature);
    }
}

#[test]
fn measurements_come_by_index_by_count_and_raw() {
    let mut bench = Bench::negotiated();
    let count = measure(bench.plain(&hex("12e00000")), false);
    assert_eq!(count[..8], [0x12, 0x60, 2, 0, 0, 0, 0, 0]);
    let one = measure(bench.plain(&hex("12e00001")), false);
    assert_eq!(one[4..8], [1, 55, 0, 0]);
    assert_eq!(one[8..63], measurement_blocks()[..55]);
    let raw = measure(bench.plain(&hex("12e00202")), false);
    assert_eq!(raw[12], 0x83);
    assert!(raw[15..].starts_with(b"portcullis-dsm"));
    for request in ["12e00003", "12e000fe"] {
        assert_eq!(bench.refused(&hex(request)), INVALID_REQUEST);
    }
    let mut wrong_slot = hex("12e00101");
    wrong_slot.extend([0; 32]);
    wrong_slot.push(1);
    assert_eq!(bench.refused(&wrong_slot), INVALID_REQUEST);
}
