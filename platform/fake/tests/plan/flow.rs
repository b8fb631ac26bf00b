// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The whole way of a device, as a host goes it that looks before each step whether to go on.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, TeardownOrder};
use tsm_devices::TdiState;
use tsm_platform_fake::ENDPOINT_BAR;

use super::rig::{DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig};

/// States of a device object.
const NEEDS_KEY: u64 = 1;
pub const READY: u64 = 3;
/// States of an interface.
const UNLOCKED: u64 = 1;
const LOCKED: u64 = 2;
pub const STARTED: u64 = 3;
/// The guest waits for device memory to be mapped.
const DEV_MEM_MAP: u64 = 9;

/// Where the way ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Version, capabilities, algorithms, certificates.
    Discover,
    /// Key exchange.
    Establish,
    /// Keys of the link.
    Stream,
    /// The interface and its lock.
    Lock,
    /// Evidence: measurements.
    Measure,
    /// Evidence: the interface report.
    Report,
    /// The guest accepts memory.
    Accept,
    /// The interface starts, and the guest turns DMA on.
    Start,
    /// Other keys for the link, twice, while the guest works.
    Refresh,
    /// Evidence is fetched again while the guest works.
    Poll,
    /// The interface goes back to the host.
    Unlock,
    /// Stream and session end.
    Disconnect,
}

fn ensure(holds: bool, step: Step) -> Result<(), Step> {
    if holds { Ok(()) } else { Err(step) }
}

/// Goes the whole way, or tells the step at which something was not as it must be.
pub fn go(rig: &mut Rig) -> Result<(), Step> {
    connect(rig)?;
    lock(rig)?;
    measure(rig, Step::Measure, LOCKED)?;
    report(rig, Step::Report, LOCKED)?;
    accept(rig)?;
    start(rig)?;
    for _ in 0..2 {
        ensure(rig.refresh_keys() == RmiStatus::SUCCESS, Step::Refresh)?;
        stream(rig, Step::Refresh)?;
    }
    measure(rig, Step::Poll, STARTED)?;
    report(rig, Step::Poll, STARTED)?;
    unlock(rig)?;
    disconnect(rig)
}

fn connect(rig: &mut Rig) -> Result<(), Step> {
    rig.try_create_ends().map_err(|_| Step::Discover)?;
    let device = rig.device;
    let pumped = rig.pump_device(device);
    let state = rig.device_state(device);
    ensure((pumped, state) == (Pumped::Done, NEEDS_KEY), Step::Discover)?;
    let key = rig.device_key();
    ensure(rig.set_key(&key) == RmiStatus::SUCCESS, Step::Establish)?;
    let pumped = rig.pump_device(device);
    let state = rig.device_state(device);
    ensure((pumped, state) == (Pumped::Done, READY), Step::Establish)?;
    rig.ask_for_stream();
    stream(rig, Step::Stream)
}

/// Pumps both ends of the stream through an operation.
fn stream(rig: &mut Rig, step: Step) -> Result<(), Step> {
    turns(rig, step)?;
    ensure(rig.complete_stream() == RmiStatus::SUCCESS, step)?;
    rig.refresh();
    ensure(rig.is_secure(), step)
}

/// Lets root port and device work in turn, twice.
fn turns(rig: &mut Rig, step: Step) -> Result<(), Step> {
    for expected in [Pumped::Wait, Pumped::Done] {
        for pdev in [rig.port, rig.device] {
            ensure(rig.pump_device(pdev) == expected, step)?;
        }
    }
    Ok(())
}

fn lock(rig: &mut Rig) -> Result<(), Step> {
    rig.vdev = rig
        .create_interface(&rig.vdev_params())
        .map_err(|_| Step::Lock)?;
    ensure(rig.pump_interface() == Pumped::Done, Step::Lock)?;
    ensure(rig.ask_lock() == RmiStatus::SUCCESS, Step::Lock)?;
    rig.pump_interface();
    ensure(rig.state() == LOCKED, Step::Lock)
}

fn measure(rig: &mut Rig, step: Step, state: u64) -> Result<(), Step> {
    ensure(rig.ask_measurements() == RmiStatus::SUCCESS, step)?;
    rig.pump_interface();
    ensure(rig.state() == state, step)
}

fn report(rig: &mut Rig, step: Step, state: u64) -> Result<(), Step> {
    ensure(rig.ask_report() == RmiStatus::SUCCESS, step)?;
    rig.pump_interface();
    ensure(rig.state() == state, step)
}

fn accept(rig: &mut Rig) -> Result<(), Step> {
    let nonces = rig.nonces();
    ensure(nonces.iter().all(|nonce| *nonce != 0), Step::Accept)?;
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    let (exit, _) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES, nonces);
    ensure(exit.exit_reason.get() == DEV_MEM_MAP, Step::Accept)?;
    let mapped = rig.map(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES);
    ensure(mapped == RmiStatus::SUCCESS, Step::Accept)?;
    let validated = rig.validate(DEVICE_IPA, PRIVATE_PAGES);
    ensure(validated == RmiStatus::SUCCESS, Step::Accept)?;
    rig.host.enter(&rig.realm);
    ensure(rig.reach(DEVICE_IPA) == Some(ENDPOINT_BAR), Step::Accept)
}

fn start(rig: &mut Rig) -> Result<(), Step> {
    ensure(rig.ask_start() == RmiStatus::SUCCESS, Step::Start)?;
    rig.pump_interface();
    ensure(rig.state() == STARTED, Step::Start)?;
    let nonces = rig.nonces();
    ensure(rig.enable_dma(nonces) == 0, Step::Start)
}

fn unlock(rig: &mut Rig) -> Result<(), Step> {
    ensure(rig.disable_dma() == 0, Step::Unlock)?;
    let order = rig.order;
    if order == TeardownOrder::UnmapFirst {
        unmap(rig)?;
    }
    ensure(rig.ask_unlock() == RmiStatus::SUCCESS, Step::Unlock)?;
    rig.pump_interface();
    ensure(rig.state() == UNLOCKED, Step::Unlock)?;
    ensure(rig.tdi() == TdiState::ConfigUnlocked, Step::Unlock)?;
    if order == TeardownOrder::StopFirst {
        unmap(rig)?;
    }
    ensure(rig.destroy_interface() == RmiStatus::SUCCESS, Step::Unlock)?;
    rig.host.undelegate(rig.vdev, 1);
    rig.vdev = 0;
    if order == TeardownOrder::MaskAndReap {
        unmap(rig)?;
    }
    Ok(())
}

fn unmap(rig: &Rig) -> Result<(), Step> {
    let unmapped = rig.unmap(DEVICE_IPA, PRIVATE_PAGES);
    ensure(unmapped == RmiStatus::SUCCESS, Step::Unlock)
}

fn disconnect(rig: &mut Rig) -> Result<(), Step> {
    let asked = rig.disconnect_stream();
    ensure(asked == RmiStatus::SUCCESS, Step::Disconnect)?;
    turns(rig, Step::Disconnect)?;
    let completed = rig.complete_stream();
    ensure(completed == RmiStatus::SUCCESS, Step::Disconnect)?;
    for pdev in [rig.device, rig.port] {
        let stopped = rig.host.status(Call::PdevStop { pdev });
        ensure(stopped == RmiStatus::SUCCESS, Step::Disconnect)?;
        ensure(rig.pump_device(pdev) == Pumped::Done, Step::Disconnect)?;
    }
    ensure(rig.dsm.state().sessions.is_empty(), Step::Disconnect)
}

/// Returns whether anything of the guest is within the device's reach, or the other way round.
pub fn access_remains(rig: &Rig) -> bool {
    let guest = (0..PRIVATE_PAGES).any(|page| rig.reach(DEVICE_IPA + page * PAGE).is_some());
    // Without an interface the device works for the host, and goes where the host lets it.
    let device = rig.vdev != 0 && (0..4).any(|page| rig.dma(page * PAGE).is_some());
    guest || device
}
