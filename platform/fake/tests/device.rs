// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The whole way of a device: connect, lock, attest, start, DMA, unlock, and back to the host.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig};
use sha2::{Digest, Sha384};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, CommObject};
use tsm_devices::TdiState;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Stream};

#[test]
fn a_device_is_attested_used_and_given_back() {
    let mut rig = Rig::running();
    let data = rig.reach(DATA_IPA).unwrap();
    assert_eq!(
        rig.dma(DATA_IPA),
        Some(data),
        "the device reaches the guest's memory"
    );
    assert_eq!(
        rig.reach(DEVICE_IPA),
        Some(ENDPOINT_BAR),
        "and the guest the device's"
    );

    assert_eq!(rig.disable_dma(), 0);
    assert_eq!(rig.dma(DATA_IPA), None);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    assert_eq!(rig.reach(DEVICE_IPA), None);
    rig.unlock();
    assert_eq!(rig.tdi(), TdiState::ConfigUnlocked);
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    rig.host.undelegate(rig.vdev, 1);
    rig.vdev = 0;
    assert_eq!(rig.dma(0x8000_0000), Some(0x8000_0000), "the host's again");

    assert_eq!(rig.disconnect_stream(), RmiStatus::SUCCESS);
    rig.pump_stream();
    assert_eq!(rig.root_port_keys(), 0);
    assert!(
        rig.dsm
            .state()
            .streams
            .iter()
            .all(|stream| stream.programmed == 0)
    );
    for pdev in [rig.device, rig.port] {
        assert_eq!(rig.host.status(Call::PdevStop { pdev }), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_device(pdev), Pumped::Done);
        assert_eq!(rig.device_state(pdev), 4);
    }
    assert!(
        rig.dsm.state().sessions.is_empty(),
        "the session was ended in good order"
    );
    rig.take_back();
}

#[test]
fn the_guest_sees_digests_of_exactly_what_the_host_keeps() {
    let rig = Rig::locked();
    let info = rig.info();
    let kept = |object: CommObject| Sha384::digest(&rig.objects[&(object as u8)]);
    assert_eq!(info.vca_digest[..48], kept(CommObject::Vca)[..]);
    assert_eq!(info.cert_digest[..48], kept(CommObject::Certificate)[..]);
    assert_eq!(info.meas_digest[..48], kept(CommObject::Measurements)[..]);
    assert_eq!(
        info.report_digest[..48],
        kept(CommObject::InterfaceReport)[..]
    );
    assert_eq!(
        info.pubkey_digest[..48],
        Sha384::digest(rig.device_key())[..]
    );
    assert_eq!(
        info.cert_digest[..48],
        rig.dsm.identity().chain_digest()[..]
    );
    assert_eq!(info.state.get(), 1);
    assert_eq!(info.format_type.get(), 1);
}

#[test]
fn each_lock_and_each_fetch_has_its_own_nonce() {
    let mut rig = Rig::locked();
    let first = rig.nonces();
    assert!(first.iter().all(|nonce| *nonce != 0));
    rig.measure();
    let second = rig.nonces();
    assert_eq!((second[0], second[2]), (first[0], first[2]));
    assert_ne!(second[1], first[1]);
    rig.unlock();
    assert_eq!(rig.nonces(), [0; 3], "nothing is proved any more");
    rig.lock();
    let third = rig.nonces();
    assert_ne!(third[0], first[0]);
    assert_eq!(
        third[1..],
        [0, 0],
        "evidence of the lock before does not count"
    );
}

#[test]
fn a_fetched_object_replaces_the_one_before() {
    let mut rig = Rig::locked();
    let report = rig.objects[&3].clone();
    rig.report();
    assert_eq!(rig.objects[&3], report);
    let measurements = rig.objects[&2].clone();
    rig.measure();
    assert_eq!(rig.objects[&2].len(), measurements.len());
    assert_ne!(
        rig.objects[&2], measurements,
        "another nonce of the device, another signature"
    );
}

#[test]
fn keys_are_refreshed_under_a_running_device() {
    let mut rig = Rig::running();
    for _ in 0..3 {
        let before = rig.host.fake.calls().len();
        assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
        rig.pump_stream();
        rig.refresh();
        assert!(rig.is_secure());
        assert_eq!(rig.root_port_keys(), 6, "the other set is gone");
        assert_eq!(rig.tdi(), TdiState::Run);
        assert!(rig.host.fake.calls().len() > before);
    }
    assert_eq!(rig.state(), 3);
    rig.take_back();
}

#[test]
fn a_stream_is_off_from_creation_until_the_guest_turns_dma_on() {
    let mut rig = Rig::connected();
    let host_memory = rig.host.pages(1);
    assert_eq!(rig.dma(host_memory), Some(host_memory));
    rig.assign();
    assert_eq!(rig.dma(host_memory), None);
    rig.lock();
    rig.measure();
    rig.report();
    rig.accept_memory();
    rig.start();
    assert_eq!(rig.dma(host_memory), None);
    assert_eq!(rig.dma(DATA_IPA), None);
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), 0);
    assert_eq!(rig.enable_dma(nonces), 0, "once more changes nothing");
    assert!(rig.dma(DATA_IPA).is_some());
    assert!(matches!(
        rig.host.fake.stream(tsm_platform::StreamId(0x100)),
        Stream::Guest(_)
    ));
    assert_eq!(rig.dma(2 * PAGE), None, "nothing is there");
}

#[test]
fn no_key_repeats_and_none_is_seen_by_the_host() {
    let mut rig = Rig::running();
    let mut keys = rig.keys();
    for _ in 0..4 {
        assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
        rig.pump_stream();
        keys.extend(rig.keys());
    }
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!((keys.len(), distinct.len()), (30, 30));
    assert!(rig.traffic.len() > 200);
    let contents: Vec<Vec<u8>> = rig.host.fake.contents().into_values().collect();
    for key in &keys {
        // As the cipher takes it, and as messages carry it.
        let wire: Vec<u8> = key
            .chunks(4)
            .flat_map(|word| word.iter().rev().copied())
            .collect();
        for bytes in rig.traffic.iter().chain(&contents) {
            let holds = |key: &[u8]| bytes.windows(key.len()).any(|window| window == key);
            assert!(!holds(key) && !holds(&wire));
        }
    }
}

#[test]
fn calls_about_a_device_from_several_processors_do_not_stop_each_other() {
    let mut rig = Rig::running();
    let (rd, pdev, vdev) = rig.names();
    let host = &rig.host;
    let spare = host.pages(8);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..300_u32 {
                let write = Some(if round % 100 == 99 { 0 } else { 6 });
                host.tsm
                    .host_config_access(&host.fake, ENDPOINT, 4, 2, write);
            }
        });
        scope.spawn(|| {
            for _ in 0..300 {
                host.call(Call::VdevGetInterfaceReport { rd, pdev, vdev });
                host.call(Call::VdevAbort { rd, pdev, vdev });
                host.call(Call::VdevUnlock { rd, pdev, vdev });
                host.call(Call::PdevGetState { pdev });
            }
        });
        scope.spawn(|| {
            for _ in 0..300 {
                let (start, end) = (ENDPOINT_BAR, ENDPOINT_BAR + 4 * PAGE);
                host.call(Call::GranuleRangeUndelegate { start, end });
                host.call(Call::GranuleRangeDelegate { start, end });
                let (start, end) = (spare, spare + 8 * PAGE);
                host.call(Call::GranuleRangeDelegate { start, end });
                host.call(Call::GranuleRangeUndelegate { start, end });
                host.call(Call::RealmTerminate { rd });
            }
        });
    });
    assert_ne!(rig.state(), 3);
    assert_eq!(rig.dma(DATA_IPA), None);
    rig.take_back();
}
