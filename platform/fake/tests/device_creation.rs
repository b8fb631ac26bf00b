// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What must fit together before a device, a stream or an interface exists or locks.

mod rig;

use rig::{PAGE, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{AddressRange, Call, PdevCategory};
use tsm_devices::TdiState;
use tsm_platform::Rid;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Guard, Host, ROOT_PORT, success};

#[test]
fn an_interface_is_created_only_where_everything_fits() {
    let rig = Rig::connected();
    let good = rig.vdev_params();
    let mut cases = Vec::new();
    let mut case = |what, change: &dyn Fn(&mut tsm_abi::rmi::VdevParams)| {
        let mut params = good.clone();
        change(&mut params);
        cases.push((what, params));
    };
    let range = |base: u64, top: u64| AddressRange {
        base: base.into(),
        top: top.into(),
    };
    case("flags", &|params| params.flags = 1.into());
    case("another device's function", &|params| {
        params.tdi_id = 0x0108.into()
    });
    case("no function", &|params| params.tdi_id = 0x1_0100.into());
    case("too many ranges", &|params| {
        params.num_addr_range = 9.into()
    });
    case("memory", &|params| {
        params.addr_range[0] = range(0x8000_0000, 0x8000_1000)
    });
    case("outside the BAR", &|params| {
        params.addr_range[0] = range(ENDPOINT_BAR, ENDPOINT_BAR + 0x5000);
    });
    case("reserved", &|params| {
        params.addr_range[0] = range(0x10e0_0000, 0x10e0_1000)
    });
    case("unaligned", &|params| {
        params.addr_range[0] = range(ENDPOINT_BAR + 1, ENDPOINT_BAR + PAGE)
    });
    case("empty", &|params| {
        params.addr_range[0] = range(ENDPOINT_BAR, ENDPOINT_BAR)
    });
    case("not sorted", &|params| {
        params.num_addr_range = 2.into();
        params.addr_range[0] = range(ENDPOINT_BAR + PAGE, ENDPOINT_BAR + 2 * PAGE);
        params.addr_range[1] = range(ENDPOINT_BAR, ENDPOINT_BAR + PAGE);
    });
    let before = rig.host.snapshot();
    for (what, params) in cases {
        assert_eq!(
            rig.create_interface(&params),
            Err(RmiStatus::INPUT),
            "{what}"
        );
        let after = rig.host.snapshot();
        assert_eq!(after.states, before.states, "{what}");
        assert_eq!(after.streams, before.streams, "{what}");
        assert!(after.functions == before.functions, "{what}");
    }
    let vdev = rig.create_interface(&good).unwrap();
    assert_eq!(
        rig.create_interface(&good),
        Err(RmiStatus::INPUT),
        "it has an owner"
    );
    let (rd, pdev) = (rig.realm.rd, rig.device);
    success(rig.host.call(Call::VdevDestroy { rd, pdev, vdev }));
}

#[test]
fn a_second_realm_gets_nothing_of_the_first_ones_device() {
    let rig = Rig::running();
    let other = rig.host.realm();
    let (pdev, vdev) = (rig.device, rig.vdev);
    let rd = other.rd;
    assert_eq!(
        rig.host.status(Call::VdevLock { rd, pdev, vdev }),
        RmiStatus::INPUT
    );
    assert_eq!(
        rig.host.status(Call::VdevUnlock { rd, pdev, vdev }),
        RmiStatus::DEVICE
    );
    assert_eq!(
        rig.host.status(Call::VdevDestroy { rd, pdev, vdev }),
        RmiStatus::DEVICE
    );
    let mapped = rig.host.status(Call::RttDevMap {
        rd,
        vdev,
        base: 0,
        top: PAGE,
        flags: 1,
        oaddr: ENDPOINT_BAR | 1 << 2,
    });
    assert_eq!(mapped, RmiStatus::INPUT);
    assert_eq!(rig.state(), 3);
    rig.host.reclaim(&other);
}

#[test]
fn devices_are_what_configuration_space_says() {
    let rig = Rig::new();
    let port = |rid| Rig::pdev_params(PdevCategory::RootPort, rid);
    let endpoint = |rid| Rig::pdev_params(PdevCategory::EndpointOffChip, rid);
    assert_eq!(
        rig.create_device(&port(ENDPOINT)),
        Err(RmiStatus::INPUT),
        "no bridge"
    );
    assert_eq!(
        rig.create_device(&endpoint(ROOT_PORT)),
        Err(RmiStatus::INPUT),
        "a bridge"
    );
    assert_eq!(
        rig.create_device(&endpoint(Rid(0x0200))),
        Err(RmiStatus::INPUT),
        "nothing"
    );
    assert_eq!(
        rig.create_device(&endpoint(Rid(0x0080))),
        Err(RmiStatus::INPUT),
        "hidden"
    );
    let mut params = endpoint(ENDPOINT);
    params.rid_base = 0x101.into();
    params.rid_top = 0x102.into();
    assert_eq!(
        rig.create_device(&params),
        Err(RmiStatus::INPUT),
        "not its own id"
    );
    let mut params = endpoint(ENDPOINT);
    params.hash_algo = 9;
    assert_eq!(rig.create_device(&params), Err(RmiStatus::INPUT));
    params.hash_algo = 0;
    assert_eq!(rig.create_device(&params), Err(RmiStatus::NOT_SUPPORTED));
    let on_chip = Rig::pdev_params(PdevCategory::EndpointOnChip, ENDPOINT);
    assert_eq!(rig.create_device(&on_chip), Err(RmiStatus::NOT_SUPPORTED));
    rig.create_device(&endpoint(ENDPOINT)).unwrap();
    assert_eq!(
        rig.create_device(&endpoint(ENDPOINT)),
        Err(RmiStatus::INPUT),
        "it exists"
    );
}

#[test]
fn a_stream_needs_a_device_below_its_root_port() {
    let mut rig = Rig::new();
    rig.create_ends();
    rig.open_session();
    // The host moves the bus behind the root port away.
    let write = Some(0x0007_0700);
    rig.host
        .tsm
        .host_config_access(&rig.host.fake, ROOT_PORT, 0x18, 4, write);
    let mut params: tsm_abi::rmi::PdevStreamParams = zerocopy::FromZeros::new_zeroed();
    params.stream_type = 1.into();
    params.pdev_1 = rig.port.into();
    params.pdev_2 = rig.device.into();
    let connect = |host: &Host, params: &tsm_abi::rmi::PdevStreamParams| {
        let params = host.page_with(zerocopy::IntoBytes::as_bytes(params));
        host.status(Call::PdevStreamConnect { params })
    };
    assert_eq!(connect(&rig.host, &params), RmiStatus::INPUT);
    let write = Some(0x0001_0100);
    rig.host
        .tsm
        .host_config_access(&rig.host.fake, ROOT_PORT, 0x18, 4, write);
    params.stream_type = 2.into();
    assert_eq!(connect(&rig.host, &params), RmiStatus::NOT_SUPPORTED);
    params.stream_type = 1.into();
    params.ide_sid = 256.into();
    assert_eq!(connect(&rig.host, &params), RmiStatus::INPUT);
    params.ide_sid = 9.into();
    assert_eq!(connect(&rig.host, &params), RmiStatus::SUCCESS);
    assert_eq!(connect(&rig.host, &params), RmiStatus::INPUT, "it has one");
    rig.handle = rig.device | 1;
    rig.take_back();
}

#[test]
fn nothing_locks_where_the_host_reaches_configuration_space_unseen() {
    let rig = Rig::assigned();
    rig.host.fake.remove_guard(Guard::Mediation);
    assert_eq!(rig.ask_lock(), RmiStatus::NOT_SUPPORTED);
    assert_eq!((rig.state(), rig.tdi()), (1, TdiState::ConfigUnlocked));
}

#[test]
fn nothing_locks_over_a_link_that_is_not_secure() {
    let mut rig = Rig::new();
    rig.create_ends();
    rig.open_session();
    let params = rig.vdev_params();
    assert_eq!(
        rig.create_interface(&params),
        Err(RmiStatus::DEVICE),
        "there is no stream"
    );
    rig.ask_for_stream();
    assert_eq!(
        rig.create_interface(&params),
        Err(RmiStatus::DEVICE),
        "not connected yet"
    );
    rig.pump_stream();
    rig.assign();
    assert_eq!(
        rig.disconnect_stream(),
        RmiStatus::DEVICE,
        "interfaces rest on it"
    );
    let pdev = rig.device;
    assert_eq!(rig.host.status(Call::PdevStop { pdev }), RmiStatus::DEVICE);
    assert_eq!(
        rig.host.status(Call::PdevDestroy { pdev }),
        RmiStatus::DEVICE
    );
    rig.take_back();
}
