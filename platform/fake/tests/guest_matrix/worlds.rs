// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls that the caller's world does not have.

use tsm_abi::{RmiCode, RmiStatus, rmi, rsi};

use crate::rig::{PAGE, Rig};
use crate::{look_around, make_call};

/// Values of registers with which a call of the other world would do something, or nothing sound.
fn registers(rig: &Rig) -> [[u64; 7]; 4] {
    let (rd, rec, run) = (rig.realm.rd, rig.realm.rec, rig.realm.run);
    let page = rig.host.pages(2);
    [
        [0; 7],
        [u64::MAX; 7],
        [rd, rig.device, rig.vdev, run, PAGE, 0, 0],
        [page, page + PAGE, rec, 0, 0, 0, 0],
    ]
}

/// A01: the host makes every call of the guest, and the guest every call of the host.
#[test]
fn a_call_of_the_other_world_is_refused_and_changes_nothing() {
    let rig = Rig::running();
    rig.forget_script();
    let mut cells = 0;
    for arguments in registers(&rig) {
        for row in rsi::ROWS {
            let before = rig.host.snapshot();
            let reply = rig.host.raw(row.function, &arguments);
            let status = RmiStatus::from_word(reply[0]);
            let code = status.map(|status| status.code);
            assert_eq!(code, Some(RmiCode::NotSupported), "{}", row.name);
            assert_eq!(reply[1..], [0; 7], "{}", row.name);
            assert!(rig.host.snapshot() == before, "{}: changed", row.name);
            cells += 1;
        }
        for row in rmi::ROWS {
            let before = look_around(&rig);
            let outcome = make_call(&rig, row.function, &arguments, rig.vdev);
            assert_eq!(outcome.letter, 'N', "{}", row.name);
            let vcpu = outcome.vcpu.expect("the guest goes on");
            assert_eq!(vcpu.gprs[1..8], arguments, "{}", row.name);
            assert!(look_around(&rig) == before, "{}: changed", row.name);
            cells += 1;
        }
    }
    println!("{cells} cells");
    assert!(cells > 300);
}

/// A01: every number around those that are calls.
#[test]
fn a_number_that_is_no_call_is_refused_and_changes_nothing() {
    let rig = Rig::running();
    rig.forget_script();
    let known: Vec<u64> = rsi::ROWS
        .iter()
        .filter(|row| row.implemented)
        .map(|row| row.function)
        .collect();
    // SMCCC: fast and yielding, 32 and 64 bits, each owner.
    let bases = [
        0xc400_0000,
        0x8400_0000,
        0x4400_0000,
        0xc300_0000,
        0xc600_0000,
    ];
    let calls = bases
        .into_iter()
        .flat_map(|base: u64| (0x120..=0x1ff).map(move |low| base | low));
    let strange = [
        0xc400_ffff,
        0xc401_8190,
        0x7fff_ffff,
        0xffff_fffe,
        0xc402_0190,
    ];
    let calls = calls.chain(strange);
    let mut cells = 0;
    for function in calls.filter(|function| !known.contains(function)) {
        let before = look_around(&rig);
        let outcome = make_call(&rig, function, &[PAGE, 2 * PAGE], rig.vdev);
        assert_eq!(outcome.letter, 'N', "{function:#x}");
        let vcpu = outcome.vcpu.expect("the guest goes on");
        assert_eq!(vcpu.gprs[1..3], [PAGE, 2 * PAGE], "{function:#x}");
        assert!(look_around(&rig) == before, "{function:#x}: changed");
        cells += 1;
    }
    // The upper half of the register is not part of the number, nor is the hint in bit 16.
    for hint in [1 << 16, 1 << 32, !0 << 32] {
        let outcome = make_call(&rig, known[0] | hint, &[rsi::VERSION_LOWEST], 0);
        assert_eq!(outcome.letter, '.', "{hint:#x}");
    }
    println!("{cells} cells");
}
