// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! IDE streams: what takes them, whose they are, and new keys under traffic.

mod rig;

use std::collections::BTreeSet;

use rig::{DATA_IPA, PAGE, Pumped, Rig, STREAM};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{AddressRange, Call, PdevCategory, PdevStreamParams};
use tsm_devices::TdiState;
use tsm_platform::{Rid, StreamRegisters};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, FaultPoint, Function, ROOT_PORT, success};
use zerocopy::{FromZeros, IntoBytes};

const READY: u64 = 3;
const ERROR: u64 = 5;
const STARTED: u64 = 3;
const OK: RmiStatus = RmiStatus::SUCCESS;

/// Asks for a stream between `device` and the root port.
fn ask(rig: &Rig, device: u64, change: impl FnOnce(&mut PdevStreamParams)) -> RmiStatus {
    let mut params = PdevStreamParams::new_zeroed();
    params.stream_type = 1.into();
    params.pdev_1 = rig.port.into();
    params.pdev_2 = device.into();
    params.ide_sid = u64::from(STREAM).into();
    change(&mut params);
    let params = rig.host.page_with(params.as_bytes());
    rig.host.status(Call::PdevStreamConnect { params })
}

fn range(params: &mut PdevStreamParams, index: usize, base: u64, top: u64) {
    params.addr_range[index] = AddressRange {
        base: base.into(),
        top: top.into(),
    };
    params.num_addr_range = (index as u64 + 1).into();
}

fn registers(rig: &Rig) -> Option<StreamRegisters> {
    rig.host.fake.stream_registers(ROOT_PORT, STREAM)
}

#[test]
fn a_stream_takes_the_packets_of_its_device_and_no_others() {
    let mut rig = Rig::connected();
    let seen = registers(&rig).unwrap();
    assert!(seen.enabled);
    assert_eq!(seen.rids, (ENDPOINT, ENDPOINT));
    let ranges: Vec<_> = seen.ranges.iter().flatten().collect();
    assert_eq!(ranges.len(), 1);
    assert_eq!(ranges[0].base(), ENDPOINT_BAR);
    assert_eq!(rig.disconnect_stream(), OK);
    rig.pump_stream();
    assert_eq!(registers(&rig), None);
    rig.take_back();
}

/// C08
#[test]
fn ranges_that_are_no_devices_or_anybody_elses_are_refused() {
    let mut rig = Rig::new();
    rig.create_ends();
    rig.open_session();
    let device = rig.device;
    let memory = rig.host.pages(1);
    let (bar, end) = (ENDPOINT_BAR, ENDPOINT_BAR + 4 * PAGE);
    let wrong: [(u64, u64); 7] = [
        (memory, memory + PAGE),
        (bar, bar),
        (end, bar),
        (bar + 1, end),
        (0x1000, 0x2000),
        (0x10ff_f000, 0x1100_1000),
        (u64::MAX - 0xfff, 0),
    ];
    for (base, top) in wrong {
        let refused = ask(&rig, device, |params| range(params, 0, base, top));
        assert_eq!(refused, RmiStatus::INPUT, "{base:#x}");
    }
    let twice = ask(&rig, device, |params| {
        range(params, 0, bar, end);
        range(params, 1, end - PAGE, end + PAGE);
    });
    assert_eq!(twice, RmiStatus::INPUT);
    let many = ask(&rig, device, |params| params.num_addr_range = 17.into());
    assert_eq!(many, RmiStatus::INPUT);
    rig.ask_for_stream();
    rig.pump_stream();
    rig.take_back();
}

/// C08
#[test]
fn an_interface_outside_of_the_streams_ranges_is_not_locked() {
    let mut rig = Rig::new();
    rig.create_ends();
    rig.open_session();
    // One page less than the interface has.
    let [handle, ..] = {
        let mut params = PdevStreamParams::new_zeroed();
        params.stream_type = 1.into();
        params.pdev_1 = rig.port.into();
        params.pdev_2 = rig.device.into();
        params.ide_sid = u64::from(STREAM).into();
        range(&mut params, 0, ENDPOINT_BAR + PAGE, ENDPOINT_BAR + 4 * PAGE);
        let params = rig.host.page_with(params.as_bytes());
        success(rig.host.call(Call::PdevStreamConnect { params }))
    };
    rig.handle = handle;
    rig.pump_stream();
    rig.assign();
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
    assert_eq!(rig.tdi(), TdiState::ConfigUnlocked);
    rig.take_back();
}

/// C08
#[test]
fn registers_that_changed_are_noticed_before_anything_is_granted() {
    let spoils: [fn(&mut StreamRegisters); 4] = [
        |registers| registers.enabled = false,
        |registers| registers.rids.1 = Rid(0x01ff),
        |registers| registers.ranges[0] = None,
        |registers| registers.ranges[7] = registers.ranges[0],
    ];
    for spoil in spoils {
        let mut rig = Rig::assigned();
        let good = registers(&rig).unwrap();
        let set = |rig: &Rig, wanted: StreamRegisters| {
            rig.host
                .fake
                .spoil_stream(ROOT_PORT, STREAM, |registers| *registers = wanted);
        };
        rig.host.fake.spoil_stream(ROOT_PORT, STREAM, spoil);
        assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
        set(&rig, good);
        rig.lock();
        rig.measure();
        rig.report();
        rig.accept_memory();
        rig.host.fake.spoil_stream(ROOT_PORT, STREAM, spoil);
        assert_eq!(rig.ask_start(), RmiStatus::DEVICE);
        set(&rig, good);
        rig.start();
        rig.host.fake.spoil_stream(ROOT_PORT, STREAM, spoil);
        assert_ne!(rig.enable_dma(rig.nonces()), 0);
        assert_eq!(rig.dma(DATA_IPA), None);
        set(&rig, good);
        let nonces = rig.nonces();
        assert_eq!(rig.enable_dma(nonces), 0);
        rig.take_back();
    }
}

/// C01
#[test]
fn a_stream_id_has_one_device_of_a_root_port() {
    let mut rig = Rig::new();
    // A second function of the device, so that two endpoints are below the port.
    let second = Rid(ENDPOINT.0 | 1);
    let function = rig.host.fake.function(ENDPOINT).unwrap();
    let function = function.with(0x10, 0, 0).with(0x14, 0, 0);
    rig.host.fake.set_function(second, function);
    rig.connect();
    let device = rig.device;
    assert_eq!(ask(&rig, device, |_| ()), RmiStatus::INPUT, "it has one");
    let other = Rig::pdev_params(PdevCategory::EndpointOffChip, second);
    let first = std::mem::replace(&mut rig.device, rig.host.create_pdev(&other).unwrap());
    let other = rig.device;
    assert_eq!(ask(&rig, other, |_| ()), RmiStatus::INPUT, "no session");
    rig.objects.clear();
    rig.open_session();
    assert_eq!(ask(&rig, other, |_| ()), RmiStatus::INPUT, "it is taken");
    let claimed = |params: &mut PdevStreamParams| {
        params.ide_sid = 6.into();
        range(params, 0, ENDPOINT_BAR, ENDPOINT_BAR + PAGE);
    };
    let refused = ask(&rig, other, claimed);
    assert_eq!(refused, RmiStatus::INPUT, "the first one's memory");
    assert_eq!(ask(&rig, other, |params| params.ide_sid = 6.into()), OK);
    let (handle, first_handle) = (other | 1, rig.handle);
    rig.handle = handle;
    let pdev = other;
    success(rig.host.call(Call::PdevAbort { pdev }));
    success(rig.host.call(Call::PdevStop { pdev }));
    assert_eq!(rig.pump_device(pdev), Pumped::Done);
    success(rig.host.call(Call::PdevDestroy { pdev }));
    rig.host.release_pdev(pdev);
    (rig.device, rig.handle) = (first, first_handle);
    assert_eq!(rig.root_port_keys(), 6, "the first one is as it was");
    rig.take_back();
}

/// C09, CVE-2025-9612
#[test]
fn a_device_behind_a_switch_gets_no_stream() {
    let mut rig = Rig::new();
    // The root port leads to buses 1 and 2, and the device is on the second.
    let buses = |function: Function, first: u32, last: u32| {
        function.with(0x18, first << 8 | last << 16, 0xff_ffff)
    };
    let device = Rid(0x0200);
    let function = rig.host.fake.function(ENDPOINT).unwrap();
    rig.host.fake.set_function(device, function);
    let port = rig.host.fake.function(ROOT_PORT).unwrap();
    let leads_to = |rig: &Rig, first, last| {
        let function = buses(port.clone(), first, last);
        rig.host.fake.set_function(ROOT_PORT, function);
    };
    leads_to(&rig, 1, 2);
    let params = Rig::pdev_params(PdevCategory::EndpointOffChip, device);
    rig.create_ends_with(&params).unwrap();
    rig.open_session();
    assert_eq!(ask(&rig, rig.device, |_| ()), RmiStatus::NOT_SUPPORTED);
    leads_to(&rig, 3, 4);
    assert_eq!(ask(&rig, rig.device, |_| ()), RmiStatus::INPUT);
    leads_to(&rig, 2, 2);
    assert_eq!(ask(&rig, rig.device, |_| ()), OK);
}

/// C08
#[test]
fn a_device_that_moved_behind_a_switch_is_not_locked() {
    let rig = Rig::assigned();
    let port = rig.host.fake.function(ROOT_PORT).unwrap();
    let moved = port.with(0x18, 2 << 8 | 3 << 16, 0xff_ffff);
    rig.host.fake.set_function(ROOT_PORT, moved);
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
}

/// C04
#[test]
fn no_packet_is_lost_while_keys_change_as_often_as_wanted() {
    let mut rig = Rig::running();
    let mut seen: BTreeSet<[u8; 32]> = rig.keys().into_iter().collect();
    assert_eq!(seen.len(), 6);
    let (mut before, _) = rig.packets();
    for round in 2..9 {
        rig.renew_keys();
        seen.extend(rig.keys());
        assert_eq!(seen.len(), 6 * round, "every key is new");
        let (sent, lost) = rig.packets();
        assert!(sent > before + 100);
        assert_eq!(lost, 0);
        before = sent;
        rig.refresh();
        assert!(rig.is_secure());
        assert_eq!((rig.state(), rig.tdi()), (STARTED, TdiState::Run));
        assert!(rig.dma(DATA_IPA).is_some());
    }
    rig.take_back();
}

/// C03, C04
#[test]
fn a_refresh_that_fails_at_the_root_port_ends_on_one_set_or_on_none() {
    // 6 keys, 3 receivers and 3 transmitters on each end, 6 stops on each.
    for failing in 0..18 {
        let mut rig = Rig::running();
        let old = rig.keys();
        assert_eq!(rig.refresh_keys(), OK);
        rig.host.fake.fail_kind_after(FaultPoint::RootPort, failing);
        assert_eq!(rig.pump_device(rig.port), Pumped::Wait);
        assert_eq!(rig.pump_device(rig.device), Pumped::Done);
        assert!(rig.host.fake.disarm().is_some(), "{failing}");
        rig.refresh();
        if rig.device_state(rig.device) == READY {
            assert!(failing < 9, "{failing}");
            assert_eq!(rig.keys(), old);
            assert!(rig.is_secure());
            assert_eq!(rig.packets().1, 0, "{failing}");
        } else {
            assert_eq!(rig.device_state(rig.device), ERROR);
            assert!(failing >= 9, "{failing}");
            assert_eq!(rig.root_port_keys(), 0);
            assert_eq!(registers(&rig), None);
            assert_eq!(rig.dma(DATA_IPA), None);
        }
        rig.take_back();
    }
}

/// CVE-2025-9614
#[test]
fn a_purge_leaves_the_keys_in_use_alone() {
    let mut rig = Rig::running();
    let keys = rig.keys();
    assert_eq!(rig.purge_keys(), OK);
    assert_eq!(rig.purge_keys(), RmiStatus::INPUT, "one is under way");
    rig.pump_stream();
    assert_eq!(rig.keys(), keys);
    rig.refresh();
    assert!(rig.is_secure());
    assert_eq!(rig.packets().1, 0);
    assert_eq!(rig.state(), STARTED);
    rig.renew_keys();
    rig.take_back();
}

/// CVE-2025-9613, CVE-2025-9614
#[test]
fn nobody_gets_behind_the_keys_of_a_realm_that_left() {
    let mut rig = Rig::locked();
    let other = rig.host.realm();
    rig.unlock();
    rig.lock();
    rig.unlock();
    assert_eq!(rig.destroy_interface(), OK);
    rig.host.undelegate(rig.vdev, 1);
    // The same realm or another: who left has left.
    for rd in [rig.realm.rd, other.rd] {
        let own = std::mem::replace(&mut rig.realm.rd, rd);
        rig.assign();
        assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
        assert_eq!(rig.purge_keys(), OK);
        rig.pump_stream();
        assert_eq!(rig.ask_lock(), RmiStatus::DEVICE, "no new keys");
        rig.renew_keys();
        rig.lock();
        // Keys that changed while it was there are its, too.
        rig.renew_keys();
        rig.unlock();
        assert_eq!(rig.destroy_interface(), OK);
        rig.host.undelegate(rig.vdev, 1);
        rig.realm.rd = own;
    }
    rig.vdev = 0;
    rig.host.reclaim(&other);
    rig.take_back();
}
