// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Devices: connecting, binding, accepting and giving back at the same time.

use std::sync::{Arc, Mutex};

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, MapFlags, PdevCategory, PdevStreamParams, RecEnter, StreamType};
use tsm_abi::rsi;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Fake, Stream, Vcpu, Work, success};
use zerocopy::{FromZeros, IntoBytes};

use crate::rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig, STREAM, VDEV_ID};
use crate::{explore, race, winners};

const OK: RmiStatus = RmiStatus::SUCCESS;
const STARTED: u64 = 3;

/// B04: two CPUs create the object of one device, then its stream, then its interface.
#[test]
fn what_two_cpus_make_of_one_device_is_made_once() {
    let mut rig = Rig::connected();
    let host = &rig.host;
    let other = host.realm();
    let params = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    let params = host.page_with(params.as_bytes());
    let vdev_params = host.page_with(rig.vdev_params().as_bytes());
    let objects = [host.delegated(), host.delegated()];
    explore("one device, two hosts", 300, |seed| {
        // The device exists already.
        let again = |pdev| vec![Call::PdevCreate { pdev, params }];
        let (answers, first) = race(host, seed, &[again(objects[0]), again(objects[1])]);
        assert_eq!(winners(&answers), 0);
        // Two realms want its interface.
        let pdev = rig.device;
        let create = |rd, vdev| {
            vec![Call::VdevCreate {
                rd,
                pdev,
                vdev,
                params: vdev_params,
            }]
        };
        let works = [
            create(rig.realm.rd, objects[0]),
            create(other.rd, objects[1]),
        ];
        let (answers, second) = race(host, seed, &works);
        assert_eq!(winners(&answers), 1, "{answers:?}");
        let won = usize::from(answers[1][0] == OK);
        let names = ([rig.realm.rd, other.rd][won], objects[won]);
        let (rd, vdev) = names;
        let destroy = vec![Call::VdevDestroy { rd, pdev, vdev }];
        let (answers, third) = race(host, seed, &[destroy.clone(), destroy]);
        assert_eq!(winners(&answers), 1, "{answers:?}");
        first + second + third
    });
    objects.iter().for_each(|page| host.undelegate(*page, 1));
    host.reclaim(&other);
    rig.take_back();
}

/// B04.
#[test]
fn of_two_cpus_that_connect_one_device_one_does() {
    let mut rig = Rig::new();
    rig.create_ends();
    rig.open_session();
    let mut params = PdevStreamParams::new_zeroed();
    params.stream_type = StreamType::NonCoherent.word().into();
    (params.pdev_1, params.pdev_2) = (rig.device.into(), rig.port.into());
    params.ide_sid = u64::from(STREAM).into();
    let params = rig.host.page_with(params.as_bytes());
    explore("connect", 60, |seed| {
        let connect = vec![Call::PdevStreamConnect { params }];
        let (answers, first) = race(&rig.host, seed, &[connect.clone(), connect]);
        assert_eq!(winners(&answers), 1, "{answers:?}");
        rig.handle = rig.device | StreamType::NonCoherent.word();
        rig.pump_stream();
        let (pdev_1, pdev_2, handle) = (rig.device, rig.port, rig.handle);
        let stop = |pdev_1, pdev_2| {
            vec![Call::PdevStreamDisconnect {
                pdev_1,
                pdev_2,
                handle,
            }]
        };
        let works = [stop(pdev_1, pdev_2), stop(pdev_2, pdev_1)];
        let (answers, second) = race(&rig.host, seed, &works);
        assert_eq!(winners(&answers), 1, "{answers:?}");
        rig.pump_stream();
        assert_eq!(rig.root_port_keys(), 0);
        first + second
    });
    rig.take_back();
}

fn unlock(rig: &Rig) -> Call {
    let (rd, pdev, vdev) = rig.names();
    Call::VdevUnlock { rd, pdev, vdev }
}

fn unmap(rig: &Rig) -> Call {
    Call::RttDevUnmap {
        rd: rig.realm.rd,
        base: DEVICE_IPA,
        top: DEVICE_IPA + PRIVATE_PAGES * PAGE,
        flags: MapFlags::single().0,
        oaddr: 0,
    }
}

/// Has the guest make `call` and the host name the object: the next entry does the work.
fn named(rig: &Rig, call: rsi::Call) -> Call {
    rig.forget_script();
    rig.host.fake.script().guest_call(call);
    assert_eq!(rig.host.enter(&rig.realm).exit_reason.get(), 8);
    let (rec, vdev) = (rig.realm.rec, rig.vdev);
    success(rig.host.call(Call::VdevComplete { rec, vdev }));
    let entry = RecEnter::new_zeroed();
    let stored = rig.host.fake.host_store(rig.realm.run, entry.as_bytes());
    stored.unwrap();
    let run = rig.realm.run;
    Call::RecEnter { rec, run }
}

/// Returns what the guest's last call answered.
fn answer(rig: &Rig) -> u64 {
    let registers = Arc::new(Mutex::new(None));
    let into = registers.clone();
    let look = move |_: &Fake, vcpu: &mut Vcpu| *into.lock().unwrap() = Some(vcpu.gprs[0]);
    rig.host.fake.script().look(look);
    rig.host.enter(&rig.realm);
    let answer = registers.lock().unwrap().take();
    answer.expect("the guest has run")
}

fn lock_and_start(rig: &mut Rig) {
    rig.lock();
    rig.measure();
    rig.report();
    rig.start();
}

/// D08, P1: the guest turns DMA on while the host takes the interface back.
#[test]
fn unlocking_against_accepting_leaves_no_dma() {
    let mut rig = Rig::assigned();
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    let mut granted = [0; 2];
    explore("unlock against DMA", 150, |seed| {
        lock_and_start(&mut rig);
        let [lock_nonce, meas_nonce, report_nonce] = rig.nonces();
        let enable = rsi::Call::VdevDmaEnable {
            vdev_id: VDEV_ID,
            flags: 0,
            non_ats_plane: 0,
            lock_nonce,
            meas_nonce,
            report_nonce,
        };
        let enter = named(&rig, enable);
        let works = [vec![enter], vec![unlock(&rig)], vec![unlock(&rig)]];
        let (answers, switches) = race(&rig.host, seed, &works);
        let unlocked = winners(&answers[1..]);
        assert_eq!(unlocked, 1, "{answers:?}");
        assert_eq!(rig.dma(DATA_IPA), None, "unlocking has begun");
        let stream = rig.host.fake.changed_streams()[&u32::from(ENDPOINT.0)];
        assert_eq!(stream, Stream::Blocked);
        granted[usize::from(answer(&rig) == 0)] += 1;
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(rig.state(), 1);
        switches
    });
    assert!(granted.iter().all(|count| *count > 0), "{granted:?}");
    rig.take_back();
}

/// D08, P2, P3: the guest accepts memory while the host makes the interface fail.
#[test]
fn a_cut_against_accepting_memory_leaves_no_access() {
    let mut rig = Rig::assigned();
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    let mut reached = [0; 2];
    explore("cut against validation", 150, |seed| {
        lock_and_start(&mut rig);
        let nonces = rig.nonces();
        rig.forget_script();
        let (exit, _) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES, nonces);
        assert_eq!(exit.exit_reason.get(), 9);
        assert_eq!(rig.map(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES), OK);
        let validate = Call::RttDevValidate {
            rd: rig.realm.rd,
            rec: rig.realm.rec,
            base: DEVICE_IPA,
            top: DEVICE_IPA + PRIVATE_PAGES * PAGE,
        };
        let host = &rig.host;
        let answer = Mutex::new(None);
        let works: Vec<Work<'_>> = vec![
            Box::new(|| *answer.lock().unwrap() = Some(host.status(validate))),
            Box::new(|| {
                // Turning memory decoding off disturbs it.
                let off = Some(0);
                host.tsm.host_config_access(&host.fake, ENDPOINT, 4, 2, off);
            }),
        ];
        let switches = host.fake.interleave(seed, works);
        assert!(host.tsm.granules().is_quiet());
        let validated = answer.into_inner().unwrap() == Some(OK);
        reached[usize::from(validated)] += 1;
        assert_eq!(rig.state(), 4);
        assert_eq!(rig.reach(DEVICE_IPA), None);
        // The guest's call ends, then everything goes back.
        rig.forget_script();
        rig.host.enter(&rig.realm);
        assert_eq!(rig.host.status(unmap(&rig)), OK);
        assert_eq!(rig.host.status(unlock(&rig)), OK);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        if validated {
            rig.give_up_addresses();
        }
        switches
    });
    assert!(reached.iter().all(|count| *count > 0), "{reached:?}");
    rig.take_back();
}

/// P3: the host takes the device's memory and its interface back on two CPUs while the guest runs.
#[test]
fn a_page_of_a_running_device_is_the_hosts_only_without_dma() {
    let mut rig = Rig::assigned();
    explore("undelegate against run", 80, |seed| {
        lock_and_start(&mut rig);
        rig.accept_memory();
        let nonces = rig.nonces();
        rig.forget_script();
        assert_eq!(rig.enable_dma(nonces), 0);
        assert!(rig.dma(DATA_IPA).is_some());
        assert_eq!(rig.state(), STARTED);
        let release = Call::GranuleRangeUndelegate {
            start: ENDPOINT_BAR,
            end: ENDPOINT_BAR + PRIVATE_PAGES * PAGE,
        };
        let works = [vec![unmap(&rig), release], vec![unlock(&rig)]];
        let (answers, switches) = race(&rig.host, seed, &works);
        assert_eq!(answers[0], [OK; 2], "{answers:?}");
        assert_eq!(rig.dma(DATA_IPA), None);
        assert_eq!(rig.reach(DEVICE_IPA), None);
        // Refused while the memory was mapped: then the cut has put it into ERROR.
        if answers[1][0] != OK {
            assert_eq!(answers[1][0], RmiStatus::GRANULE);
            assert_eq!(rig.host.status(unlock(&rig)), OK);
        }
        assert_eq!(rig.pump_interface(), Pumped::Done);
        rig.forget_script();
        rig.give_up_addresses();
        switches
    });
    rig.take_back();
}
