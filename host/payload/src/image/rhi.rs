// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host does for a guest that asks: lock, start and release its device, fetch and show
//! evidence.

use tsm_abi::RhiStatus;
use tsm_abi::rhi::{self, Object, TdiState};
use tsm_abi::rmi::{CommObject, PdevState, VdevMeasureParams};
use tsm_payload_support::println;

use super::evidence;
use super::flow::{self, Host};
use super::layout::{Page, Slot};
use super::memory;
use super::pdev;
use super::realm::shared_address;
use super::report::{self, step};
use super::rmi::{self, Result};
use super::vdev;

/// The functions that are served, as bits from [`rhi::DA_OBJECT_SIZE`] on.
const FEATURES: u64 = 0b1_1110_0011;

/// Serves one call; the answer replaces the registers.
pub fn serve(host: &mut Host, gprs: &mut [u64; 31]) {
    let [function, vdev_id, a, b, c, d, ..] = *gprs;
    let (status, value) = match function {
        rhi::DA_VERSION => {
            gprs[0] = rhi::DA_VERSION_VALUE;
            return;
        }
        rhi::DA_FEATURES => {
            gprs[0] = FEATURES;
            return;
        }
        _ if vdev_id != vdev::id(&host.topology) => (RhiStatus::InvalidVdevId, 0),
        rhi::DA_OBJECT_SIZE => object_size(host, a),
        rhi::DA_OBJECT_READ => object_read(host, a, b, c, d),
        rhi::DA_VDEV_SET_TDI_STATE => (set_state(host, a), 0),
        rhi::DA_VDEV_GET_MEASUREMENTS => (measurements(host, a), 0),
        rhi::DA_VDEV_GET_INTERFACE_REPORT => (interface_report(host), 0),
        // Every operation is complete when it returns.
        rhi::DA_VDEV_CONTINUE => (RhiStatus::Success, 0),
        rhi::DA_VDEV_ABORT => (RhiStatus::AbortedOperationHadCompleted, 0),
        _ => {
            // Not a function of this interface (SMCCC "not supported").
            gprs[0] = u64::MAX;
            return;
        }
    };
    gprs[0] = status.word();
    gprs[1] = value;
}

fn object(number: u64) -> core::result::Result<CommObject, RhiStatus> {
    match Object::from_word(number) {
        Some(Object::Vca) => Ok(CommObject::Vca),
        Some(Object::Certificate) => Ok(CommObject::Certificate),
        Some(Object::Measurements) => Ok(CommObject::Measurements),
        Some(Object::InterfaceReport) => Ok(CommObject::InterfaceReport),
        Some(Object::ExternalEvidence) => Err(RhiStatus::ObjectUnsupported),
        None => Err(RhiStatus::InvalidObject),
    }
}

fn object_size(host: &Host, number: u64) -> (RhiStatus, u64) {
    let object = match object(number) {
        Ok(object) => object,
        Err(status) => return (status, 0),
    };
    match host.endpoint.caches.size(object) {
        0 => (RhiStatus::DataNotAvailable, 0),
        size => (RhiStatus::Success, size as u64),
    }
}

fn object_read(host: &Host, number: u64, to: u64, bytes: u64, offset: u64) -> (RhiStatus, u64) {
    let object = match object(number) {
        Ok(object) => object,
        Err(status) => return (status, 0),
    };
    if host.endpoint.caches.size(object) == 0 {
        return (RhiStatus::DataNotAvailable, 0);
    }
    let Some(target) = shared_address(to, bytes) else {
        return (RhiStatus::AccessFailed, 0);
    };
    let (offset, bytes) = (offset as usize, bytes as usize);
    match host.endpoint.caches.copy(object, offset, target, bytes) {
        Some(copied) => (RhiStatus::Success, copied as u64),
        None => (RhiStatus::InvalidOffset, 0),
    }
}

/// Tells the outcome of a step and turns a refusal into what the guest sees.
fn outcome(number: &str, call: &str, result: Result<()>) -> RhiStatus {
    match result {
        Ok(()) => {
            let state = vdev::state();
            step(
                number,
                format_args!("{call}"),
                format_args!("interface state {state:?}"),
            );
            RhiStatus::Success
        }
        Err(refused) => {
            println!("NOTE {refused}");
            RhiStatus::Device
        }
    }
}

fn set_state(host: &mut Host, number: u64) -> RhiStatus {
    match TdiState::from_word(number) {
        Some(TdiState::Locked) => lock(host),
        Some(TdiState::Run) => start(host),
        Some(TdiState::Unlocked) => unlock(host),
        None => RhiStatus::Input,
    }
}

fn lock(host: &mut Host) -> RhiStatus {
    step(
        "13",
        format_args!("REC exit HOST_CALL"),
        format_args!("RHI_DA_VDEV_SET_TDI_STATE(LOCKED)"),
    );
    if !host.bound {
        let created = vdev::create(&host.topology, &mut host.endpoint);
        host.bound = created.is_ok();
        let status = outcome("18", "RMI_VDEV_CREATE, RMI_VDEV_COMMUNICATE", created);
        if status != RhiStatus::Success {
            return status;
        }
    }
    let locked = vdev::lock(&mut host.endpoint);
    outcome("19", "RMI_VDEV_LOCK, RMI_VDEV_COMMUNICATE", locked)
}

fn start(host: &mut Host) -> RhiStatus {
    // What the guest accepted, for verifiers elsewhere.
    if !report::is_quiet() {
        evidence::tell(host);
    }
    let started = vdev::start(&mut host.endpoint);
    outcome("34", "RMI_VDEV_START, RMI_VDEV_COMMUNICATE", started)
}

fn measurements(host: &mut Host, params: u64) -> RhiStatus {
    let size = size_of::<VdevMeasureParams>() as u64;
    let Some(address) = shared_address(params, size) else {
        return RhiStatus::AccessFailed;
    };
    let copy: VdevMeasureParams = memory::load(address);
    memory::store(Page::Parameters.address(), &copy);
    host.measured = Some(copy);
    let measured = vdev::measure(Page::Parameters.address(), &mut host.endpoint);
    outcome(
        "22",
        "RMI_VDEV_GET_MEASUREMENTS, RMI_VDEV_COMMUNICATE",
        measured,
    )
}

fn interface_report(host: &mut Host) -> RhiStatus {
    let reported = vdev::report(&mut host.endpoint);
    outcome(
        "23",
        "RMI_VDEV_GET_INTERFACE_REPORT, RMI_VDEV_COMMUNICATE",
        reported,
    )
}

fn unlock(host: &mut Host) -> RhiStatus {
    step(
        "37",
        format_args!("REC exit HOST_CALL"),
        format_args!("RHI_DA_VDEV_SET_TDI_STATE(UNLOCKED)"),
    );
    match unbind(host) {
        Ok(()) => RhiStatus::Success,
        Err(refused) => {
            println!("NOTE {refused}");
            RhiStatus::Device
        }
    }
}

/// Takes the device from the guest: unmaps its memory, takes that back, unlocks the interface and
/// destroys its object.
///
/// # Errors
/// The first call that is refused.
pub fn unbind(host: &mut Host) -> Result<()> {
    while let Some((base, top, address)) = host.mapped.pop() {
        vdev::unmap(base, top)?;
        rmi::undelegate(address, address + (top - base))?;
        step(
            "44",
            format_args!("RMI_RTT_DEV_UNMAP, RMI_GRANULE_RANGE_UNDELEGATE"),
            format_args!("device memory {address:#x} is the host's"),
        );
    }
    vdev::unlock(&mut host.endpoint)?;
    step(
        "46b",
        format_args!("RMI_VDEV_UNLOCK, RMI_VDEV_COMMUNICATE"),
        format_args!("interface state {:?}", vdev::state()),
    );
    vdev::destroy()?;
    host.bound = false;
    step(
        "47",
        format_args!("RMI_VDEV_DESTROY"),
        format_args!("interface gone"),
    );
    if pdev::state(Slot::Endpoint) == Some(PdevState::Ready) {
        // No other guest gets behind the keys of this one.
        flow::renew_keys(host)?;
    }
    Ok(())
}
