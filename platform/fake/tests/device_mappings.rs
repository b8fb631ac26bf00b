// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a device and a guest reach of each other, and that the host changes none of it.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{AddressRange, BlockSize, Call, MapFlags, PdevCategory, RangeDescriptor};
use tsm_core::State;
use tsm_platform::{Rid, StreamId};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, FaultPoint, Host, Realm, success};

const STARTED: u64 = 3;
const ERROR: u64 = 4;
/// The endpoint's second function and its BAR.
const SECOND: Rid = Rid(0x0101);
const SECOND_BAR: u64 = 0x1018_0000;

fn page(address: u64) -> u64 {
    RangeDescriptor::new(address, BlockSize::Page, 1).0
}

/// Boots and goes on to a guest with one function of a device that has two.
fn with_two_functions() -> Rig {
    let mut rig = Rig::new();
    let first = rig.host.fake.function(ENDPOINT).unwrap();
    let bar = u32::try_from(SECOND_BAR).unwrap() | 4;
    let second = first.clone().with(0x10, bar, 0xffff_c000);
    let first = first.with(0x0c, 0x0080_0000, 0);
    rig.host.fake.set_function(ENDPOINT, first);
    rig.host.fake.set_function(SECOND, second);
    let mut device = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    device.rid_top = (u32::from(SECOND.0) + 1).into();
    rig.connect_device(&device);
    rig.assign();
    rig.lock();
    rig.measure();
    rig.report();
    rig
}

/// E01.
#[test]
fn a_page_is_mapped_as_the_devices_only_if_it_is() {
    let rig = with_two_functions();
    let mut params = rig.vdev_params();
    params.vdev_id = 2.into();
    params.tdi_id = u64::from(SECOND.0).into();
    params.addr_range[0] = AddressRange {
        base: SECOND_BAR.into(),
        top: (SECOND_BAR + PAGE).into(),
    };
    let second = rig.create_interface(&params).unwrap();
    let other = rig.host.realm();
    let others_page = rig.host.map_private(&other, 0x1000);
    let own_page = rig.reach(DATA_IPA).unwrap();
    for base in [SECOND_BAR, ENDPOINT_BAR + 0x4000] {
        rig.host.delegate(base, 1);
    }
    let claims = [
        ("another interface's", SECOND_BAR),
        ("a BAR's that has no interface", ENDPOINT_BAR + 0x4000),
        ("another guest's", others_page),
        ("its own memory", own_page),
        ("the guest's descriptor", rig.realm.rd),
        ("another guest's descriptor", other.rd),
        ("a translation table", rig.realm.root),
        ("the interface's object", rig.vdev),
        ("the device's object", rig.device),
        ("delegated memory", rig.host.delegated()),
        ("the host's memory", rig.host.pages(1)),
        ("what the platform keeps", 0x10e0_0000),
        ("no memory at all", 0xff_ffff_f000),
        ("not delegated", ENDPOINT_BAR),
    ];
    let nonces = rig.nonces();
    let before = rig.host.snapshot();
    for (what, address) in claims {
        assert_ne!(
            rig.map(DEVICE_IPA, address, 1),
            RmiStatus::SUCCESS,
            "{what}"
        );
        if address != ENDPOINT_BAR {
            let (exit, registers) = rig.ask_memory(DEVICE_IPA, address, 1, nonces);
            assert_ne!(exit.exit_reason.get(), 9, "{what}");
            assert_ne!(registers.get()[0], 0, "{what}");
        }
        assert_eq!(rig.validate(DEVICE_IPA, 1), RmiStatus::INPUT, "{what}");
        assert_eq!(rig.reach(DEVICE_IPA), None, "{what}");
        assert_eq!(rig.host.snapshot().states, before.states, "{what}");
    }
    // Nor is this interface's mapped for the other, or into another guest.
    rig.host.delegate(ENDPOINT_BAR, 1);
    let (rd, base, top) = (rig.realm.rd, DEVICE_IPA, DEVICE_IPA + PAGE);
    for (rd, vdev) in [(rd, second), (other.rd, rig.vdev), (other.rd, second)] {
        let flags = MapFlags::single().0;
        let map = Call::RttDevMap {
            rd,
            vdev,
            base,
            top,
            flags,
            oaddr: page(ENDPOINT_BAR),
        };
        assert_eq!(rig.host.status(map), RmiStatus::INPUT);
    }
    assert_eq!(rig.map(DEVICE_IPA, ENDPOINT_BAR, 1), RmiStatus::SUCCESS);
    assert_ne!(
        rig.map(DEVICE_IPA + PAGE, ENDPOINT_BAR, 1),
        RmiStatus::SUCCESS,
        "it is mapped already"
    );
}

/// E02. What an address means that a device has translated is not modelled here: the IOMMU is told
/// to take none.
#[test]
fn dma_reaches_a_guest_only_under_its_stream_and_while_it_is_granted() {
    let mut rig = Rig::locked();
    let secret = rig.reach(DATA_IPA).unwrap();
    let reaches = |rig: &Rig| {
        let streams = [
            0x0000, 0x0010, 0x00ff, 0x0100, 0x0101, 0x0108, 0x0200, 0xffff,
        ];
        let hit = |stream| {
            let dma = |address| rig.host.fake.dma(StreamId(stream), address);
            dma(secret) == Some(secret) || dma(DATA_IPA) == Some(secret)
        };
        let hits = streams.into_iter().filter(|stream| hit(*stream));
        hits.collect::<Vec<_>>()
    };
    assert!(reaches(&rig).is_empty(), "locked");
    rig.accept_memory();
    rig.start();
    assert!(reaches(&rig).is_empty(), "not granted yet");
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), 0);
    assert_eq!(reaches(&rig), [0x100]);
    assert_eq!(
        rig.dma(secret),
        None,
        "the device's addresses are the guest's"
    );
    assert_eq!(rig.disable_dma(), 0);
    assert!(reaches(&rig).is_empty());
    assert_eq!(rig.enable_dma(nonces), 0);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    assert_eq!(rig.ask_unlock(), RmiStatus::SUCCESS);
    assert!(reaches(&rig).is_empty(), "it is being given back");
    rig.pump_interface();
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    rig.host.undelegate(rig.vdev, 1);
    rig.vdev = 0;
    assert!(reaches(&rig).is_empty(), "the host's device");
    rig.take_back();
}

/// E03.
#[test]
fn what_is_not_confirmed_to_be_revoked_is_not_free() {
    let mut failed = 0;
    loop {
        let mut rig = Rig::running();
        rig.host.fake.fail_kind_after(FaultPoint::Iommu, failed);
        // The host turns decoding off, which cuts the interface off.
        let (tsm, fake) = (&rig.host.tsm, &rig.host.fake);
        tsm.host_config_access(fake, ENDPOINT, 4, 2, Some(0));
        if rig.host.fake.disarm().is_none() {
            assert_eq!(rig.state(), ERROR);
            break;
        }
        assert_eq!(rig.state(), STARTED, "not seen as left: {failed}");
        // The first thing that goes is DMA.
        assert_eq!(rig.dma(DATA_IPA).is_some(), failed == 0, "{failed}");
        let state = |address| rig.host.tsm.granules().state(address);
        assert_eq!(state(ENDPOINT_BAR), Ok(State::Mapped));
        // Each call that would make something of it free tries again first, and is refused.
        let (rd, pdev, vdev) = rig.names();
        let (start, end) = (ENDPOINT_BAR, ENDPOINT_BAR + PAGE);
        for call in [
            Call::VdevUnlock { rd, pdev, vdev },
            Call::VdevDestroy { rd, pdev, vdev },
            Call::VdevAbort { rd, pdev, vdev },
            Call::GranuleRangeUndelegate { start, end },
        ] {
            rig.host.fake.fail_kind_after(FaultPoint::Iommu, failed);
            assert_ne!(rig.host.status(call), RmiStatus::SUCCESS, "{call:x?}");
            rig.host.fake.disarm();
            if rig.state() == ERROR {
                // The other points were passed the first time.
                break;
            }
            assert_eq!(state(ENDPOINT_BAR), Ok(State::Mapped), "{call:x?}");
        }
        assert_ne!(rig.enable_dma([1, 2, 3]), 0);
        assert_eq!(rig.state(), ERROR, "confirmed at last");
        assert_eq!(rig.dma(DATA_IPA), None);
        assert_eq!(rig.reach(DEVICE_IPA), None);
        rig.take_back();
        failed += 1;
    }
    assert!(
        failed >= 2,
        "{failed} points: the stream, and translations of it"
    );
}

/// E03: the page goes back to the host after DMA, mapping and translations of it are gone.
#[test]
fn a_page_goes_back_in_order() {
    let mut rig = Rig::running();
    let (start, end) = (ENDPOINT_BAR, ENDPOINT_BAR + PAGE);
    let undelegate = Call::GranuleRangeUndelegate { start, end };
    rig.host.fake.fail_kind_after(FaultPoint::Iommu, 0);
    assert_ne!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    assert!(rig.host.fake.disarm().is_some());
    let state = rig.host.tsm.granules().state(ENDPOINT_BAR);
    assert_eq!(state, Ok(State::Mapped), "translations may be left");
    assert_ne!(rig.host.status(undelegate), RmiStatus::SUCCESS);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    assert_eq!(rig.reach(DEVICE_IPA), None);
    rig.host.fake.fail_kind_after(FaultPoint::Iommu, 0);
    assert_ne!(rig.host.status(undelegate), RmiStatus::SUCCESS);
    assert!(rig.host.fake.disarm().is_some());
    let state = rig.host.tsm.granules().state(ENDPOINT_BAR);
    assert_eq!(
        state,
        Ok(State::Delegated),
        "DMA was not confirmed to be off"
    );
    assert!(!rig.host.fake.host_reaches(ENDPOINT_BAR));
    success(rig.host.call(undelegate));
    assert_eq!((rig.state(), rig.dma(DATA_IPA)), (ERROR, None));
    assert!(rig.host.fake.host_reaches(ENDPOINT_BAR));
    assert!(rig.host.fake.stale_translations().is_empty());
    rig.take_back();
}

/// E05.
#[test]
fn the_host_changes_nothing_under_a_private_mapping() {
    let mut rig = Rig::running();
    let (rd, vdev, rec) = (rig.realm.rd, rig.vdev, rig.realm.rec);
    let (base, top, ipa) = (DEVICE_IPA, DEVICE_IPA + PAGE, DEVICE_IPA);
    let (memory, table) = (rig.host.delegated(), rig.host.delegated());
    let outside = ENDPOINT_BAR + 2 * PAGE;
    rig.host.delegate(outside, 1);
    let flags = MapFlags::single().0;
    let shared = Host::shared_flags();
    let dev_map = |address| Call::RttDevMap {
        rd,
        vdev,
        base,
        top,
        flags,
        oaddr: page(address),
    };
    let data_map = |base, top| Call::RttDataMap {
        rd,
        base,
        top,
        flags,
        oaddr: page(memory),
    };
    let calls = [
        ("memory", data_map(base, top)),
        ("the other page", dev_map(ENDPOINT_BAR + PAGE)),
        ("the same page", dev_map(ENDPOINT_BAR)),
        ("a page that is not private", dev_map(outside)),
        (
            "a page of the host",
            Call::RttUnprotMap {
                rd,
                base,
                top,
                flags: shared,
                oaddr: Host::shared_range(rig.host.pages(1)),
            },
        ),
        (
            "shared, unmapped",
            Call::RttUnprotUnmap {
                rd,
                base,
                top,
                flags,
                oaddr: 0,
            },
        ),
        (
            "memory, unmapped",
            Call::RttDataUnmap {
                rd,
                base,
                top,
                flags,
                oaddr: 0,
            },
        ),
        (
            "no table",
            Call::RttDestroy {
                rd,
                ipa: 0,
                level: 3,
            },
        ),
        (
            "another table",
            Call::RttCreate {
                rd,
                rtt: table,
                ipa: 0,
                level: 3,
            },
        ),
        (
            "one entry",
            Call::RttFold {
                rd,
                ipa: 0,
                level: 3,
            },
        ),
        ("another state", Call::RttSetRipas { rd, rec, base, top }),
        ("once more", Call::RttDevValidate { rd, rec, base, top }),
        (
            "a measured page",
            Call::RttDataMapInit {
                rd,
                data: memory,
                ipa,
                src: rig.host.pages(1),
                flags: 0,
            },
        ),
    ];
    for (what, call) in calls {
        assert_ne!(rig.host.status(call), RmiStatus::SUCCESS, "{what}");
        assert_eq!(rig.reach(DEVICE_IPA), Some(ENDPOINT_BAR), "{what}");
        assert_eq!(
            rig.reach(DEVICE_IPA + PAGE),
            Some(ENDPOINT_BAR + PAGE),
            "{what}"
        );
        assert_eq!(rig.state(), STARTED, "{what}");
        for granule in [memory, table, outside] {
            let state = rig.host.tsm.granules().state(granule);
            assert_eq!(state, Ok(State::Delegated), "{what}");
        }
    }
    // The host may take a page away; it may not put another one there.
    assert_eq!(rig.unmap(DEVICE_IPA, 1), RmiStatus::SUCCESS);
    assert_eq!(rig.reach(DEVICE_IPA), None);
    for (what, call) in [
        ("memory", data_map(base, top)),
        ("a page that is not private", dev_map(outside)),
        ("the page itself", dev_map(ENDPOINT_BAR)),
    ] {
        let _ = rig.host.status(call);
        assert_eq!(rig.reach(DEVICE_IPA), None, "{what}");
        assert_ne!(rig.validate(DEVICE_IPA, 1), RmiStatus::SUCCESS, "{what}");
        assert_eq!(rig.reach(DEVICE_IPA), None, "{what}");
        let _ = rig.unmap(DEVICE_IPA, 1);
        let _ = rig.host.status(calls[6].1);
    }
    assert_eq!(rig.reach(DEVICE_IPA + PAGE), Some(ENDPOINT_BAR + PAGE));
    rig.host.undelegate(outside, 1);
    for granule in [memory, table] {
        rig.host.undelegate(granule, 1);
    }
    assert_eq!(rig.reach(Realm::SHARED | DEVICE_IPA), None);
    rig.take_back();
}
