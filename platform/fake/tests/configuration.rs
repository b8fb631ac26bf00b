// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Configuration space as the host reaches it: what passes, what is refused, and what costs a guest
//! its device.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, Pumped, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, PdevCategory};
use tsm_platform::{ConfigSpace, Rid};
use tsm_platform_fake::{
    ENDPOINT, ENDPOINT_BAR, ENDPOINT_BAR_BYTES, Function, Host, MMIO_TOP, ROOT_PORT, success,
};

/// A second endpoint, on the root bus.
const OTHER: Rid = Rid(0x0018);
/// Where its BAR is at first.
const OTHER_BAR: u32 = 0x1080_0000;
const STARTED: u64 = 3;
const ERROR: u64 = 4;

fn read(host: &Host, rid: Rid, offset: u16) -> u32 {
    host.tsm
        .host_config_access(&host.fake, rid, offset, 4, None)
}

fn write(host: &Host, rid: Rid, offset: u16, width: u8, value: u32) {
    let value = host
        .tsm
        .host_config_access(&host.fake, rid, offset, width, Some(value));
    assert_eq!(value, 0);
}

/// Adds an endpoint with a 32-bit BAR of 64 KiB, decoding.
fn add_other(host: &Host) {
    let function = Function::empty()
        .with(0x00, 0x0010_1b36, 0)
        .with(0x04, 0x6, 0x0547)
        .with(0x08, 0x0108_0202, 0)
        .with(0x10, OTHER_BAR, 0xffff_0000);
    host.fake.set_function(OTHER, function);
}

/// Gives both functions of the path power management, and the root port a slot and a link.
fn add_capabilities(rig: &Rig) {
    for rid in [ENDPOINT, ROOT_PORT] {
        let function = rig.host.fake.function(rid).unwrap();
        let express = function.register(0x40);
        let next = express & 0xff00;
        let function = function
            .with(0x40, express & !0xff00 | 0x8000, 0)
            .with(0x50, 0, 0xffff)
            .with(0x58, 0, 0xffff)
            .with(0x80, 0x0003_0001 | next, 0)
            .with(0x84, 0, 0x3);
        rig.host.fake.set_function(rid, function);
    }
    let function = rig.host.fake.function(ROOT_PORT).unwrap();
    rig.host
        .fake
        .set_function(ROOT_PORT, function.with(0x3c, 0, 0xffff_00ff));
    let endpoint = rig.host.fake.function(ENDPOINT).unwrap();
    let endpoint = endpoint
        .with(0x30, 0, 0xffff_f801)
        .with(0x100, 0x1501_002e, 0)
        .with(0x150, 0x0001_0015, 0)
        .with(0x158, 0, 0xffff_ffff);
    rig.host.fake.set_function(ENDPOINT, endpoint);
}

/// Writes that disturb a bound interface: function, offset, width, value, what.
const DISTURBING: [(Rid, u16, u8, u32, &str); 23] = [
    (ENDPOINT, 0x10, 4, 0x1020_0004, "another BAR"),
    (ENDPOINT, 0x10, 4, 0xffff_ffff, "sizing the BAR"),
    (ENDPOINT, 0x12, 2, 0x1020, "half of a BAR"),
    (ENDPOINT, 0x13, 1, 0x20, "one byte of a BAR"),
    (ENDPOINT, 0x14, 4, 1, "upper half of the BAR"),
    (ENDPOINT, 0x30, 4, 0x1014_0001, "the ROM"),
    (ENDPOINT, 0x04, 2, 0x0004, "memory decoding off"),
    (ENDPOINT, 0x04, 2, 0x0002, "bus mastering off"),
    (ENDPOINT, 0x04, 1, 0x0000, "both off"),
    (ENDPOINT, 0x48, 2, 0x8000, "function level reset"),
    (ENDPOINT, 0x62, 2, 0x8000, "MSI-X on"),
    (ENDPOINT, 0x84, 2, 0x0003, "power off"),
    (ENDPOINT, 0x158, 4, 0x0000_0100, "BAR resizing"),
    (ROOT_PORT, 0x04, 2, 0x0000, "the path off"),
    (ROOT_PORT, 0x18, 4, 0x0002_0200, "another bus"),
    (ROOT_PORT, 0x19, 1, 0x02, "another secondary bus"),
    (ROOT_PORT, 0x20, 4, 0x1020_1020, "another window"),
    (ROOT_PORT, 0x24, 2, 0x1011, "another prefetchable window"),
    (ROOT_PORT, 0x3e, 2, 0x0040, "secondary bus reset"),
    (ROOT_PORT, 0x84, 2, 0x0003, "port power off"),
    (ROOT_PORT, 0x50, 2, 0x0010, "link off"),
    (ROOT_PORT, 0x58, 2, 0x0400, "slot power off"),
    (ROOT_PORT, 0x1a, 1, 0x00, "no subordinate bus"),
];

/// Writes that do not.
const HARMLESS: [(Rid, u16, u8, u32); 8] = [
    (ENDPOINT, 0x108, 4, 0x8000_0000),
    (ENDPOINT, 0x110, 4, 0x1234_5678),
    (ENDPOINT, 0x10, 4, ENDPOINT_BAR as u32 | 4),
    (ENDPOINT, 0x04, 2, 0x0146),
    (ENDPOINT, 0x48, 2, 0x2810),
    (ROOT_PORT, 0x18, 4, 0x0001_0100),
    (ROOT_PORT, 0x20, 4, 0x1010_1010),
    (ROOT_PORT, 0x3c, 1, 0x0b),
];

#[test]
fn a_write_that_disturbs_a_running_device_is_refused_and_cuts_it_off() {
    let mut rig = Rig::running();
    add_capabilities(&rig);
    for (rid, offset, width, value, what) in DISTURBING {
        assert_eq!(rig.state(), STARTED);
        assert!(rig.dma(DATA_IPA).is_some() && rig.reach(DEVICE_IPA).is_some());
        let before = rig.host.fake.registers();
        write(&rig.host, rid, offset, width, value);
        assert!(rig.host.fake.registers() == before, "{what}");
        assert_eq!(rig.state(), ERROR, "{what}");
        assert_eq!(rig.dma(DATA_IPA), None, "{what}");
        assert_eq!(rig.reach(DEVICE_IPA), None, "{what}");
        // The device itself was not disturbed, so it can be used again.
        assert_eq!(
            rig.unmap(DEVICE_IPA, rig::PRIVATE_PAGES),
            RmiStatus::SUCCESS
        );
        rig.give_up_addresses();
        rig.unlock();
        rig.lock();
        rig.measure();
        rig.report();
        rig.accept_again();
        rig.start();
        let nonces = rig.nonces();
        assert_eq!(rig.enable_dma(nonces), 0);
    }
    rig.take_back();
}

#[test]
fn other_writes_pass_while_the_device_runs() {
    let mut rig = Rig::running();
    add_capabilities(&rig);
    for (rid, offset, width, value) in HARMLESS {
        write(&rig.host, rid, offset, width, value);
        let read = rig
            .host
            .tsm
            .host_config_access(&rig.host.fake, rid, offset, width, None);
        assert_eq!(read, value, "{offset:#x}");
        assert_eq!(rig.state(), STARTED, "{offset:#x}");
    }
    rig.report();
    assert_eq!(rig.state(), STARTED);
}

#[test]
fn a_locked_device_and_one_that_is_being_locked_are_guarded_too() {
    let mut rig = Rig::locked();
    write(&rig.host, ENDPOINT, 0x10, 4, 0x1020_0004);
    assert_eq!(rig.state(), ERROR);
    rig.unlock();
    assert_eq!(rig.ask_lock(), RmiStatus::SUCCESS);
    rig.begin(rig.interface_pump());
    write(&rig.host, ENDPOINT, 0x10, 4, 0x1020_0004);
    assert_eq!(read(&rig.host, ENDPOINT, 0x10), ENDPOINT_BAR as u32 | 4);
    assert_eq!(rig.state(), ERROR);
}

#[test]
fn an_unlocked_device_is_the_hosts_to_configure() {
    let mut rig = Rig::assigned();
    write(&rig.host, ENDPOINT, 0x04, 2, 0);
    write(&rig.host, ENDPOINT, 0x10, 4, u32::MAX);
    assert_eq!(read(&rig.host, ENDPOINT, 0x10), 0xffff_c004);
    write(&rig.host, ENDPOINT, 0x10, 4, 0x1018_0004);
    write(&rig.host, ENDPOINT, 0x04, 2, 6);
    assert_eq!(
        rig.ask_lock(),
        RmiStatus::DEVICE,
        "its memory is elsewhere now"
    );
    write(&rig.host, ENDPOINT, 0x10, 4, ENDPOINT_BAR as u32 | 4);
    rig.lock();
}

#[test]
fn a_device_that_moves_while_it_is_being_locked_is_not_locked() {
    let mut rig = Rig::assigned();
    assert_eq!(rig.ask_lock(), RmiStatus::SUCCESS);
    // Behind the TSM's back.
    let moved = ENDPOINT_BAR as u32 + 0x8_0000;
    let old = rig.host.fake.config_read(ENDPOINT, 0x10, 4);
    rig.host.fake.config_write(ENDPOINT, 0x10, 4, moved | 4);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.state(), ERROR);
    rig.host.fake.config_write(ENDPOINT, 0x10, 4, old);
    rig.take_back();
}

#[test]
fn no_function_is_laid_over_a_bound_one() {
    let rig = Rig::locked();
    let host = &rig.host;
    add_other(host);
    let over = [
        ENDPOINT_BAR as u32,
        // Starts below and reaches in: 64 KiB, a sixteenth of which is the device's.
        ENDPOINT_BAR as u32 & !0xffff,
    ];
    for bar in over {
        write(host, OTHER, 0x10, 4, bar);
        assert_eq!(read(host, OTHER, 0x10), OTHER_BAR, "{bar:#x}");
    }
    // Hardware drops the bits below the size: above the device as written, over it as kept.
    for bar in [ENDPOINT_BAR as u32 + 0x8000, ENDPOINT_BAR as u32 + 0xfff0] {
        write(host, OTHER, 0x10, 4, bar);
        assert_eq!(read(host, OTHER, 0x10), OTHER_BAR, "{bar:#x}");
    }
    // A function that does not decode may hold anything, and may not begin to.
    write(host, OTHER, 0x04, 2, 4);
    write(host, OTHER, 0x10, 4, u32::MAX);
    assert_eq!(read(host, OTHER, 0x10), 0xffff_0000, "sizing works");
    write(host, OTHER, 0x10, 4, ENDPOINT_BAR as u32);
    assert_eq!(read(host, OTHER, 0x10), ENDPOINT_BAR as u32);
    write(host, OTHER, 0x04, 2, 6);
    assert_eq!(read(host, OTHER, 0x04) & 6, 4);
    write(host, OTHER, 0x10, 4, OTHER_BAR);
    write(host, OTHER, 0x04, 2, 6);
    assert_eq!(read(host, OTHER, 0x04) & 6, 6);
    assert_eq!(
        rig.state(),
        2,
        "all of it without harm to the guest's device"
    );
}

#[test]
fn no_bridge_of_another_branch_forwards_to_a_bound_function() {
    let rig = Rig::locked();
    let host = &rig.host;
    let bridge = Rid(0x0028);
    let function = Function::empty()
        .with(0x00, 0x000c_1b36, 0)
        .with(0x04, 0x6, 0x0547)
        .with(0x0c, 0x0001_0000, 0xff)
        .with(0x18, 0x0002_0200, 0x00ff_ffff)
        .with(0x20, 0x1080_1080, 0xfff0_fff0)
        .with(0x24, 0x0000_fff0, 0xfff0_fff0);
    host.fake.set_function(bridge, function);
    write(host, bridge, 0x20, 4, 0x1010_1000);
    assert_eq!(read(host, bridge, 0x20), 0x1080_1080);
    write(host, bridge, 0x24, 4, 0x1010_1010);
    assert_eq!(read(host, bridge, 0x24), 0x0000_fff0);
    write(host, bridge, 0x20, 4, 0x10f0_10f0);
    assert_eq!(read(host, bridge, 0x20), 0x1080_1080, "that is reserved");
    write(host, bridge, 0x20, 4, 0x1090_1090);
    assert_eq!(read(host, bridge, 0x20), 0x1090_1090);
}

#[test]
fn a_device_that_another_one_covers_is_not_locked() {
    let rig = Rig::assigned();
    add_other(&rig.host);
    let host = &rig.host;
    write(host, OTHER, 0x10, 4, ENDPOINT_BAR as u32);
    assert_eq!(
        read(host, OTHER, 0x10),
        ENDPOINT_BAR as u32,
        "nothing is bound"
    );
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
    write(host, OTHER, 0x10, 4, OTHER_BAR);
    assert_eq!(rig.ask_lock(), RmiStatus::SUCCESS);
}

#[test]
fn nothing_is_laid_over_what_the_platform_keeps() {
    let rig = Rig::new();
    let host = &rig.host;
    add_other(host);
    let reserved = MMIO_TOP as u32 - 0x10_0000;
    write(host, OTHER, 0x10, 4, reserved);
    assert_eq!(read(host, OTHER, 0x10), OTHER_BAR);
    write(host, OTHER, 0x04, 2, 0);
    write(host, OTHER, 0x10, 4, reserved);
    write(host, OTHER, 0x04, 2, 6);
    assert_eq!(read(host, OTHER, 0x04) & 2, 0);
}

#[test]
fn a_hidden_function_and_an_impossible_access_are_not_there() {
    let rig = Rig::new();
    let host = &rig.host;
    let hidden = Rid(0x0080);
    let before = host.fake.registers();
    assert_eq!(read(host, hidden, 0), u32::MAX);
    write(host, hidden, 4, 4, u32::MAX);
    for (offset, width) in [(2, 4), (1, 2), (0x1000, 4), (0, 3), (0, 8)] {
        let read = host
            .tsm
            .host_config_access(&host.fake, ENDPOINT, offset, width, None);
        assert_eq!(read, u32::MAX);
        write(host, ENDPOINT, offset, width, 0);
    }
    assert!(host.fake.registers() == before);
}

#[test]
fn a_capability_list_that_loops_is_left() {
    let rig = Rig::running();
    let function = rig.host.fake.function(ENDPOINT).unwrap();
    let function = function
        .with(0x40, 0x0002_4010 | 0x6000, 0)
        .with(0x60, 0x0040_4011, 0xc000_0000)
        .with(0x100, 0x1001_002e, 0)
        .with(0x40, 0x0002_6010, 0);
    rig.host.fake.set_function(ENDPOINT, function);
    write(&rig.host, ENDPOINT, 0x110, 4, 7);
    write(&rig.host, ENDPOINT, 0xf0, 4, 7);
    assert_eq!(rig.state(), STARTED);
}

#[test]
fn a_device_that_is_locked_or_about_to_be_is_never_probed() {
    let mut rig = Rig::connected();
    rig.assign();
    assert!(
        !rig.host.fake.take_config_writes().is_empty(),
        "sized once, at creation"
    );
    rig.lock();
    rig.measure();
    rig.report();
    rig.accept_memory();
    rig.start();
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), 0);
    assert_eq!(rig.host.fake.take_config_writes(), []);
}

/// The endpoint's second function, in the same window of the root port.
const SECOND: Rid = Rid(0x0101);
const SECOND_BAR: u64 = 0x1018_0000;

/// Boots and goes on to a guest that uses the first of the device's two functions.
fn running_with_two_functions() -> Rig {
    let mut rig = Rig::new();
    let first = rig.host.fake.function(ENDPOINT).unwrap();
    let second = first.clone().with(0x10, SECOND_BAR as u32 | 4, 0xffff_c000);
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
    rig.accept_memory();
    rig.start();
    rig
}

fn create_second(rig: &Rig) -> Result<u64, RmiStatus> {
    let mut params = rig.vdev_params();
    params.vdev_id = 0x101.into();
    params.tdi_id = u64::from(SECOND.0).into();
    params.addr_range[0].base = SECOND_BAR.into();
    params.addr_range[0].top = (SECOND_BAR + ENDPOINT_BAR_BYTES).into();
    rig.create_interface(&params)
}

fn is_undisturbed(host: &Host) -> bool {
    let writes = host.fake.take_config_writes();
    assert!(writes.iter().any(|(rid, _)| *rid == SECOND), "it was sized");
    writes
        .iter()
        .all(|(rid, _)| ![ENDPOINT, ROOT_PORT].contains(rid))
}

#[test]
fn a_second_interface_does_not_disturb_a_bound_one_or_its_path() {
    let rig = running_with_two_functions();
    let (rd, pdev) = (rig.realm.rd, rig.device);
    // Functions enough to fill every table of sizes.
    for device in (3..32).filter(|device| *device != 16) {
        for number in 0..2 {
            let function = Function::empty()
                .with(0x00, 0x0010_1b36, 0)
                .with(0x04, 0x2, 0x0547)
                .with(0x0c, 0x0080_0000, 0);
            rig.host
                .fake
                .set_function(Rid(device << 3 | number), function);
        }
    }
    rig.host.fake.take_config_writes();
    for _ in 0..3 {
        let vdev = create_second(&rig).unwrap();
        assert!(is_undisturbed(&rig.host));
        success(rig.host.call(Call::VdevDestroy { rd, pdev, vdev }));
    }
    assert_eq!(rig.state(), STARTED);
}

#[test]
fn a_path_in_use_of_unknown_size_is_not_probed_but_refused() {
    let rig = running_with_two_functions();
    let port = rig.host.fake.function(ROOT_PORT).unwrap();
    let other = port.clone().with(0x00, 0x000d_1b36, 0);
    rig.host.fake.set_function(ROOT_PORT, other);
    rig.host.fake.take_config_writes();
    assert_eq!(create_second(&rig), Err(RmiStatus::INPUT));
    assert!(is_undisturbed(&rig.host));
    rig.host.fake.set_function(ROOT_PORT, port);
    assert!(create_second(&rig).is_ok());
    assert_eq!(rig.state(), STARTED);
}

#[test]
fn what_was_measured_at_creation_does_not_change_before_destruction() {
    let rig = Rig::assigned();
    add_capabilities(&rig);
    write(&rig.host, ENDPOINT, 0x158, 4, 0x100);
    assert_eq!(read(&rig.host, ENDPOINT, 0x158), 0, "BARs are not resized");
    assert_eq!(rig.state(), 1, "and the interface is none the worse");
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    write(&rig.host, ENDPOINT, 0x158, 4, 0x100);
    assert_eq!(read(&rig.host, ENDPOINT, 0x158), 0x100);
}

#[test]
fn no_other_function_is_taken_for_a_bound_one() {
    let rig = Rig::locked();
    let host = &rig.host;
    // A bridge of another branch that claims the same bus: what is behind it would have the
    // requester id of the guest's device.
    let bridge = Rid(0x0028);
    host.fake.set_function(bridge, bridge_to(2));
    write(host, bridge, 0x18, 4, 0x0001_0100);
    assert_eq!(read(host, bridge, 0x18), 0x0002_0200);
    write(host, bridge, 0x19, 1, 0x01);
    assert_eq!(read(host, bridge, 0x18), 0x0002_0200);
    write(host, bridge, 0x18, 4, 0x0005_0300);
    assert_eq!(read(host, bridge, 0x18), 0x0005_0300);
    // Virtual functions that reach the same id: 00:03.0 + 0xe8 + 0x10 * index.
    host.fake.set_function(OTHER, virtualizable());
    write(host, OTHER, 0x108, 4, 1);
    assert_eq!(read(host, OTHER, 0x108), 0);
    write(host, OTHER, 0x110, 4, 0);
    write(host, OTHER, 0x108, 4, 1);
    assert_eq!(read(host, OTHER, 0x108), 1, "none of them has it");
    assert_eq!(rig.state(), 2);
}

#[test]
fn virtual_functions_are_not_laid_over_a_bound_one() {
    let rig = Rig::locked();
    let host = &rig.host;
    let apart = OTHER_BAR + 0x1000;
    host.fake
        .set_function(OTHER, virtualizable().with(0x114, 0x0001_0001, 0));
    write(host, OTHER, 0x124, 4, ENDPOINT_BAR as u32);
    write(host, OTHER, 0x108, 4, 9);
    assert_eq!(read(host, OTHER, 0x108), 0);
    write(host, OTHER, 0x124, 4, apart);
    write(host, OTHER, 0x108, 4, 9);
    assert_eq!(read(host, OTHER, 0x108), 9);
    write(host, OTHER, 0x124, 4, ENDPOINT_BAR as u32);
    assert_eq!(read(host, OTHER, 0x124), apart);
}

#[test]
fn virtual_functions_that_decode_are_not_moved() {
    let rig = Rig::locked();
    let host = &rig.host;
    // One region of 1 MiB: of an address above the device, hardware would keep the device's.
    let apart = 0x1090_0000;
    let function = virtualizable()
        .with(0x110, 1, 0xffff)
        .with(0x114, 0x0001_0001, 0)
        .with(0x124, apart, 0xfff0_0000);
    host.fake.set_function(OTHER, function);
    write(host, OTHER, 0x108, 4, 9);
    assert_eq!(read(host, OTHER, 0x108), 9);
    write(host, OTHER, 0x124, 4, ENDPOINT_BAR as u32 + 0x8_0000);
    assert_eq!(read(host, OTHER, 0x124), apart);
    write(host, OTHER, 0x108, 4, 1);
    write(host, OTHER, 0x124, 4, ENDPOINT_BAR as u32 + 0x8_0000);
    assert_eq!(read(host, OTHER, 0x124), ENDPOINT_BAR as u32);
    write(host, OTHER, 0x108, 4, 9);
    assert_eq!(read(host, OTHER, 0x108), 1, "not over the device");
}

#[test]
fn a_device_to_which_two_paths_lead_is_not_locked() {
    let rig = Rig::assigned();
    let bridge = Rid(0x0028);
    rig.host.fake.set_function(bridge, bridge_to(1));
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
    write(&rig.host, bridge, 0x18, 4, 0x0002_0200);
    rig.host
        .fake
        .set_function(OTHER, virtualizable().with(0x108, 1, 9));
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
    write(&rig.host, OTHER, 0x108, 4, 0);
    assert_eq!(rig.ask_lock(), RmiStatus::SUCCESS);
}

#[test]
fn a_device_that_sends_messages_to_where_the_host_likes_is_not_locked() {
    let rig = Rig::assigned();
    write(&rig.host, ENDPOINT, 0x62, 2, 0x8000);
    assert_eq!(rig.ask_lock(), RmiStatus::DEVICE);
    write(&rig.host, ENDPOINT, 0x62, 2, 0);
    assert_eq!(rig.ask_lock(), RmiStatus::SUCCESS);
}

/// A bridge on the root bus to bus `number`, with its windows closed.
fn bridge_to(number: u32) -> Function {
    Function::empty()
        .with(0x00, 0x000c_1b36, 0)
        .with(0x04, 0x6, 0x0547)
        .with(0x0c, 0x0001_0000, 0xff)
        .with(0x18, number << 16 | number << 8, 0x00ff_ffff)
        .with(0x20, 0x0000_fff0, 0xfff0_fff0)
        .with(0x24, 0x0000_fff0, 0xfff0_fff0)
}

/// An endpoint that can have four virtual functions, the first of them 0xe8 after it.
fn virtualizable() -> Function {
    Function::empty()
        .with(0x00, 0x0010_1b36, 0)
        .with(0x04, 0x6, 0x0547)
        .with(0x10, OTHER_BAR, 0xffff_0000)
        .with(0x100, 0x0001_0010, 0)
        .with(0x108, 0, 9)
        .with(0x110, 4, 0xffff)
        .with(0x114, 0x0010_00e8, 0)
        .with(0x124, 0, 0xffff_f000)
}
