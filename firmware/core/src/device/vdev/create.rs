// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Creation of device interfaces, and where their memory lies.

use heapless::Vec;
use tsm_abi::rmi::VdevParams;
use tsm_platform::{Granule, GranuleRange, Rid, StreamId};
use tsm_spdm::wire::pci_sig::tdisp::LockFlags;
use zeroize::Zeroizing;

use super::super::comm::Comm;
use super::super::pci::{self, Function, Placement};
use super::super::policy::REPORTING_OFFSET;
use super::super::registry::{Interface, Registry};
use super::super::report::{Assembly, Report};
use super::super::sizes::{BarSizes, KnownSizes};
use super::super::standing::Standing;
use super::super::tdisp::{Request, State};
use super::super::{config, pdev, psmmu};
use super::{MOST_RANGES, Measure, Nonces, Vdev, note_bound, teardown, with};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::granule::{self, Kind};
use crate::realm::{Life, Realm};

/// Most bridges above an interface.
const MOST_BRIDGES: usize = 8;

type Ranges = Vec<GranuleRange, MOST_RANGES>;

/// Returns the ranges of `params`: aligned, sorted, apart, and device memory throughout.
fn ranges<P: Machine>(context: &Context<'_, P>, params: &VdevParams) -> Result<Ranges> {
    let count = usize::try_from(params.num_addr_range.get()).map_err(|_| Error::Input)?;
    let mut ranges = Ranges::new();
    let mut last = 0;
    for range in params.addr_range.get(..count).ok_or(Error::Input)? {
        let range = GranuleRange::new(range.base.get(), range.top.get()).ok_or(Error::Input)?;
        let region = context
            .tsm
            .granules
            .region(range.base())
            .ok_or(Error::Input)?;
        let is_device = region.kind() == Kind::Device && range.top() <= region.range().top();
        let reserved = context.platform.reserved_mmio();
        if range.base() < last || !is_device || reserved.iter().any(|kept| kept.overlaps(range)) {
            return Err(Error::Input);
        }
        last = range.top();
        ranges.push(range).map_err(|_| Error::Input)?;
    }
    Ok(ranges)
}

/// Returns where the function is, if its BARs hold all of `ranges` and nobody else answers there.
///
/// The host could have moved BARs while nothing was bound, so it is asked before each lock too.
pub(super) fn place<P: Machine>(
    context: &Context<'_, P>,
    rid: Rid,
    sizes: &BarSizes,
    ranges: &[GranuleRange],
    known: &mut KnownSizes,
) -> Option<Placement> {
    let mut spans = ranges.iter().map(|range| (range.base(), range.top()));
    let own = Function::new(context.platform, rid);
    let owns_all = spans.all(|span| own.owns(span, sizes));
    (owns_all && is_apart(context, rid, ranges, known)).then(|| own.placement())
}

/// Returns whether the function is still where it was placed and nobody else answers there. Only
/// reads its registers.
pub(super) fn is_still_placed<P: Machine>(
    context: &Context<'_, P>,
    vdev: &Vdev,
    known: &mut KnownSizes,
) -> bool {
    let own = Function::new(context.platform, vdev.rid);
    own.placement() == vdev.placement && is_apart(context, vdev.rid, &vdev.ranges, known)
}

/// Returns whether the report agrees with the lock, and each of its ranges lies in one BAR of the
/// interface.
pub(super) fn holds_report<P: Machine>(context: &Context<'_, P>, vdev: &Vdev) -> bool {
    let own = Function::new(context.platform, vdev.rid);
    let is_frozen = vdev.lock_flags.0 & LockFlags::NO_FIRMWARE_UPDATE.0 != 0;
    let mut ranges = vdev.report.ranges();
    let lies_in_bar = |(base, bytes): (u64, u64)| {
        let top = base.checked_add(bytes);
        top.is_some_and(|top| own.owns((base, top), &vdev.sizes))
    };
    (!is_frozen || vdev.report.keeps_firmware()) && ranges.all(lies_in_bar)
}

/// Returns whether the function sends no message interrupts, no other answers in `ranges`, none is
/// taken for it, and one path leads to it.
fn is_apart<P: Machine>(
    context: &Context<'_, P>,
    rid: Rid,
    ranges: &[GranuleRange],
    known: &mut KnownSizes,
) -> bool {
    let platform = context.platform;
    let spans = || ranges.iter().map(|range| (range.base(), range.top()));
    let mut path: Vec<Rid, MOST_BRIDGES> = Vec::new();
    let disturbed = pci::any_function(platform, |other, function| {
        if other == rid {
            return !config::is_silent(function);
        }
        let is_path = function.is_above(rid);
        if is_path {
            // Once the interface is bound, its path is not probed either.
            function.measure(known);
        }
        let virtuals = function.virtual_functions();
        let covers = spans().any(|span| {
            function.answers_in(span, known)
                || (!is_path && function.forwards(span))
                || virtuals.as_ref().is_some_and(|all| all.may_answer_in(span))
        });
        covers
            || virtuals.is_some_and(|all| all.include(rid))
            || (is_path && path.push(other).is_err())
    });
    // Of two bridges on one path, one is above the other.
    let is_above = |a: Rid, b: Rid| Function::new(platform, a).is_above(b);
    let is_chain = path.iter().all(|a| {
        path.iter()
            .all(|b| a == b || is_above(*a, *b) || is_above(*b, *a))
    });
    // Behind no bridge are the functions of the first bus only.
    let [_, bus] = rid.0.to_le_bytes();
    let is_reached = bus == 0 || !path.is_empty();
    !disturbed && is_chain && is_reached
}

/// Checks that no other interface has the function, the guest's id for it, or any of the memory.
fn check_new<P: Machine>(
    context: &Context<'_, P>,
    registry: &Registry,
    rid: Rid,
    (realm, id): (u64, u64),
    ranges: &Ranges,
) -> Result<()> {
    for interface in registry.interfaces() {
        let clashes = with(context, interface.object, |other| {
            let shared = other
                .ranges
                .iter()
                .any(|a| ranges.iter().any(|b| a.overlaps(*b)));
            let same_id = other.realm.address() == realm && other.id == id;
            shared || same_id || interface.rid == rid
        })?;
        if clashes {
            return Err(Error::Input);
        }
    }
    Ok(())
}

/// Returns the stream of the device at `device`, if an interface `rid` may be made of it.
fn usable_stream<P: Machine>(context: &Context<'_, P>, device: u64, rid: Rid) -> Result<u8> {
    pdev::with(context, device, |pdev| {
        let is_ready = pdev.state == pdev::State::Ready;
        let endpoint = pdev.endpoint().ok_or(Error::Device)?;
        let stream = endpoint
            .connected_stream()
            .filter(|_| is_ready)
            .ok_or(Error::Device)?;
        let own = endpoint.rids.0..endpoint.rids.1;
        if own.contains(&u32::from(rid.0)) {
            Ok(stream)
        } else {
            Err(Error::Input)
        }
    })?
}

/// `RMI_VDEV_CREATE`. The interface's DMA is blocked from here on until the guest turns it on.
pub(crate) fn create<P: Machine>(
    context: &Context<'_, P>,
    realm: u64,
    device: u64,
    object: u64,
    params: u64,
) -> Result {
    let params: VdevParams = context.host_structure(params)?;
    // A virtual IOMMU is not there.
    if params.flags.get() != 0 {
        return Err(Error::Input);
    }
    let rid = u16::try_from(params.tdi_id.get())
        .map(Rid)
        .map_err(|_| Error::Input)?;
    let id = params.vdev_id.get();
    let ranges = ranges(context, &params)?;
    let realm_granule = Granule::new(realm).ok_or(Error::Input)?;
    let device_granule = Granule::new(device).ok_or(Error::Input)?;
    let mut registry = context.devices();
    note_bound(context, &mut registry);
    let realm_guard = context.lock(realm, granule::State::Rd)?;
    context.with(realm_granule, |realm: &mut Realm| {
        let is_alive = matches!(realm.life, Life::New | Life::Active);
        if realm.devices_allowed && is_alive {
            Ok(())
        } else {
            Err(Error::Realm)
        }
    })?;
    let stream_id = usable_stream(context, device, rid)?;
    check_new(context, &registry, rid, (realm, id), &ranges)?;
    let stream = StreamId(u32::from(rid.0));
    if !registry.has_room().1 || !psmmu::is_ready(context, &registry, stream) {
        return Err(Error::Device);
    }
    let function = Function::new(context.platform, rid);
    let sizes = function.bar_sizes(&registry.sizes).ok_or(Error::Input)?;
    let placement =
        place(context, rid, &sizes, &ranges, &mut registry.sizes).ok_or(Error::Input)?;
    if let Some(address) = teardown::first_in(context, &ranges, &[granule::State::Masked]) {
        // Of an interface that is gone: its realm's host has to unmap it.
        return Err(Error::Granule(address));
    }
    if !context.is_memory(object) {
        return Err(Error::Input);
    }
    let guard = context.lock(object, granule::State::Delegated)?;
    context.platform.block(stream).map_err(|_| Error::Device)?;
    let vdev = Vdev {
        realm: realm_granule,
        device: device_granule,
        id,
        rid,
        ranges,
        sizes,
        placement,
        state: State::New,
        comm: Comm::Pending,
        request: Some(Request::Open),
        step: 0,
        measure: Measure {
            nonce: [0; 32],
            raw: false,
        },
        first: true,
        dma: false,
        condemned: false,
        masking: None,
        stream_id,
        lock_flags: LockFlags::default(),
        cache_line: context.platform.cache_line_bytes(),
        retries: 0,
        declined: false,
        start_nonce: Zeroizing::new([0; 32]),
        nonces: Nonces::default(),
        measurements: [0; 48],
        report: Report::new(REPORTING_OFFSET),
        assembly: Assembly::new(),
    };
    if let Err(error) = context.place(&guard, granule::State::Vdev, vdev) {
        // Still the host's: nothing was made of it.
        let _ = context.platform.release(stream);
        return Err(error);
    }
    let interface = Interface {
        object,
        rid,
        device,
        standing: Standing::default(),
    };
    // There was room, and the lock is held.
    registry
        .add_interface(interface, function.id(), sizes)
        .map_err(|_| Error::Global)?;
    context.with(realm_guard.granule(), |realm: &mut Realm| {
        realm.vdevs = realm.vdevs.saturating_add(1);
        Ok(())
    })?;
    pdev::with(context, device, |pdev| {
        pdev.vdevs = pdev.vdevs.saturating_add(1)
    })?;
    Ok(Reply::NONE)
}
