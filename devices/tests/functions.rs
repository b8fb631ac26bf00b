// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A device with many functions: one context for each, one session and one stream for all.

mod requester;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use requester::{Bench, Host, RID, STREAM, Session, hex};
use tsm_devices::{Bar, Function, FunctionView, Layout, TdiState, What};

const INVALID_INTERFACE: u32 = 0x101;
const INVALID_NONCE: u32 = 0x102;
/// Functions beside the first.
const OTHERS: u16 = 3;

fn view(number: u16) -> FunctionView {
    let bar = Bar {
        index: 0,
        address: 0x2000_0000 + u64::from(number) * 0x1_0000,
        size: 0x4000,
    };
    FunctionView {
        rid: Some(RID + number),
        bars: vec![bar],
    }
}

/// A device with four functions, a session and a secure stream; what the host sets of the last.
fn bench() -> (Bench, Session, Host) {
    let last = Host(Arc::new(Mutex::new(Some(view(OTHERS)))), Arc::default());
    let source = last.clone();
    let bench = Bench::with(|config| {
        for number in 1..OTHERS {
            config.others.push(Function {
                layout: Layout::QEMU_NVME,
                source: Box::new(view(number)),
            });
        }
        config.others.push(Function {
            layout: Layout::QEMU_NVME,
            source: Box::new(source),
        });
    });
    let mut bench = bench.negotiate_all();
    let mut session = bench.establish();
    bench.secure(&mut session, STREAM);
    (bench, session, last)
}

fn states(bench: &Bench) -> Vec<TdiState> {
    let interfaces = bench.state().interfaces;
    interfaces.iter().map(|interface| interface.state).collect()
}

fn lock(bench: &mut Bench, session: &mut Session, number: u16) -> Vec<u8> {
    let body = Bench::lock_body(5, STREAM, 0);
    let (kind, nonce) = bench.tdisp_for(session, RID + number, 0x83, &body);
    assert_eq!(kind, 3);
    nonce
}

use TdiState::{ConfigLocked, ConfigUnlocked, Error, Run};

#[test]
fn each_function_has_a_life_of_its_own_over_one_stream() {
    let (mut bench, mut session, _) = bench();
    let first = lock(&mut bench, &mut session, 0);
    let third = lock(&mut bench, &mut session, 2);
    assert_ne!(first, third);
    assert_eq!(
        states(&bench),
        [ConfigLocked, ConfigUnlocked, ConfigLocked, ConfigUnlocked]
    );
    let (kind, error) = bench.tdisp_for(&mut session, RID + 2, 0x86, &first);
    assert_eq!(
        (kind, &error[..4]),
        (0x7f, &INVALID_NONCE.to_le_bytes()[..])
    );
    assert_eq!(bench.tdisp_for(&mut session, RID + 2, 0x86, &third).0, 6);
    assert_eq!(
        states(&bench),
        [ConfigLocked, ConfigUnlocked, Run, ConfigUnlocked]
    );
    assert_eq!(bench.tdisp_for(&mut session, RID, 0x87, &[]).0, 7);
    assert_eq!(bench.tdisp_for(&mut session, RID + 2, 0x85, &[]).1, [2]);
    let views = bench.state().interfaces;
    assert_eq!(views[3].rid, Some(RID + 3));
}

#[test]
fn each_report_is_that_of_its_function() {
    let (mut bench, mut session, _) = bench();
    for number in [1, 3] {
        lock(&mut bench, &mut session, number);
        let report = bench.tdisp_for(&mut session, RID + number, 0x84, &[0, 0, 0, 4]);
        let page = u64::from_le_bytes(report.1[20..28].try_into().unwrap());
        assert_eq!(page << 12, view(number).bars[0].address);
    }
}

#[test]
fn what_happens_to_one_function_leaves_the_others_alone() {
    let (mut bench, mut session, last) = bench();
    for number in 0..=OTHERS {
        lock(&mut bench, &mut session, number);
    }
    last.0.lock().unwrap().as_mut().unwrap().bars.clear();
    bench.dsm.tick(Instant::now());
    assert_eq!(
        states(&bench),
        [ConfigLocked, ConfigLocked, ConfigLocked, Error]
    );
    assert!(bench.dsm.inflict(&What::FunctionReset(Some(RID + 1))));
    assert_eq!(states(&bench), [ConfigLocked, Error, ConfigLocked, Error]);
}

#[test]
fn the_end_of_the_session_breaks_every_lock() {
    let (mut bench, mut session, _) = bench();
    lock(&mut bench, &mut session, 0);
    lock(&mut bench, &mut session, 3);
    bench.send(&mut session, &hex("12ec0000"));
    assert_eq!(
        states(&bench),
        [Error, ConfigUnlocked, ConfigUnlocked, Error]
    );
    assert!(bench.state().streams.is_empty());
}

#[test]
fn a_function_that_is_not_there_is_no_interface() {
    let (mut bench, mut session, _) = bench();
    for kind in [0x81, 0x85] {
        let (kind, error) = bench.tdisp_for(&mut session, RID + OTHERS + 1, kind, &[]);
        let expected = INVALID_INTERFACE.to_le_bytes();
        assert_eq!((kind, &error[..4]), (0x7f, &expected[..]));
    }
}

#[test]
fn asking_for_the_version_changes_no_state() {
    let (mut bench, mut session, _) = bench();
    let nonce = lock(&mut bench, &mut session, 1);
    for number in [0, 1] {
        let answer = bench.tdisp_for(&mut session, RID + number, 0x81, &[]);
        assert_eq!(answer, (1, vec![1, 0x10]));
    }
    assert_eq!(states(&bench)[1], ConfigLocked);
    assert_eq!(bench.tdisp_for(&mut session, RID + 1, 0x86, &nonce).0, 6);
}
