// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The tool that judges evidence.

use std::time::SystemTime;

use tsm_devices::{Config, Dsm, FunctionView};
use tsm_evidence::{Evidence, Policy, judge};

use crate::{part, put};

/// Judges parts of `data` as the objects that a host keeps.
pub fn run(mut data: &[u8]) {
    let evidence = Evidence {
        negotiation: part(&mut data).to_vec(),
        certificates: part(&mut data).to_vec(),
        measurements: part(&mut data).to_vec(),
        report: part(&mut data).to_vec(),
        ..Evidence::default()
    };
    let policy = Policy {
        root: part(&mut data).to_vec(),
        time: SystemTime::UNIX_EPOCH,
        expected: Vec::new(),
    };
    // Whatever it is, it is not evidence of 1970.
    assert!(!judge(&evidence, &policy).holds());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let function = FunctionView {
        rid: Some(0x0100),
        bars: Vec::new(),
    };
    let Ok(config) = Config::new(b"what the device runs", function) else {
        return Vec::new();
    };
    let dsm = Dsm::new(config);
    let mut negotiation = vec![0x10, 0x84, 0, 0, 0x10, 0x04, 0, 0, 0, 1, 0, 0x12];
    for code in [0xe1, 0x61] {
        negotiation.extend([0x12, code]);
        negotiation.extend([0; 18]);
    }
    for code in [0xe3, 0x63] {
        negotiation.extend([0x12, code, 0, 0, 36, 0, 1, 2, 4, 0, 0, 0, 0x80, 0, 0, 0, 2]);
        negotiation.extend([0; 19]);
    }
    let mut measurements = vec![0x12, 0x60, 0, 0, 1, 11, 0, 0, 1, 1, 7, 0, 1, 4, 0];
    measurements.extend([0xaa; 4]);
    measurements.extend([0x55; 32]);
    measurements.extend([0, 0]);
    measurements.extend([0; 96]);
    let mut report = vec![3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    report.extend(0x1_0200_u64.to_le_bytes());
    report.extend([4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut seed = Vec::new();
    for object in [
        &negotiation[..],
        dsm.identity().chain(),
        &measurements,
        &report,
        dsm.identity().root_certificate(),
    ] {
        put(&mut seed, object);
    }
    vec![seed]
}
