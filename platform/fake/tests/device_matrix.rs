// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every device call in every state of its object, and with every argument wrong.

mod rig;

use rig::{DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::Call;
use tsm_platform::ConfigSpace;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR};

const OK: RmiStatus = RmiStatus::SUCCESS;
const DEVICE: RmiStatus = RmiStatus::DEVICE;
const INPUT: RmiStatus = RmiStatus::INPUT;

/// A way to a state of an interface, and the number of that state.
type Way = (fn() -> Rig, u64);

fn new() -> Rig {
    let mut rig = Rig::connected();
    rig.vdev = rig.create_interface(&rig.vdev_params()).unwrap();
    rig
}

fn started() -> Rig {
    let mut rig = Rig::locked();
    rig.start();
    rig
}

fn failed() -> Rig {
    let rig = Rig::locked();
    let write = Some(0);
    rig.host
        .tsm
        .host_config_access(&rig.host.fake, ENDPOINT, 4, 2, write);
    rig
}

/// The interface calls in each state: what they answer. Those that are refused change nothing.
#[test]
fn interface_calls_answer_by_state() {
    type Ask = fn(&Rig) -> RmiStatus;
    let calls: [(&str, Ask); 8] = [
        ("lock", Rig::ask_lock),
        ("start", Rig::ask_start),
        ("unlock", Rig::ask_unlock),
        ("report", Rig::ask_report),
        ("measure", Rig::ask_measurements),
        ("abort", Rig::abort),
        ("communicate", |rig| rig.host.status(rig.interface_pump())),
        ("destroy", Rig::destroy_interface),
    ];
    let states: [(Way, [RmiStatus; 8]); 5] = [
        (
            (new, 0),
            [DEVICE, DEVICE, DEVICE, DEVICE, DEVICE, OK, OK, OK],
        ),
        (
            (Rig::assigned, 1),
            [OK, DEVICE, DEVICE, DEVICE, OK, DEVICE, DEVICE, OK],
        ),
        (
            (Rig::locked, 2),
            [DEVICE, OK, OK, OK, OK, DEVICE, DEVICE, DEVICE],
        ),
        (
            (started, 3),
            [DEVICE, DEVICE, OK, OK, OK, DEVICE, DEVICE, DEVICE],
        ),
        (
            (failed, 4),
            [DEVICE, DEVICE, OK, DEVICE, DEVICE, DEVICE, DEVICE, DEVICE],
        ),
    ];
    for ((make, state), expected) in states {
        let mut rig = make();
        assert_eq!(rig.state(), state);
        for ((name, ask), expected) in calls.iter().zip(expected) {
            if expected == OK {
                continue;
            }
            // A page for the parameters of `measure` is written each time, whatever becomes of it.
            let before = rig.host.snapshot().states;
            let nonces = (state != 0).then(|| rig.nonces());
            assert_eq!(ask(&rig), expected, "{name} in state {state}");
            assert_eq!(
                rig.host.snapshot().states,
                before,
                "{name} in state {state}"
            );
            assert_eq!(rig.state(), state, "{name} in state {state}");
            assert_eq!(
                (state != 0).then(|| rig.nonces()),
                nonces,
                "{name} in state {state}"
            );
        }
        for ((name, ask), expected) in calls.iter().zip(expected) {
            if expected != OK || ["destroy", "abort", "communicate"].contains(name) {
                continue;
            }
            assert_eq!(ask(&rig), OK, "{name} in state {state}");
            assert_eq!(rig.state(), state, "{name} only begins");
            // Giving it up before a message is out is an error of the interface alone.
            assert_eq!(rig.abort(), OK);
            rig = make();
        }
        if expected[7] == OK {
            assert_eq!(rig.destroy_interface(), OK);
        }
    }
}

/// The device calls in each state of an endpoint.
#[test]
fn device_calls_answer_by_state() {
    let calls = ["set key", "stop", "abort", "destroy", "communicate"];
    let states: [(u64, [RmiStatus; 5]); 6] = [
        (0, [DEVICE, DEVICE, OK, DEVICE, INPUT]),
        (1, [OK, OK, DEVICE, DEVICE, DEVICE]),
        (2, [DEVICE, DEVICE, OK, DEVICE, INPUT]),
        (3, [DEVICE, OK, DEVICE, DEVICE, DEVICE]),
        (4, [DEVICE, DEVICE, DEVICE, OK, DEVICE]),
        (5, [DEVICE, OK, OK, DEVICE, DEVICE]),
    ];
    for (state, expected) in states {
        let rig = device_in(state);
        let pdev = rig.device;
        for (name, expected) in calls.iter().zip(expected) {
            if expected == OK {
                continue;
            }
            let before = rig.host.snapshot().states;
            let status = match *name {
                "set key" => rig.set_key(&a_key()),
                "stop" => rig.host.status(Call::PdevStop { pdev }),
                "abort" => rig.host.status(Call::PdevAbort { pdev }),
                "destroy" => rig.host.status(Call::PdevDestroy { pdev }),
                _ => {
                    let data = rig.host.page_with(&[]);
                    rig.host.status(Call::PdevCommunicate { pdev, data })
                }
            };
            assert_eq!(status, expected, "{name} in state {state}");
            assert_eq!(rig.device_state(pdev), state, "{name} in state {state}");
            assert_eq!(
                rig.host.snapshot().states,
                before,
                "{name} in state {state}"
            );
        }
    }
}

/// The generator of P-384, which is a point that any key could be.
fn a_key() -> Vec<u8> {
    let hex = "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a\
               545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1\
               ce1d7e819d7a431d7c90ea0e5f";
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn device_in(state: u64) -> Rig {
    let mut rig = Rig::new();
    rig.create_ends();
    let pdev = rig.device;
    match state {
        0 => {}
        1 | 2 | 5 => {
            assert_eq!(rig.pump_device(pdev), Pumped::Done);
            if state != 1 {
                assert_eq!(rig.set_key(&a_key()), OK);
            }
            if state == 5 {
                // It is not the device's.
                assert_eq!(rig.pump_device(pdev), Pumped::Done);
            }
        }
        _ => {
            rig.open_session();
            if state == 4 {
                assert_eq!(rig.host.status(Call::PdevStop { pdev }), OK);
                assert_eq!(rig.pump_device(pdev), Pumped::Done);
            }
        }
    }
    assert_eq!(rig.device_state(pdev), state);
    rig
}

/// Replaces each object that a call names by everything that it must not be.
#[test]
fn arguments_that_name_the_wrong_thing_are_refused() {
    let rig = Rig::locked();
    let (rd, pdev, vdev) = rig.names();
    let (rec, port, handle) = (rig.realm.rec, rig.port, rig.handle);
    let delegated = rig.host.delegated();
    let page = rig.host.page_with(&[]);
    let data = page;
    let params = page;
    let (base, top) = (DEVICE_IPA, DEVICE_IPA + PAGE);
    // The arguments that name objects or pages, by place.
    let calls: [(Call, &[usize]); 23] = [
        (
            Call::PdevCreate {
                pdev: delegated,
                params,
            },
            &[0, 1],
        ),
        (Call::PdevGetState { pdev }, &[0]),
        (Call::PdevCommunicate { pdev, data }, &[0]),
        (Call::PdevSetPubkey { pdev, params }, &[0, 1]),
        (Call::PdevStop { pdev }, &[0]),
        (Call::PdevAbort { pdev }, &[0]),
        (Call::PdevDestroy { pdev }, &[0]),
        (Call::PdevStreamConnect { params }, &[0]),
        (
            Call::PdevStreamComplete {
                pdev_1: pdev,
                pdev_2: port,
                handle,
            },
            &[0, 1, 2],
        ),
        (
            Call::PdevStreamKeyRefresh {
                pdev_1: pdev,
                pdev_2: port,
                handle,
            },
            &[0, 1, 2],
        ),
        (
            Call::PdevStreamDisconnect {
                pdev_1: pdev,
                pdev_2: port,
                handle,
            },
            &[0, 1, 2],
        ),
        (
            Call::VdevCreate {
                rd,
                pdev,
                vdev: delegated,
                params,
            },
            &[0, 1, 2, 3],
        ),
        (Call::VdevGetState { vdev }, &[0]),
        (
            Call::VdevCommunicate {
                rd,
                pdev,
                vdev,
                data,
            },
            &[0, 1, 2],
        ),
        (Call::VdevLock { rd, pdev, vdev }, &[0, 1, 2]),
        (
            Call::VdevGetMeasurements {
                rd,
                pdev,
                vdev,
                params,
            },
            &[0, 1, 2, 3],
        ),
        (Call::VdevGetInterfaceReport { rd, pdev, vdev }, &[0, 1, 2]),
        (Call::VdevStart { rd, pdev, vdev }, &[0, 1, 2]),
        (Call::VdevUnlock { rd, pdev, vdev }, &[0, 1, 2]),
        (Call::VdevAbort { rd, pdev, vdev }, &[0, 1, 2]),
        (Call::VdevDestroy { rd, pdev, vdev }, &[0, 1, 2]),
        (Call::VdevComplete { rec, vdev }, &[0, 1]),
        (Call::RttDevValidate { rd, rec, base, top }, &[0, 1]),
    ];
    // Nothing that any of the arguments may be.
    let wrong = [
        1,
        rd | 8,
        rig.realm.root,
        ENDPOINT_BAR,
        0,
        0x7fff_f000,
        0x8400_0000,
        u64::MAX,
        !0xfff,
    ];
    let before = rig.host.snapshot();
    let carried = rig.carried;
    for (call, places) in calls {
        let (function, registers) = call.encode();
        for place in places {
            for value in wrong {
                let mut registers = registers;
                registers[*place] = value;
                let [status, ..] = rig.host.raw(function, &registers);
                assert_eq!(
                    status,
                    INPUT.word(),
                    "{call:x?}, argument {place} = {value:#x}"
                );
            }
        }
    }
    assert!(rig.host.snapshot() == before);
    assert_eq!((rig.state(), rig.device_state(pdev)), (2, 3));
    assert_eq!(rig.carried, carried);
}

/// One granule in two roles.
#[test]
fn one_granule_cannot_play_two_parts() {
    let rig = Rig::locked();
    let (rd, pdev, vdev) = rig.names();
    let params = rig.host.page_with(&[]);
    let before = rig.host.snapshot();
    let calls = [
        Call::VdevLock { rd, pdev: rd, vdev },
        Call::VdevLock {
            rd: vdev,
            pdev,
            vdev,
        },
        Call::VdevStart {
            rd,
            pdev: vdev,
            vdev,
        },
        Call::VdevCreate {
            rd,
            pdev: rd,
            vdev: rd,
            params,
        },
        Call::VdevCreate {
            rd,
            pdev,
            vdev: pdev,
            params,
        },
        Call::PdevCreate {
            pdev: params,
            params,
        },
        Call::PdevStreamDisconnect {
            pdev_1: pdev,
            pdev_2: pdev,
            handle: rig.handle,
        },
        Call::VdevComplete { rec: vdev, vdev },
    ];
    for call in calls {
        assert_eq!(rig.host.status(call), INPUT, "{call:x?}");
    }
    assert!(rig.host.snapshot() == before);
}

#[test]
fn the_orders_of_all_vendors_end_with_the_host_having_everything() {
    // Unmap, then stop; stop is refused while mapped, so abort, unmap, unlock; cut off, then either.
    let orders: [fn(&mut Rig); 4] = [
        |rig| {
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
            rig.unlock();
        },
        |rig| {
            assert_eq!(rig.ask_unlock(), RmiStatus::GRANULE);
            assert_eq!(rig.ask_measurements(), OK);
            assert_eq!(rig.abort(), OK);
            assert_eq!(
                rig.ask_unlock(),
                RmiStatus::GRANULE,
                "mapped, though out of reach"
            );
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
            rig.unlock();
        },
        |rig| {
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
            rig.host.undelegate(ENDPOINT_BAR, PRIVATE_PAGES);
            rig.unlock();
        },
        |rig| {
            assert_eq!(rig.disable_dma(), 0);
            let off = Some(0);
            rig.host
                .tsm
                .host_config_access(&rig.host.fake, ENDPOINT, 4, 2, off);
            assert_eq!(rig.host.fake.config_read(ENDPOINT, 4, 2) & 6, 6);
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
            rig.unlock();
        },
    ];
    for order in orders {
        let mut rig = Rig::running();
        order(&mut rig);
        assert_eq!(rig.destroy_interface(), OK);
        rig.host.undelegate(rig.vdev, 1);
        rig.vdev = 0;
        rig.take_back();
    }
}
