// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest's calls about devices.
//!
//! The guest names an interface by its own id. The host says which object that is
//! (`RMI_VDEV_COMPLETE`); the TSM believes it only if realm and id agree, and does the work when
//! the virtual CPU is entered again.

use tsm_abi::RsiStatus;
use tsm_abi::rmi::{ExitReason, HashAlgorithm, RecEnterFlags, RecExit, Response};
use tsm_abi::rsi::{Call, FORMAT_TDISP, VdevInfo};
use tsm_platform::{GRANULE_SIZE, Granule, Ipa};
use zerocopy::{FromZeros, IntoBytes};

use super::pdev;
use super::tdisp::Grant;
use super::vdev::{self, Nonces, Vdev};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::rec::{self, Flow, Pending, Rec, leave, leave_for_memory};
use crate::rsi::{Answer, Stop, guest_write, in_realm};

/// Alignment of the structure that [`Wish::Info`] fills, in bytes.
const INFO_ALIGNMENT: u64 = 512;
/// TDISP 1.0 in the guest's format: major in bits 31:16, minor in bits 15:0.
const INFO_VERSION: u64 = 1 << 16;

/// What the guest wants.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish {
    /// To know what the TSM knows.
    Info {
        /// Where to write it.
        ipa: u64,
    },
    /// To accept memory.
    Validate {
        /// First guest address.
        base: u64,
        /// Guest address after the last.
        top: u64,
        /// First physical address.
        physical: u64,
        /// What it has judged.
        nonces: Nonces,
    },
    /// To let the device access its memory.
    EnableDma {
        /// What it has judged.
        nonces: Nonces,
    },
    /// To end that.
    DisableDma,
}

/// Memory that the guest accepts and the host has to map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// Object of the interface.
    pub object: u64,
    /// The guest's id for it.
    pub id: u64,
    /// First guest address.
    base: u64,
    /// First guest address that is not done.
    pub next: u64,
    /// Guest address after the last.
    pub top: u64,
    /// Physical address of `base`.
    physical: u64,
    /// What the guest has judged.
    pub nonces: Nonces,
}

impl Mapping {
    /// Returns the physical address that the guest expects at `ipa`.
    pub fn physical_of(&self, ipa: u64) -> Option<u64> {
        self.physical.checked_add(ipa.checked_sub(self.base)?)
    }
}

/// A device request of a guest that waits for the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// The host has to say which object the id means.
    Unnamed {
        /// The guest's id.
        id: u64,
        /// What it wants.
        wish: Wish,
    },
    /// The host has said so.
    Named {
        /// The object.
        object: u64,
        /// The guest's id.
        id: u64,
        /// What it wants.
        wish: Wish,
    },
    /// The host has to map memory.
    Map(Mapping),
}

/// Takes a call of the guest in and asks the host for the object.
pub(crate) fn call<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    call: &Call,
    exit: &mut RecExit,
) -> Answer {
    let protected_top = in_realm(context, rec, |realm| {
        if realm.devices_allowed {
            Ok(realm.protected_top())
        } else {
            Err(Stop::Status(RsiStatus::State))
        }
    })?;
    let (id, wish) = wish(call, protected_top).ok_or(Stop::Status(RsiStatus::Input))?;
    rec.pending = Pending::Device(Request::Unnamed { id, wish });
    exit.vdev_id_1 = id.into();
    Ok(leave(exit, ExitReason::VdevRequest))
}

/// Returns what the call wants of which device, if its arguments are well formed.
fn wish(call: &Call, protected_top: u64) -> Option<(u64, Wish)> {
    match *call {
        Call::VdevGetInfo { vdev_id, ipa } => {
            let is_sound = ipa.is_multiple_of(INFO_ALIGNMENT) && ipa < protected_top;
            is_sound.then_some((vdev_id, Wish::Info { ipa }))
        }
        Call::VdevValidateMapping {
            vdev_id,
            ipa_base: base,
            ipa_top: top,
            pa_base: physical,
            flags: _,
            lock_nonce: lock,
            meas_nonce: measurements,
            report_nonce: report,
        } => {
            let is_aligned = [base, top, physical]
                .iter()
                .all(|address| address.is_multiple_of(GRANULE_SIZE));
            let nonces = Nonces {
                lock,
                measurements,
                report,
            };
            let wish = Wish::Validate {
                base,
                top,
                physical,
                nonces,
            };
            (is_aligned && base < top && top <= protected_top).then_some((vdev_id, wish))
        }
        Call::VdevDmaEnable {
            vdev_id,
            flags,
            non_ats_plane: _,
            lock_nonce: lock,
            meas_nonce: measurements,
            report_nonce: report,
        } => {
            let nonces = Nonces {
                lock,
                measurements,
                report,
            };
            // Address translation by the device is not there.
            (flags == 0).then_some((vdev_id, Wish::EnableDma { nonces }))
        }
        Call::VdevDmaDisable { vdev_id } => Some((vdev_id, Wish::DisableDma)),
        _ => None,
    }
}

/// `RMI_VDEV_COMPLETE`.
pub(crate) fn complete<P: Machine>(context: &Context<'_, P>, rec: u64, object: u64) -> Result {
    let _registry = context.devices();
    let guard = rec::lock_idle(context, rec).map_err(|error| match error {
        // A virtual CPU that runs waits for nothing.
        Error::Rec => Error::Input,
        other => other,
    })?;
    context.with(guard.granule(), |rec: &mut Rec<P::Context>| {
        let Pending::Device(Request::Unnamed { id, wish }) = rec.pending else {
            return Err(Error::Input);
        };
        vdev::with(context, object, |vdev| {
            if vdev.realm != rec.realm || vdev.id != id {
                return Err(Error::Input);
            }
            if !vdev.comm.is_quiet() {
                return Err(Error::Device);
            }
            Ok(())
        })??;
        rec.pending = Pending::Device(Request::Named { object, id, wish });
        Ok(Reply::NONE)
    })
}

/// Goes on with a request when its virtual CPU is entered.
pub(crate) fn resume<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    request: Request,
    flags: RecEnterFlags,
    exit: &mut RecExit,
) -> Flow {
    let outcome = match request {
        // The host knows no such device.
        Request::Unnamed { .. } => Err(Stop::Status(RsiStatus::Input)),
        Request::Named { object, id, wish } => fulfil(context, rec, (object, id), wish, exit),
        Request::Map(mapping) => {
            let rejected = flags.contains(RecEnterFlags::DEV_MEM_RESPONSE);
            let response = if rejected {
                Response::Reject
            } else {
                Response::Accept
            };
            let values = [mapping.next, response.word()];
            rec.answer(context.platform, RsiStatus::Success, &values);
            Ok(Flow::Resume)
        }
    };
    match outcome {
        Ok(flow) => flow,
        Err(Stop::Status(status)) => {
            rec.answer(context.platform, status, &[]);
            Flow::Resume
        }
        Err(Stop::Missing { ipa, level }) => {
            rec.pending = Pending::Device(request);
            let syndrome = context.platform.missing_memory(Ipa(ipa), level);
            leave_for_memory(exit, &syndrome, level)
        }
        Err(Stop::Retry) => {
            rec.pending = Pending::Device(request);
            leave(exit, ExitReason::Irq)
        }
    }
}

fn fulfil<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    (object, id): (u64, u64),
    wish: Wish,
    exit: &mut RecExit,
) -> Answer {
    let registry = context.devices();
    vdev::settle(context, object)?;
    let realm = rec.realm;
    let own = |vdev: &mut Vdev| vdev.realm == realm && vdev.id == id;
    if !vdev::with(context, object, own)? {
        return Err(Stop::Status(RsiStatus::Input));
    }
    match wish {
        Wish::Info { ipa } => {
            let info = info(context, object)?;
            in_realm(context, rec, |realm| {
                guest_write(context, realm, ipa, info.as_bytes())
            })?;
        }
        Wish::DisableDma => vdev::with(context, object, |vdev| disable_dma(context, vdev))??,
        Wish::EnableDma { nonces } => {
            if !registry.allows(object, Grant::Dma, nonces.lock) {
                return Err(Stop::Status(RsiStatus::Device));
            }
            enable_dma(context, realm, object, &nonces)?;
        }
        Wish::Validate {
            base,
            top,
            physical,
            nonces,
        } => {
            let mapping = Mapping {
                object,
                id,
                base,
                next: base,
                top,
                physical,
                nonces,
            };
            vdev::with(context, object, |vdev| {
                check_mapping(context, vdev, &mapping)
            })??;
            rec.pending = Pending::Device(Request::Map(mapping));
            exit.vdev_id_1 = id.into();
            exit.dev_mem_base = base.into();
            exit.dev_mem_top = top.into();
            exit.dev_mem_pa = physical.into();
            return Ok(leave(exit, ExitReason::DevMemMap));
        }
    }
    rec.answer(context.platform, RsiStatus::Success, &[]);
    Ok(Flow::Resume)
}

fn check_mapping<P: Machine>(
    context: &Context<'_, P>,
    vdev: &mut Vdev,
    mapping: &Mapping,
) -> Result<()> {
    if !vdev.state.allows(Grant::Memory) {
        return Err(Error::Input);
    }
    if !vdev.is_fresh(&mapping.nonces) {
        return Err(Error::Device);
    }
    let bytes = mapping.top.checked_sub(mapping.base).ok_or(Error::Input)?;
    vdev.forget_unmapped(context);
    if vdev::may_accept(vdev, mapping.base, mapping.physical, bytes) {
        Ok(())
    } else {
        Err(Error::Input)
    }
}

/// Lets the device reach the realm's memory.
///
/// The grant is decided on what the interface knows and on what its device knows; what the registry
/// knows was asked before.
fn enable_dma<P: Machine>(
    context: &Context<'_, P>,
    realm: Granule,
    object: u64,
    nonces: &Nonces,
) -> Result<()> {
    context.with_realm(realm.address(), |realm| {
        vdev::with(context, object, |vdev| {
            let is_allowed = vdev.state.allows(Grant::Dma) && vdev.is_fresh(nonces);
            if !is_allowed || !vdev.is_out_of_reach(context) {
                return Err(Error::Device);
            }
            let protecting = pdev::with(context, vdev.device.address(), |pdev| {
                let is_ready = pdev.state == pdev::State::Ready;
                pdev.endpoint()
                    .filter(|_| is_ready)
                    .and_then(|own| own.protecting_stream(context.platform))
            })?;
            if protecting != Some(vdev.stream_id) || vdev.report.digest().is_none() {
                return Err(Error::Device);
            }
            if vdev.dma {
                return Ok(());
            }
            let attached = context.platform.attach(vdev.stream(), &realm.stage2);
            attached.map_err(|_| Error::Device)?;
            vdev.dma = true;
            Ok(())
        })?
    })
}

fn disable_dma<P: Machine>(context: &Context<'_, P>, vdev: &mut Vdev) -> Result<()> {
    if vdev.dma {
        context
            .platform
            .block(vdev.stream())
            .map_err(|_| Error::Device)?;
        vdev.dma = false;
    }
    Ok(())
}

/// Returns what the TSM knows of the interface.
fn info<P: Machine>(context: &Context<'_, P>, object: u64) -> Result<VdevInfo> {
    let mut info = VdevInfo::new_zeroed();
    let device = vdev::with(context, object, |vdev| {
        info.lock_nonce = vdev.nonces.lock.into();
        info.meas_nonce = vdev.nonces.measurements.into();
        info.report_nonce = vdev.nonces.report.into();
        info.state = u64::from(vdev.state.for_guest()).into();
        put(&mut info.meas_digest, Some(&vdev.measurements));
        put(&mut info.report_digest, vdev.report.digest());
        vdev.device.address()
    })?;
    info.hash_algo = HashAlgorithm::Sha384 as u8;
    info.format_type = FORMAT_TDISP.into();
    info.version = INFO_VERSION.into();
    pdev::with(context, device, |pdev| {
        info.cert_id = pdev.slot.into();
        if let Some(endpoint) = pdev.endpoint() {
            let digests = endpoint.requester.digests();
            put(&mut info.vca_digest, digests.vca());
            put(&mut info.cert_digest, digests.certificate());
            put(&mut info.pubkey_digest, digests.public_key());
        }
    })?;
    Ok(info)
}

fn put(field: &mut [u8; 64], digest: Option<&[u8; 48]>) {
    for (to, from) in field.iter_mut().zip(digest.into_iter().flatten()) {
        *to = *from;
    }
}
