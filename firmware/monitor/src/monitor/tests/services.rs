// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Services for R-EL2.

use tsm_abi::el3::{self, Status};

use super::{ECAM, SHARED, UNKNOWN, in_realm, realm};
use crate::context::World;
use crate::keys::Registers;

#[test]
fn granules_move_on_request_of_r_el2_and_processors_forget() {
    let (monitor, mut cpu) = in_realm();
    let mut call = |arguments: &[u64]| {
        assert_eq!(realm(&monitor, &mut cpu, arguments), World::Realm);
        (cpu.realm.x[0] as i64, cpu.realm.x[1])
    };
    assert_eq!(call(&[el3::GTSI_DELEGATE, 0x5000_0000]).0, 0);
    assert_eq!(call(&[el3::GTSI_DELEGATE, 0x5000_0000]).0, -3);
    assert_eq!(call(&[el3::GTSI_UNDELEGATE, 0x5000_0000]).0, 0);
    assert_eq!(monitor.processor().invalidations.get(), 2);
    assert_eq!(
        call(&[el3::FIRME_GM_GPI_SET, 0x5000_0000, 512, 0xb]),
        (0, 512)
    );
    assert_eq!(call(&[el3::FIRME_GM_GPI_SET, 0x501f_f000, 2, 0xb]), (-5, 0));
    assert_eq!(
        call(&[el3::FIRME_GM_GPI_SET, 0x5000_0000, 512, 0x9]),
        (0, 512)
    );
    assert_eq!(
        call(&[el3::FIRME_GM_GPI_SET, 0x4000_0000, 10_000, 0xb]),
        (0, 8192)
    );
    assert_eq!(monitor.processor().invalidations.get(), 5);
}

#[test]
fn only_memory_of_the_host_and_of_devices_can_move() {
    let (monitor, mut cpu) = in_realm();
    let mut call = |arguments: &[u64]| {
        assert_eq!(realm(&monitor, &mut cpu, arguments), World::Realm);
        cpu.realm.x[0] as i64
    };
    // The TSM itself, flash, the key configuration unit, configuration space, nothing, half a granule.
    for address in [
        0x7f00_0000,
        0,
        0x3e00_0000,
        ECAM,
        0x8000_0000,
        u64::MAX - 0xfff,
        0x5000_0800,
    ] {
        assert_eq!(call(&[el3::GTSI_DELEGATE, address]), -2, "{address:#x}");
        assert_eq!(call(&[el3::GTSI_UNDELEGATE, address]), -2, "{address:#x}");
    }
    // Worlds that are not R-EL2's to give.
    for world in [0, 8, 0xa, 0xf, 0x1b] {
        assert_eq!(call(&[el3::FIRME_GM_GPI_SET, 0x5000_0000, 1, world]), -2);
    }
    assert_eq!(call(&[el3::FIRME_GM_GPI_SET, 0x5000_0000, 0, 0xb]), -2);
    assert_eq!(call(&[el3::FIRME_GM_GPI_SET, 0x7eff_f000, 2, 0xb]), -2);
    assert_eq!(monitor.processor().invalidations.get(), 0);
}

#[test]
fn the_attestation_key_goes_to_the_shared_page_only() {
    let (monitor, mut cpu) = in_realm();
    let mut call = |buffer: u64, size: u64, curve: u64| {
        assert_eq!(
            realm(
                &monitor,
                &mut cpu,
                &[el3::GET_REALM_ATTEST_KEY, buffer, size, curve]
            ),
            World::Realm
        );
        (cpu.realm.x[0] as i64, cpu.realm.x[1])
    };
    assert_eq!(call(SHARED - 1, 48, 0), (-2, 0));
    assert_eq!(call(SHARED + 0x1000, 48, 0), (-2, 0));
    assert_eq!(call(SHARED + 0xfe0, 48, 0), (-5, 0));
    assert_eq!(call(SHARED, 47, 0), (-5, 0));
    assert_eq!(call(SHARED, u64::MAX, 0), (-5, 0));
    assert_eq!(call(SHARED, 48, 1), (-5, 0));
    assert!(monitor.board().shared.borrow().is_empty());
    assert_eq!(call(SHARED + 0x100, 48, 0), (0, 48));
    let shared = monitor.board().shared.borrow();
    assert_eq!((shared[0].0, shared[0].1.len()), (0x100, 48));
    assert_eq!(shared[0].1[..8], 0x1122_3344_5566_7788_u64.to_be_bytes());
}

#[test]
fn a_platform_token_answers_the_challenge_in_the_shared_page() {
    let (monitor, mut cpu) = in_realm();
    let mut call = |buffer: u64, size: u64, challenge: u64| {
        let call = [el3::GET_PLAT_TOKEN, buffer, size, challenge];
        realm(&monitor, &mut cpu, &call);
        (cpu.realm.x[0] as i64, cpu.realm.x[1], cpu.realm.x[2])
    };
    assert_eq!(call(SHARED - 1, 0x100, 48), (-2, 0, 0));
    assert_eq!(call(SHARED + 0x1000, 0x100, 48), (-2, 0, 0));
    assert_eq!(call(SHARED + 0x800, 0x801, 48), (-5, 0, 0));
    for challenge in [0, 47, 65, u64::MAX] {
        assert_eq!(call(SHARED, 0x1000, challenge), (-5, 0, 0));
    }
    assert_eq!(call(SHARED, 0x100, 48), (-5, 0, 0), "no room");
    assert!(monitor.board().shared.borrow().is_empty());
    let (status, length, rest) = call(SHARED + 0x800, 0x800, 48);
    assert_eq!((status, rest), (0, 0));
    let shared = monitor.board().shared.borrow();
    assert_eq!((shared[0].0, shared[0].1.len()), (0x800, length as usize));
    // The challenge that the test machine has in its page, and the measurements it was given.
    for part in [[0xc5; 48], [0xe3; 48], [0xe2; 48]] {
        assert!(shared[0].1.windows(48).any(|window| window == part));
    }
}

#[test]
fn a_key_reaches_its_slot_and_no_register() {
    let (monitor, mut cpu) = in_realm();
    let info = el3::stream_info(3, 1, 2, true);
    let key = [0x18, 0x10, 0x08, 0x00];
    let arguments = [
        el3::RP_IDE_KEY_PROG,
        ECAM,
        0x10,
        info,
        key[0],
        key[1],
        key[2],
        key[3],
        1,
        0,
    ];
    assert_eq!(realm(&monitor, &mut cpu, &arguments), World::Realm);
    assert_eq!(cpu.realm.x[0], 0);
    assert_eq!(cpu.realm.x[4..10], [0; 6]);
    assert_eq!(monitor.board().unit.read(0x1000), 0x8003_0010);
    let wrong_window = [el3::RP_IDE_KEY_SET_GO, ECAM + 0x1000, 0x10, info];
    assert_eq!(realm(&monitor, &mut cpu, &wrong_window), World::Realm);
    assert_eq!(cpu.realm.x[0] as i64, -5);
    assert_eq!(
        realm(
            &monitor,
            &mut cpu,
            &[el3::RP_IDE_KEY_SET_GO, ECAM, 0x10, info]
        ),
        World::Realm
    );
    assert_eq!(cpu.realm.x[0], 0);
}

#[test]
fn registers_of_a_stream_are_written_read_and_cleared() {
    let (monitor, mut cpu) = in_realm();
    let mut call = |arguments: &[u64]| {
        assert_eq!(realm(&monitor, &mut cpu, arguments), World::Realm);
        [cpu.realm.x[0], cpu.realm.x[1], cpu.realm.x[2]]
    };
    let association = el3::StreamAssociation {
        first: 0x100,
        last: 0x100,
        enabled: true,
    };
    let (pair, range) = (el3::stream_register(3, 0), el3::stream_register(3, 16));
    let write = el3::PORTCULLIS_STREAM_WRITE;
    let read = |register| [el3::PORTCULLIS_STREAM_READ, ECAM, 0x10, register];
    let word = association.word();
    assert_eq!(call(&[write, ECAM, 0x10, pair, word, 0])[0], 0);
    let written = call(&[write, ECAM, 0x10, range, 0x1000_0000, 0x1010_0000]);
    assert_eq!(written[0], 0);
    assert_eq!(call(&read(pair)), [0, word, 0]);
    assert_eq!(call(&read(range)), [0, 0x1000_0000, 0x1010_0000]);
    let invalid = Status::Invalid.word();
    assert_eq!(call(&read(1 << 16))[0], invalid);
    assert_eq!(call(&[write, ECAM + 1, 0x10, pair, word, 0])[0], invalid);
    let clear = [el3::PORTCULLIS_STREAM_CLEAR, ECAM, 0x10, 3];
    assert_eq!(call(&clear), [0; 3]);
    assert_eq!(call(&read(pair)), [0; 3]);
    assert_eq!(monitor.board().unit.read(0x1000), 0);
}

#[test]
fn r_el2_learns_what_the_monitor_keeps_and_logs_through_it() {
    let (monitor, mut cpu) = in_realm();
    realm(&monitor, &mut cpu, &[el3::PORTCULLIS_FEATURES]);
    assert_eq!(cpu.realm.x[..5], [0, 0xf, 0x3e00_0000, 0x3e20_0000, 0x80]);
    let text = u64::from_le_bytes(*b"hello, w");
    realm(
        &monitor,
        &mut cpu,
        &[el3::PORTCULLIS_CONSOLE_WRITE, 5, text],
    );
    assert_eq!(
        (cpu.realm.x[0], &monitor.board().log.borrow()[..]),
        (0, &b"hello"[..])
    );
    for count in [0, 49, u64::MAX] {
        realm(&monitor, &mut cpu, &[el3::PORTCULLIS_CONSOLE_WRITE, count]);
        assert_eq!(cpu.realm.x[0] as i64, -5);
    }
    for call in [el3::RP_IDE_KM_POLL, el3::RESERVE_MEMORY, 0xc400_0150, 0] {
        realm(&monitor, &mut cpu, &[call]);
        assert_eq!(cpu.realm.x[0], UNKNOWN, "{call:#x}");
    }
}
