// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! D11: several functions of one device, in one realm or in two, over one session and one stream.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig, VDEV_ID};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, PdevCategory, VdevParams};
use tsm_devices::{Bar, Function, FunctionView, Layout, TdiState};
use tsm_platform::{Rid, StreamId};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR_BYTES, ROOT_PORT, success};

/// The endpoint's second function and its BAR.
const SECOND: Rid = Rid(0x0101);
const SECOND_BAR: u64 = 0x1018_0000;
const UNLOCKED: u64 = 1;
const LOCKED: u64 = 2;
const STARTED: u64 = 3;
const ERROR: u64 = 4;

/// Boots and connects a device with two functions.
fn connected() -> Rig {
    connected_to(u32::from(SECOND.0) + 1)
}

/// Boots and connects a device with two functions, of which those below `top` are said to be its.
fn connected_to(top: u32) -> Rig {
    let bar = Bar {
        index: 0,
        address: SECOND_BAR,
        size: ENDPOINT_BAR_BYTES,
    };
    let view = FunctionView {
        rid: Some(SECOND.0),
        bars: vec![bar],
    };
    let mut rig = Rig::with_functions(vec![Function {
        layout: Layout::QEMU_NVME,
        source: Box::new(view),
    }]);
    let first = rig.host.fake.function(ENDPOINT).unwrap();
    let low = u32::try_from(SECOND_BAR).unwrap() | 4;
    let second = first.clone().with(0x10, low, 0xffff_c000);
    let first = first.with(0x0c, 0x0080_0000, 0);
    rig.host.fake.set_function(ENDPOINT, first);
    rig.host.fake.set_function(SECOND, second);
    let mut device = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    device.rid_top = top.into();
    rig.connect_device(&device);
    rig
}

fn second_params(id: u64) -> VdevParams {
    let mut params: VdevParams = zerocopy::FromZeros::new_zeroed();
    params.vdev_id = id.into();
    params.tdi_id = u64::from(SECOND.0).into();
    params.num_addr_range = 1.into();
    params.addr_range[0].base = SECOND_BAR.into();
    params.addr_range[0].top = (SECOND_BAR + ENDPOINT_BAR_BYTES).into();
    params
}

/// Goes on with what the host asked of the interface that the rig is about.
#[track_caller]
fn pumped(rig: &mut Rig, status: RmiStatus, state: u64) {
    assert_eq!(status, RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.state(), state);
}

/// Creates an interface of the second function, from UNLOCKED to LOCKED with evidence.
fn lock_second(rig: &mut Rig, id: u64) {
    rig.vdev = rig.create_interface(&second_params(id)).unwrap();
    assert_eq!(rig.pump_interface(), Pumped::Done);
    let asked = rig.ask_lock();
    pumped(rig, asked, LOCKED);
    let asked = rig.ask_measurements();
    pumped(rig, asked, LOCKED);
    let asked = rig.ask_report();
    pumped(rig, asked, LOCKED);
}

/// Makes the first function's interface run for the rig's guest.
fn run_first(rig: &mut Rig) {
    rig.assign();
    rig.lock();
    rig.measure();
    rig.report();
    rig.accept_memory();
    rig.start();
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), 0);
}

fn tdi(rig: &Rig, function: usize) -> TdiState {
    rig.dsm.state().interfaces[function].state
}

/// D11: what the host did not declare as the device's is not assigned with it.
#[test]
fn a_function_outside_the_range_of_its_device_is_no_interface_of_it() {
    for (top, expected) in [(SECOND.0, Some(RmiStatus::INPUT)), (SECOND.0 + 1, None)] {
        let rig = connected_to(top.into());
        let created = rig.create_interface(&second_params(VDEV_ID + 1));
        assert_eq!(created.err(), expected, "{top:#x}");
    }
}

fn second_dma(rig: &Rig) -> Option<u64> {
    rig.host.fake.dma(StreamId(u32::from(SECOND.0)), DATA_IPA)
}

fn write(rig: &Rig, rid: Rid, offset: u16, value: u32) {
    let (tsm, fake) = (&rig.host.tsm, &rig.host.fake);
    tsm.host_config_access(fake, rid, offset, 2, Some(value));
}

/// Gives the interface that the rig is about back, and makes it about `next`.
fn give_back(rig: &mut Rig, next: u64) {
    if rig.state() != UNLOCKED {
        let asked = rig.ask_unlock();
        pumped(rig, asked, UNLOCKED);
    }
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    rig.host.undelegate(rig.vdev, 1);
    rig.vdev = next;
}

#[test]
fn one_guest_has_two_functions_and_loses_them_one_by_one() {
    let mut rig = connected();
    run_first(&mut rig);
    let first = rig.vdev;
    assert_eq!(
        rig.create_interface(&second_params(VDEV_ID)),
        Err(RmiStatus::INPUT),
        "the guest knows another one by that"
    );
    lock_second(&mut rig, VDEV_ID + 1);
    let asked = rig.ask_start();
    pumped(&mut rig, asked, STARTED);
    let second = rig.vdev;
    assert_eq!((tdi(&rig, 0), tdi(&rig, 1)), (TdiState::Run, TdiState::Run));
    assert_eq!(
        second_dma(&rig),
        None,
        "the guest has not accepted that one"
    );
    assert!(rig.dma(DATA_IPA).is_some());

    // What is done to one function costs that one.
    write(&rig, SECOND, 0x48, 0xa810);
    assert_eq!(rig.state(), ERROR);
    rig.vdev = first;
    assert_eq!(rig.state(), STARTED);
    assert!(rig.dma(DATA_IPA).is_some() && rig.reach(DEVICE_IPA).is_some());
    rig.vdev = second;
    give_back(&mut rig, first);
    assert_eq!(tdi(&rig, 1), TdiState::ConfigUnlocked);
    assert_eq!(tdi(&rig, 0), TdiState::Run);

    // What is done to the path costs both.
    rig.renew_keys();
    lock_second(&mut rig, VDEV_ID + 1);
    let second = rig.vdev;
    let port = rig.host.fake.function(ROOT_PORT).unwrap();
    rig.host
        .fake
        .set_function(ROOT_PORT, port.with(0x3c, 0, 0xffff_00ff));
    write(&rig, ROOT_PORT, 0x3e, 0x40);
    assert_eq!(rig.state(), ERROR);
    rig.vdev = first;
    assert_eq!((rig.state(), rig.dma(DATA_IPA)), (ERROR, None));
    rig.vdev = second;
    give_back(&mut rig, first);
    rig.take_back();
}

#[test]
fn a_session_that_is_lost_takes_every_function_with_it() {
    let mut rig = connected();
    run_first(&mut rig);
    let first = rig.vdev;
    lock_second(&mut rig, VDEV_ID + 1);
    rig.tamper = Some(Box::new(|_, _| false));
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    rig.tamper = None;
    assert_eq!(rig.state(), ERROR);
    let second = std::mem::replace(&mut rig.vdev, first);
    assert_eq!((rig.state(), rig.dma(DATA_IPA)), (ERROR, None));
    assert_eq!(rig.reach(DEVICE_IPA), None);
    rig.vdev = second;
    give_back(&mut rig, first);
    rig.take_back();
}

#[test]
fn two_guests_have_one_function_each_and_nothing_of_the_other() {
    let mut rig = connected();
    run_first(&mut rig);
    let first = rig.vdev;
    let other = rig.host.new_realm();
    rig.host.init_ripas(&other, 0, 4 * PAGE);
    success(rig.host.call(Call::RealmActivate { rd: other.rd }));
    let others_page = rig.host.map_private(&other, DATA_IPA);
    let own = std::mem::replace(&mut rig.realm, other);
    // Ids are the guests' own: the same one names another interface here.
    lock_second(&mut rig, VDEV_ID);
    rig.host.delegate(SECOND_BAR, PRIVATE_PAGES);
    let nonces = rig.nonces();
    for (what, address) in [("the other's", 0x1010_0000), ("its own", SECOND_BAR)] {
        let (exit, registers) = rig.ask_memory(DEVICE_IPA, address, PRIVATE_PAGES, nonces);
        if address != SECOND_BAR {
            assert_ne!(registers.get()[0], 0, "{what}");
            continue;
        }
        assert_eq!(exit.exit_reason.get(), 9, "{what}");
        assert_eq!(
            rig.map(DEVICE_IPA, address, PRIVATE_PAGES),
            RmiStatus::SUCCESS
        );
        assert_eq!(rig.validate(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
        rig.host.enter(&rig.realm);
    }
    let asked = rig.ask_start();
    pumped(&mut rig, asked, STARTED);
    assert_eq!(rig.enable_dma(nonces), 0);
    assert_eq!(second_dma(&rig), Some(others_page));
    assert_ne!(rig.dma(DATA_IPA), Some(others_page));

    // The first guest's device goes; the second one's stays.
    let (second, theirs) = (rig.vdev, std::mem::replace(&mut rig.realm, own));
    rig.vdev = first;
    write(&rig, ENDPOINT, 0x04, 0);
    assert_eq!((rig.state(), rig.dma(DATA_IPA)), (ERROR, None));
    assert_eq!(second_dma(&rig), Some(others_page));
    let own = std::mem::replace(&mut rig.realm, theirs);
    rig.vdev = second;
    assert_eq!(rig.state(), STARTED);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    give_back(&mut rig, first);
    let theirs = std::mem::replace(&mut rig.realm, own);
    rig.host.undelegate(SECOND_BAR, PRIVATE_PAGES);
    rig.host.reclaim(&theirs);
    rig.take_back();
}
