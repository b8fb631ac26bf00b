// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a hostile host tries.

use tsm_abi::RmiCode;
use tsm_abi::rmi::{Call, IommuFaultFlags, MapFlags, PdevState, VdevState};
use tsm_payload_support::dma::DmaPage;
use tsm_payload_support::mmio::Mmio;
use tsm_payload_support::nvme::BLOCK;

use super::board::{self, TSM};
use super::comm::{Tamper, Target};
use super::flow::{Host, build_realm, disconnect};
use super::layout::{HOST_DMA_TOP, REALM_DATA, Slot};
use super::pci::{BAR0, COMMAND, Function, ID};
use super::processor::vectors::{self, Fault};
use super::rec::{Event, Vcpu};
use super::report::{self, attack, check};
use super::rmi::{self, Result};
use super::{pdev, realm, rhi, vdev};

/// Guest address at which nothing is mapped, below an existing table.
const UNUSED_IPA: u64 = realm::DEVICE_IPA + 0x10_0000;
/// Host memory behind the guest's policy page, which the guest checks again afterwards.
const GUEST_PAGE: u64 = REALM_DATA + realm::POLICY_IPA;
/// Block of the other disk that the attacks use, in 512-byte blocks.
const OTHER_LBA: u64 = 64;
const RD: u64 = Slot::Rd.address();
const PDEV: u64 = Slot::Endpoint.address();
const VDEV: u64 = Slot::Vdev.address();

/// Everything that must fail without harm while the guest uses its device.
pub fn while_running(host: &mut Host) {
    touch(host);
    granules(host);
    states();
    config_space(host);
    device_memory_access(host);
    board::attacks::while_running(host);
    let state = vdev::state();
    check(
        "interface-survives",
        format_args!("state {state:?} after the attacks"),
        state == Some(VdevState::Started),
    );
}

/// Tells an access that must fault.
pub fn faults(name: &str, what: &str, result: core::result::Result<(), Fault>) {
    match result {
        Ok(()) => attack(
            name,
            format_args!("{what}"),
            format_args!("it worked"),
            false,
        ),
        Err(fault) => attack(
            name,
            format_args!("{what}"),
            format_args!("{fault}"),
            fault.is_protection(),
        ),
    }
}

/// Loads and stores by the CPU.
fn touch(host: &Host) {
    let bar = host.topology.disk.bar0();
    let reads = [
        ("read-private-bar", "load from the disk's registers", bar),
        ("read-guest-memory", "load from guest memory", GUEST_PAGE),
        (
            "read-realm-descriptor",
            "load from the realm's descriptor",
            RD,
        ),
        ("read-tsm", "load from the TSM's memory", TSM),
        (
            "read-key-unit",
            "load from the key configuration unit",
            board::KEY_UNIT,
        ),
        (
            "read-iommu",
            "load from the IOMMU's registers",
            board::IOMMU,
        ),
    ];
    for (name, what, address) in reads {
        faults(name, what, vectors::read(address).map(|_| ()));
    }
    let writes = [
        (
            "write-private-bar",
            "store to the disk's registers",
            bar + 0x14,
        ),
        ("write-guest-memory", "store to guest memory", GUEST_PAGE),
    ];
    for (name, what, address) in writes {
        faults(name, what, vectors::write(address, 0));
    }
}

fn refused(name: &str, what: &str, request: &Call, expected: RmiCode) {
    let reply = rmi::call(request);
    let code = reply.status().map(|status| status.code);
    attack(
        name,
        format_args!("{what}"),
        format_args!("{code:?}"),
        code == Some(expected),
    );
}

fn data_map(address: u64) -> Call {
    Call::RttDataMap {
        rd: RD,
        base: UNUSED_IPA,
        top: UNUSED_IPA + 0x1000,
        flags: MapFlags::single().0,
        oaddr: rmi::pages(address, address + 0x1000).0,
    }
}

fn device_map(address: u64) -> Call {
    Call::RttDevMap {
        rd: RD,
        vdev: VDEV,
        base: UNUSED_IPA,
        top: UNUSED_IPA + 0x1000,
        flags: MapFlags::single().0,
        oaddr: rmi::pages(address, address + 0x1000).0,
    }
}

/// Calls with granules of others.
fn granules(host: &Host) {
    let bar = host.topology.disk.bar0();
    let granules = [
        ("the TSM", TSM),
        ("the realm's descriptor", RD),
        ("guest memory", GUEST_PAGE),
        ("the disk's registers", bar),
    ];
    for (whose, address) in granules {
        refused("data-map", whose, &data_map(address), RmiCode::Input);
        if address != bar {
            refused("dev-map", whose, &device_map(address), RmiCode::Input);
        }
        let range = Call::GranuleRangeUndelegate {
            start: address,
            end: address + 0x1000,
        };
        refused("undelegate", whose, &range, RmiCode::Input);
    }
    let spare = Slot::Spare.address();
    refused(
        "dev-map",
        "memory that the disk does not have",
        &device_map(spare),
        RmiCode::Input,
    );
    let range = Call::GranuleRangeDelegate {
        start: TSM,
        end: TSM + 0x1000,
    };
    refused("delegate", "the TSM", &range, RmiCode::Input);
}

/// Calls with objects in states that do not allow them.
fn states() {
    let (rd, pdev, vdev) = (RD, PDEV, VDEV);
    let objects = [
        (
            "unlock-while-mapped",
            "RMI_VDEV_UNLOCK",
            Call::VdevUnlock { rd, pdev, vdev },
            RmiCode::Granule,
        ),
        (
            "lock-while-started",
            "RMI_VDEV_LOCK",
            Call::VdevLock { rd, pdev, vdev },
            RmiCode::Device,
        ),
        (
            "start-twice",
            "RMI_VDEV_START",
            Call::VdevStart { rd, pdev, vdev },
            RmiCode::Device,
        ),
        (
            "destroy-while-started",
            "RMI_VDEV_DESTROY",
            Call::VdevDestroy { rd, pdev, vdev },
            RmiCode::Device,
        ),
        (
            "stop-while-used",
            "RMI_PDEV_STOP",
            Call::PdevStop { pdev },
            RmiCode::Device,
        ),
        (
            "destroy-realm-while-used",
            "RMI_REALM_DESTROY",
            Call::RealmDestroy { rd },
            RmiCode::Realm,
        ),
    ];
    for (name, what, request, expected) in objects {
        refused(name, what, &request, expected);
    }
}

/// Configuration accesses that are refused and leave the interface alone.
fn config_space(host: &Host) {
    let hidden = Function(board::KEY_UNIT_RID).config();
    let id = hidden.read32(ID);
    attack(
        "key-unit-config",
        format_args!("read the id of the key configuration unit's function"),
        format_args!("{id:#x}"),
        id == u32::MAX,
    );
    let Some(other) = host.topology.other_disk else {
        return;
    };
    let config = other.config();
    let before = config.read32(BAR0);
    config.write32(BAR0, host.topology.disk.bar0() as u32);
    let after = config.read32(BAR0);
    attack(
        "overlap-bar",
        format_args!("move another disk's BAR over the guest's"),
        format_args!("BAR {after:#x}, was {before:#x}"),
        before == after,
    );
}

/// Takes all records of refused requests. Returns whether there was one of `function` for the page at
/// `address`, a write or not.
pub fn reported(function: Function, address: u64, write: bool) -> bool {
    const MOST_RECORDS: usize = 100;
    let mut flags = IommuFaultFlags::VALID;
    flags.set(IommuFaultFlags::WRITE, write);
    let mut found = false;
    for _ in 0..MOST_RECORDS {
        let reply = rmi::call(&Call::IommuFaultGet {});
        let seen = [1, 2, 3].map(|index| reply.register(index));
        if seen[0] == 0 {
            break;
        }
        found |= seen == [flags.bits(), u64::from(function.0), address & !0xfff];
    }
    found
}

/// Another disk of the host as a DMA engine.
fn device_memory_access(host: &mut Host) {
    let (Some(disk), Some(function)) = (host.other_disk.as_mut(), host.topology.other_disk) else {
        return;
    };
    let marker = [0x5a; BLOCK];
    let mut block = [0; BLOCK];
    if disk.write(OTHER_LBA, &marker).is_err() {
        check("dma-engine-works", format_args!("a write failed"), false);
        return;
    }
    // SAFETY: Never touched by this program: only its device address is used.
    let guest = unsafe { DmaPage::new(GUEST_PAGE as usize, GUEST_PAGE) };
    let early = reported(function, GUEST_PAGE, false);
    let seen = disk.write_from(OTHER_LBA, guest);
    let told = reported(function, GUEST_PAGE, false);
    check(
        "refused-dma-is-reported",
        format_args!("before {early}, after {told}"),
        !early && told,
    );
    let read_back = disk.read(OTHER_LBA, &mut block);
    let leaked = block.starts_with(b"PCPOLICY");
    attack(
        "dma-read-guest",
        format_args!("another disk writes guest memory to its medium"),
        format_args!("{seen:?}, then {read_back:?}, guest data on the medium: {leaked}"),
        !leaked && read_back.is_ok(),
    );
    // Every page of the guest's code: it would not survive what it must survive.
    for page in (REALM_DATA..REALM_DATA + realm::image_bytes()).step_by(0x1000) {
        // SAFETY: As above.
        let guest = unsafe { DmaPage::new(page as usize, page) };
        let _ = disk.identify_to(guest);
    }
    stale_mapping(host);
}

/// Tells how [`while_running`]'s stores to guest memory by DMA went. The controller reports success
/// for stores that never arrived, so only the guest can show it: it `survived` or it did not.
pub fn judge_stores(survived: bool) {
    attack(
        "dma-write-guest",
        format_args!("another disk stores over every page of the guest's code"),
        format_args!("the guest went on and gave its disk back: {survived}"),
        survived,
    );
}

/// A page that the disk and the CPU used a moment ago is given to the TSM.
fn stale_mapping(host: &mut Host) {
    let Some(disk) = host.other_disk.as_mut() else {
        return;
    };
    // The last page of the range, which the drivers never reach.
    let address = (HOST_DMA_TOP - 0x1000) as u64;
    // SAFETY: The page is used for nothing else.
    let page = unsafe { DmaPage::new(address as usize, address) };
    // SAFETY: As above.
    let memory = unsafe { Mmio::new(address as usize) };
    memory.write64(0, u64::from_le_bytes(*b"OLDVALUE"));
    let warm = disk.write_from(OTHER_LBA, page);
    let delegated = rmi::delegate(address, address + 0x1000);
    faults(
        "stale-cpu-mapping",
        "load from a page that was just delegated",
        vectors::read(address).map(|_| ()),
    );
    let marker = [0xa5; BLOCK];
    let marked = disk.write(OTHER_LBA, &marker);
    let seen = disk.write_from(OTHER_LBA, page);
    let mut block = [0; BLOCK];
    let read_back = disk.read(OTHER_LBA, &mut block);
    attack(
        "stale-dma-mapping",
        format_args!("DMA from a page that was just delegated"),
        format_args!(
            "{seen:?}, medium starts with {:02x}{:02x}",
            block[0], block[1]
        ),
        warm.is_ok()
            && delegated.is_ok()
            && marked.is_ok()
            && read_back.is_ok()
            && !block.starts_with(b"OLDVALUE"),
    );
    let returned = rmi::undelegate(address, address + 0x1000);
    check(
        "page-comes-back",
        format_args!("{:?}", returned.map_err(|refused| refused.code())),
        returned.is_ok() && vectors::read(address) == Ok(0),
    );
}

/// A write to configuration space that would change a device under its guest.
pub struct Disturbance {
    /// Name of the attack.
    pub name: &'static str,
    /// What is tried.
    pub what: &'static str,
    /// The function whose register is written.
    pub function: Function,
    /// The 4-byte register.
    pub offset: usize,
    /// What is changed in it.
    pub change: fn(u32) -> u32,
    /// How it is written.
    pub write: fn(Function, usize, u32),
}

fn write_by_memory(function: Function, offset: usize, value: u32) {
    function.config().write32(offset, value);
}

/// For each way to change a device under its guest: a new guest that works with it loses it. The
/// write has no effect, the interface falls to ERROR, and everything can be taken back.
pub fn lost_interfaces(host: &mut Host) -> Result<()> {
    const BRIDGE_WINDOW: usize = 0x20;
    const BRIDGE_CONTROL: usize = 0x3c;
    let (disk, root_port) = (host.topology.disk, host.topology.root_port);
    let disturbances = [
        Disturbance {
            name: "move-bar",
            what: "move the disk's BAR",
            function: disk,
            offset: BAR0,
            change: |bar| bar.wrapping_add(0x8_0000),
            write: write_by_memory,
        },
        Disturbance {
            name: "clear-memory-enable",
            what: "clear memory enable of the disk",
            function: disk,
            offset: COMMAND,
            change: |command| command & !0x2,
            write: write_by_memory,
        },
        Disturbance {
            name: "clear-bus-master",
            what: "clear bus-master enable of the disk",
            function: disk,
            offset: COMMAND,
            change: |command| command & !0x4,
            write: write_by_memory,
        },
        Disturbance {
            name: "move-bridge-window",
            what: "move the memory window of the root port",
            function: root_port,
            offset: BRIDGE_WINDOW,
            change: |window| window.wrapping_add(0x0010_0010),
            write: write_by_memory,
        },
        Disturbance {
            name: "reset-secondary-bus",
            what: "reset the bus behind the root port",
            function: root_port,
            offset: BRIDGE_CONTROL,
            change: |control| control | 1 << 22,
            write: write_by_memory,
        },
    ];
    report::set_quiet(true);
    let result = disturbances
        .iter()
        .chain(&board::attacks::disturbances(host))
        .try_for_each(|disturbance| lost_interface(host, disturbance));
    report::set_quiet(false);
    result
}

fn lost_interface(host: &mut Host, disturbance: &Disturbance) -> Result<()> {
    build_realm()?;
    let mut vcpu = Vcpu::new();
    let event = vcpu.run(host)?;
    if matches!(event, Event::Workload) {
        let config = disturbance.function.config();
        let before = config.read32(disturbance.offset);
        let changed = (disturbance.change)(before);
        (disturbance.write)(disturbance.function, disturbance.offset, changed);
        let (after, state) = (config.read32(disturbance.offset), vdev::state());
        let private = vectors::read(host.topology.disk.bar0()).is_err();
        attack(
            disturbance.name,
            format_args!("{}", disturbance.what),
            format_args!(
                "{after:#x}, was {before:#x}; interface {state:?}, registers private: {private}"
            ),
            before == after && state == Some(VdevState::Error) && private,
        );
    } else {
        check("guest-runs-again", format_args!("{event:?}"), false);
    }
    if host.bound {
        rhi::unbind(host)?;
    }
    realm::destroy()
}

/// The courier changes what it carries: the session must end, and its stream with it.
pub fn dishonest_courier(host: &mut Host, tamper: Tamper) -> Result<()> {
    // What fails below works with an honest courier.
    pdev::stream_refresh(host.stream)?;
    pdev::stream_finish(&mut host.root_port, &mut host.endpoint, host.stream)?;
    pdev::stream_refresh(host.stream)?;
    // The root port moves first.
    host.root_port
        .pump(Target::Pdev(Slot::RootPort.address()))?;
    host.endpoint.tamper = tamper;
    let outcome = host.endpoint.pump(Target::Pdev(PDEV));
    host.endpoint.tamper = Tamper::Honest;
    let state = pdev::state(Slot::Endpoint);
    let (name, what) = match tamper {
        Tamper::Replay => (
            "replay-response",
            "answer a request with the response before",
        ),
        _ => ("change-response", "flip a bit of a response"),
    };
    attack(
        name,
        format_args!("{what}"),
        format_args!("{outcome:?}; device state {state:?}"),
        state == Some(PdevState::Error),
    );
    disconnect(host)
}
