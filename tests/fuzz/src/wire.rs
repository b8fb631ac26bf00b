// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Everything that takes bytes of a device apart without a conversation around it.

use tsm_spdm::wire::doe::DataObject;
use tsm_spdm::wire::error::ErrorResponse;
use tsm_spdm::wire::pci_sig::{ide_km, tdisp};
use tsm_spdm::wire::record::RecordHeader;

/// Gives the bytes to each parser in turn.
pub fn run(data: &[u8]) {
    let _ = DataObject::parse(data);
    let _ = ErrorResponse::parse(data);
    let _ = RecordHeader::parse(data);
    let _ = ide_km::Message::parse(data);
    let _ = tdisp::Message::parse(data);
    if let Ok(report) = tdisp::InterfaceReport::parse(data) {
        let ranges = report.ranges.len();
        assert!(ranges <= data.len());
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut out = [0; 256];
    let interface = tdisp::InterfaceId::new(0x0100);
    for body in [
        tdisp::Body::GetVersion,
        tdisp::Body::GetState,
        tdisp::Body::Locked([7; 32]),
        tdisp::Body::State(tdisp::InterfaceState::Run),
        tdisp::Body::Report {
            portion: &[1, 2, 3, 4],
            remainder: 4,
        },
    ] {
        if let Ok(length) = tdisp::Message::new(interface, body).emit(&mut out) {
            seeds.push(out[..length].to_vec());
        }
    }
    // QUERY_RESP with a few registers, KP_ACK.
    let mut query = vec![0, 1, 0, 0, 8, 1, 0, 0];
    query.extend([0; 64]);
    seeds.push(query);
    seeds.push(vec![0, 3, 0, 0, 3, 0, 0x22, 0]);
    // A report of two ranges.
    let mut report = vec![3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    for page in [0x1_0200_u64, 0x1_0300] {
        report.extend(page.to_le_bytes());
        report.extend([4, 0, 0, 0, 0, 0, 1, 0]);
    }
    report.extend([0, 0, 0, 0]);
    seeds.push(report);
    seeds
}
