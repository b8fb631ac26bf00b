// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The whole path, from a disk of the host to a disk of the guest and back.

use tsm_abi::rmi::{
    self as abi, Call, CommObject, PdevState, PsmmuParams, RmmConfig, TeardownOrder,
    VdevMeasureParams,
};
use tsm_payload_support::dma::DmaRange;
use tsm_payload_support::mmio::Mmio;
use tsm_payload_support::nvme::{self, BLOCK, Nvme};
use tsm_payload_support::println;
use zerocopy::FromZeros;

use super::comm::{Courier, Tamper, Target};
use super::doe::Mailbox;
use super::layout::{self, DONATED_TOP, Page, REALM_DATA, Slot};
use super::pci::{self, Function, Topology};
use super::processor::vectors;
use super::rec::{Event, Vcpu};
use super::report::{self, check, step, verdict};
use super::rmi::{Result, delegate, must, undelegate};
use super::{attacks, board, memory, pdev, realm, rhi, teardown};

/// Block of known content, in 512-byte blocks.
const KNOWN_LBA: u64 = 8;
/// First of the 256 streams that the disk's is among: bus 1.
const DISK_STREAMS: u64 = 0x100;
/// Block that the guest writes.
const GUEST_LBA: u64 = 16;

/// Device memory that the guest has: guest base and top, physical address.
#[derive(Debug)]
pub struct Mapped {
    ranges: [(u64, u64, u64); 8],
    used: usize,
}

impl Mapped {
    /// Remembers a range.
    pub fn push(&mut self, base: u64, top: u64, address: u64) {
        self.ranges[self.used] = (base, top, address);
        self.used += 1;
    }

    /// Forgets the last range and returns it.
    pub fn pop(&mut self) -> Option<(u64, u64, u64)> {
        self.used = self.used.checked_sub(1)?;
        Some(self.ranges[self.used])
    }
}

/// Everything that the host knows.
pub struct Host {
    /// Where the devices are.
    pub topology: Topology,
    /// Courier of the disk.
    pub endpoint: Courier,
    /// Courier of the root port, which has no mailbox.
    pub root_port: Courier,
    /// Another disk of the host, an ordinary DMA master.
    pub other_disk: Option<Nvme>,
    /// Pages for DMA of the host.
    pub dma: DmaRange,
    /// Device memory that the guest has.
    pub mapped: Mapped,
    /// Whether the interface object exists.
    pub bound: bool,
    /// Whether the first device request has been told.
    pub told_complete: bool,
    /// Handle of the stream.
    pub stream: u64,
    /// What the guest asked for when it last had the disk measured.
    pub measured: Option<VdevMeasureParams>,
}

/// Runs the flow and ends the machine.
pub fn run() -> ! {
    let Some(mut host) = discover() else {
        verdict(
            false,
            format_args!("the disk behind the root port is missing"),
        );
    };
    match whole(&mut host) {
        Ok(()) if report::failures() == 0 => verdict(
            true,
            format_args!("every step, check and attack went as it must"),
        ),
        Ok(()) => verdict(false, format_args!("{} failed", report::failures())),
        Err(refused) => verdict(false, format_args!("{refused}")),
    }
}

/// Returns the driver of a disk whose BAR is assigned.
fn disk(function: Function, dma: &mut DmaRange) -> core::result::Result<Nvme, nvme::Error> {
    // SAFETY: The disk's registers, which `pci::enumerate` placed away from memory.
    let registers = unsafe { Mmio::new(function.bar0() as usize) };
    Nvme::new(registers, dma)
}

/// Finds the disks.
pub fn discover() -> Option<Host> {
    let topology = pci::enumerate()?;
    // SAFETY: The board sets this range aside for DMA.
    let mut dma = unsafe { DmaRange::new(layout::HOST_DMA, layout::HOST_DMA_TOP, 0) };
    let other_disk = topology
        .other_disk
        .and_then(|function| disk(function, &mut dma).ok());
    Some(Host {
        endpoint: Courier::new(Mailbox::find(topology.disk)),
        root_port: Courier::new(None),
        topology,
        other_disk,
        dma,
        mapped: Mapped {
            ranges: [(0, 0, 0); 8],
            used: 0,
        },
        bound: false,
        told_complete: false,
        stream: 0,
        measured: None,
    })
}

/// Reads the known block, and what the guest wrote, as an ordinary host.
pub fn use_disk(host: &mut Host, when: &str) -> Option<(u64, u64)> {
    let mut block = [0; BLOCK];
    let mut sums = [0; 2];
    let mut disk = match disk(host.topology.disk, &mut host.dma) {
        Ok(disk) => disk,
        Err(error) => {
            check(when, format_args!("NVMe: {error:?}"), false);
            return None;
        }
    };
    for (sum, lba) in sums.iter_mut().zip([KNOWN_LBA, GUEST_LBA]) {
        if let Err(error) = disk.read(lba, &mut block) {
            check(when, format_args!("reading block {lba}: {error:?}"), false);
            return None;
        }
        // FNV-1a: enough to see whether a block changed.
        *sum = block.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    }
    let stopped = disk.shut_down();
    check(
        when,
        format_args!("read block {KNOWN_LBA} by NVMe, sum {:016x}", sums[0]),
        stopped.is_ok() && sums[0] != 0,
    );
    Some((sums[0], sums[1]))
}

fn whole(host: &mut Host) -> Result<()> {
    let before = use_disk(host, "host-uses-disk");
    start_tsm()?;
    delegate(REALM_DATA, DONATED_TOP)?;
    step(
        "0",
        format_args!("RMI_GRANULE_RANGE_DELEGATE"),
        format_args!("{} granules", (DONATED_TOP - REALM_DATA) / 0x1000),
    );
    connect(host)?;
    change_keys(host)?;
    guest_round(host)?;
    attacks::lost_interfaces(host)?;
    teardown::other_orders(host)?;
    disconnect(host)?;
    for tamper in [Tamper::Replay, Tamper::Flip] {
        connect(host)?;
        attacks::dishonest_courier(host, tamper)?;
    }
    stop_tsm()?;
    undelegate(REALM_DATA, DONATED_TOP)?;
    touch_everything(host);
    let after = use_disk(host, "host-uses-disk-again");
    step(
        "50",
        format_args!("NVMe"),
        format_args!("the disk works as a device of the host"),
    );
    if let (Some(before), Some(after)) = (before, after) {
        check(
            "known-block-unchanged",
            format_args!("sum {:016x}", after.0),
            before.0 == after.0,
        );
        check(
            "guest-block-written",
            format_args!("sum {:016x}, was {:016x}", after.1, before.1),
            before.1 != after.1,
        );
    }
    Ok(())
}

/// Makes the TSM ready for realms and devices.
pub fn start_tsm() -> Result<()> {
    let reply = must(&Call::Version {
        requested: abi::VERSION,
    })?;
    step(
        "0",
        format_args!("RMI_VERSION"),
        format_args!("{:#x} to {:#x}", reply.register(1), reply.register(2)),
    );
    memory::store(Page::Parameters.address(), &RmmConfig::new_zeroed());
    must(&Call::RmmConfigSet {
        config: Page::Parameters.address(),
    })?;
    must(&Call::RmmActivate {})?;
    step(
        "0",
        format_args!("RMI_RMM_CONFIG_SET, RMI_RMM_ACTIVATE"),
        format_args!("active"),
    );
    memory::store(Page::Parameters.address(), &PsmmuParams::new_zeroed());
    must(&Call::PsmmuActivate {
        psmmu: board::IOMMU,
        params: Page::Parameters.address(),
    })?;
    must(&Call::PsmmuStL2Create {
        psmmu: board::IOMMU,
        sid: DISK_STREAMS,
    })?;
    step(
        "0",
        format_args!("RMI_PSMMU_ACTIVATE, RMI_PSMMU_ST_L2_CREATE"),
        format_args!("IOMMU serves realms"),
    );
    Ok(())
}

/// Takes back what [`start_tsm`] prepared.
pub fn stop_tsm() -> Result {
    must(&Call::PsmmuStL2Destroy {
        psmmu: board::IOMMU,
        sid: DISK_STREAMS,
    })?;
    must(&Call::PsmmuDeactivate {
        psmmu: board::IOMMU,
    })
}

/// Establishes the session with the disk and the stream to it.
pub fn connect(host: &mut Host) -> Result<()> {
    let offers = host.endpoint.mailbox.map(|mailbox| mailbox.offers_spdm());
    check(
        "doe-discovery",
        format_args!("mailbox offers SPDM and secured SPDM: {offers:?}"),
        offers == Some(Ok(true)),
    );
    pdev::create_root_port(&host.topology)?;
    host.root_port
        .pump(Target::Pdev(Slot::RootPort.address()))?;
    step(
        "1",
        format_args!("RMI_PDEV_CREATE (root port)"),
        format_args!("state {:?}", pdev::state(Slot::RootPort)),
    );
    for object in [CommObject::Vca, CommObject::Certificate] {
        host.endpoint.caches.reset(object);
    }
    pdev::create_endpoint(&host.topology)?;
    let target = Target::Pdev(Slot::Endpoint.address());
    host.endpoint.pump(target)?;
    step(
        "1",
        format_args!("RMI_PDEV_CREATE (disk), RMI_PDEV_COMMUNICATE"),
        format_args!(
            "state {:?}, certificate chain {} bytes",
            pdev::state(Slot::Endpoint),
            host.endpoint.caches.size(CommObject::Certificate)
        ),
    );
    let found = pdev::set_public_key(&host.endpoint)?;
    check(
        "device-key-found",
        format_args!("in the certificate chain that the disk showed"),
        found,
    );
    host.endpoint.pump(target)?;
    check(
        "device-proves-its-key",
        format_args!("state {:?}", pdev::state(Slot::Endpoint)),
        pdev::state(Slot::Endpoint) == Some(PdevState::Ready),
    );
    step(
        "1",
        format_args!("RMI_PDEV_SET_PUBKEY, RMI_PDEV_COMMUNICATE"),
        format_args!("state {:?}, in a session", pdev::state(Slot::Endpoint)),
    );
    host.stream = pdev::stream_connect(&host.topology)?;
    pdev::stream_finish(&mut host.root_port, &mut host.endpoint, host.stream)?;
    step(
        "1",
        format_args!("RMI_PDEV_STREAM_CONNECT, RMI_PDEV_STREAM_COMPLETE"),
        format_args!(
            "IDE keys set on both ends, {} messages so far",
            host.endpoint.messages
        ),
    );
    Ok(())
}

/// Replaces the keys of the stream.
pub fn renew_keys(host: &mut Host) -> Result<()> {
    pdev::stream_refresh(host.stream)?;
    pdev::stream_finish(&mut host.root_port, &mut host.endpoint, host.stream)?;
    step(
        "1",
        format_args!("RMI_PDEV_STREAM_KEY_REFRESH, RMI_PDEV_STREAM_COMPLETE"),
        format_args!("new IDE keys on both ends"),
    );
    Ok(())
}

/// Changes from one key set to the other and back, and makes both ends forget the one not in use.
fn change_keys(host: &mut Host) -> Result<()> {
    let before = host.endpoint.messages;
    renew_keys(host)?;
    renew_keys(host)?;
    pdev::stream_purge(host.stream)?;
    pdev::stream_finish(&mut host.root_port, &mut host.endpoint, host.stream)?;
    check(
        "keys-are-replaced",
        format_args!(
            "K0, K1, K0 again, and K1 forgotten, in {} messages",
            host.endpoint.messages - before
        ),
        true,
    );
    Ok(())
}

/// Builds the realm of a host that unmaps first, and makes it ready to run.
pub fn build_realm() -> Result<()> {
    build_realm_for(TeardownOrder::UnmapFirst)
}

/// Builds the realm of a host that takes devices away in `order`, and makes it ready to run.
pub fn build_realm_for(order: TeardownOrder) -> Result<()> {
    realm::create(order)?;
    let measured = realm::populate()?;
    realm::activate()?;
    step(
        "10",
        format_args!("RMI_REALM_CREATE, RMI_RTT_*, RMI_REC_CREATE, RMI_REALM_ACTIVATE"),
        format_args!("{measured} measured pages"),
    );
    Ok(())
}

/// One guest from start to end, attacked while it works.
fn guest_round(host: &mut Host) -> Result<()> {
    build_realm()?;
    let mut vcpu = Vcpu::new();
    let mut attacked = false;
    loop {
        match vcpu.run(host)? {
            Event::Workload => {
                attacked = true;
                attacks::while_running(host);
            }
            Event::Off => {
                attacks::judge_stores(attacked && !host.bound);
                break;
            }
            Event::Lost(what, detail) => {
                check("guest-runs", format_args!("{what} {detail:#x}"), false);
                break;
            }
        }
    }
    check(
        "guest-worked",
        format_args!(
            "attacked while it ran, then switched off after {} exits",
            vcpu.exits
        ),
        attacked && !host.bound,
    );
    if host.bound {
        rhi::unbind(host)?;
    }
    realm::destroy()?;
    step(
        "52",
        format_args!("RMI_REALM_TERMINATE, RMI_REC_DESTROY, RMI_RTT_*, RMI_REALM_DESTROY"),
        format_args!("realm gone"),
    );
    Ok(())
}

/// Stops the stream and the session.
pub fn disconnect(host: &mut Host) -> Result<()> {
    pdev::stream_disconnect(host.stream)?;
    pdev::stream_finish(&mut host.root_port, &mut host.endpoint, host.stream)?;
    step(
        "51",
        format_args!("RMI_PDEV_STREAM_DISCONNECT, RMI_PDEV_STREAM_COMPLETE"),
        format_args!("keys forgotten on both ends"),
    );
    pdev::stop_and_destroy(Slot::Endpoint, &mut host.endpoint)?;
    pdev::stop_and_destroy(Slot::RootPort, &mut host.root_port)?;
    step(
        "51",
        format_args!("RMI_PDEV_STOP, RMI_PDEV_COMMUNICATE, RMI_PDEV_DESTROY"),
        format_args!("session ended, objects gone"),
    );
    Ok(())
}

/// Touches every granule that was ever given away: all are the host's again, and scrubbed.
pub fn touch_everything(host: &Host) {
    let bar = host.topology.disk.bar0();
    let mut lost = 0;
    let mut dirty = 0;
    for address in (REALM_DATA..DONATED_TOP).step_by(0x1000) {
        match vectors::read(address) {
            Ok(0) => lost += u32::from(vectors::write(address, 0).is_err()),
            Ok(_) => dirty += 1,
            Err(_) => lost += 1,
        }
    }
    for address in (bar..bar + super::vdev::BAR_SIZE).step_by(0x1000) {
        lost += u32::from(vectors::read(address).is_err());
    }
    println!(
        "NOTE touched {} granules",
        (DONATED_TOP - REALM_DATA) / 0x1000 + 4
    );
    check(
        "every-granule-is-the-hosts",
        format_args!("{lost} refused"),
        lost == 0,
    );
    check(
        "every-granule-is-scrubbed",
        format_args!("{dirty} not zero"),
        dirty == 0,
    );
}
