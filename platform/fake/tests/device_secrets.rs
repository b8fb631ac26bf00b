// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host can read, and what is left behind, holds no secret.

mod rig;

use std::collections::{BTreeMap, BTreeSet};

use rig::{DEVICE_IPA, PRIVATE_PAGES, Pumped, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::Call;
use tsm_platform_fake::Owner;

/// So many bytes of a secret that are found in a row are a leak.
const WINDOW: usize = 8;

/// What kinds of secrets the whole way of a device has.
const KINDS: [&str; 9] = [
    "identity-key",
    "shared-secret",
    "handshake-main-secret",
    "handshake-request-key",
    "application-main-secret",
    "application-request-key",
    "application-response-secret",
    "link-key",
    "start-nonce",
];

/// Boots and goes on to a guest that uses its device; every reply to the host is kept.
fn overheard() -> Rig {
    let mut rig = Rig::new();
    rig.host.keep_replies();
    rig.connect();
    rig.assign();
    rig.lock();
    rig.measure();
    rig.report();
    rig.accept_memory();
    rig.start();
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), 0);
    rig
}

/// Returns any eight bytes of any secret: as they are, and in registers of 32 and 64 bits.
fn windows(rig: &Rig) -> BTreeMap<[u8; WINDOW], String> {
    let mut windows = BTreeMap::new();
    for (name, secret) in rig.secrets.lock().unwrap().iter() {
        for size in [1, 4, 8] {
            let words = secret.chunks(size);
            let bytes: Vec<u8> = words.flat_map(|word| word.iter().rev().copied()).collect();
            for window in bytes.array_windows() {
                windows.insert(*window, name.clone());
            }
        }
    }
    windows
}

fn search<'a>(
    windows: &BTreeMap<[u8; WINDOW], String>,
    places: impl IntoIterator<Item = &'a [u8]>,
) -> BTreeSet<&str> {
    let places = places.into_iter();
    let parts = places.flat_map(<[u8]>::array_windows);
    parts
        .filter_map(|part| windows.get(part))
        .map(|name| &**name)
        .collect()
}

/// Returns the secrets that are in memory: all of it, or what the host can read.
fn in_memory(rig: &Rig, all: bool) -> BTreeSet<String> {
    let contents = rig.host.fake.contents();
    let readable = contents
        .iter()
        .filter(|(address, _)| all || rig.host.fake.owner(**address) == Owner::Host);
    let windows = windows(rig);
    let found = search(&windows, readable.map(|(_, bytes)| &bytes[..]));
    found.into_iter().map(str::to_owned).collect()
}

/// Returns the secrets that the host was told: in messages, kept objects, replies and the trace.
fn told(rig: &Rig) -> BTreeSet<String> {
    let replies = rig.host.take_replies();
    assert!(replies.len() > 100 && rig.traffic.len() > 100);
    let trace = rig.host.fake.calls();
    let records = trace.iter().map(|record| {
        let [first, second, third] = record.arguments;
        [record.function, first, second, third, record.status]
    });
    let registers = replies.iter().flatten().copied().chain(records.flatten());
    let registers: Vec<u8> = registers.flat_map(u64::to_le_bytes).collect();
    let spaces = rig.host.fake.registers();
    let windows = windows(rig);
    let places = rig
        .traffic
        .iter()
        .chain(rig.objects.values())
        .chain(spaces.values());
    let found = search(
        &windows,
        places.map(|bytes| &bytes[..]).chain([&registers[..]]),
    );
    found.into_iter().map(str::to_owned).collect()
}

fn nothing() -> BTreeSet<String> {
    BTreeSet::new()
}

/// Takes the device from a guest that uses it and ends its session; the objects stay.
fn stop(rig: &mut Rig) {
    assert_eq!(rig.disable_dma(), 0);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    rig.unlock();
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    rig.host.undelegate(rig.vdev, 1);
    rig.vdev = 0;
    assert_eq!(rig.disconnect_stream(), RmiStatus::SUCCESS);
    rig.pump_stream();
    for pdev in [rig.device, rig.port] {
        assert_eq!(rig.host.status(Call::PdevStop { pdev }), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_device(pdev), Pumped::Done);
        assert_eq!(rig.device_state(pdev), 4);
    }
}

/// F03
#[test]
fn nothing_that_the_host_sees_of_a_whole_flow_holds_a_secret() {
    let mut rig = overheard();
    assert_eq!(in_memory(&rig, false), nothing());
    for _ in 0..3 {
        assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
        rig.pump_stream();
        assert_eq!(in_memory(&rig, false), nothing());
        // The root port's copies are the device's, and so are searched for.
        let known = rig.secrets.lock().unwrap();
        for key in rig.keys() {
            let words = key.chunks(4);
            let wire: Vec<u8> = words.flat_map(|word| word.iter().rev().copied()).collect();
            assert!(known.iter().any(|(_, secret)| *secret == wire));
        }
    }
    stop(&mut rig);
    assert_eq!(told(&rig), nothing());
    assert_eq!(in_memory(&rig, false), nothing());
    let known = rig.secrets.lock().unwrap();
    for kind in KINDS {
        assert!(known.iter().any(|(name, _)| name == kind), "no {kind}");
    }
    let link_keys = known.iter().filter(|(name, _)| name == "link-key").count();
    assert_eq!(link_keys, 4 * 6);
}

/// F03, P4
#[test]
fn no_memory_holds_a_secret_once_the_device_is_stopped() {
    let mut rig = overheard();
    stop(&mut rig);
    assert_eq!(in_memory(&rig, true), nothing());
    assert_eq!(rig.host.fake.keys(), 0);
    rig.take_back();
    assert_eq!(in_memory(&rig, true), nothing());
}

#[test]
fn the_search_finds_a_part_of_a_secret_that_is_written_anywhere() {
    let rig = Rig::connected();
    let key = rig.keys()[0];
    let page = rig.host.pages(1);
    assert_eq!(in_memory(&rig, false), nothing());
    rig.host.fake.host_store(page + 77, &key[3..11]).unwrap();
    assert_eq!(
        in_memory(&rig, false),
        BTreeSet::from(["link-key".to_owned()])
    );
}
