// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Hardware that fails in the middle of a call, and interference from the host.

mod common;

use std::collections::BTreeSet;

use common::{PAGE, World};
use tsm_abi::rmi::{BlockSize, Call, MapFlags, ROWS, RangeDescriptor, RecEnter};
use tsm_abi::{RmiCode, RmiStatus};
use tsm_platform::Iommu;
use tsm_platform::StreamId;
use tsm_platform_fake::{FaultPoint, Host, Owner, Realm, STATUS_SUCCESS, success};
use zerocopy::FromZeros;

/// Calls whose effect on the host's own page cannot be undone: what was copied out is out.
const COPIES_OUT_LAST: [&str; 1] = ["RMI_REC_ENTER"];

#[test]
fn a_call_that_fails_at_any_step_of_the_hardware_changes_nothing() {
    let mut failures = BTreeSet::new();
    for row in ROWS
        .iter()
        .filter(|row| row.implemented && !COPIES_OUT_LAST.contains(&row.name))
    {
        for passed in 0.. {
            let world = World::new();
            let arguments = world.arguments(row.name).unwrap();
            let before = world.host.snapshot();
            world.host.fake.fail_after(passed);
            let [status, ..] = world.raw(row.function, &arguments);
            let Some(point) = world.host.fake.disarm() else {
                break;
            };
            failures.insert(format!("{point:?} in {}", row.name));
            assert_ne!(status, STATUS_SUCCESS, "{} at {point:?} {passed}", row.name);
            let after = world.host.snapshot();
            assert!(
                before == after,
                "{} at {point:?} {passed}: something changed",
                row.name
            );
            // The failure is over: the same call, right as it is, is answered as ever.
            let [again, ..] = world.raw(row.function, &arguments);
            let fresh = World::new();
            let arguments = fresh.arguments(row.name).unwrap();
            assert_eq!(
                again,
                fresh.raw(row.function, &arguments)[0],
                "{}",
                row.name
            );
        }
    }
    for kind in ["HostRead", "HostWrite", "Ownership", "Iommu"] {
        let reached = failures.iter().any(|failure| failure.starts_with(kind));
        assert!(reached, "{kind} in none of {failures:?}");
    }
}

#[test]
fn a_range_call_keeps_what_it_did_before_hardware_failed() {
    let host = Host::activated();
    let base = host.pages(8);
    let end = base + 8 * PAGE;
    // The granule in the middle is delegated already, so the call has two runs to take.
    host.delegate(base + 4 * PAGE, 1);
    host.fake.fail_kind_after(FaultPoint::Ownership, 1);
    let reply = host.call(Call::GranuleRangeDelegate { start: base, end });
    assert_eq!(success(reply)[0], base + 5 * PAGE);
    assert_eq!(host.fake.disarm(), Some(FaultPoint::Ownership));
    let [first, last] = [base, base + 6 * PAGE].map(|address| host.fake.owner(address));
    assert_eq!((first, last), (Owner::Realm, Owner::Host));
    assert_eq!(
        host.fake.dma(StreamId(8), base + 6 * PAGE),
        Some(base + 6 * PAGE)
    );
    assert_eq!(host.fake.dma(StreamId(8), base), None);
    host.undelegate(base, 5);
    assert!(host.has_everything_back());
}

#[test]
fn devices_of_the_host_lose_a_granule_with_the_host() {
    let host = Host::activated();
    let page = host.delegated();
    assert_eq!(host.fake.host_load(page, 1), None);
    assert_eq!(host.fake.dma(StreamId(0x18), page), None);
    host.undelegate(page, 1);
    assert_eq!(host.fake.dma(StreamId(0x18), page), Some(page));
    assert_eq!(host.fake.host_load(page, 4096).unwrap(), [0; 4096]);
}

#[test]
fn one_call_moves_at_most_512_granules() {
    let host = Host::activated();
    let start = host.pages(1024);
    let end = start + 1024 * PAGE;
    assert_eq!(
        success(host.call(Call::GranuleRangeDelegate { start, end }))[0],
        start + 512 * PAGE
    );
    host.delegate(start, 1024);
    let back = Call::GranuleRangeUndelegate { start, end };
    assert_eq!(success(host.call(back))[0], start + 512 * PAGE);
    host.undelegate(start, 1024);
    assert!(host.has_everything_back());
}

#[test]
fn a_page_that_a_guest_loses_is_out_of_reach_before_it_is_free() {
    let host = Host::activated();
    let realm = host.new_realm();
    host.init_ripas(&realm, 0, PAGE);
    success(host.call(Call::RealmActivate { rd: realm.rd }));
    host.map_private(&realm, 0);
    let stream = StreamId(0x100);
    host.fake.script().look(move |fake, vcpu| {
        vcpu.store(fake, 0, b"warm").unwrap();
        fake.attach(stream, &vcpu.stage2).unwrap();
    });
    host.enter(&realm);
    assert!(host.fake.dma(stream, 0).is_some());

    // The invalidation does not complete: the page stays the guest's.
    host.fake.fail_kind_after(FaultPoint::Iommu, 0);
    let (flags, oaddr) = (MapFlags::single().0, 0);
    let unmap = Call::RttDataUnmap {
        rd: realm.rd,
        base: 0,
        top: PAGE,
        flags,
        oaddr,
    };
    assert_eq!(host.status(unmap), RmiStatus::GLOBAL);
    host.fake.disarm();
    host.fake.script().look(|fake, vcpu| {
        assert_eq!(&vcpu.load::<4>(fake, 0).unwrap(), b"warm");
    });
    host.enter(&realm);

    // It completes: neither the CPU nor the device has a translation left.
    let page = host.unmap_private(&realm, 0);
    assert_eq!(host.fake.dma(stream, 0), None);
    host.fake
        .script()
        .look(|fake, vcpu| assert!(vcpu.load::<4>(fake, 0).is_err()));
    host.enter(&realm);
    host.undelegate(page, 1);
    assert_eq!(host.fake.host_load(page, 4096).unwrap(), [0; 4096]);
    assert!(host.fake.script().is_done());
}

#[test]
fn shared_memory_of_a_realm_with_devices_cannot_become_private_to_another() {
    let host = Host::activated();
    let realm = host.realm();
    let page = host.map_shared(&realm, Realm::SHARED);
    let delegate = Call::GranuleRangeDelegate {
        start: page,
        end: page + PAGE,
    };
    assert_eq!(host.status(delegate), RmiStatus::INPUT);
    let (base, top) = (Realm::SHARED, Realm::SHARED + PAGE);
    let flags = MapFlags::single().0;
    success(host.call(Call::RttUnprotUnmap {
        rd: realm.rd,
        base,
        top,
        flags,
        oaddr: 0,
    }));
    success(host.call(delegate));
}

#[test]
fn a_table_of_shared_memory_lets_go_of_it_when_it_is_destroyed() {
    let host = Host::activated();
    let realm = host.realm();
    let page = host.map_shared(&realm, Realm::SHARED);
    success(host.call(Call::RttDestroy {
        rd: realm.rd,
        ipa: Realm::SHARED,
        level: 3,
    }));
    success(host.call(Call::GranuleRangeDelegate {
        start: page,
        end: page + PAGE,
    }));
}

#[test]
fn a_block_is_mapped_divided_folded_and_unmapped_as_a_whole() {
    let host = Host::activated();
    let realm = host.new_realm();
    let rd = realm.rd;
    let block = host.pages(512);
    host.delegate(block, 512);
    let (base, top) = (0x20_0000, 0x40_0000);
    host.init_ripas(&realm, base, top);
    success(host.call(Call::RealmActivate { rd }));
    let range = RangeDescriptor::new(block, BlockSize::Block2M, 1).0;
    let flags = MapFlags::single().0;
    success(host.call(Call::RttDataMap {
        rd,
        base,
        top,
        flags,
        oaddr: range,
    }));
    host.fake.script().look(move |fake, vcpu| {
        vcpu.store(fake, base + 0x12_3000, b"block").unwrap();
    });
    host.enter(&realm);

    let table = host.delegated();
    success(host.call(Call::RttCreate {
        rd,
        rtt: table,
        ipa: base,
        level: 3,
    }));
    let destroy = Call::RttDestroy {
        rd,
        ipa: base,
        level: 3,
    };
    assert_eq!(host.status(destroy), RmiStatus::rtt(3));
    host.fake.script().look(move |fake, vcpu| {
        assert_eq!(&vcpu.load::<5>(fake, base + 0x12_3000).unwrap(), b"block");
    });
    host.enter(&realm);
    assert_eq!(
        success(host.call(Call::RttFold {
            rd,
            ipa: base,
            level: 3
        }))[0],
        table
    );
    let entry = success(host.call(Call::RttReadEntry {
        rd,
        ipa: base,
        level: 3,
    }));
    assert_eq!(entry[..4], [2, 1, block, 1]);

    let reply = success(host.call(Call::RttDataUnmap {
        rd,
        base,
        top,
        flags,
        oaddr: 0,
    }));
    assert_eq!(reply[..2], [top, range]);
    assert!(
        host.fake
            .peek(block + 0x12_3000)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    host.undelegate(block, 512);
    host.undelegate(table, 1);
}

#[test]
fn unmapped_memory_is_reported_as_runs_or_as_a_list() {
    let host = Host::activated();
    let realm = host.new_realm();
    let rd = realm.rd;
    let run = host.pages(4);
    host.delegate(run, 4);
    let (flags, range) = (
        MapFlags::single().0,
        RangeDescriptor::new(run, BlockSize::Page, 4).0,
    );
    let top = 4 * PAGE;
    let reply = host.call(Call::RttDataMap {
        rd,
        base: 0,
        top,
        flags,
        oaddr: range,
    });
    assert_eq!(success(reply)[0], top);
    // A page lies between, so the next one does not continue the run.
    host.pages(1);
    let alone = host.map_private(&realm, 6 * PAGE);
    // One descriptor says one run: the page elsewhere is left for the next call.
    let unmap = |base, flags, oaddr| {
        success(host.call(Call::RttDataUnmap {
            rd,
            base,
            top: 8 * PAGE,
            flags,
            oaddr,
        }))
    };
    assert_eq!(unmap(0, flags, 0)[..3], [6 * PAGE, range, 0]);
    let list = host.pages(1);
    let [end, none, count, ..] = unmap(6 * PAGE, MapFlags::list(8).0, list);
    assert_eq!((end, none, count), (8 * PAGE, 0, 1));
    let word = host.fake.host_load(list, 8).unwrap().try_into().unwrap();
    let single = RangeDescriptor::new(alone, BlockSize::Page, 1).0;
    assert_eq!(u64::from_le_bytes(word), single);
}

#[test]
fn a_list_maps_until_its_first_wrong_descriptor() {
    let host = Host::activated();
    let realm = host.new_realm();
    let [first, second] = [host.delegated(), host.delegated()];
    let page = |pa| RangeDescriptor::new(pa, BlockSize::Page, 1).0;
    let words = [page(first), page(second), page(realm.rd), page(first)];
    let list = host.page_with(&words.map(u64::to_le_bytes).concat());
    let (flags, rd) = (MapFlags::list(4).0, realm.rd);
    let map = |base| Call::RttDataMap {
        rd,
        base,
        top: 4 * PAGE,
        flags,
        oaddr: list,
    };
    assert_eq!(success(host.call(map(0)))[0], 2 * PAGE);
    let entry = |ipa| success(host.call(Call::RttReadEntry { rd, ipa, level: 3 }));
    assert_eq!(entry(PAGE)[1..3], [1, second]);
    assert_eq!(entry(2 * PAGE)[1], 0);
}

#[test]
fn a_run_page_that_the_host_takes_away_ends_the_entry_and_nothing_else() {
    let world = World::new();
    let host = &world.host;
    host.fake.fail_kind_after(FaultPoint::HostRead, 0);
    let entry = RecEnter::new_zeroed();
    assert_eq!(
        host.enter_with(&world.active, &entry).err().unwrap(),
        RmiStatus::INPUT
    );
    host.fake.fail_kind_after(FaultPoint::HostWrite, 0);
    let status = host.enter_with(&world.active, &entry).err().unwrap();
    assert_eq!(status.code, RmiCode::Input);
    host.fake.disarm();
    // The virtual CPU is idle again: it can be entered, and the realm terminated.
    host.enter(&world.active);
    success(host.call(Call::RealmTerminate {
        rd: world.active.rd,
    }));
}

#[test]
fn a_block_with_a_hole_is_not_taken_in_part() {
    let host = Host::activated();
    let realm = host.realm();
    let block = host.pages(512);
    host.delegate(block, 512);
    host.undelegate(block + 300 * PAGE, 1);
    let oaddr = RangeDescriptor::new(block, BlockSize::Block2M, 1).0;
    let map = Call::RttDataMap {
        rd: realm.rd,
        base: 0x20_0000,
        top: 0x40_0000,
        flags: MapFlags::single().0,
        oaddr,
    };
    let before = host.snapshot();
    assert_eq!(host.status(map), RmiStatus::INPUT);
    assert!(before == host.snapshot(), "something changed");
    host.delegate(block + 300 * PAGE, 1);
    success(host.call(map));
}

#[test]
fn a_shared_block_that_reaches_into_private_memory_is_not_mapped_in_part() {
    let host = Host::activated();
    let realm = host.realm();
    let block = host.pages(512);
    host.delegate(block + 300 * PAGE, 1);
    let map = Call::RttUnprotMap {
        rd: realm.rd,
        base: Realm::SHARED + 0x20_0000,
        top: Realm::SHARED + 0x40_0000,
        flags: Host::shared_flags(),
        oaddr: RangeDescriptor::new(block, BlockSize::Block2M, 1).0 | 1 << 63,
    };
    let before = host.snapshot();
    assert_eq!(host.status(map), RmiStatus::INPUT);
    assert!(before == host.snapshot(), "something changed");
    host.undelegate(block + 300 * PAGE, 1);
    success(host.call(map));
}
