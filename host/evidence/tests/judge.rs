// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Evidence of our own device and of the recorded one: the true is found true, each lie is named.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tsm_devices::{Bar, Config, Dsm, FunctionView};
use tsm_evidence::{Evidence, Finding, Policy, judge};

const NONCE: [u8; 32] = [0x5a; 32];

fn device() -> Dsm {
    let bars = vec![Bar {
        index: 0,
        address: 0x1020_0000,
        size: 0x4000,
    }];
    let function = FunctionView {
        rid: Some(0x0100),
        bars,
    };
    Dsm::new(Config::new(b"what the device runs", function).expect("entropy"))
}

/// Carries one plain message and returns the answer, with padding.
fn ask(dsm: &mut Dsm, message: &[u8]) -> Vec<u8> {
    let padded = message.len().next_multiple_of(4);
    let mut object = vec![1, 0, 1, 0];
    object.extend((2 + padded as u32 / 4).to_le_bytes());
    object.extend(message);
    object.resize(8 + padded, 0);
    dsm.handle_doe(&object).expect("an answer")[8..].to_vec()
}

/// Returns a report of one range of four pages.
fn report() -> Vec<u8> {
    let mut report = vec![0; 12];
    report[0] = 3;
    report.extend(1_u32.to_le_bytes());
    report.extend(0x1_0200_u64.to_le_bytes());
    report.extend(4_u32.to_le_bytes());
    report.extend([0, 0, 7, 0]);
    report.extend(0_u32.to_le_bytes());
    report
}

/// Has a device make evidence, outside of a session.
fn evidence(dsm: &mut Dsm) -> Evidence {
    let mut negotiation = Vec::new();
    let mut capabilities = vec![0x12, 0xe1, 0, 0, 0, 0, 0, 0];
    capabilities.extend(0x62c6_u32.to_le_bytes());
    capabilities.extend(0x1000_u32.to_le_bytes());
    capabilities.extend(0x1000_u32.to_le_bytes());
    let mut algorithms = vec![0x12, 0xe3, 3, 0, 44, 0, 1, 2];
    algorithms.extend(0x80_u32.to_le_bytes());
    algorithms.extend(2_u32.to_le_bytes());
    algorithms.extend([0; 16]);
    algorithms.extend([2, 0x20, 0x10, 0, 3, 0x20, 2, 0, 5, 0x20, 1, 0]);
    for request in [vec![0x10, 0x84, 0, 0], capabilities, algorithms] {
        let answer = ask(dsm, &request);
        let length = match answer[1] {
            0x04 => 6 + 2 * usize::from(answer[5]),
            0x61 => 20,
            _ => usize::from(u16::from_le_bytes([answer[4], answer[5]])),
        };
        negotiation.extend(request);
        negotiation.extend(&answer[..length]);
    }
    let mut request = vec![0x12, 0xe0, 1, 0xff];
    request.extend(NONCE);
    request.push(0);
    let mut measurements = ask(dsm, &request);
    let record = u32::from_le_bytes([measurements[5], measurements[6], measurements[7], 0]);
    let opaque = 8 + record as usize + 32;
    let length = u16::from_le_bytes([measurements[opaque], measurements[opaque + 1]]);
    measurements.truncate(opaque + 2 + usize::from(length) + 96);
    Evidence {
        negotiation,
        certificates: dsm.identity().chain().to_vec(),
        measurements,
        report: report(),
        nonce: NONCE,
        slot: 0,
        raw: false,
    }
}

fn policy(dsm: &Dsm) -> Policy {
    Policy {
        root: dsm.identity().root_certificate().to_vec(),
        time: SystemTime::now(),
        expected: Vec::new(),
    }
}

/// Returns the names of what does not hold.
fn troubles(finding: &Finding) -> Vec<&'static str> {
    let failed = finding
        .checks
        .iter()
        .filter(|check| check.trouble.is_some());
    failed.map(|check| check.name).collect()
}

#[test]
fn true_evidence_holds_and_can_be_read() {
    let mut dsm = device();
    let finding = judge(&evidence(&mut dsm), &policy(&dsm));
    assert!(finding.holds(), "{:?}", finding.checks);
    assert_eq!(finding.certificates.len(), 3);
    let function = finding.function.as_ref().expect("a function");
    assert_eq!((function.vendor, function.device), (0x1b36, 0x0010));
    let interface = finding.interface.as_ref().expect("a report");
    assert_eq!(interface.ranges[0].base, 0x1020_0000);
    assert!(finding.measurements.iter().any(|block| block.index == 1));
    assert!(serde_json::to_string(&finding).is_ok());
}

#[test]
fn each_lie_is_named() {
    let mut dsm = device();
    let truth = evidence(&mut dsm);
    let policy = policy(&dsm);
    let judged = |change: &dyn Fn(&mut Evidence, &mut Policy)| {
        let (mut evidence, mut policy) = (truth.clone(), policy.clone());
        change(&mut evidence, &mut policy);
        troubles(&judge(&evidence, &policy))
    };
    let year = Duration::from_secs(365 * 86_400);
    let last = |bytes: &mut Vec<u8>| *bytes.last_mut().expect("not empty") ^= 1;
    assert_eq!(judged(&|_, _| ()), Vec::<&str>::new());
    assert_eq!(
        judged(&|evidence, _| evidence.nonce[31] ^= 1),
        ["measurements-signature"]
    );
    assert_eq!(
        judged(&|evidence, _| evidence.slot = 1),
        ["measurements-signature"]
    );
    assert_eq!(
        judged(&|evidence, _| evidence.raw = true),
        ["measurements-signature"]
    );
    assert_eq!(
        judged(&|evidence, _| evidence.measurements[20] ^= 1),
        ["measurements-signature"]
    );
    assert_eq!(
        judged(&|evidence, _| evidence.measurements.truncate(200)),
        ["measurements-form"]
    );
    assert_eq!(
        judged(&|evidence, _| last(&mut evidence.certificates)),
        ["chain-signatures"]
    );
    assert_eq!(
        judged(&|evidence, _| evidence.certificates.push(0)),
        ["chain-form", "measurements-signature"]
    );
    assert_eq!(
        judged(&|_, policy| policy.root = device().identity().root_certificate().to_vec()),
        ["chain-root"]
    );
    assert_eq!(judged(&|_, policy| policy.time -= year), ["chain-validity"]);
    assert_eq!(
        judged(&|_, policy| policy.time += 50 * year),
        ["chain-validity"]
    );
    assert_eq!(
        judged(&|_, policy| policy.expected.push((1, vec![0; 48]))),
        ["expected-measurement"]
    );
    assert_eq!(
        judged(&|evidence, _| evidence.report.push(0)),
        ["interface-report"]
    );
    assert_eq!(
        judged(&|evidence, _| evidence.negotiation[5] ^= 0xff),
        ["negotiation"]
    );
    // A capability bit is part of what was signed.
    assert_eq!(
        judged(&|evidence, _| {
            let length = evidence.negotiation.len();
            evidence.negotiation[length - 60] ^= 1;
        }),
        ["measurements-signature"]
    );
}

#[test]
fn nothing_that_is_cut_short_panics() {
    let mut dsm = device();
    let truth = evidence(&mut dsm);
    let policy = policy(&dsm);
    let step = |length: usize| (0..length).step_by(7);
    for length in step(truth.certificates.len()) {
        let mut evidence = truth.clone();
        evidence.certificates.truncate(length);
        assert!(!judge(&evidence, &policy).holds());
    }
    for length in step(truth.negotiation.len()) {
        let mut evidence = truth.clone();
        evidence.negotiation.truncate(length);
        assert!(!judge(&evidence, &policy).holds());
    }
    for length in step(truth.measurements.len()) {
        let mut evidence = truth.clone();
        evidence.measurements.truncate(length);
        assert!(!judge(&evidence, &policy).holds());
    }
    for length in 0..truth.report.len() {
        let mut evidence = truth.clone();
        evidence.report.truncate(length);
        assert!(!judge(&evidence, &policy).holds());
    }
}

/// The recorded device is another project's: its evidence holds, but for what its sample leaf is
/// not: a PCI Express function's, and meant for responders.
#[test]
fn recorded_evidence_of_another_implementation_holds() {
    let Some(folder) = std::env::var_os("PORTCULLIS_VECTORS") else {
        println!("SKIPPED: PORTCULLIS_VECTORS names no folder of recorded sessions");
        return;
    };
    let file = Path::new(&folder).join("spdm-1.2-p384/session.json");
    let text = std::fs::read_to_string(file).expect("the recording is there");
    let session: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let records = session["records"].as_array().expect("it has records");
    let unhex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    };
    let messages: Vec<Vec<u8>> = records
        .iter()
        .filter(|record| record["kind"] == "plain")
        .filter_map(|record| record["spdm"].as_str().map(unhex))
        .collect();
    let by_code = |code: u8| messages.iter().find(|message| message[1] == code);
    let exact = |message: &[u8], length: usize| message[..length].to_vec();
    let mut negotiation = Vec::new();
    for code in [0x84, 0x04, 0xe1, 0x61, 0xe3, 0x63] {
        let message = by_code(code).expect("it was recorded");
        let length = match code {
            0x84 => 4,
            0x04 => 6 + 2 * usize::from(message[5]),
            0xe1 | 0x61 => 20,
            _ => usize::from(u16::from_le_bytes([message[4], message[5]])),
        };
        negotiation.extend(exact(message, length));
    }
    let request = by_code(0xe0).expect("measurements were asked for");
    let certificate = by_code(0x02).expect("certificates were sent");
    let portion = usize::from(u16::from_le_bytes([certificate[4], certificate[5]]));
    let chain = certificate[8..8 + portion].to_vec();
    // Length, reserved, digest of the root; then the root itself.
    let root = &chain[52..];
    let root = root[..4 + usize::from(u16::from_be_bytes([root[2], root[3]]))].to_vec();
    let evidence = Evidence {
        negotiation,
        certificates: chain,
        measurements: exact(by_code(0x60).expect("measurements were sent"), 586),
        report: report(),
        nonce: request[4..36].try_into().expect("32 bytes"),
        slot: request[36],
        raw: request[2] & 2 != 0,
    };
    let policy = Policy {
        root,
        time: SystemTime::now(),
        expected: Vec::new(),
    };
    let finding = judge(&evidence, &policy);
    assert_eq!(
        troubles(&finding),
        ["chain-usage", "pcie-identity"],
        "{:?}",
        finding.checks
    );
    assert!(finding.certificates.len() >= 2);
}
