// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Guests in every state in which they can call.

use tsm_abi::rmi::{Call, RealmFlags0};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Host, Realm, success};
use zerocopy::IntoBytes;

use crate::rig::{DATA_IPA, PAGE, PRIVATE_PAGES, Rig};

/// A page of memory that the host has taken away.
pub const DESTROYED_IPA: u64 = 2 * PAGE;
/// A page of memory that the host has not given yet.
pub const MISSING_IPA: u64 = 3 * PAGE;
/// A page of private addresses without memory.
pub const EMPTY_IPA: u64 = 5 * PAGE;

/// A state of the caller: its name and the way to it.
pub type Way = (&'static str, fn() -> Rig);

/// Gives the guest of `rig` pages in every state that the host can bring about.
fn with_pages(rig: Rig) -> Rig {
    rig.forget_script();
    rig.host.map_private(&rig.realm, DESTROYED_IPA);
    rig.host.unmap_private(&rig.realm, DESTROYED_IPA);
    rig.host.map_shared(&rig.realm, Realm::SHARED);
    rig
}

/// Replaces the guest by one in `realm`, which is new.
fn with_realm(mut rig: Rig, realm: Realm) -> Rig {
    rig.host.init_ripas(&realm, 0, 4 * PAGE);
    success(rig.host.call(Call::RealmActivate { rd: realm.rd }));
    rig.host.map_private(&realm, DATA_IPA);
    rig.realm = realm;
    rig
}

fn without_devices() -> Rig {
    let rig = Rig::new();
    let mut params = rig.host.realm_params();
    params.flags0 = RealmFlags0::empty().bits().into();
    let realm = rig.host.new_realm_with(&params);
    with_realm(rig, realm)
}

/// A virtual CPU that another has switched on.
fn switched_on() -> Rig {
    let rig = Rig::new();
    let realm = rig.host.new_realm();
    let (rd, rec) = (realm.rd, rig.host.delegated());
    let mut params = Host::rec_params(1);
    params.flags = 0.into();
    let params = rig.host.page_with(params.as_bytes());
    success(rig.host.call(Call::RecCreate { rd, rec, params }));
    let mut rig = with_realm(rig, realm);
    rig.host.fake.script().call(&[0xc400_0003, 1, 0x1000, 7]);
    rig.host.enter(&rig.realm);
    let (calling_rec, target_rec) = (rig.realm.rec, rec);
    success(rig.host.call(Call::PsciComplete {
        calling_rec,
        target_rec,
        status: 0,
    }));
    rig.realm.rec = rec;
    rig
}

fn new_interface() -> Rig {
    let mut rig = Rig::connected();
    rig.vdev = rig.create_interface(&rig.vdev_params()).unwrap();
    rig
}

/// A lock whose first request is with the device.
fn locking() -> Rig {
    let mut rig = Rig::assigned();
    assert_eq!(rig.ask_lock(), tsm_abi::RmiStatus::SUCCESS);
    let call = rig.interface_pump();
    rig.begin(call);
    rig
}

fn locked_only() -> Rig {
    let mut rig = Rig::assigned();
    rig.lock();
    rig
}

fn measured() -> Rig {
    let mut rig = locked_only();
    rig.measure();
    rig
}

/// An interface whose memory is accepted, which the host has not started.
fn accepted() -> Rig {
    let rig = Rig::locked();
    rig.accept_memory();
    rig
}

fn started() -> Rig {
    let mut rig = Rig::locked();
    rig.start();
    // Else the host could reach what only the guest may.
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    rig
}

/// A started interface of which the host can reach the memory.
fn within_reach() -> Rig {
    let mut rig = Rig::locked();
    rig.start();
    rig
}

/// An interface of which the host has stopped decoding while the guest used it.
fn failed() -> Rig {
    let rig = Rig::running();
    let host = &rig.host;
    host.tsm
        .host_config_access(&host.fake, ENDPOINT, 4, 2, Some(0));
    rig
}

fn unlocked_again() -> Rig {
    let mut rig = Rig::locked();
    rig.unlock();
    rig
}

/// Every state, in the order of the letters of a row.
pub const STATES: [Way; 15] = [
    ("no devices allowed", || with_pages(without_devices())),
    ("no interface", || with_pages(Rig::new())),
    ("switched on by another", || with_pages(switched_on())),
    ("interface NEW", || with_pages(new_interface())),
    ("interface UNLOCKED", || with_pages(Rig::assigned())),
    ("interface UNLOCKED, request out", || with_pages(locking())),
    ("interface UNLOCKED again", || with_pages(unlocked_again())),
    ("interface LOCKED", || with_pages(locked_only())),
    ("interface LOCKED, measured", || with_pages(measured())),
    ("interface LOCKED, with evidence", || {
        with_pages(Rig::locked())
    }),
    ("interface LOCKED, memory accepted", || {
        with_pages(accepted())
    }),
    ("interface STARTED, memory in the host's reach", || {
        with_pages(within_reach())
    }),
    ("interface STARTED", || with_pages(started())),
    ("interface STARTED, DMA", || with_pages(Rig::running())),
    ("interface ERROR", || with_pages(failed())),
];
