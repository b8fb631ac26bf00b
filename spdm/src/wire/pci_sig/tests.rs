// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::ide_km::{
    Direction, IdeKey, Ifv, KeySet, KeySlot, KeyStatus, Message as IdeKm, QueryResponse, SubStream,
};
use super::tdisp::{
    Body, DeviceCapabilities, InterfaceId, InterfaceReport, InterfaceState, LockFlags, LockRequest,
    MAX_RANGES, Message as Tdisp, ReportRange, TdispError,
};
use crate::wire::Malformed;

/// Bytes 0 to 31, in which every mistake of order shows.
fn counting() -> [u8; 32] {
    core::array::from_fn(|index| u8::try_from(index).unwrap())
}

const SLOT: KeySlot = KeySlot {
    stream_id: 5,
    key_set: KeySet::K1,
    direction: Direction::Transmit,
    sub_stream: SubStream::Completion,
    port_index: 1,
};

#[test]
fn key_prog_carries_the_first_key_bytes_as_the_most_significant_double_word() {
    let mut out = [0; 64];
    let message = IdeKm::KeyProg {
        slot: SLOT,
        key: IdeKey::new(counting()),
        ifv: Ifv::INITIAL,
    };
    let n = message.emit(&mut out).unwrap();
    assert_eq!(n, 48);
    assert_eq!(out[..8], [0, 2, 0, 0, 5, 0, 0x23, 1]);
    assert_eq!(out[8..16], [3, 2, 1, 0, 7, 6, 5, 4]);
    assert_eq!(out[36..40], [31, 30, 29, 28]);
    assert_eq!(out[40..48], [0, 0, 0, 0, 1, 0, 0, 0]);
    let Ok(IdeKm::KeyProg { slot, key, ifv }) = IdeKm::parse(&out[..n]) else {
        panic!("not a KEY_PROG");
    };
    assert_eq!(
        (slot, *key.as_bytes(), ifv),
        (SLOT, counting(), Ifv::INITIAL)
    );
}

#[test]
fn root_port_registers_begin_with_the_last_key_bytes() {
    let registers = IdeKey::new(counting()).to_registers();
    assert_eq!(registers[0], 0x1c1d_1e1f);
    assert_eq!(registers[7], 0x0001_0203);
    assert_eq!(*IdeKey::from_registers(&registers).as_bytes(), counting());
}

#[test]
fn the_initialization_vector_is_big_endian_and_its_registers_are_not() {
    let ifv = Ifv(0x0102_0304_0506_0708);
    assert_eq!(ifv.to_iv(), [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(ifv.to_registers(), [0x0506_0708, 0x0102_0304]);
    assert_eq!(Ifv::from_registers(ifv.to_registers()), ifv);
}

#[test]
fn every_ide_km_message_is_read_back_as_written_and_never_from_a_prefix() {
    let registers = [1.into(), 2.into(), 3.into()];
    let response = QueryResponse {
        port_index: 1,
        device_function: 8,
        bus: 2,
        segment: 3,
        max_port_index: 7,
        registers: &registers,
    };
    let messages = [
        IdeKm::Query { port_index: 1 },
        IdeKm::QueryResponse(response),
        IdeKm::KeyProg {
            slot: SLOT,
            key: IdeKey::new(counting()),
            ifv: Ifv(9),
        },
        IdeKm::KeyProgAck {
            slot: SLOT,
            status: KeyStatus::UNSUPPORTED_VALUE,
        },
        IdeKm::KeySetGo(SLOT),
        IdeKm::KeySetStop(SLOT),
        IdeKm::KeyGoStopAck(SLOT),
    ];
    for message in messages {
        let mut out = [0; 64];
        let n = message.emit(&mut out).unwrap();
        let mut again = [0; 64];
        let back = IdeKm::parse(&out[..n])
            .map_err(|e| format!("{e:?}"))
            .unwrap();
        assert_eq!(back.emit(&mut again), Ok(n));
        assert_eq!(out, again);
        // Registers may be fewer; anything else has one length.
        if !matches!(message, IdeKm::QueryResponse(_)) {
            for end in 0..n {
                assert!(IdeKm::parse(&out[..end]).is_err());
            }
            assert!(IdeKm::parse(&out[..n + 1]).is_err());
        }
    }
    assert!(matches!(
        IdeKm::parse(&[0, 4, 0, 0, 0, 0, 0x30, 0]),
        Err(Malformed::Value)
    ));
    assert!(matches!(
        IdeKm::parse(&[0, 7, 0, 0, 0, 0, 0, 0]),
        Err(Malformed::Code)
    ));
    assert!(matches!(IdeKm::parse(&[1, 0, 0, 0]), Err(Malformed::Code)));
}

#[test]
fn every_tdisp_message_is_read_back_as_written_and_never_from_a_prefix() {
    let flags = LockFlags::NO_FIRMWARE_UPDATE;
    let bodies = [
        Body::GetVersion,
        Body::Version(&[0x10]),
        Body::GetCapabilities(0),
        Body::Capabilities(DeviceCapabilities::new([0xfe; 16], flags, 52)),
        Body::Lock(LockRequest::new(flags, 7, 0xd000_0000)),
        Body::Locked([1; 32]),
        Body::GetReport {
            offset: 64,
            length: 36,
        },
        Body::Report {
            portion: &[1, 2, 3],
            remainder: 9,
        },
        Body::GetState,
        Body::State(InterfaceState::Run),
        Body::Start([2; 32]),
        Body::Started,
        Body::Stop,
        Body::Stopped,
        Body::Error {
            code: TdispError::INVALID_NONCE,
            data: 4,
        },
    ];
    for body in bodies {
        let message = Tdisp::new(InterfaceId::new(0x100), body);
        let mut out = [0; 80];
        let n = message.emit(&mut out).unwrap();
        assert_eq!(Tdisp::parse(&out[..n]), Ok(message));
        for end in 0..n {
            assert!(Tdisp::parse(&out[..end]).is_err());
        }
        if !matches!(body, Body::Error { .. }) {
            assert!(Tdisp::parse(&out[..n + 1]).is_err());
        }
    }
}

#[test]
fn lock_interface_is_laid_out_as_recorded() {
    let lock = LockRequest::new(LockFlags(7), 0, 0xd000_0000);
    let mut out = [0; 64];
    let n = Tdisp::new(InterfaceId::new(0xbeef), Body::Lock(lock))
        .emit(&mut out)
        .unwrap();
    assert_eq!(n, 37);
    assert_eq!(out[..9], [1, 0x10, 0x83, 0, 0, 0xef, 0xbe, 0, 0]);
    assert_eq!(out[17..29], [7, 0, 0, 0, 0, 0, 0, 0xd0, 0, 0, 0, 0]);
}

fn report(ranges: &[ReportRange]) -> Vec<u8> {
    let report = InterfaceReport {
        interface_info: 3,
        msix_control: 0,
        lnr_control: 0,
        tph_control: 0,
        ranges,
        device_specific: b"vendor",
    };
    let mut out = vec![0; 2048];
    let n = report.emit(&mut out).unwrap();
    out.truncate(n);
    out
}

fn range(first_page: u64, pages: u32) -> ReportRange {
    let (attributes, id) = (0.into(), 0.into());
    ReportRange {
        first_page: first_page.into(),
        pages: pages.into(),
        attributes,
        id,
    }
}

#[test]
fn a_report_has_few_ranges_none_of_them_empty_or_wrapping() {
    let good = report(&[range(0x1_0000, 4), range((1 << 52) - 1, 1)]);
    let view = InterfaceReport::parse(&good).unwrap();
    assert_eq!(
        (view.ranges.len(), view.device_specific),
        (2, &b"vendor"[..])
    );
    for end in 0..good.len() {
        assert!(InterfaceReport::parse(&good[..end]).is_err());
    }
    let mut long = good.clone();
    long.push(0);
    assert_eq!(InterfaceReport::parse(&long), Err(Malformed::Length));
    for bad in [
        range(0, 0),
        range(1 << 52, 1),
        range((1 << 52) - 1, 2),
        range(u64::MAX, 1),
    ] {
        assert_eq!(
            InterfaceReport::parse(&report(&[bad])),
            Err(Malformed::Value)
        );
    }
    assert!(InterfaceReport::parse(&report(&[range(0, 1); MAX_RANGES])).is_ok());
    assert!(InterfaceReport::parse(&report(&[range(0, 1); MAX_RANGES + 1])).is_err());
    // A count that would need more memory than there is.
    let mut huge = good;
    huge[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(InterfaceReport::parse(&huge), Err(Malformed::Length));
}
