// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that another implementation's requester sent, answered by the device.

mod requester;

use std::{env, fs, path::Path};

use requester::{Bench, hex};
use serde_json::Value;

/// Messages of a recorded session, by number.
fn recorded() -> Option<Value> {
    let Some(place) = env::var_os("PORTCULLIS_VECTORS") else {
        println!("skipped: PORTCULLIS_VECTORS names no recorded session");
        return None;
    };
    let path = Path::new(&place).join("spdm-1.2-p384/session.json");
    Some(serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
}

fn field(session: &Value, number: usize, name: &str) -> Vec<u8> {
    hex(session["records"][number - 1][name].as_str().unwrap())
}

#[test]
fn requests_of_another_requester_are_answered_alike() {
    let Some(session) = recorded() else { return };
    let mut bench = Bench::default();
    // Up to KEY_EXCHANGE; 17 asks for a second slot, which this device has not.
    for number in (1..=29).step_by(2).filter(|number| *number != 17) {
        let ours = bench
            .dsm
            .handle_doe(&field(&session, number, "doe"))
            .unwrap();
        let theirs = field(&session, number + 1, "doe");
        if number < 7 {
            assert_eq!(ours, theirs, "record {number}");
            continue;
        }
        assert_eq!(ours[8..10], theirs[8..10], "record {number}");
        // What the protocol fixes once the requester has spoken: version and algorithms.
        if number == 7 || number == 11 {
            assert_eq!(ours, theirs, "record {number}");
        }
    }
    assert_eq!(bench.state().sessions.len(), 1);
}

#[test]
fn vendor_requests_of_another_requester_are_answered_alike() {
    let Some(recorded) = recorded() else { return };
    let mut bench = Bench::negotiated();
    bench.host.0.lock().unwrap().as_mut().unwrap().rid = Some(0xbeef);
    let mut session = bench.establish();
    for number in (33..=91).step_by(2) {
        let mut request = field(&recorded, number, "spdm");
        let theirs = field(&recorded, number + 1, "spdm");
        let tdisp = request[11] == 1;
        if !tdisp {
            // Their device has port index 1, ours is a single port.
            let port = if request[12] == 0 { 14 } else { 18 };
            request[port] = 0;
        }
        if tdisp && request[13] == 0x83 {
            // Here the root port would get its keys, too.
            mirror(&bench, &recorded);
        }
        if tdisp && request[13] == 0x86 {
            continue;
        }
        let ours = bench.send(&mut session, &request);
        assert_eq!(ours[1], 0x7e, "record {number}: {ours:02x?}");
        assert_eq!(ours[11..14], theirs[11..14], "record {number}");
        // Everything but register contents, nonces, reports and the port index is the same.
        if !tdisp && request[12] != 0 {
            assert_eq!(ours[..18], theirs[..18], "record {number}");
        }
    }
    assert!(bench.state().streams.is_empty());
}

/// Gives the root port the keys that the recorded KEY_PROG requests carry.
fn mirror(bench: &Bench, recorded: &Value) {
    for number in (35..=55).step_by(4) {
        let request = field(recorded, number, "spdm");
        let slot = tsm_devices::KeySlot::decode(request[17]).unwrap();
        let mut key = [0; 32];
        for (out, word) in key.chunks_mut(4).zip(request[19..51].chunks(4)) {
            out.copy_from_slice(&[word[3], word[2], word[1], word[0]]);
        }
        bench.port.set(request[15], slot.opposite(), key);
    }
}
