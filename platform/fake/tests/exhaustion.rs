// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What happens when something runs out: a clean refusal, and everything can be had back.

mod rig;

use rig::{PAGE, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, DevCommEnter, PdevCategory, PdevParams, VdevParams};
use tsm_platform::Rid;
use tsm_platform_fake::{ENDPOINT, Host, ROOT_PORT, success};
use zerocopy::{FromZeros, IntoBytes};

#[test]
fn realms_end_where_tags_of_translations_end_and_tags_are_used_again() {
    let host = Host::activated();
    let create = || {
        let params = host.realm_params();
        let page = host.page_with(params.as_bytes());
        let rd = host.delegated();
        let status = host.status(Call::RealmCreate { rd, params: page });
        (rd, params.rtt_base.get(), status)
    };
    for _ in 0..2 {
        let mut realms = Vec::new();
        let refused = loop {
            let (rd, root, status) = create();
            if status != RmiStatus::SUCCESS {
                assert_eq!(status, RmiStatus::BUSY);
                break [rd, root];
            }
            realms.push([rd, root]);
        };
        // Tag 0 is the host's.
        assert_eq!(realms.len(), 255);
        for [rd, _] in &realms {
            success(host.call(Call::RealmDestroy { rd: *rd }));
        }
        for page in realms.into_iter().chain([refused]).flatten() {
            host.undelegate(page, 1);
        }
        assert!(host.has_everything_back());
    }
}

#[test]
fn a_realm_has_at_most_64_virtual_cpus() {
    let host = Host::activated();
    let realm = host.new_realm();
    let mpidr = |index: u64| (index & 0xf) | (index >> 4) << 8;
    let create = |index| {
        let (rd, rec) = (realm.rd, host.delegated());
        let params = host.page_with(Host::rec_params(mpidr(index)).as_bytes());
        (rec, host.status(Call::RecCreate { rd, rec, params }))
    };
    let recs = (1..64).map(|index| {
        let (rec, status) = create(index);
        assert_eq!(status, RmiStatus::SUCCESS, "{index}");
        rec
    });
    let recs: Vec<u64> = recs.collect();
    let (spare, status) = create(64);
    assert_eq!(status, RmiStatus::INPUT);
    for rec in recs {
        success(host.call(Call::RecDestroy { rec }));
        host.undelegate(rec, 1);
    }
    host.undelegate(spare, 1);
    host.reclaim(&realm);
    assert!(host.has_everything_back());
}

#[test]
fn memory_at_both_ends_of_a_region_can_be_delegated() {
    use tsm_platform_fake::{DRAM_BASE, DRAM_TOP, MMIO_BASE, MMIO_TOP};
    let host = Host::activated();
    for page in [DRAM_BASE, DRAM_TOP - PAGE, MMIO_BASE, MMIO_TOP - PAGE] {
        host.delegate(page, 1);
        host.undelegate(page, 1);
    }
    // A range that leaves the region ends there.
    let (start, end) = (DRAM_TOP - PAGE, DRAM_TOP + PAGE);
    let call = Call::GranuleRangeDelegate { start, end };
    assert_eq!(success(host.call(call))[0], DRAM_TOP);
    host.undelegate(start, 1);
    assert!(host.has_everything_back());
}

/// F04.
#[test]
fn devices_end_where_their_table_ends_and_places_are_used_again() {
    let host = Host::activated();
    let port = host.fake.function(ROOT_PORT).expect("a root port");
    let rids = (1..=33).map(|number| Rid(0x2000 + number));
    let created = rids.map(|rid| {
        host.fake.set_function(rid, port.clone());
        let mut params = PdevParams::new_zeroed();
        params.pdev_id = u64::from(rid.0).into();
        params.hash_algo = 2;
        (params.clone(), host.create_pdev(&params))
    });
    let created: Vec<_> = created.collect();
    let (full, rest) = created.split_last().expect("some");
    assert!(rest.iter().all(|(_, object)| object.is_ok()));
    assert_eq!(full.1, Err(RmiStatus::DEVICE));
    let first = rest[0].1.expect("it was created");
    success(host.call(Call::PdevAbort { pdev: first }));
    success(host.call(Call::PdevStop { pdev: first }));
    let data = host.pages(1);
    let mut enter = DevCommEnter::new_zeroed();
    (enter.req_addr, enter.resp_addr) = (host.pages(1).into(), host.pages(1).into());
    host.fake.host_store(data, enter.as_bytes());
    success(host.call(Call::PdevCommunicate { pdev: first, data }));
    success(host.call(Call::PdevDestroy { pdev: first }));
    assert!(host.create_pdev(&full.0).is_ok());
}

/// Puts function `number` of the endpoint's bus there, with a page of memory; returns what makes an
/// interface of it.
fn add_function(rig: &Rig, number: u16) -> VdevParams {
    const BARS: u64 = 0x1018_0000;
    let rid = Rid(ENDPOINT.0 + number);
    let bar = BARS + u64::from(number) * PAGE;
    let endpoint = rig.host.fake.function(ENDPOINT).expect("an endpoint");
    let low = u32::try_from(bar).expect("low memory") | 4;
    rig.host
        .fake
        .set_function(rid, endpoint.with(0x10, low, 0xffff_f000));
    let mut params = VdevParams::new_zeroed();
    params.vdev_id = u64::from(number).into();
    params.tdi_id = u64::from(rid.0).into();
    params.num_addr_range = 1.into();
    params.addr_range[0].base = bar.into();
    params.addr_range[0].top = (bar + PAGE).into();
    params
}

/// F04.
#[test]
fn interfaces_end_where_their_table_ends_and_places_are_used_again() {
    const MOST: usize = 64;
    let mut rig = Rig::new();
    let first = rig.host.fake.function(ENDPOINT).expect("an endpoint");
    // Several functions.
    let first = first.with(0x0c, 0x0080_0000, 0);
    rig.host.fake.set_function(ENDPOINT, first);
    let all: Vec<VdevParams> = (1..=65).map(|number| add_function(&rig, number)).collect();
    let mut device = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    device.rid_top = 0x200.into();
    rig.connect_device(&device);
    let (rest, full) = all.split_at(MOST);
    let mut objects: Vec<u64> = rest
        .iter()
        .map(|params| rig.create_interface(params).expect("room"))
        .collect();
    for _ in 0..2 {
        let before = rig.host.snapshot();
        assert_eq!(rig.create_interface(&full[0]), Err(RmiStatus::DEVICE));
        let after = rig.host.snapshot();
        assert_eq!(
            (&before.states, &before.streams, before.globals),
            (&after.states, &after.streams, after.globals)
        );
        assert!(before.functions == after.functions);
        let give_back = |vdev| {
            let (rd, pdev) = (rig.realm.rd, rig.device);
            success(rig.host.call(Call::VdevDestroy { rd, pdev, vdev }));
            rig.host.undelegate(vdev, 1);
        };
        // The place of one that goes is the next one's.
        give_back(objects.remove(MOST / 2));
        let next = rig.create_interface(&full[0]).expect("room again");
        give_back(next);
        let again = rig.create_interface(&rest[MOST / 2]);
        objects.insert(MOST / 2, again.expect("room again"));
    }
    for vdev in objects {
        let (rd, pdev) = (rig.realm.rd, rig.device);
        success(rig.host.call(Call::VdevDestroy { rd, pdev, vdev }));
        rig.host.undelegate(vdev, 1);
    }
    rig.take_back();
}
