// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! D09: resets, power and links, as a host that asks for them and as events that nobody asked for.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PRIVATE_PAGES, Pumped, Rig};
use tsm_abi::RmiStatus;
use tsm_devices::{At, Fault, FaultPlan, Occasion, TdiState, What};
use tsm_platform::{ConfigSpace, Rid};
use tsm_platform_fake::{ENDPOINT, Function, ROOT_PORT};

const READY: u64 = 3;
const DEVICE_ERROR: u64 = 5;
const LOCKED: u64 = 2;
const STARTED: u64 = 3;
const ERROR: u64 = 4;
/// Guest status.
const DEVICE: u64 = 5;

/// Power management at 0x80, PCI Express with link and slot, and extended capabilities.
fn with_capabilities(function: &Function, extended: [(usize, u32); 3]) -> Function {
    let express = function.register(0x40);
    let next = express & 0xff00;
    let mut function = function
        .clone()
        .with(0x0c, function.register(0x0c), 0x4000_00ff)
        .with(0x40, express & !0xff00 | 0x8000, 0)
        .with(0x50, 0, 0xffff)
        .with(0x58, 0, 0xffff)
        .with(0x70, 0, 0xffff)
        .with(0x80, 0x0003_9001, 0)
        .with(0x84, 0, 0x3)
        .with(0x90, 0x0306_0013 | next, 0)
        .with(0x94, 0, 0x1);
    for (offset, header) in extended {
        function = function
            .with(offset, header, 0)
            .with(offset + 4, 0, u32::MAX)
            .with(offset + 8, 0, u32::MAX);
    }
    function
}

/// The device's machine, with everything that a host can reset it by.
fn machine(state: u64) -> Rig {
    let mut rig = Rig::new();
    let fake = &rig.host.fake;
    let endpoint = fake.function(ENDPOINT).unwrap().with(0x100, 0x1401_002e, 0);
    // Virtual channels, processing hints, error reporting.
    let extended = [
        (0x140, 0x1501_0002),
        (0x150, 0x1601_0017),
        (0x160, 0x0001_0001),
    ];
    fake.set_function(ENDPOINT, with_capabilities(&endpoint, extended));
    let port = fake.function(ROOT_PORT).unwrap().with(0x3c, 0, 0xffff_00ff);
    // Containment, multicast, error reporting.
    let extended = [
        (0x100, 0x1401_001d),
        (0x140, 0x1501_0012),
        (0x150, 0x0001_0001),
    ];
    fake.set_function(ROOT_PORT, with_capabilities(&port, extended));
    rig.connect();
    rig.assign();
    bring(&mut rig, state);
    rig
}

/// Goes on from UNLOCKED; a guest of a started device uses it.
fn bring(rig: &mut Rig, state: u64) {
    rig.lock();
    rig.measure();
    rig.report();
    rig.accept_memory();
    if state == STARTED {
        rig.start();
        let nonces = rig.nonces();
        assert_eq!(rig.enable_dma(nonces), 0);
        assert!(rig.dma(DATA_IPA).is_some());
    }
    assert!(rig.reach(DEVICE_IPA).is_some());
}

#[track_caller]
fn assert_cut_off(rig: &Rig, what: &str) {
    assert_eq!(rig.state(), ERROR, "{what}");
    assert_eq!(rig.dma(DATA_IPA), None, "{what}");
    assert_eq!(rig.reach(DEVICE_IPA), None, "{what}");
    assert_eq!(rig.nonces(), [0; 3], "{what}");
    assert_eq!(rig.info().report_digest, [0; 64], "{what}");
}

fn write(rig: &Rig, rid: Rid, offset: u16, width: u8, value: u32) {
    let (tsm, fake) = (&rig.host.tsm, &rig.host.fake);
    tsm.host_config_access(fake, rid, offset, width, Some(value));
}

fn read(rig: &Rig, rid: Rid, offset: u16, width: u8) -> u32 {
    let (tsm, fake) = (&rig.host.tsm, &rig.host.fake);
    tsm.host_config_access(fake, rid, offset, width, None)
}

/// Function, offset, width and value of writes that reset, stop or unplug.
const RESETS: [(Rid, u16, u8, u32, &str); 22] = [
    (ENDPOINT, 0x48, 2, 0xa810, "function level reset"),
    (ENDPOINT, 0x49, 1, 0x80, "function level reset, one byte"),
    (ENDPOINT, 0x94, 1, 0x01, "reset by advanced features"),
    (ENDPOINT, 0x48, 2, 0x2a10, "phantom functions"),
    (ENDPOINT, 0x84, 2, 0x0001, "D1"),
    (ENDPOINT, 0x84, 2, 0x0003, "D3"),
    (ENDPOINT, 0x0f, 1, 0x40, "self test"),
    (ENDPOINT, 0x70, 2, 0x0010, "compliance"),
    (ENDPOINT, 0x144, 4, 0x0200, "another virtual channel"),
    (ENDPOINT, 0x158, 2, 0x0001, "hints"),
    (ROOT_PORT, 0x3e, 2, 0x0040, "secondary bus reset"),
    (ROOT_PORT, 0x3e, 1, 0x0040, "secondary bus reset, one byte"),
    (ROOT_PORT, 0x50, 2, 0x0010, "link off"),
    (ROOT_PORT, 0x58, 2, 0x0400, "slot power off"),
    (ROOT_PORT, 0x58, 2, 0x0800, "slot unlocked"),
    (ROOT_PORT, 0x70, 2, 0x0010, "port to compliance"),
    (ROOT_PORT, 0x84, 2, 0x0003, "port to D3"),
    (ROOT_PORT, 0x94, 1, 0x01, "port reset"),
    (ROOT_PORT, 0x0f, 1, 0x40, "port self test"),
    (ROOT_PORT, 0x106, 2, 0x0041, "containment by software"),
    (ROOT_PORT, 0x106, 2, 0x0001, "containment armed"),
    (ROOT_PORT, 0x144, 4, 0x8000, "multicast"),
];

/// Writes of a host that handles errors and trains links.
const HARMLESS: [(Rid, u16, u8, u32); 7] = [
    (ENDPOINT, 0x164, 4, 0xffff_ffff),
    (ENDPOINT, 0x168, 4, 0x0000_0010),
    (ENDPOINT, 0x48, 2, 0x281f),
    (ENDPOINT, 0x50, 2, 0x0040),
    (ROOT_PORT, 0x154, 4, 0xffff_ffff),
    (ROOT_PORT, 0x50, 2, 0x0060),
    (ROOT_PORT, 0x58, 2, 0x00c0),
];

/// D09.
#[test]
fn a_reset_that_the_host_asks_for_cuts_the_device_off_instead() {
    for state in [LOCKED, STARTED] {
        let mut rig = machine(state);
        for (rid, offset, width, value, what) in RESETS {
            assert_eq!(rig.state(), state, "{what}");
            let before = rig.host.fake.registers();
            write(&rig, rid, offset, width, value);
            assert!(rig.host.fake.registers() == before, "{what}");
            assert_cut_off(&rig, what);
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
            rig.give_up_addresses();
            rig.unlock();
            rig.lock();
            rig.measure();
            rig.report();
            rig.accept_again();
            if state == STARTED {
                rig.start();
                let nonces = rig.nonces();
                assert_eq!(rig.enable_dma(nonces), 0);
            }
        }
        rig.take_back();
    }
}

#[test]
fn error_handling_and_link_training_are_the_hosts() {
    let rig = machine(STARTED);
    for (rid, offset, width, value) in HARMLESS {
        write(&rig, rid, offset, width, value);
        assert_eq!(read(&rig, rid, offset, width), value, "{offset:#x}");
        assert_eq!(rig.state(), STARTED, "{offset:#x}");
    }
    assert!(rig.dma(DATA_IPA).is_some());
}

#[test]
fn a_reset_of_a_device_that_nobody_has_is_the_hosts() {
    for (rid, offset, width, value, what) in RESETS {
        let mut rig = machine(STARTED);
        assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
        rig.unlock();
        let before = rig.host.fake.registers();
        rig.host.fake.take_config_writes();
        write(&rig, rid, offset, width, value);
        assert!(rig.host.fake.registers() != before, "{what}");
    }
}

/// Lets `what` happen to the device, unseen by the TSM.
fn happen(rig: &mut Rig, what: What) {
    let faults = vec![Fault::new(At::Event(Occasion::Tick), what)];
    rig.dsm.load_faults(FaultPlan { faults });
    rig.refresh();
}

/// D09.
#[test]
fn a_device_that_was_reset_unseen_is_cut_off_when_it_is_next_spoken_to() {
    let events = [
        (What::FunctionReset(None), true),
        (What::LinkDown, true),
        (What::Reset, false),
        (What::Remove, false),
        (What::Hang, false),
    ];
    for state in [LOCKED, STARTED] {
        for (event, keeps_session) in &events {
            let mut rig = machine(state);
            happen(&mut rig, event.clone());
            let what = format!("{event:?} in {state}");
            if *keeps_session {
                assert_eq!(rig.tdi(), TdiState::Error, "{what}");
            }
            assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
            assert_eq!(rig.pump_interface(), Pumped::Done);
            assert_cut_off(&rig, &what);
            let device = if *keeps_session { READY } else { DEVICE_ERROR };
            assert_eq!(rig.device_state(rig.device), device, "{what}");
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
            rig.unlock();
            rig.take_back();
        }
    }
}

/// D09: a function that was pulled, or whose registers a reset has cleared.
#[test]
fn a_function_that_is_gone_is_cut_off_by_whoever_notices() {
    type Notice = fn(&mut Rig);
    let notices: [(&str, Notice); 5] = [
        ("the host reads its id", |rig| {
            assert_eq!(read(rig, ENDPOINT, 0, 4), u32::MAX);
        }),
        ("the host reads the vendor", |rig| {
            assert_eq!(read(rig, ENDPOINT, 0, 2) & 0xffff, 0xffff);
        }),
        ("the host asks for a report", |rig| {
            assert_eq!(rig.ask_report(), RmiStatus::DEVICE);
        }),
        ("the guest asks for memory", |rig| {
            let (_, registers) = rig.ask_memory(DEVICE_IPA, 0x1010_0000, 1, [1, 2, 3]);
            assert_ne!(registers.get()[0], 0);
        }),
        ("the guest turns DMA on", |rig| {
            assert_eq!(rig.enable_dma([1, 2, 3]), DEVICE);
        }),
    ];
    for state in [LOCKED, STARTED] {
        for (what, notice) in notices {
            let mut rig = machine(state);
            let function = rig.host.fake.function(ENDPOINT).unwrap();
            rig.host.fake.remove_function(ENDPOINT);
            notice(&mut rig);
            assert_cut_off(&rig, what);
            rig.host.fake.set_function(ENDPOINT, function);
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
            rig.unlock();
            rig.take_back();
        }
    }
}

/// D09.
#[test]
fn a_device_that_is_not_where_it_was_locked_starts_nothing() {
    let mut rig = machine(LOCKED);
    // As after a reset that nobody announced.
    rig.host.fake.config_write(ENDPOINT, 4, 2, 0);
    assert_eq!(rig.ask_start(), RmiStatus::DEVICE);
    assert_cut_off(&rig, "decoding is off");
    rig.host.fake.config_write(ENDPOINT, 4, 2, 6);
    rig.take_back();
}
