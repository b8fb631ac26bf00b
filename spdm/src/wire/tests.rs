// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use proptest::prelude::*;

use super::certificate::{Certificate, ChainHeader, Digests, GetCertificate};
use super::challenge::{Challenge, ChallengeAuth, SummaryType};
use super::chunk::{Chunk, ChunkGet, ChunkSendAck};
use super::doe::{DataObject, ObjectType};
use super::error::ErrorResponse;
use super::measurements::{Block, GetMeasurements, Measurements};
use super::negotiation::{
    Algorithm, Algorithms, Capabilities, CapabilitiesMessage, NegotiateAlgorithms, VersionResponse,
};
use super::pci_sig::{ide_km, tdisp};
use super::record::RecordHeader;
use super::session::{Finish, FinishResponse, KeyExchange, KeyExchangeResponse, SessionId};
use super::vendor::VendorDefined;
use super::{Code, Header, Layout, Malformed, Version, opaque};
use crate::crypto::Suite;

const VERSIONS: [Version; 3] = [Version::V1_2, Version::V1_3, Version::V1_4];

/// The layout of the longest classical messages in a version.
fn layout(version: Version) -> Layout {
    Suite {
        version,
        ..Suite::STRONGEST
    }
    .layout()
}

/// Runs every parser, and every walk over what it returned, on `bytes`.
fn parse_everything(bytes: &[u8]) {
    let _ = Header::peek(bytes);
    let _ = DataObject::parse(bytes);
    let _ = VersionResponse::parse(bytes).map(|(view, _)| view.offers(Version::V1_2));
    let _ = ErrorResponse::parse(bytes);
    let _ = RecordHeader::parse(bytes);
    let _ = opaque::version_selection(bytes);
    let _ = opaque::supported_versions(bytes);
    let _ = ide_km::Message::parse(bytes).map(|_| ());
    let _ = tdisp::Message::parse(bytes);
    let _ = tdisp::InterfaceReport::parse(bytes);
    for version in VERSIONS {
        parse_everything_of(version, bytes);
    }
}

fn parse_everything_of(version: Version, bytes: &[u8]) {
    let layout = layout(version);
    let _ = CapabilitiesMessage::parse(bytes, version, Code::CAPABILITIES);
    let _ = NegotiateAlgorithms::parse(bytes, version);
    let _ = Algorithms::parse(bytes, version);
    if let Ok((view, _)) = Digests::parse(bytes, &layout) {
        for slot in 0..=255 {
            let held = view.slot_mask.checked_shr(slot.into()).unwrap_or(0) & 1 == 1;
            assert_eq!(view.of_slot(slot, &layout).is_some(), held);
        }
    }
    let _ = GetCertificate::parse(bytes, version);
    let _ = Certificate::parse(bytes, version);
    let _ = Challenge::parse(bytes, version);
    let _ = GetMeasurements::parse(bytes, version);
    let _ = KeyExchange::parse(bytes, &layout);
    let _ = Finish::parse(bytes, &layout);
    let _ = FinishResponse::parse(bytes, version);
    for flag in [false, true] {
        let _ = ChallengeAuth::parse(bytes, &layout, flag);
        let _ = KeyExchangeResponse::parse(bytes, &layout, flag);
        if let Ok((view, _)) = Measurements::parse(bytes, &layout, flag) {
            assert!(view.blocks().count() <= 256);
        }
    }
    for code in [Code::CHUNK_SEND, Code::CHUNK_RESPONSE] {
        let _ = Chunk::parse(bytes, version, code);
    }
    let _ = ChunkSendAck::parse(bytes, version);
    let _ = ChunkGet::parse(bytes, version);
    for code in [Code::VENDOR_DEFINED_REQUEST, Code::VENDOR_DEFINED_RESPONSE] {
        let _ = VendorDefined::parse(bytes, version, code);
    }
}

/// The first bytes that lead each parser past its first checks.
const STARTS: &[&[u8]] = &[
    &[],
    &[0x01, 0x00, 0x01],
    &[0x10, 0x04, 0, 0],
    &[0x12, 0x61],
    &[0x12, 0x63, 3, 0],
    &[0x12, 0x01, 0, 3],
    &[0x12, 0x02],
    &[0x12, 0x03],
    &[0x12, 0x60],
    &[0x12, 0x64],
    &[0x12, 0xe0],
    &[0x12, 0xe3, 3, 0],
    &[0x12, 0xe4],
    &[0x12, 0xe5],
    &[0x12, 0x7e, 0, 0, 3, 0, 2, 1, 0],
    &[0x12, 0xfe, 0, 0, 3, 0, 2, 1, 0],
    &[0x12, 0x7f],
    &[0x13, 0x60],
    &[0x14, 0xe5],
    &[0x14, 0x65],
    &[0x12, 0x7f, 0x0f],
    &[0x12, 0x7f, 0x42],
    &[0x12, 0x05],
    &[0x12, 0x06],
    &[0x12, 0x85],
    &[0x12, 0x86],
    &[0x14, 0x05],
    &[0x14, 0x06],
    &[0x14, 0x86],
    &[1, 0, 0, 0, 0, 0],
    &[0, 1],
    &[0, 2],
    &[1, 0x10, 0x04],
];

proptest! {
    #[test]
    fn no_parser_panics_on_any_bytes(
        start in 0..STARTS.len(),
        rest in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut bytes = STARTS[start].to_vec();
        bytes.extend(rest);
        parse_everything(&bytes);
    }

    #[test]
    fn no_parser_panics_on_mostly_zero_bytes(
        start in 0..STARTS.len(),
        length in 0..600usize,
        flips in prop::collection::vec((0..600usize, any::<u8>()), 0..8),
    ) {
        let mut bytes = STARTS[start].to_vec();
        bytes.resize(bytes.len() + length, 0);
        for (index, value) in flips {
            if let Some(byte) = bytes.get_mut(index) {
                *byte = value;
            }
        }
        parse_everything(&bytes);
    }
}

/// Checks that `parse` takes exactly `message`, refuses every prefix, and leaves padding alone.
fn parses_exactly(message: &[u8], parse: impl Fn(&[u8]) -> Result<usize, Malformed>) {
    assert_eq!(parse(message), Ok(message.len()));
    let mut padded = message.to_vec();
    padded.extend([0; 3]);
    assert_eq!(parse(&padded), Ok(message.len()));
    for end in 0..message.len() {
        assert!(
            parse(&message[..end]).is_err(),
            "a prefix of {end} bytes is taken"
        );
    }
}

#[test]
fn every_message_of_the_opening_is_read_back_as_written_and_never_from_a_prefix() {
    let mut out = [0; 1024];
    let entries = [0x1000.into(), 0x1200.into()];
    let n = VersionResponse { entries: &entries }
        .emit(&mut out)
        .unwrap();
    parses_exactly(&out[..n], |b| VersionResponse::parse(b).map(|(_, n)| n));

    for version in VERSIONS {
        let flags = Capabilities::CERT.union(Capabilities::CHAL);
        let code = Code::GET_CAPABILITIES;
        let n = CapabilitiesMessage::new(version, code, 3, flags, 4096)
            .emit(&mut out)
            .unwrap();
        parses_exactly(&out[..n], |b| {
            let (view, n) = CapabilitiesMessage::parse(b, version, code)?;
            assert_eq!((view.flags(), view.data_transfer_size.get()), (flags, 4096));
            Ok(n)
        });
        let algorithms = [
            Algorithm::new(Algorithm::DHE, 0x18),
            Algorithm::new(Algorithm::AEAD, 7),
            Algorithm::new(Algorithm::KEY_SCHEDULE, 1),
        ];
        let pqc_asym = if version == Version::V1_4 { 6 } else { 0 };
        let offered = NegotiateAlgorithms {
            measurement_specification: 1,
            other_parameters: 2,
            asym: 0x90,
            hash: 3,
            pqc_asym,
            algorithms: &algorithms,
        };
        let n = offered.emit(version, &mut out).unwrap();
        assert_eq!(n, 44);
        parses_exactly(&out[..n], |b| {
            let (view, n) = NegotiateAlgorithms::parse(b, version)?;
            assert_eq!(
                (view.pqc_asym, view.algorithms),
                (pqc_asym, &algorithms[..])
            );
            Ok(n)
        });
        let selected = Algorithms {
            measurement_specification: 1,
            other_parameters: 2,
            measurement_hash: 4,
            asym: 0x80,
            hash: 2,
            pqc_asym,
            algorithms: &algorithms,
        };
        let n = selected.emit(version, &mut out).unwrap();
        assert_eq!(n, 48);
        parses_exactly(&out[..n], |b| {
            let (view, n) = Algorithms::parse(b, version)?;
            assert_eq!(
                (view.pqc_asym, view.algorithms),
                (pqc_asym, &algorithms[..])
            );
            Ok(n)
        });
    }
}

#[test]
fn what_was_reserved_before_a_version_means_nothing_in_it() {
    let mut out = [0; 64];
    let message = Algorithms {
        measurement_specification: 1,
        other_parameters: 2,
        measurement_hash: 4,
        asym: 0x80,
        hash: 2,
        pqc_asym: 0,
        algorithms: &[],
    };
    let n = message.emit(Version::V1_3, &mut out).unwrap();
    out[20..24].fill(0xff);
    let (view, _) = Algorithms::parse(&out[..n], Version::V1_3).unwrap();
    assert_eq!(view.pqc_asym, 0);
}

#[test]
fn every_message_of_identity_is_read_back_as_written_and_never_from_a_prefix() {
    let mut out = [0; 1024];
    for version in VERSIONS {
        let layout = layout(version);
        let digests = [[1; 48], [2; 48]].concat();
        let n = Digests {
            supported_mask: 7,
            slot_mask: 5,
            digests: &digests,
        }
        .emit(&layout, &mut out)
        .unwrap();
        parses_exactly(&out[..n], |b| {
            let (view, n) = Digests::parse(b, &layout)?;
            assert_eq!(view.of_slot(0, &layout), Some(&[1; 48][..]));
            assert_eq!(view.of_slot(1, &layout), None);
            assert_eq!(view.of_slot(2, &layout), Some(&[2; 48][..]));
            Ok(n)
        });
        let n = GetCertificate::new(version, 0, 512, 256)
            .emit(&mut out)
            .unwrap();
        parses_exactly(&out[..n], |b| {
            GetCertificate::parse(b, version).map(|(_, n)| n)
        });
        let n = Certificate {
            slot: 0,
            model: 1,
            portion: &[7; 99],
            remainder: 3,
        }
        .emit(version, &mut out)
        .unwrap();
        parses_exactly(&out[..n], |b| {
            Certificate::parse(b, version).map(|(_, n)| n)
        });
        let context = context(version);
        let challenge = Challenge {
            slot: 3,
            summary: SummaryType::ALL,
            nonce: [9; 32],
            context,
        };
        let n = challenge.emit(version, &mut out).unwrap();
        parses_exactly(&out[..n], |b| {
            let (view, n) = Challenge::parse(b, version)?;
            assert_eq!(view, challenge);
            Ok(n)
        });
        for summary in [None, Some(&[4; 48][..])] {
            let auth = ChallengeAuth {
                attributes: 0,
                slot_mask: 1,
                chain_digest: &[3; 48],
                nonce: &[5; 32],
                summary,
                opaque: &[6; 5],
                context,
                signature: &[7; 96],
            };
            let n = auth.emit(&layout, &mut out).unwrap();
            parses_exactly(&out[..n], |b| {
                let (view, n) = ChallengeAuth::parse(b, &layout, summary.is_some())?;
                assert_eq!((view.context, view.signature), (context, &[7; 96][..]));
                Ok(n)
            });
        }
        for signed in [None, Some(([8; 32], 0))] {
            let get = GetMeasurements {
                raw: true,
                operation: 0xff,
                signed,
                context,
            };
            let n = get.emit(version, &mut out).unwrap();
            parses_exactly(&out[..n], |b| {
                let (view, n) = GetMeasurements::parse(b, version)?;
                assert_eq!(view, get);
                Ok(n)
            });
        }
    }
}

/// What requests that have the field are to be answered with.
fn context(version: Version) -> [u8; 8] {
    if version == Version::V1_2 {
        [0; 8]
    } else {
        [0xcc; 8]
    }
}

#[test]
fn every_message_of_a_session_is_read_back_as_written_and_never_from_a_prefix() {
    let mut out = [0; 1024];
    for version in VERSIONS {
        let layout = layout(version);
        let exchange = KeyExchange {
            summary: SummaryType::NONE,
            slot: 0,
            session_id: 0xffff,
            policy: 1,
            random: &[1; 32],
            exchange: &[2; 96],
            opaque: &[3; 20],
        };
        let n = exchange.emit(&layout, &mut out).unwrap();
        assert_eq!(n, 158);
        parses_exactly(&out[..n], |b| {
            KeyExchange::parse(b, &layout).map(|(_, n)| n)
        });
        for summary in [None, Some(&[4; 48][..])] {
            let response = KeyExchangeResponse {
                heartbeat: 0,
                session_id: 0x1234,
                mutual_authentication: 0,
                random: &[1; 32],
                exchange: &[2; 96],
                summary,
                opaque: &[3; 12],
                signature: &[4; 96],
                verify_data: &[5; 48],
            };
            let n = response.emit(&layout, &mut out).unwrap();
            parses_exactly(&out[..n], |b| {
                KeyExchangeResponse::parse(b, &layout, summary.is_some()).map(|(_, n)| n)
            });
        }
        let finish = Finish {
            opaque: &[],
            verify_data: &[1; 48],
        };
        let n = finish.emit(&layout, &mut out).unwrap();
        let opaque = if version == Version::V1_4 { 2 } else { 0 };
        assert_eq!(n, 52 + opaque);
        parses_exactly(&out[..n], |b| Finish::parse(b, &layout).map(|(_, n)| n));
        let n = FinishResponse { opaque: &[] }
            .emit(version, &mut out)
            .unwrap();
        assert_eq!(n, 4 + opaque);
        parses_exactly(&out[..n], |b| {
            FinishResponse::parse(b, version).map(|(_, n)| n)
        });
        let code = Code::VENDOR_DEFINED_REQUEST;
        let n = VendorDefined { payload: &[0; 9] }
            .emit(version, code, &mut out)
            .unwrap();
        parses_exactly(&out[..n], |b| {
            VendorDefined::parse(b, version, code).map(|(_, n)| n)
        });
    }
}

#[test]
fn a_field_of_another_length_than_agreed_on_is_not_written() {
    let mut out = [0; 1024];
    let layout = layout(Version::V1_2);
    let exchange = KeyExchange {
        summary: SummaryType::NONE,
        slot: 0,
        session_id: 0,
        policy: 0,
        random: &[1; 32],
        exchange: &[2; 64],
        opaque: &[],
    };
    assert_eq!(exchange.emit(&layout, &mut out), Err(Malformed::Length));
    let finish = Finish {
        opaque: &[],
        verify_data: &[1; 32],
    };
    assert_eq!(finish.emit(&layout, &mut out), Err(Malformed::Length));
    let digests = Digests {
        supported_mask: 0,
        slot_mask: 1,
        digests: &[0; 49],
    };
    assert_eq!(digests.emit(&layout, &mut out), Err(Malformed::Length));
}

#[test]
fn nothing_is_written_past_the_end_of_a_buffer() {
    let mut out = [0; 19];
    let (version, flags) = (Version::V1_2, Capabilities(0));
    let message = CapabilitiesMessage::new(version, Code::CAPABILITIES, 0, flags, 4096);
    assert_eq!(message.emit(&mut out), Err(Malformed::NoRoom));
    let mut out = [0; 51];
    let finish = Finish {
        opaque: &[],
        verify_data: &[1; 48],
    };
    assert_eq!(
        finish.emit(&layout(version), &mut out),
        Err(Malformed::NoRoom)
    );
}

#[test]
fn a_draft_of_a_version_is_not_that_version() {
    let offers = |entry: u16| {
        VersionResponse {
            entries: &[entry.into()],
        }
        .offers(Version::V1_2)
    };
    assert!(offers(0x1200));
    assert!(offers(0x1210));
    assert!(!offers(0x1201));
    assert!(!offers(0x1100));
    assert!(!offers(0x1300));
}

#[test]
fn measurement_blocks_must_fill_the_record_exactly() {
    let mut record = [0; 64];
    let n = Block {
        index: 1,
        value_type: 0x81,
        value: &[9; 20],
    }
    .emit(&mut record)
    .unwrap();
    let measurements = |record, block_count| Measurements {
        total: 0,
        attributes: 0,
        block_count,
        record,
        nonce: &[0; 32],
        opaque: &[],
        context: [0; 8],
        signature: None,
    };
    let whole = measurements(&record[..n], 1);
    let blocks: Result<Vec<_>, _> = whole.blocks().collect();
    assert_eq!(
        blocks.unwrap(),
        [Block {
            index: 1,
            value_type: 0x81,
            value: &[9; 20]
        }]
    );
    let fails = |record, count| {
        measurements(record, count)
            .blocks()
            .any(|block| block.is_err())
    };
    assert!(fails(&record[..n], 0));
    assert!(fails(&record[..n], 2));
    assert!(fails(&record[..n - 1], 1));
    assert!(fails(&record[..n + 1], 1));
}

#[test]
fn the_mailbox_pads_objects_to_double_words() {
    let mut out = [0xff; 32];
    let object = DataObject {
        kind: ObjectType::SPDM,
        payload: &[1, 2, 3, 4, 5],
    };
    assert_eq!(object.emit(&mut out), Ok(16));
    assert_eq!(out[..16], [1, 0, 1, 0, 4, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0]);
    let (back, length) = DataObject::parse(&out[..16]).unwrap();
    assert_eq!(
        (back.kind, back.payload.len(), length),
        (ObjectType::SPDM, 8, 16)
    );
    assert!(DataObject::parse(&out[..15]).is_err());
    // A length that does not cover the header, and the largest there is.
    assert!(DataObject::parse(&[1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    assert!(DataObject::parse(&[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
}

#[test]
fn opaque_data_says_which_secured_messages_are_spoken() {
    let mut out = [0; 32];
    let n = opaque::emit_supported_versions(&opaque::SECURED_VERSIONS, &mut out).unwrap();
    let expected = [
        1, 0, 0, 0, 0, 0, 9, 0, 1, 1, 3, 0, 0x10, 0, 0x11, 0, 0x12, 0, 0, 0,
    ];
    assert_eq!(out[..n], expected);
    assert_eq!(
        opaque::supported_versions(&out[..n]).unwrap()[2].get(),
        0x1200
    );
    let n = opaque::emit_version_selection(0x1200, &mut out).unwrap();
    assert_eq!(out[..n], [1, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0x12]);
    assert_eq!(opaque::version_selection(&out[..n]), Ok(0x1200));
    for end in 0..n {
        assert!(opaque::version_selection(&out[..end]).is_err());
    }
    // An element of somebody else, with its padding, comes first.
    let two = [
        2, 0, 0, 0, 3, 2, 1, 0, 1, 0, 9, 0, 0, 0, 4, 0, 1, 0, 0, 0x11,
    ];
    assert_eq!(opaque::version_selection(&two), Ok(0x1100));
}

#[test]
fn a_session_id_has_the_responders_half_on_top() {
    assert_eq!(SessionId::new(0x1122, 0x3344), SessionId(0x3344_1122));
}

#[test]
fn a_chain_header_counts_itself_and_the_roots_digest() {
    assert_eq!(ChainHeader::LENGTH, 4);
    assert_eq!(ChainHeader::new(1000, 48).unwrap().length.get(), 1052);
    assert!(ChainHeader::new(0x1_0000, 48).is_err());
    assert!(ChainHeader::new(usize::MAX, 48).is_err());
}

/// Layouts of DSP0274: sequence numbers have 16 bits before version 1.4, and 32 from then on.
#[test]
fn chunks_stand_where_each_version_has_them() {
    let first = Chunk {
        last: false,
        handle: 7,
        sequence: 0,
        total: Some(0x1234),
        data: &[0xaa, 0xbb],
    };
    let later = Chunk {
        last: true,
        sequence: 0x0201,
        total: None,
        ..first
    };
    let mut out = [0xff; 32];
    for minor in [0x12, 0x13, 0x14] {
        let version = Version(minor);
        let n = first.emit(version, Code::CHUNK_SEND, &mut out).unwrap();
        let expected = [
            minor, 0x85, 0, 7, 0, 0, 0, 0, 2, 0, 0, 0, 0x34, 0x12, 0, 0, 0xaa, 0xbb,
        ];
        assert_eq!(out[..n], expected);
        let parsed = Chunk::parse(&out, version, Code::CHUNK_SEND);
        assert_eq!(parsed, Ok((first, n)));
        let n = later.emit(version, Code::CHUNK_RESPONSE, &mut out).unwrap();
        let expected = [minor, 6, 1, 7, 1, 2, 0, 0, 2, 0, 0, 0, 0xaa, 0xbb];
        assert_eq!(out[..n], expected);
        let parsed = Chunk::parse(&out, version, Code::CHUNK_RESPONSE);
        assert_eq!(parsed, Ok((later, n)));

        let get = ChunkGet {
            handle: 9,
            sequence: 3,
        };
        let n = get.emit(version, &mut out).unwrap();
        let wide: &[u8] = if minor == 0x14 { &[0, 0] } else { &[] };
        assert_eq!(out[..n], [&[minor, 0x86, 0, 9, 3, 0][..], wide].concat());
        assert_eq!(ChunkGet::parse(&out, version), Ok((get, n)));
        let ack = ChunkSendAck {
            early_error: true,
            handle: 9,
            sequence: 3,
            response: &[0xcc],
        };
        let n = ack.emit(version, &mut out).unwrap();
        let expected = [&[minor, 5, 1, 9, 3, 0][..], wide, &[0xcc]].concat();
        assert_eq!(out[..n], expected);
        let parsed = ChunkSendAck::parse(&out[..n], version);
        assert_eq!(parsed, Ok((ack, n - 1)));
    }
    // What 16 bits cannot count is not sent, and is another chunk from version 1.4 on.
    let far = Chunk {
        sequence: 0x1_0000,
        ..later
    };
    assert_eq!(
        far.emit(Version::V1_2, Code::CHUNK_SEND, &mut out),
        Err(Malformed::Length)
    );
    let n = far.emit(Version::V1_4, Code::CHUNK_SEND, &mut out).unwrap();
    let (parsed, _) = Chunk::parse(&out[..n], Version::V1_4, Code::CHUNK_SEND).unwrap();
    assert_eq!(parsed.sequence, 0x1_0000);
}
