// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's memory in the shared half of a realm, on machines that check the owner of memory on
//! each access and on those that do not.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, MapFlags};
use tsm_platform_fake::{Guard, Host, MMIO_BASE, Realm};

const PAGE: u64 = 0x1000;
const PLACE: u64 = Realm::SHARED + 8 * PAGE;

/// A realm that gets no devices, of which shared memory would be held in any case.
fn realm(host: &Host) -> Realm {
    let mut params = host.realm_params();
    params.flags0 = 0.into();
    host.new_realm_with(&params)
}

fn map(host: &Host, realm: &Realm, page: u64) -> RmiStatus {
    host.status(Call::RttUnprotMap {
        rd: realm.rd,
        base: PLACE,
        top: PLACE + PAGE,
        flags: Host::shared_flags(),
        oaddr: Host::shared_range(page),
    })
}

fn unmap(host: &Host, realm: &Realm) -> RmiStatus {
    host.status(Call::RttUnprotUnmap {
        rd: realm.rd,
        base: PLACE,
        top: PLACE + PAGE,
        flags: MapFlags::single().0,
        oaddr: 0,
    })
}

fn delegate(host: &Host, page: u64) -> RmiStatus {
    host.status(Call::GranuleRangeDelegate {
        start: page,
        end: page + PAGE,
    })
}

#[test]
fn shared_memory_cannot_become_anothers_where_no_hardware_looks_at_the_owner() {
    for checked in [true, false] {
        let host = Host::activated();
        let realm = realm(&host);
        if !checked {
            host.fake.remove_guard(Guard::OwnerOnAccess);
        }
        let page = host.pages(1);
        assert_eq!(map(&host, &realm, page), RmiStatus::SUCCESS);
        let delegated = delegate(&host, page);
        assert_eq!(delegated == RmiStatus::SUCCESS, checked, "{delegated:?}");
        assert_eq!(unmap(&host, &realm), RmiStatus::SUCCESS);
        if !checked {
            assert_eq!(delegate(&host, page), RmiStatus::SUCCESS);
        }
        host.undelegate(page, 1);
    }
}

#[test]
fn only_what_the_host_owns_can_be_shared_where_no_hardware_looks_at_the_owner() {
    let host = Host::activated();
    let realm = realm(&host);
    host.fake.remove_guard(Guard::OwnerOnAccess);
    let private = host.delegated();
    for (page, what) in [
        (private, "another's memory"),
        (realm.rd, "the realm itself"),
        (0x1000_0000 - PAGE, "what the TSM does not know"),
        (MMIO_BASE - PAGE, "what no host can have"),
    ] {
        assert_eq!(map(&host, &realm, page), RmiStatus::INPUT, "{what}");
    }
    assert_eq!(map(&host, &realm, host.pages(1)), RmiStatus::SUCCESS);
    host.reclaim(&realm);
}
