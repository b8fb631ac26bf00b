// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The orders in which a host may take a device from its guest: what each accepts, what each refuses,
//! and that nobody reaches anything in between.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig, VDEV_ID};
use tsm_abi::rmi::{Call, TeardownOrder, features};
use tsm_abi::{MemoryRequest, RmiStatus, rsi};
use tsm_core::State;
use tsm_devices::TdiState;
use tsm_platform::{Access, GuestExit};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, FaultPoint, Owner, fault, success};

const OK: RmiStatus = RmiStatus::SUCCESS;
const UNLOCKED: u64 = 1;
const STARTED: u64 = 3;
const ERROR: u64 = 4;

/// Orders in which the interface stops before its memory is unmapped.
const STOPPING: [TeardownOrder; 2] = [TeardownOrder::StopFirst, TeardownOrder::MaskAndReap];
const ALL: [TeardownOrder; 3] = [
    TeardownOrder::UnmapFirst,
    TeardownOrder::StopFirst,
    TeardownOrder::MaskAndReap,
];

fn granule(rig: &Rig, page: u64) -> State {
    let address = ENDPOINT_BAR + page * PAGE;
    rig.host.tsm.granules().state(address).unwrap()
}

fn unlock(rig: &Rig) -> [u64; 8] {
    let (rd, pdev, vdev) = rig.names();
    rig.host.call(Call::VdevUnlock { rd, pdev, vdev })
}

fn destroy(rig: &Rig) -> [u64; 8] {
    let (rd, pdev, vdev) = rig.names();
    rig.host.call(Call::VdevDestroy { rd, pdev, vdev })
}

/// Checks that neither guest nor device nor host reaches anything of the other.
fn assert_out_of_reach(rig: &Rig) {
    assert_eq!(rig.dma(DATA_IPA), None);
    for page in 0..PRIVATE_PAGES {
        let address = ENDPOINT_BAR + page * PAGE;
        assert_eq!(rig.reach(DEVICE_IPA + page * PAGE), None);
        assert_eq!(rig.host.fake.owner(address), Owner::Realm);
        assert!(rig.host.fake.hidden_from_dma().contains(&address));
        let (start, end) = (address, address + PAGE);
        let undelegate = Call::GranuleRangeUndelegate { start, end };
        assert_eq!(rig.host.status(undelegate), RmiStatus::INPUT);
    }
    assert!(rig.host.fake.stale_translations().is_empty());
}

fn gone(rig: &mut Rig) {
    rig.host.undelegate(rig.vdev, 1);
    rig.vdev = 0;
}

#[test]
fn a_realm_states_one_of_the_published_orders_or_none() {
    let rig = Rig::bare(Vec::new());
    let index = features::TEARDOWN;
    let [orders, ..] = success(rig.host.call(Call::Features { index }));
    assert_eq!(features::TEARDOWN_ORDERS.of(orders), orders);
    let mut params = rig.host.realm_params();
    assert_eq!(
        params.teardown_order.get(),
        TeardownOrder::UnmapFirst.word()
    );
    let page = rig.host.delegated();
    for order in (0..10).chain([1 << 32, u64::MAX]) {
        params.teardown_order = order.into();
        let params = rig.host.page_with(zerocopy::IntoBytes::as_bytes(&params));
        let status = rig.host.status(Call::RealmCreate { rd: page, params });
        let is_published = order < 8 && orders >> order & 1 == 1;
        let expected = if is_published { OK } else { RmiStatus::INPUT };
        assert_eq!(status, expected, "{order}");
        assert_eq!(is_published, TeardownOrder::from_word(order).is_some());
        if is_published {
            success(rig.host.call(Call::RealmDestroy { rd: page }));
        }
    }
}

/// The order is the host's affair: what a guest attests does not depend on it.
#[test]
fn the_order_does_not_count_in_the_measurement() {
    let initial = ALL.map(|order| {
        let mut rig = Rig::bare(Vec::new());
        rig.order = order;
        rig.build_guest();
        let (function, arguments) = rsi::Call::MeasurementRead { index: 0 }.encode();
        let registers: Vec<u64> = std::iter::once(function).chain(arguments).collect();
        rig.host.fake.script().call(&registers);
        let seen = std::sync::Arc::new(std::sync::Mutex::new([0; 5]));
        let into = seen.clone();
        rig.host.fake.script().look(move |_, vcpu| {
            into.lock().unwrap().copy_from_slice(&vcpu.gprs[..5]);
        });
        rig.host.enter(&rig.realm);
        *seen.lock().unwrap()
    });
    assert_eq!((initial[0], initial[0]), (initial[1], initial[2]));
    assert!(initial[0][0] == 0 && initial[0][1] != 0);
}

#[test]
fn each_order_takes_the_device_away_and_leaves_nothing() {
    for order in ALL {
        let mut rig = Rig::running_in(order);
        if order == TeardownOrder::UnmapFirst {
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
        }
        rig.unlock();
        assert_eq!(rig.tdi(), TdiState::ConfigUnlocked);
        if order == TeardownOrder::StopFirst {
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
        }
        assert_eq!(rig.destroy_interface(), OK);
        gone(&mut rig);
        if order == TeardownOrder::MaskAndReap {
            assert_eq!(granule(&rig, 0), State::Masked);
            assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
        }
        assert_eq!(granule(&rig, 0), State::Delegated);
        // And again, for the same guest.
        rig.give_up_addresses();
        rig.renew_keys();
        rig.assign();
        rig.run();
        rig.take_back();
    }
}

/// The wrong order, one way.
#[test]
fn a_host_that_unmaps_first_does_not_stop_while_memory_is_mapped() {
    let mut rig = Rig::running_in(TeardownOrder::UnmapFirst);
    let before = rig.host.snapshot();
    let refused = [RmiStatus::GRANULE.word(), ENDPOINT_BAR];
    assert_eq!(unlock(&rig)[..2], refused);
    assert_eq!(rig.unmap(DEVICE_IPA, 1), OK);
    assert_eq!(
        unlock(&rig)[..2],
        [RmiStatus::GRANULE.word(), ENDPOINT_BAR + PAGE]
    );
    assert_eq!(rig.state(), STARTED);
    assert!(rig.dma(DATA_IPA).is_some() && rig.reach(DEVICE_IPA + PAGE).is_some());
    assert_ne!(rig.host.snapshot().states, before.states, "one page less");
    rig.take_back();
}

/// The wrong order, the other way.
#[test]
fn a_host_that_stops_first_does_not_unmap_before() {
    for order in STOPPING {
        let mut rig = Rig::running_in(order);
        let before = rig.host.snapshot();
        for (ipa, pages) in [(DEVICE_IPA, PRIVATE_PAGES), (DEVICE_IPA + PAGE, 1)] {
            assert_eq!(rig.unmap(ipa, pages), RmiStatus::DEVICE, "{order:?}");
        }
        assert!(rig.host.snapshot() == before, "nothing has changed");
        assert!(rig.reach(DEVICE_IPA).is_some());
        // Not while the device is being told either.
        assert_eq!(rig.ask_unlock(), OK);
        assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::DEVICE);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
        rig.take_back();
    }
}

#[test]
fn everything_is_out_of_reach_before_the_device_is_told() {
    for order in STOPPING {
        let mut rig = Rig::running_in(order);
        let (carried, nonces) = (rig.carried, rig.nonces());
        assert_eq!(rig.ask_unlock(), OK);
        assert_eq!((rig.state(), rig.tdi()), (STARTED, TdiState::Run));
        assert_eq!(rig.carried, carried, "nobody was told");
        assert_out_of_reach(&rig);
        assert_eq!([0, 1].map(|page| granule(&rig, page)), [State::Masked; 2]);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(rig.state(), UNLOCKED);
        assert_out_of_reach(&rig);
        // The guest cannot undo it with what it proved before.
        assert_ne!(rig.enable_dma(nonces), 0);
        let (exit, _) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, nonces);
        assert_ne!(exit.exit_reason.get(), 9, "DEV_MEM_MAP");
        rig.take_back();
    }
}

#[test]
fn a_guest_that_touches_masked_memory_faults() {
    for order in STOPPING {
        let mut rig = Rig::running_in(order);
        assert_eq!(rig.ask_unlock(), OK);
        let touch = fault(DEVICE_IPA, Access::Write);
        rig.host
            .fake
            .script()
            .then(move |_, _| GuestExit::Fault(touch));
        let exit = rig.host.enter(&rig.realm);
        assert_eq!(exit.exit_reason.get(), 0, "SYNC");
        rig.forget_script();
        assert_eq!(rig.pump_interface(), Pumped::Done);
        rig.take_back();
    }
}

#[test]
fn an_interface_that_stopped_first_goes_after_its_memory() {
    let mut rig = Rig::running_in(TeardownOrder::StopFirst);
    rig.unlock();
    for page in 0..PRIVATE_PAGES {
        let refused = [RmiStatus::GRANULE.word(), ENDPOINT_BAR + page * PAGE];
        assert_eq!(destroy(&rig)[..2], refused);
        assert_eq!(rig.unmap(DEVICE_IPA + page * PAGE, 1), OK);
    }
    assert_eq!(rig.destroy_interface(), OK);
    gone(&mut rig);
    rig.take_back();
}

/// What the ownership table masks stays out of everybody's reach, and no address of it is used again
/// before it is reaped.
#[test]
fn masked_memory_outlives_its_interface_and_serves_nobody() {
    let mut rig = Rig::running_in(TeardownOrder::MaskAndReap);
    rig.unlock();
    assert_eq!(rig.destroy_interface(), OK);
    gone(&mut rig);
    assert_out_of_reach_of_all(&rig);
    rig.renew_keys();
    // Not for the same realm, and not for another.
    let vdev = rig.host.delegated();
    let params = rig.vdev_params();
    let page = rig.host.page_with(zerocopy::IntoBytes::as_bytes(&params));
    let (other, pdev) = (rig.host.realm(), rig.device);
    for rd in [rig.realm.rd, other.rd] {
        let refused = rig.host.call(Call::VdevCreate {
            rd,
            pdev,
            vdev,
            params: page,
        });
        assert_eq!(refused[..2], [RmiStatus::GRANULE.word(), ENDPOINT_BAR]);
    }
    rig.host.undelegate(vdev, 1);
    rig.host.reclaim(&other);
    // Half of it is reaped, and the other half is not.
    assert_eq!(rig.unmap(DEVICE_IPA, 1), OK);
    assert_eq!(
        [0, 1].map(|page| granule(&rig, page)),
        [State::Delegated, State::Masked]
    );
    assert_eq!(rig.create_interface(&params), Err(RmiStatus::GRANULE));
    assert_eq!(rig.unmap(DEVICE_IPA + PAGE, 1), OK);
    rig.give_up_addresses();
    rig.assign();
    rig.run();
    rig.take_back();
}

/// As [`assert_out_of_reach`], where the function is the host's again.
fn assert_out_of_reach_of_all(rig: &Rig) {
    for page in 0..PRIVATE_PAGES {
        let address = ENDPOINT_BAR + page * PAGE;
        assert_eq!(granule(rig, page), State::Masked);
        assert_eq!(rig.reach(DEVICE_IPA + page * PAGE), None);
        assert_eq!(rig.host.fake.owner(address), Owner::Realm);
        assert!(rig.host.fake.hidden_from_dma().contains(&address));
        assert_eq!(rig.dma(address), None, "nor by the device itself");
    }
}

#[test]
fn masked_memory_is_reaped_with_its_realm_at_the_latest() {
    let mut rig = Rig::running_in(TeardownOrder::MaskAndReap);
    rig.unlock();
    assert_eq!(rig.destroy_interface(), OK);
    gone(&mut rig);
    let rd = rig.realm.rd;
    success(rig.host.call(Call::RealmTerminate { rd }));
    assert_eq!(rig.host.status(Call::RealmDestroy { rd }), RmiStatus::REALM);
    assert_out_of_reach_of_all(&rig);
    // A table that holds it stays; the sweep over the realm's memory reaps it.
    let ipa = 0;
    let call = Call::RttDestroy { rd, ipa, level: 3 };
    assert_ne!(rig.host.status(call), OK);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
    rig.take_back();
}

/// Memory that the next lock's guest would like to accept where it is mapped already.
#[test]
fn masked_memory_is_not_accepted_again_before_it_was_unmapped() {
    for order in STOPPING {
        let mut rig = Rig::running_in(order);
        rig.unlock();
        rig.lock();
        rig.measure();
        rig.report();
        // The guest gives up its addresses, so that it could accept them; the memory stays.
        rig.give_up_addresses();
        let nonces = rig.nonces();
        let (exit, _) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES, nonces);
        assert_eq!(exit.exit_reason.get(), 9, "DEV_MEM_MAP");
        assert_ne!(rig.map(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES), OK);
        assert_ne!(rig.validate(DEVICE_IPA, PRIVATE_PAGES), OK, "{order:?}");
        assert_eq!(rig.reach(DEVICE_IPA), None);
        rig.reject();
        // It is bound now: what was masked has to wait for the next stop.
        assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::DEVICE);
        rig.unlock();
        assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), OK);
        rig.give_up_addresses();
        rig.run();
        rig.take_back();
    }
}

/// What was mapped and never stopped is not masked: such an interface does not go.
#[test]
fn an_interface_goes_only_when_all_its_memory_is_masked() {
    let mut rig = Rig::running_in(TeardownOrder::MaskAndReap);
    rig.unlock();
    let page = ENDPOINT_BAR + PRIVATE_PAGES * PAGE;
    rig.host.delegate(page, 1);
    let ipa = DEVICE_IPA + PRIVATE_PAGES * PAGE;
    assert_eq!(rig.map(ipa, page, 1), OK);
    assert_eq!(destroy(&rig)[..2], [RmiStatus::GRANULE.word(), page]);
    assert_eq!(rig.unmap(ipa, 1), OK);
    assert_eq!(rig.destroy_interface(), OK);
    gone(&mut rig);
    rig.take_back();
}

#[test]
fn an_interface_that_was_cut_off_is_masked_when_it_is_unlocked() {
    for order in STOPPING {
        let mut rig = Rig::running_in(order);
        assert_eq!(rig.ask_measurements(), OK);
        assert_eq!(rig.abort(), OK);
        assert_eq!(rig.state(), ERROR);
        assert_eq!(
            granule(&rig, 0),
            State::Mapped,
            "out of reach, and not masked"
        );
        assert_out_of_reach(&rig);
        rig.unlock();
        assert_eq!(granule(&rig, 0), State::Masked);
        assert_out_of_reach(&rig);
        rig.take_back();
    }
}

/// A device that is silent, and one that refuses, when everything is masked.
#[test]
fn a_device_that_does_not_stop_keeps_nothing_masked_for_ever() {
    for order in STOPPING {
        let mut rig = Rig::running_in(order);
        assert_eq!(rig.ask_unlock(), OK);
        rig.tamper = Some(Box::new(|_, _| false));
        let _ = rig.pump_interface();
        rig.tamper = None;
        assert_out_of_reach(&rig);
        rig.take_back();
    }
}

#[test]
fn a_mask_that_hardware_does_not_confirm_is_refused_and_tried_again() {
    for order in STOPPING {
        let mut rig = Rig::running_in(order);
        // The stream is blocked; the invalidation of the tables fails.
        rig.host.fake.fail_kind_after(FaultPoint::Iommu, 1);
        assert_ne!(rig.ask_unlock(), OK, "{order:?}");
        assert_eq!(rig.host.fake.disarm(), Some(FaultPoint::Iommu));
        assert_eq!((rig.state(), rig.dma(DATA_IPA)), (STARTED, None));
        assert_eq!(granule(&rig, 0), State::Mapped);
        assert_eq!(rig.ask_unlock(), OK);
        assert_out_of_reach(&rig);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        rig.take_back();
    }
}

/// The guest's own call changes nothing about whose order it is.
#[test]
fn a_guest_that_gives_its_addresses_up_does_not_change_the_order() {
    for order in STOPPING {
        let mut rig = Rig::running_in(order);
        let call = rsi::Call::VdevDmaDisable { vdev_id: VDEV_ID };
        assert_eq!(rig.guest_call(call).1.get()[0], 0);
        rig.give_up_addresses();
        assert_eq!(rig.reach(DEVICE_IPA), None);
        assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::DEVICE);
        rig.unlock();
        assert_eq!(granule(&rig, 0), State::Masked);
        rig.take_back();
    }
}

/// Memory of which one call masks half.
const LARGE: u64 = 0x1040_0000;
const LARGE_BYTES: u64 = 4 << 20;
/// Its last page, and where the guest would see it.
const LAST: (u64, u64) = (DEVICE_IPA + 2 * PAGE, LARGE + LARGE_BYTES - PAGE);

/// A rig whose interface has much memory, all of it delegated and some of it mapped.
fn with_large_memory() -> Rig {
    let mut rig = Rig::bare(Vec::new());
    rig.order = TeardownOrder::StopFirst;
    rig.build_guest();
    let endpoint = rig.host.fake.function(ENDPOINT).unwrap();
    let bar = u32::try_from(LARGE).unwrap() | 4;
    let large = endpoint.with(0x10, bar, 0xffc0_0000);
    rig.host.fake.set_function(ENDPOINT, large);
    rig.lie = Some(LARGE);
    rig.connect();
    let mut params = rig.vdev_params();
    params.addr_range[0].base = LARGE.into();
    params.addr_range[0].top = (LARGE + LARGE_BYTES).into();
    rig.vdev = rig.create_interface(&params).unwrap();
    assert_eq!(rig.pump_interface(), Pumped::Done);
    rig.lock();
    rig.measure();
    rig.report();
    rig.host.delegate(LARGE, 2);
    rig.host.delegate(LAST.1, 1);
    let nonces = rig.nonces();
    rig.ask_memory(DEVICE_IPA, LARGE, 2, nonces);
    assert_eq!(rig.map(DEVICE_IPA, LARGE, 2), OK);
    assert_eq!(rig.validate(DEVICE_IPA, 2), OK);
    rig.host.enter(&rig.realm);
    assert_eq!(rig.map(LAST.0, LAST.1, 1), OK);
    assert_eq!(rig.reach(DEVICE_IPA), Some(LARGE));
    rig
}

#[test]
fn one_call_masks_at_most_512_granules_and_the_next_goes_on() {
    let mut rig = with_large_memory();
    let (rd, pdev, vdev) = rig.names();
    let state = |rig: &Rig, address| rig.host.tsm.granules().state(address).unwrap();
    let [status, handle, ..] = unlock(&rig);
    let incomplete = RmiStatus::incomplete(MemoryRequest::None, false);
    assert_eq!((status, handle), (incomplete.word(), vdev));
    assert_eq!(rig.reach(DEVICE_IPA), None);
    assert_eq!(
        [LARGE, LAST.1].map(|at| state(&rig, at)),
        [State::Masked, State::Mapped]
    );
    // Until it is complete, nothing else becomes of the interface.
    let data = rig.host.page_with(&[]);
    for call in [
        Call::VdevUnlock { rd, pdev, vdev },
        Call::VdevStart { rd, pdev, vdev },
        Call::VdevAbort { rd, pdev, vdev },
        Call::VdevDestroy { rd, pdev, vdev },
        Call::VdevGetInterfaceReport { rd, pdev, vdev },
        Call::VdevCommunicate {
            rd,
            pdev,
            vdev,
            data,
        },
    ] {
        assert_eq!(rig.host.status(call), RmiStatus::BLOCKED, "{call:x?}");
    }
    assert_eq!(rig.map(LAST.0 + PAGE, LARGE + PAGE, 1), RmiStatus::BLOCKED);
    for call in [
        Call::OpCancel { handle },
        Call::OpContinue { handle, flags: 1 },
    ] {
        assert_eq!(rig.host.status(call), RmiStatus::INPUT, "{call:x?}");
    }
    let go_on = Call::OpContinue { handle, flags: 0 };
    assert_eq!(rig.host.status(go_on), OK);
    assert_eq!(
        [LARGE, LAST.1].map(|at| state(&rig, at)),
        [State::Masked; 2]
    );
    assert_eq!(rig.host.status(go_on), RmiStatus::INPUT, "it is complete");
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.state(), UNLOCKED);
    assert_eq!(rig.unmap(DEVICE_IPA, 2), OK);
    assert_eq!(rig.unmap(LAST.0, 1), OK);
    assert_eq!(rig.destroy_interface(), OK);
}
