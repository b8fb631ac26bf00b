// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a host or guest may try with a device, and what becomes of it.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::Call;
use tsm_platform_fake::{ENDPOINT_BAR, Host, MMIO_TOP, Realm, success};

const ERROR: u64 = 4;
/// Guest statuses.
const INPUT: u64 = 1;
const DEVICE: u64 = 5;
/// The MSI-X table's page.
const MSIX_TABLE: u64 = ENDPOINT_BAR + 0x2000;

#[test]
fn the_host_does_not_reach_the_guests_device() {
    let rig = Rig::locked();
    assert!(
        rig.host.fake.host_reaches(ENDPOINT_BAR),
        "while the guest has not accepted it"
    );
    rig.accept_memory();
    assert!(!rig.host.fake.host_reaches(ENDPOINT_BAR));
    assert!(!rig.host.fake.host_reaches(ENDPOINT_BAR + PAGE));
    assert!(
        rig.host.fake.host_reaches(MSIX_TABLE),
        "that stays the host's"
    );
    assert_eq!(rig.dma(ENDPOINT_BAR), None);
}

#[test]
fn what_the_platform_keeps_is_not_shared_with_a_guest_that_has_a_device() {
    let rig = Rig::new();
    let kept = MMIO_TOP - 0x10_0000;
    for (page, status) in [
        (kept, RmiStatus::INPUT),
        (MMIO_TOP - PAGE, RmiStatus::INPUT),
        (rig.host.pages(1), RmiStatus::SUCCESS),
    ] {
        let map = Call::RttUnprotMap {
            rd: rig.realm.rd,
            base: Realm::SHARED + 8 * PAGE,
            top: Realm::SHARED + 9 * PAGE,
            flags: Host::shared_flags(),
            oaddr: Host::shared_range(page),
        };
        assert_eq!(rig.host.status(map), status, "{page:#x}");
    }
}

#[test]
fn memory_is_accepted_only_as_the_device_reports_it() {
    let rig = Rig::locked();
    let nonces = rig.nonces();
    let cases = [
        (DEVICE_IPA, MSIX_TABLE, 1, "the MSI-X table"),
        (DEVICE_IPA, MSIX_TABLE + PAGE, 1, "the pending bits"),
        (DEVICE_IPA, ENDPOINT_BAR + PAGE, 2, "two ranges"),
        (DEVICE_IPA, ENDPOINT_BAR - PAGE, 1, "before the BAR"),
        (DEVICE_IPA, 0x8000_0000, 1, "memory"),
        (DEVICE_IPA, 0xffff_ffff_ffff_f000, 1, "the end of the world"),
    ];
    for (ipa, physical, pages, what) in cases {
        let (exit, registers) = rig.ask_memory(ipa, physical, pages, nonces);
        assert_ne!(exit.exit_reason.get(), 9, "{what}");
        assert_eq!(registers.get()[0], INPUT, "{what}");
    }
}

/// D05, E01.
#[test]
fn a_device_that_reports_memory_of_others_is_not_believed() {
    let mut rig = Rig::connected();
    let secret = rig.host.delegated();
    let others = [
        secret,
        rig.host.pages(4),
        ENDPOINT_BAR + 0x4000,
        ENDPOINT_BAR + 0x1000,
        ENDPOINT_BAR - 0x1000,
        rig.realm.rd,
    ];
    for claimed in others {
        rig.lie = Some(claimed);
        rig.assign();
        rig.lock();
        rig.measure();
        assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_interface(), Pumped::Done);
        assert_eq!(rig.state(), ERROR, "{claimed:#x}");
        assert_eq!(rig.nonces(), [0; 3], "and nothing can be accepted");
        rig.unlock();
        assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
        rig.renew_keys();
    }
}

#[test]
fn evidence_that_is_stale_or_was_never_fetched_grants_nothing() {
    let mut rig = Rig::locked();
    let nonces = rig.nonces();
    for index in 0..3 {
        for value in [0, nonces[index] ^ 1] {
            let mut wrong = nonces;
            wrong[index] = value;
            let (_, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, wrong);
            assert_eq!(registers.get()[0], DEVICE);
        }
    }
    rig.accept_memory();
    rig.start();
    for index in 0..3 {
        let mut wrong = nonces;
        wrong[index] = 0;
        assert_eq!(rig.enable_dma(wrong), DEVICE);
    }
    assert_eq!(rig.dma(DATA_IPA), None);
    // The guest judged measurements, and the host had others fetched since.
    rig.measure();
    assert_eq!(rig.enable_dma(nonces), DEVICE);
    let fresh = rig.nonces();
    assert_eq!(rig.enable_dma(fresh), 0);
}

#[test]
fn evidence_of_one_lock_is_void_after_the_next() {
    let mut rig = Rig::locked();
    let old = rig.nonces();
    rig.unlock();
    rig.lock();
    rig.measure();
    rig.report();
    let (_, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, old);
    assert_eq!(registers.get()[0], DEVICE);
    rig.start();
    assert_eq!(rig.enable_dma(old), DEVICE);
}

#[test]
fn a_lock_in_between_voids_what_the_guest_asked_for() {
    let mut rig = Rig::locked();
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    let nonces = rig.nonces();
    let (exit, registers) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, nonces);
    assert_eq!(exit.exit_reason.get(), 9);
    rig.unlock();
    rig.lock();
    rig.measure();
    rig.report();
    assert_eq!(rig.map(DEVICE_IPA, ENDPOINT_BAR, 1), RmiStatus::SUCCESS);
    assert_eq!(rig.validate(DEVICE_IPA, 1), RmiStatus::INPUT);
    assert_eq!(rig.reach(DEVICE_IPA), None);
    rig.reject();
    assert_eq!(registers.get(), [0, DEVICE_IPA, 1]);
    rig.take_back();
}

#[test]
fn an_unlock_in_between_voids_what_the_guest_asked_for() {
    let mut rig = Rig::locked();
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    let nonces = rig.nonces();
    rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, nonces);
    assert_eq!(rig.map(DEVICE_IPA, ENDPOINT_BAR, 1), RmiStatus::SUCCESS);
    let reply = unlock_reply(&rig);
    assert_eq!(
        reply,
        [16, ENDPOINT_BAR],
        "the granule that is still mapped"
    );
    assert_eq!(rig.unmap(DEVICE_IPA, 1), RmiStatus::SUCCESS);
    assert_eq!(rig.ask_unlock(), RmiStatus::SUCCESS);
    assert_eq!(rig.map(DEVICE_IPA, ENDPOINT_BAR, 1), RmiStatus::SUCCESS);
    assert_eq!(
        rig.validate(DEVICE_IPA, 1),
        RmiStatus::INPUT,
        "unlocking has begun"
    );
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.validate(DEVICE_IPA, 1), RmiStatus::INPUT);
    assert_eq!(rig.reach(DEVICE_IPA), None);
    rig.take_back();
}

fn unlock_reply(rig: &Rig) -> [u64; 2] {
    let (rd, pdev, vdev) = rig.names();
    let [status, address, ..] = rig.host.call(Call::VdevUnlock { rd, pdev, vdev });
    [status, address]
}

#[test]
fn the_host_maps_another_page_than_the_guest_asked_for_in_vain() {
    let rig = Rig::locked();
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    let nonces = rig.nonces();
    rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, 1, nonces);
    assert_eq!(
        rig.map(DEVICE_IPA, ENDPOINT_BAR + PAGE, 1),
        RmiStatus::SUCCESS
    );
    assert_ne!(rig.validate(DEVICE_IPA, 1), RmiStatus::SUCCESS);
    assert_eq!(rig.reach(DEVICE_IPA), None);
    // Nor where the guest did not ask for it.
    assert_eq!(rig.unmap(DEVICE_IPA, 1), RmiStatus::SUCCESS);
    assert_eq!(
        rig.map(DEVICE_IPA + PAGE, ENDPOINT_BAR, 1),
        RmiStatus::SUCCESS
    );
    assert_eq!(rig.validate(DEVICE_IPA + PAGE, 1), RmiStatus::INPUT);
    assert_eq!(rig.reach(DEVICE_IPA + PAGE), None);
}

#[test]
fn only_memory_of_the_interface_is_mapped_for_it() {
    let rig = Rig::locked();
    let outside = ENDPOINT_BAR + 0x4000;
    rig.host.delegate(outside, 1);
    assert_eq!(rig.map(DEVICE_IPA, outside, 1), RmiStatus::INPUT);
    let memory = rig.host.delegated();
    assert_eq!(rig.map(DEVICE_IPA, memory, 1), RmiStatus::INPUT);
    assert_ne!(
        rig.map(DEVICE_IPA, ENDPOINT_BAR, 1),
        RmiStatus::SUCCESS,
        "the host's still"
    );
    assert_eq!(rig.map(DEVICE_IPA, rig.realm.rd, 1), RmiStatus::INPUT);
}

#[test]
fn one_range_is_accepted_at_one_place() {
    let rig = Rig::locked();
    rig.accept_memory();
    let nonces = rig.nonces();
    let elsewhere = DEVICE_IPA + 0x1_0000;
    let (_, registers) = rig.ask_memory(elsewhere, ENDPOINT_BAR, 1, nonces);
    assert_eq!(registers.get()[0], INPUT);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    let (exit, _) = rig.ask_memory(elsewhere, ENDPOINT_BAR, 1, nonces);
    assert_eq!(exit.exit_reason.get(), 9, "it is free again");
}

#[test]
fn dma_does_not_start_while_the_host_reaches_the_device() {
    let mut rig = Rig::locked();
    rig.start();
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), DEVICE);
    rig.host.delegate(ENDPOINT_BAR, 1);
    assert_eq!(rig.enable_dma(nonces), DEVICE, "one page is not all");
    rig.host.delegate(ENDPOINT_BAR + PAGE, 1);
    assert_eq!(rig.enable_dma(nonces), 0);
}

#[test]
fn dma_starts_under_keys_that_are_being_replaced_but_not_without_any() {
    let mut rig = Rig::locked();
    rig.accept_memory();
    rig.start();
    assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_device(rig.port), Pumped::Wait);
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), 0, "the old keys are in use");
    assert_eq!(rig.disable_dma(), 0);
    rig.tamper = Some(Box::new(|_, _| false));
    assert_eq!(rig.pump_device(rig.device), Pumped::Done);
    assert_eq!(rig.enable_dma(nonces), DEVICE);
}

#[test]
fn the_host_gets_a_page_back_only_after_the_device_is_cut_off() {
    let rig = Rig::running();
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    assert_eq!(
        rig.state(),
        3,
        "unmapping alone only takes the guest's access"
    );
    assert!(rig.dma(DATA_IPA).is_some());
    rig.host.undelegate(ENDPOINT_BAR, 1);
    assert_eq!(rig.state(), ERROR);
    assert_eq!(rig.dma(DATA_IPA), None);
}

#[test]
fn a_guest_cannot_start_dma_before_the_device_runs() {
    let rig = Rig::locked();
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), DEVICE);
    assert_eq!(rig.dma(DATA_IPA), None);
}

#[test]
fn the_host_must_name_the_object_that_the_guest_means() {
    let rig = Rig::locked();
    let vdev_id = 0x1234;
    let call = tsm_abi::rsi::Call::VdevDmaDisable { vdev_id };
    let (function, arguments) = call.encode();
    let registers: Vec<u64> = std::iter::once(function).chain(arguments).collect();
    rig.host.fake.script().call(&registers);
    assert_eq!(rig.host.enter(&rig.realm).exit_reason.get(), 8);
    let (rec, vdev) = (rig.realm.rec, rig.vdev);
    let status = rig.host.status(Call::VdevComplete { rec, vdev });
    assert_eq!(status, RmiStatus::INPUT, "another id");
    let status = rig.host.status(Call::VdevComplete {
        rec,
        vdev: rig.device,
    });
    assert_eq!(status, RmiStatus::INPUT, "another object");
    // A host that knows no such device says so by going on.
    rig.host
        .fake
        .script()
        .look(|_, vcpu| assert_eq!(vcpu.gprs[0], INPUT));
    rig.host.enter(&rig.realm);
    assert!(rig.host.fake.script().is_done());
    let status = rig.host.status(Call::VdevComplete { rec, vdev });
    assert_eq!(status, RmiStatus::INPUT, "nothing was asked");
}

#[test]
fn a_realm_with_a_device_is_not_destroyed() {
    let mut rig = Rig::running();
    let rd = rig.realm.rd;
    success(rig.host.call(Call::RealmTerminate { rd }));
    assert_eq!(rig.host.status(Call::RealmDestroy { rd }), RmiStatus::REALM);
    rig.take_back();
}

#[test]
fn one_exchange_at_a_time_uses_the_session() {
    let mut rig = Rig::locked();
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(
        rig.ask_start(),
        RmiStatus::DEVICE,
        "an exchange is asked for"
    );
    assert_eq!(rig.ask_unlock(), RmiStatus::DEVICE);
    rig.begin(rig.interface_pump());
    assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_device(rig.port), Pumped::Wait);
    let busy = rig.pump_device(rig.device);
    assert_eq!(busy, Pumped::Failed(RmiStatus::BUSY));
    assert_eq!(rig.state(), 2, "nothing was lost by asking");
}

#[test]
fn the_pump_checks_what_the_host_brings() {
    let mut rig = Rig::assigned();
    let pump = rig.interface_pump();
    let idle = rig.answer(pump, Some(&[1, 2, 3, 4]));
    assert_eq!(idle, RmiStatus::DEVICE, "nothing was asked for");
    assert_eq!(rig.ask_lock(), RmiStatus::SUCCESS);
    let early = rig.answer(pump, Some(&[1, 2, 3, 4]));
    assert_eq!(early, RmiStatus::DEVICE, "no request is out");
    let (rd, pdev, vdev) = rig.names();
    let far = |data| {
        rig.host.status(Call::VdevCommunicate {
            rd,
            pdev,
            vdev,
            data,
        })
    };
    assert_eq!(far(0x7000_0000), RmiStatus::INPUT);
    assert_eq!(far(rig.realm.rd), RmiStatus::INPUT);
    assert_eq!(far(1), RmiStatus::INPUT);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.state(), 2, "and none of it did harm");
}

#[test]
fn a_guest_without_leave_for_devices_gets_none() {
    let rig = Rig::connected();
    let mut params = rig.host.realm_params();
    params.flags0 = 0.into();
    let rd = rig.host.delegated();
    let page = rig.host.page_with(zerocopy::IntoBytes::as_bytes(&params));
    success(rig.host.call(Call::RealmCreate { rd, params: page }));
    let vdev = rig.host.delegated();
    let vdev_params = rig
        .host
        .page_with(zerocopy::IntoBytes::as_bytes(&rig.vdev_params()));
    let call = Call::VdevCreate {
        rd,
        pdev: rig.device,
        vdev,
        params: vdev_params,
    };
    assert_eq!(rig.host.status(call), RmiStatus::REALM);
}
