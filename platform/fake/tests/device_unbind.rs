// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who may do what with an interface in which state, and how a device is taken away.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Registers, Rig, VDEV_ID};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, PdevCategory, VdevParams};
use tsm_abi::rsi;
use tsm_core::tables::interface::{GRANTS, Grant, State};
use tsm_devices::TdiState;
use tsm_platform::Rid;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, ENDPOINT_BAR_BYTES, ROOT_PORT, success};

const UNLOCKED: u64 = 1;
const LOCKED: u64 = 2;
const ERROR: u64 = 4;
/// Guest statuses.
const INPUT: u64 = 1;

fn write(rig: &Rig, rid: Rid, offset: u16, width: u8, value: u32) {
    let (tsm, fake) = (&rig.host.tsm, &rig.host.fake);
    tsm.host_config_access(fake, rid, offset, width, Some(value));
}

/// A rig whose interface is in `state`; evidence was fetched where there is any.
fn rig_in(state: State) -> Rig {
    let mut rig = match state {
        State::New => {
            let mut rig = Rig::connected();
            rig.vdev = rig.create_interface(&rig.vdev_params()).unwrap();
            rig
        }
        State::Unlocked => Rig::assigned(),
        _ => Rig::locked(),
    };
    match state {
        State::Started => rig.start(),
        State::Error => write(&rig, ENDPOINT, 4, 2, 0),
        _ => {}
    }
    assert_eq!(rig.state(), state as u64);
    rig
}

fn script(rig: &Rig, call: rsi::Call) {
    let (function, arguments) = call.encode();
    let registers: Vec<u64> = std::iter::once(function).chain(arguments).collect();
    rig.host.fake.script().call(&registers);
}

/// D01.
#[test]
fn a_guest_is_granted_what_the_table_says_and_nothing_else() {
    for state in State::ALL.into_iter().filter(|state| *state != State::New) {
        let allows = |grant| GRANTS.contains(&(state, grant));
        let rig = rig_in(state);
        rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
        let shown = rig.nonces();
        assert_eq!(shown[0] != 0, allows(Grant::Memory), "{state:?}");
        let made_up = [7, 8, 9];
        for (nonces, are_good) in [(shown, shown[0] != 0), (made_up, false), ([0; 3], false)] {
            let (exit, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, nonces);
            let is_asked = exit.exit_reason.get() == 9;
            assert_eq!(is_asked, are_good && allows(Grant::Memory), "{state:?}");
            if is_asked {
                rig.reject();
            }
            assert!(is_asked || registers.get()[0] != 0);
            let is_enabled = rig.enable_dma(nonces) == 0;
            assert_eq!(is_enabled, are_good && allows(Grant::Dma), "{state:?}");
            assert_eq!(rig.dma(DATA_IPA).is_some(), is_enabled);
            assert_eq!(rig.disable_dma(), 0, "that is always its own to do");
            assert_eq!(rig.dma(DATA_IPA), None);
        }
        assert_eq!(rig.state(), state as u64);
        assert_eq!(rig.nonces(), shown);
    }
}

/// D01: the wrong guest, by host calls and by the guest's.
#[test]
fn another_realm_can_do_nothing_with_an_interface_in_any_state() {
    for state in State::ALL {
        let mut rig = rig_in(state);
        let other = rig.host.realm();
        let (rd, pdev, vdev) = (other.rd, rig.device, rig.vdev);
        let params = rig.host.page_with(&[]);
        let data = rig.host.page_with(&[]);
        let before = rig.host.snapshot();
        for call in [
            Call::VdevCommunicate {
                rd,
                pdev,
                vdev,
                data,
            },
            Call::VdevLock { rd, pdev, vdev },
            Call::VdevStart { rd, pdev, vdev },
            Call::VdevUnlock { rd, pdev, vdev },
            Call::VdevAbort { rd, pdev, vdev },
            Call::VdevDestroy { rd, pdev, vdev },
            Call::VdevGetInterfaceReport { rd, pdev, vdev },
            Call::VdevGetMeasurements {
                rd,
                pdev,
                vdev,
                params,
            },
        ] {
            let status = rig.host.status(call);
            let is_refused = [RmiStatus::INPUT, RmiStatus::DEVICE].contains(&status);
            assert!(is_refused, "{call:x?} in {state:?}: {status:?}");
            assert_eq!(rig.state(), state as u64, "{call:x?}");
        }
        assert_eq!(rig.host.snapshot().states, before.states);
        // The other guest knows the id, and the host names the object for it.
        let nonces = if state == State::New {
            [0; 3]
        } else {
            rig.nonces()
        };
        let own = std::mem::replace(&mut rig.realm, other);
        let [lock_nonce, meas_nonce, report_nonce] = nonces;
        let enable = rsi::Call::VdevDmaEnable {
            vdev_id: VDEV_ID,
            flags: 0,
            non_ats_plane: 0,
            lock_nonce,
            meas_nonce,
            report_nonce,
        };
        script(&rig, enable);
        assert_eq!(rig.host.enter(&rig.realm).exit_reason.get(), 8);
        let complete = Call::VdevComplete {
            rec: rig.realm.rec,
            vdev,
        };
        assert_eq!(rig.host.status(complete), RmiStatus::INPUT);
        rig.host
            .fake
            .script()
            .look(|_, vcpu| assert_eq!(vcpu.gprs[0], INPUT));
        rig.host.enter(&rig.realm);
        let other = std::mem::replace(&mut rig.realm, own);
        assert_eq!((rig.state(), rig.dma(DATA_IPA)), (state as u64, None));
        rig.host.reclaim(&other);
    }
}

/// D02.
#[test]
fn nothing_is_locked_or_started_while_keys_are_on_their_way() {
    let mut rig = Rig::assigned();
    assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
    rig.pump_stream();
    rig.lock();
    assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
    assert_eq!(rig.ask_start(), RmiStatus::DEVICE);
    rig.pump_stream();
    rig.start();
    rig.take_back();
}

/// D06, D07: what becomes of acceptance when the ground moves between two locks.
#[test]
fn a_lock_after_the_function_was_moved_needs_new_evidence() {
    type Move = (&'static str, Rid, u16, u32);
    let moves: [Move; 3] = [
        ("a BAR", ENDPOINT, 0x10, 0x1018_0004),
        ("decoding", ENDPOINT, 0x04, 0x4),
        ("bus numbers", ROOT_PORT, 0x18, 0x0002_0200),
    ];
    for (what, rid, offset, value) in moves {
        let mut rig = Rig::running();
        let old = rig.nonces();
        assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
        rig.unlock();
        let kept = rig.host.fake.function(rid).unwrap();
        write(&rig, rid, offset, 4, value);
        if rig.ask_lock() == RmiStatus::SUCCESS {
            // The TSM has nothing against a function that does not decode; the device has.
            assert_eq!((what, rig.pump_interface()), ("decoding", Pumped::Done));
        }
        assert_eq!(
            (rig.state(), rig.tdi()),
            (UNLOCKED, TdiState::ConfigUnlocked)
        );
        rig.host.fake.set_function(rid, kept);
        rig.lock();
        // Nothing of the lock before counts, before and after new evidence is there.
        for fetched in [false, true] {
            if fetched {
                rig.measure();
                rig.report();
            }
            let now = rig.nonces();
            assert!(now[0] != old[0] && now[0] != 0);
            let (_, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, old);
            assert_ne!(registers.get()[0], 0, "{what}");
            let half = [now[0], old[1], old[2]];
            let (_, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, half);
            assert_ne!(registers.get()[0], 0, "{what}");
            assert_eq!(rig.reach(DEVICE_IPA), None);
        }
        rig.start();
        assert_ne!(rig.enable_dma(old), 0, "{what}");
        assert_eq!(rig.dma(DATA_IPA), None);
        rig.take_back();
    }
}

/// D06: a host renumbers buses so that another root port leads to the requester id.
#[test]
fn a_function_that_is_not_below_the_port_of_its_stream_is_not_locked() {
    let mut rig = Rig::assigned();
    let port = rig.host.fake.function(ROOT_PORT).unwrap();
    let other = Rid(0x0028);
    let bridge = port.clone();
    rig.host
        .fake
        .set_function(other, bridge.with(0x18, 0x0002_0200, 0x00ff_ffff));
    for (bridge, bus) in [(ROOT_PORT, 3), (other, 1)] {
        write(&rig, bridge, 0x18, 4, bus << 16 | bus << 8);
    }
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
    rig.host.fake.remove_function(other);
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE, "no path at all");
    rig.host.fake.set_function(ROOT_PORT, port);
    rig.lock();
    rig.take_back();
}

/// D06: an interface that is made again elsewhere has another report.
#[test]
fn a_function_that_was_moved_is_reported_where_it_is() {
    let mut rig = Rig::locked();
    let before = rig.info();
    rig.unlock();
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    rig.renew_keys();
    rig.host.undelegate(rig.vdev, 1);
    let moved = 0x1018_0000;
    write(&rig, ENDPOINT, 0x10, 4, 0x1018_0004);
    let mut params = rig.vdev_params();
    params.addr_range[0].base = moved.into();
    params.addr_range[0].top = (moved + ENDPOINT_BAR_BYTES).into();
    rig.lie = Some(moved);
    rig.vdev = rig.create_interface(&params).unwrap();
    assert_eq!(rig.pump_interface(), Pumped::Done);
    rig.lock();
    rig.measure();
    rig.report();
    assert_ne!(rig.info().report_digest, before.report_digest);
    let nonces = rig.nonces();
    let (_, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, nonces);
    assert_eq!(registers.get()[0], INPUT);
    let (exit, _) = rig.ask_memory(DEVICE_IPA, moved, 1, nonces);
    assert_eq!(exit.exit_reason.get(), 9);
}

/// One step of a guest that accepts its device, and of the host that serves it. Each does what it
/// can and asserts nothing: the host may have taken the device away.
type Step = fn(&mut Rig, &Accepting);

/// What the guest judged, and what became of its last request.
struct Accepting {
    nonces: [u64; 3],
    enabled: Registers,
}

fn enter(rig: &Rig) {
    let _ = rig
        .host
        .enter_with(&rig.realm, &zerocopy::FromZeros::new_zeroed());
}

fn name_object(rig: &Rig) {
    let (rec, vdev) = (rig.realm.rec, rig.vdev);
    rig.host.status(Call::VdevComplete { rec, vdev });
}

const ACCEPT: [Step; 15] = [
    |rig, accepting| {
        let [lock_nonce, meas_nonce, report_nonce] = accepting.nonces;
        script(
            rig,
            rsi::Call::VdevValidateMapping {
                vdev_id: VDEV_ID,
                ipa_base: DEVICE_IPA,
                ipa_top: DEVICE_IPA + PRIVATE_PAGES * PAGE,
                pa_base: ENDPOINT_BAR,
                flags: 0,
                lock_nonce,
                meas_nonce,
                report_nonce,
            },
        );
        enter(rig);
    },
    |rig, _| name_object(rig),
    |rig, _| enter(rig),
    |rig, _| _ = rig.map(DEVICE_IPA, ENDPOINT_BAR, 1),
    |rig, _| _ = rig.map(DEVICE_IPA + PAGE, ENDPOINT_BAR + PAGE, 1),
    |rig, _| _ = rig.validate(DEVICE_IPA, 1),
    |rig, _| _ = rig.validate(DEVICE_IPA + PAGE, 1),
    |rig, _| enter(rig),
    |rig, _| _ = rig.ask_start(),
    |rig, _| _ = rig.pump_interface(),
    |rig, _| _ = rig.ask_report(),
    |rig, _| _ = rig.abort(),
    |rig, accepting| {
        let [lock_nonce, meas_nonce, report_nonce] = accepting.nonces;
        script(
            rig,
            rsi::Call::VdevDmaEnable {
                vdev_id: VDEV_ID,
                flags: 0,
                non_ats_plane: 0,
                lock_nonce,
                meas_nonce,
                report_nonce,
            },
        );
        enter(rig);
    },
    |rig, _| name_object(rig),
    |rig, accepting| {
        let into = accepting.enabled.clone();
        rig.host.fake.script().look(move |_, vcpu| {
            into.set([vcpu.gprs[0], vcpu.gprs[1], vcpu.gprs[2]]);
        });
        enter(rig);
    },
];

/// Steps that only the host's restlessness makes: left out when nobody takes the device away.
const RESTLESS: std::ops::Range<usize> = 10..12;

/// A way in which a host takes a device away, politely or not.
type Unbind = (&'static str, fn(&mut Rig));

const UNBIND: [Unbind; 5] = [
    ("unlock", |rig| {
        for page in 0..PRIVATE_PAGES {
            let _ = rig.unmap(DEVICE_IPA + page * PAGE, 1);
        }
        let _ = rig.abort();
        assert_eq!(rig.ask_unlock(), RmiStatus::SUCCESS);
        assert_eq!(rig.dma(DATA_IPA), None, "before the device is told");
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(rig.state(), UNLOCKED);
    }),
    ("configuration", |rig| write(rig, ENDPOINT, 4, 2, 0)),
    ("memory", |rig| {
        for page in 0..PRIVATE_PAGES {
            let _ = rig.unmap(DEVICE_IPA + page * PAGE, 1);
        }
        rig.host.undelegate(ENDPOINT_BAR, PRIVATE_PAGES);
        rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    }),
    ("session", |rig| {
        let pdev = rig.device;
        let _ = rig.ask_measurements();
        rig.tamper = Some(Box::new(|_, _| false));
        let _ = rig.pump_interface();
        rig.tamper = None;
        let _ = rig.host.status(Call::PdevAbort { pdev });
    }),
    ("abort", |rig| {
        let _ = rig.ask_measurements();
        assert_eq!(rig.abort(), RmiStatus::SUCCESS);
    }),
];

/// D08.
#[test]
fn wherever_the_host_takes_the_device_away_the_guest_has_no_part_of_it() {
    for (what, unbind) in UNBIND {
        for taken in 0..=ACCEPT.len() {
            let what = format!("{what} before step {taken}");
            let mut rig = Rig::locked();
            rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
            let accepting = Accepting {
                nonces: rig.nonces(),
                enabled: Registers::default(),
            };
            for (at, step) in ACCEPT.iter().enumerate().take(taken) {
                // An abort would itself take the device away.
                if !RESTLESS.contains(&at) {
                    step(&mut rig, &accepting);
                }
            }
            if taken == ACCEPT.len() {
                assert_eq!(accepting.enabled.get()[0], 0);
                assert!(rig.dma(DATA_IPA).is_some() && rig.reach(DEVICE_IPA).is_some());
            }
            unbind(&mut rig);
            for step in &ACCEPT[taken..] {
                step(&mut rig, &accepting);
            }
            assert!([UNLOCKED, ERROR].contains(&rig.state()), "{what}");
            assert_eq!(rig.dma(DATA_IPA), None, "{what}");
            for page in 0..PRIVATE_PAGES {
                assert_eq!(rig.reach(DEVICE_IPA + page * PAGE), None, "{what}");
            }
            if taken < ACCEPT.len() {
                assert_ne!(accepting.enabled.get()[0], 0, "the guest is told: {what}");
            }
            rig.forget_script();
            assert!(rig.host.fake.stale_translations().is_empty(), "{what}");
            rig.take_back();
        }
    }
}

/// Makes a call on several CPUs at once; returns how many succeeded.
fn race(rig: &Rig, call: Call) -> usize {
    let host = &rig.host;
    std::thread::scope(|scope| {
        let make = || scope.spawn(|| host.status(call) == RmiStatus::SUCCESS);
        let racers = [make(), make(), make()];
        let won = racers.map(|racer| racer.join().unwrap());
        won.into_iter().filter(|won| *won).count()
    })
}

/// D10.
#[test]
fn unbinding_is_complete_from_each_state_and_happens_once() {
    for state in State::ALL {
        let mut rig = rig_in(state);
        let (rd, pdev, vdev) = rig.names();
        let unlock = Call::VdevUnlock { rd, pdev, vdev };
        let is_held = !matches!(state, State::New | State::Unlocked);
        assert_eq!(race(&rig, unlock), usize::from(is_held), "{state:?}");
        if is_held {
            let unlocking = rig.host.status(unlock);
            assert_eq!(unlocking, RmiStatus::DEVICE, "under way: {state:?}");
            assert_eq!(rig.pump_interface(), Pumped::Done);
            assert_eq!(
                (rig.state(), rig.tdi()),
                (UNLOCKED, TdiState::ConfigUnlocked)
            );
            assert_eq!(rig.nonces(), [0; 3]);
            let carried = rig.carried;
            assert_eq!(rig.host.status(unlock), RmiStatus::DEVICE, "it is unlocked");
            assert_eq!((rig.state(), rig.carried), (UNLOCKED, carried));
        }
        assert_eq!(
            race(&rig, Call::VdevDestroy { rd, pdev, vdev }),
            1,
            "{state:?}"
        );
        for gone in [
            Call::VdevDestroy { rd, pdev, vdev },
            unlock,
            Call::VdevGetState { vdev },
        ] {
            assert_eq!(rig.host.status(gone), RmiStatus::INPUT, "{gone:x?}");
        }
        rig.host.undelegate(rig.vdev, 1);
        rig.vdev = 0;
        rig.take_back();
    }
}

fn params_for(rid: Rid, id: u64, base: u64) -> VdevParams {
    let mut params: VdevParams = zerocopy::FromZeros::new_zeroed();
    params.vdev_id = id.into();
    params.tdi_id = u64::from(rid.0).into();
    params.num_addr_range = 1.into();
    params.addr_range[0].base = base.into();
    params.addr_range[0].top = (base + ENDPOINT_BAR_BYTES).into();
    params
}

/// D11.
#[test]
fn one_interface_has_one_realm_at_a_time() {
    let mut rig = Rig::locked();
    let other = rig.host.realm();
    let own = std::mem::replace(&mut rig.realm, other);
    for id in [VDEV_ID, VDEV_ID + 1] {
        let params = params_for(ENDPOINT, id, ENDPOINT_BAR);
        assert_eq!(rig.create_interface(&params), Err(RmiStatus::INPUT));
    }
    let other = std::mem::replace(&mut rig.realm, own);
    let evidence = rig.nonces();
    rig.unlock();
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    rig.renew_keys();
    rig.host.undelegate(rig.vdev, 1);
    // The next owner has an interface without evidence, and the first owner none.
    let own = std::mem::replace(&mut rig.realm, other);
    rig.assign();
    rig.lock();
    assert_eq!(rig.state(), LOCKED);
    let other = std::mem::replace(&mut rig.realm, own);
    script(&rig, rsi::Call::VdevDmaDisable { vdev_id: VDEV_ID });
    enter(&rig);
    let (rec, vdev) = (rig.realm.rec, rig.vdev);
    let status = rig.host.status(Call::VdevComplete { rec, vdev });
    assert_eq!(status, RmiStatus::INPUT, "{evidence:x?} are of no use");
    enter(&rig);
    let own = std::mem::replace(&mut rig.realm, other);
    rig.unlock();
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    rig.host.undelegate(rig.vdev, 1);
    rig.vdev = 0;
    rig.host.reclaim(&own);
    rig.take_back();
}

/// D11: a virtual function lives by registers of another function, which a host could reset: none is
/// assigned.
#[test]
fn a_virtual_function_is_not_assigned() {
    let mut rig = Rig::new();
    let virtual_one = Rid(0x0101);
    let endpoint = rig.host.fake.function(ENDPOINT).unwrap();
    let function = endpoint.clone().with(0x10, 0, 0).with(0x14, 0, 0);
    let endpoint = endpoint
        .with(0x0c, 0x0080_0000, 0)
        .with(0x100, 0x1501_002e, 0)
        .with(0x150, 0x0001_0010, 0)
        .with(0x158, 0x9, 0x9)
        .with(0x160, 1, 0xffff)
        .with(0x164, 0x0001_0001, 0)
        .with(0x174, 0x1018_0000, 0xffff_c000);
    rig.host.fake.set_function(ENDPOINT, endpoint);
    rig.host.fake.set_function(virtual_one, function);
    let mut device = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    device.rid_top = (u32::from(virtual_one.0) + 1).into();
    rig.connect_device(&device);
    let mut params = params_for(virtual_one, VDEV_ID, 0x1018_0000);
    assert_eq!(rig.create_interface(&params), Err(RmiStatus::INPUT));
    params.num_addr_range = 0.into();
    assert_eq!(rig.create_interface(&params), Err(RmiStatus::INPUT));
    // While it exists no more, its place is an ordinary function's.
    write(&rig, ENDPOINT, 0x158, 4, 0);
    let vdev = rig.create_interface(&params).unwrap();
    let (rd, pdev) = (rig.realm.rd, rig.device);
    success(rig.host.call(Call::VdevDestroy { rd, pdev, vdev }));
}

/// D12.
#[test]
fn a_realm_stays_until_its_interface_is_given_back() {
    for state in State::ALL {
        for terminated in [false, true] {
            let mut rig = rig_in(state);
            let rd = rig.realm.rd;
            if terminated {
                success(rig.host.call(Call::RealmTerminate { rd }));
            }
            assert_eq!(rig.host.status(Call::RealmDestroy { rd }), RmiStatus::REALM);
            assert_eq!(rig.state(), state as u64);
            let rec = rig.realm.rec;
            assert_eq!(
                rig.host.status(Call::RecEnter {
                    rec,
                    run: rig.realm.run
                }) == RmiStatus::SUCCESS,
                !terminated
            );
            rig.take_back();
        }
    }
}
