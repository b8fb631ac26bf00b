// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Devices, their interfaces, and configuration space.
//!
//! Every entry takes the device lock first ([`registry`]), before any granule lock. What is granted
//! to a device or a guest is granted in three places only: `RSI_VDEV_DMA_ENABLE` (DMA),
//! `RMI_RTT_DEV_VALIDATE` (private memory), and the release of a stream at `RMI_VDEV_DESTROY`. What
//! takes it back is one function, [`vdev::cut_off`].

mod comm;
mod config;
mod pci;
pub mod pdev;
mod policy;
mod psmmu;
mod registry;
mod report;
mod rsi;
mod sizes;
mod standing;
pub mod tdisp;
mod vdev;

use tsm_abi::rmi::{Call, RecEnterFlags, RecExit};
use tsm_abi::rsi::Call as GuestCall;
use tsm_platform::{GranuleRange, Rid};

use crate::context::{Context, Machine};
use crate::error::{Error, Result};
use crate::granule::State;
use crate::rec::{Flow, Rec};
use crate::rsi::Answer;
use crate::rtt::Output;
use vdev::Names;

pub(crate) use registry::{Devices, Registry};
pub(crate) use rsi::Request;

/// Performs or refuses a host access to configuration space.
pub(crate) fn config_access<P: Machine>(
    context: &Context<'_, P>,
    rid: Rid,
    offset: u16,
    width: u8,
    write: Option<u32>,
) -> u32 {
    config::access(context, rid, offset, width, write)
}

/// Takes note that device memory in `range` is about to become the host's: no interface that is
/// bound keeps access to anything while the host can reach it.
pub(crate) fn release_memory<P: Machine>(
    context: &Context<'_, P>,
    range: GranuleRange,
) -> Result<()> {
    let registry = context.devices();
    vdev::release_memory(context, &registry, range)
}

/// Answers a call of the host about devices.
pub(crate) fn host_call<P: Machine>(context: &Context<'_, P>, call: Call) -> Result {
    match call {
        Call::PdevCreate { pdev, params } => pdev::create(context, pdev, params),
        Call::OpMemDonate {
            handle,
            list,
            count,
        } => pdev::donate(context, handle, list, count),
        Call::OpContinue { handle, flags } => {
            if context.tsm.granules.state(handle) == Ok(State::Vdev) {
                vdev::proceed(context, handle, flags)
            } else {
                pdev::proceed(context, handle, flags)
            }
        }
        Call::OpCancel { handle } => pdev::cancel(context, handle),
        // No operation ever asks for it.
        Call::OpMemReclaim { .. } => Err(Error::Input),
        Call::PdevGetState { pdev } => pdev::get_state(context, pdev),
        Call::PdevCommunicate { pdev, data } => pdev::communicate(context, pdev, data),
        Call::PdevSetPubkey { pdev, params } => pdev::set_pubkey(context, pdev, params),
        Call::PdevStop { pdev } => pdev::stop(context, pdev),
        Call::PdevAbort { pdev } => pdev::abort(context, pdev),
        Call::PdevDestroy { pdev } => pdev::destroy(context, pdev),
        Call::PdevStreamConnect { params } => pdev::connect(context, params),
        Call::PdevStreamComplete {
            pdev_1,
            pdev_2,
            handle,
        } => pdev::complete(context, pdev_1, pdev_2, handle),
        Call::PdevStreamKeyRefresh {
            pdev_1,
            pdev_2,
            handle,
        } => pdev::refresh(context, pdev_1, pdev_2, handle),
        Call::PdevStreamKeyPurge {
            pdev_1,
            pdev_2,
            handle,
        } => pdev::purge(context, pdev_1, pdev_2, handle),
        Call::PdevStreamDisconnect {
            pdev_1,
            pdev_2,
            handle,
        } => pdev::disconnect(context, pdev_1, pdev_2, handle),
        Call::PsmmuActivate { psmmu, params } => psmmu::activate(context, psmmu, params),
        Call::PsmmuDeactivate { psmmu } => psmmu::deactivate(context, psmmu),
        Call::PsmmuStL2Create { psmmu, sid } => psmmu::table_create(context, psmmu, sid),
        Call::PsmmuStL2Destroy { psmmu, sid } => psmmu::table_destroy(context, psmmu, sid),
        Call::IommuFaultGet {} => Ok(psmmu::next_fault(context)),
        call => interface_call(context, call),
    }
}

fn interface_call<P: Machine>(context: &Context<'_, P>, call: Call) -> Result {
    let names = |realm, device, object| Names {
        realm,
        device,
        object,
    };
    match call {
        Call::VdevCreate {
            rd,
            pdev,
            vdev,
            params,
        } => vdev::create(context, rd, pdev, vdev, params),
        Call::VdevGetState { vdev } => vdev::get_state(context, vdev),
        Call::VdevCommunicate {
            rd,
            pdev,
            vdev,
            data,
        } => vdev::communicate(context, names(rd, pdev, vdev), data),
        Call::VdevLock { rd, pdev, vdev } => vdev::lock(context, names(rd, pdev, vdev)),
        Call::VdevGetMeasurements {
            rd,
            pdev,
            vdev,
            params,
        } => vdev::get_measurements(context, names(rd, pdev, vdev), params),
        Call::VdevGetInterfaceReport { rd, pdev, vdev } => {
            vdev::get_report(context, names(rd, pdev, vdev))
        }
        Call::VdevStart { rd, pdev, vdev } => vdev::start(context, names(rd, pdev, vdev)),
        Call::VdevUnlock { rd, pdev, vdev } => vdev::unlock(context, names(rd, pdev, vdev)),
        Call::VdevAbort { rd, pdev, vdev } => vdev::abort(context, names(rd, pdev, vdev)),
        Call::VdevDestroy { rd, pdev, vdev } => vdev::destroy(context, names(rd, pdev, vdev)),
        Call::VdevComplete { rec, vdev } => rsi::complete(context, rec, vdev),
        Call::RttDevMap {
            rd,
            vdev,
            base,
            top,
            flags,
            oaddr,
        } => {
            let output = Output {
                flags,
                address: oaddr,
            };
            vdev::device_map(context, rd, vdev, (base, top), output)
        }
        Call::RttDevUnmap {
            rd,
            base,
            top,
            flags,
            oaddr,
        } => {
            let output = Output {
                flags,
                address: oaddr,
            };
            vdev::device_unmap(context, rd, (base, top), output)
        }
        Call::RttDevValidate { rd, rec, base, top } => {
            vdev::device_validate(context, rd, rec, base, top)
        }
        _ => Err(Error::NotSupported),
    }
}

/// Answers a call of the guest about devices.
pub(crate) fn guest_call<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    call: GuestCall,
    exit: &mut RecExit,
) -> Answer {
    rsi::call(context, rec, &call, exit)
}

/// Goes on with a device request after the host has answered it.
pub(crate) fn resume<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    request: Request,
    flags: RecEnterFlags,
    exit: &mut RecExit,
) -> Flow {
    rsi::resume(context, rec, request, flags, exit)
}
