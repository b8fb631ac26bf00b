// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's calls about IDE streams, and how the exchanges of both ends meet.

use tsm_abi::rmi::{PdevStreamParams, StreamState, StreamType};
use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, MOST_STREAM_RANGES, Rid, StreamRegisters};

use super::super::comm::Comm;
use super::super::pci::Function;
use super::super::registry::Registry;
use super::link::{Ending, Link, Phase, Usage};
use super::{Op, Pdev, Role, State, with};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::granule::Kind;

/// The type of stream that is there; a handle is the endpoint's address plus this.
const STREAM_TYPE: StreamType = StreamType::NonCoherent;

/// Whether a step of a stream operation may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meet {
    /// The other end must move first.
    Wait,
    /// Make it.
    Go,
    /// This end's exchange is complete.
    End,
}

/// Returns the endpoint and the root port of `first` and `second`, which the host gives in either
/// order.
fn ends<P: Machine>(context: &Context<'_, P>, first: u64, second: u64) -> Result<(u64, u64)> {
    if first == second {
        return Err(Error::Input);
    }
    let is_port = |object| {
        with(context, object, |pdev| {
            matches!(pdev.role, Role::RootPort(_))
        })
    };
    match (is_port(first)?, is_port(second)?) {
        (false, true) => Ok((first, second)),
        (true, false) => Ok((second, first)),
        _ => Err(Error::Input),
    }
}

/// What `RMI_PDEV_STREAM_CONNECT` was given, checked.
struct Wanted {
    id: u8,
    ranges: [Option<GranuleRange>; MOST_STREAM_RANGES],
}

fn check<P: Machine>(context: &Context<'_, P>, params: &PdevStreamParams) -> Result<Wanted> {
    let kind = StreamType::from_word(params.stream_type.get()).ok_or(Error::Input)?;
    let count = usize::try_from(params.num_addr_range.get()).map_err(|_| Error::Input)?;
    let given = params.addr_range.get(..count).ok_or(Error::Input)?;
    let mut ranges = [None; MOST_STREAM_RANGES];
    for (index, range) in given.iter().enumerate() {
        let range = GranuleRange::new(range.base.get(), range.top.get()).ok_or(Error::Input)?;
        let mut others = ranges.iter().flatten();
        // Packets to memory never take a stream.
        let region = context.tsm.granules.region(range.base());
        let is_device = region.is_some_and(|region| {
            region.kind() == Kind::Device && range.top() <= region.range().top()
        });
        if !is_device || others.any(|other: &GranuleRange| other.overlaps(range)) {
            return Err(Error::Input);
        }
        *ranges.get_mut(index).ok_or(Error::Input)? = Some(range);
    }
    if params.flags.get() != 0 {
        return Err(Error::Input);
    }
    if kind != STREAM_TYPE {
        return Err(Error::NotSupported);
    }
    let id = u8::try_from(params.ide_sid.get()).map_err(|_| Error::Input)?;
    Ok(Wanted { id, ranges })
}

/// Returns whether no other stream reaches any address of `ranges`.
fn is_unclaimed<P: Machine>(
    context: &Context<'_, P>,
    registry: &Registry,
    ranges: &[Option<GranuleRange>],
) -> bool {
    registry.devices().iter().all(|device| {
        let claimed = with_link(context, device.object, |link| link.overlaps(ranges));
        // A device without a stream, or one that is not there yet.
        claimed != Ok(true)
    })
}

/// `RMI_PDEV_STREAM_CONNECT`.
///
/// A device behind a switch is refused: switches are no end of a selective stream and may reorder
/// what passes (CVE-2025-9612).
pub(crate) fn connect<P: Machine>(context: &Context<'_, P>, params: u64) -> Result {
    let params: PdevStreamParams = context.host_structure(params)?;
    let wanted = check(context, &params)?;
    let registry = context.devices();
    let (endpoint, port) = ends(context, params.pdev_1.get(), params.pdev_2.get())?;
    let (device_rid, rids, is_free) = with(context, endpoint, |pdev| {
        let is_free = pdev.is_free();
        let own = pdev.endpoint();
        let rids = own.as_ref().map(|endpoint| endpoint.rids);
        let has_stream = own.is_none_or(|endpoint| endpoint.link.is_some());
        (pdev.rid, rids, is_free && !has_stream)
    })?;
    let port_granule = Granule::new(port).ok_or(Error::Input)?;
    let endpoint_granule = Granule::new(endpoint).ok_or(Error::Input)?;
    let placed = with(context, port, |pdev| pdev.rid)?;
    let bridge = Function::new(context.platform, placed);
    if !is_free || !bridge.is_above(device_rid) {
        return Err(Error::Input);
    }
    if !bridge.is_right_above(device_rid) {
        return Err(Error::NotSupported);
    }
    if !is_unclaimed(context, &registry, &wanted.ranges) {
        return Err(Error::Input);
    }
    let registers = StreamRegisters {
        stream: wanted.id,
        enabled: false,
        rids: first_and_last(rids.ok_or(Error::Input)?)?,
        ranges: wanted.ranges,
    };
    let link = with(context, port, |pdev| {
        let (is_free, rid) = (pdev.is_free(), pdev.rid);
        let ids = &mut pdev.root_port().ok_or(Error::Input)?.stream_ids;
        let link = Link::connect(registers, port_granule, rid).ok_or(Error::Global)?;
        if !is_free || !ids.claim(wanted.id) {
            return Err(Error::Input);
        }
        pdev.streams = pdev.streams.saturating_add(1);
        Ok(link)
    })??;
    with(context, endpoint, |pdev| {
        pdev.streams = pdev.streams.saturating_add(1);
        if let Some(endpoint) = pdev.endpoint() {
            endpoint.link = Some(link);
        }
    })?;
    ask_both(context, endpoint_granule, port)?;
    Ok(Reply::one(endpoint | STREAM_TYPE.word()))
}

/// Returns first and last of the requester ids from `base` up to `top`, which is not included.
fn first_and_last((base, top): (u32, u32)) -> Result<(Rid, Rid)> {
    let last = top.checked_sub(1).ok_or(Error::Input)?;
    let rid = |id| u16::try_from(id).map(Rid).map_err(|_| Error::Input);
    Ok((rid(base)?, rid(last)?))
}

/// Returns the stream of the device at `device`, if its function `rid` with memory in `ranges` may be
/// bound, or stay bound, over it: both ends use its keys (PCIe 6.4, 11.3.8), which are not due; the
/// root port's registers are as they were set; and the device is still right below the port. A host
/// that renumbers buses gives its requester id to another device.
pub(crate) fn sound_stream<P: Machine>(
    context: &Context<'_, P>,
    device: u64,
    rid: Rid,
    ranges: &[GranuleRange],
) -> Result<u8> {
    with(context, device, |pdev| {
        let (device_rid, is_ready) = (pdev.rid, pdev.state == State::Ready);
        let endpoint = pdev.endpoint().filter(|_| is_ready).ok_or(Error::Device)?;
        let stream = endpoint.connected_stream().ok_or(Error::Device)?;
        let link = endpoint.link.as_ref().ok_or(Error::Device)?;
        let is_sound = link.usage != Usage::Due
            && link.covers(ranges)
            && link.is_in_place(context.platform)
            && link.leads_to(context.platform, device_rid, rid);
        if is_sound {
            Ok(stream)
        } else {
            Err(Error::Device)
        }
    })?
}

/// Takes note that an interface is bound over the stream of the device at `device`.
pub(crate) fn occupy<P: Machine>(context: &Context<'_, P>, device: u64) {
    let _ = with_link(context, device, |link| link.usage = Usage::Used);
}

/// Takes note that an interface of the device at `device` exists no more.
pub(crate) fn leave<P: Machine>(context: &Context<'_, P>, device: u64) {
    // Without a stream there are no keys.
    let _ = with_link(context, device, Link::leave);
}

/// Puts both ends into the operation that the endpoint's link was asked for.
fn ask_both<P: Machine>(context: &Context<'_, P>, endpoint: Granule, port: u64) -> Result<()> {
    for object in [endpoint.address(), port] {
        with(context, object, |pdev| {
            pdev.op = Some(Op::Stream { endpoint });
            pdev.comm = Comm::Pending;
        })?;
    }
    Ok(())
}

/// Returns endpoint and root port of the stream `handle`.
fn find<P: Machine>(
    context: &Context<'_, P>,
    first: u64,
    second: u64,
    handle: u64,
) -> Result<(u64, u64)> {
    let (endpoint, port) = ends(context, first, second)?;
    let linked = with(context, endpoint, |pdev| {
        pdev.endpoint()
            .and_then(|endpoint| endpoint.link.as_ref())
            .map(|link| link.port.address())
    })?;
    if handle != endpoint | STREAM_TYPE.word() || linked != Some(port) {
        return Err(Error::Input);
    }
    Ok((endpoint, port))
}

fn with_link<P: Machine, R>(
    context: &Context<'_, P>,
    endpoint: u64,
    work: impl FnOnce(&mut Link) -> R,
) -> Result<R> {
    with(context, endpoint, |pdev| {
        let endpoint = pdev.endpoint().ok_or(Error::Input)?;
        Ok(work(endpoint.link.as_mut().ok_or(Error::Input)?))
    })?
}

/// `RMI_PDEV_STREAM_KEY_REFRESH`.
pub(crate) fn refresh<P: Machine>(
    context: &Context<'_, P>,
    first: u64,
    second: u64,
    handle: u64,
) -> Result {
    change_keys(context, (first, second), handle, Link::refresh)
}

/// `RMI_PDEV_STREAM_KEY_PURGE`: both ends stop and forget every key of the set that is not in use,
/// whether or not the TSM knows of any. A refresh does the same with the set that it replaces, and
/// one that fails with the set that it brought; so this is for a host that wants to be sure.
pub(crate) fn purge<P: Machine>(
    context: &Context<'_, P>,
    first: u64,
    second: u64,
    handle: u64,
) -> Result {
    change_keys(context, (first, second), handle, Link::purge)
}

fn change_keys<P: Machine>(
    context: &Context<'_, P>,
    (first, second): (u64, u64),
    handle: u64,
    begin: impl FnOnce(&mut Link) -> bool,
) -> Result {
    let _registry = context.devices();
    let (endpoint, port) = find(context, first, second, handle)?;
    if !with(context, endpoint, |pdev| pdev.is_free())?
        || !with(context, port, |pdev| pdev.is_free())?
    {
        return Err(Error::Input);
    }
    let begun = with_link(context, endpoint, |link| {
        link.state == StreamState::Connected && begin(link)
    })?;
    if !begun {
        return Err(Error::Device);
    }
    ask_both(context, Granule::new(endpoint).ok_or(Error::Input)?, port)?;
    Ok(Reply::NONE)
}

/// `RMI_PDEV_STREAM_DISCONNECT`. A stream whose device has failed can always be taken down.
pub(crate) fn disconnect<P: Machine>(
    context: &Context<'_, P>,
    first: u64,
    second: u64,
    handle: u64,
) -> Result {
    let _registry = context.devices();
    let (endpoint, port) = find(context, first, second, handle)?;
    let can_stop =
        |pdev: &mut Pdev| matches!(pdev.state, State::Ready | State::Error) && pdev.comm.is_quiet();
    if !with(context, endpoint, can_stop)? || !with(context, port, can_stop)? {
        return Err(Error::Input);
    }
    let (vdevs, state) = with(context, endpoint, |pdev| (pdev.vdevs, pdev.state))?;
    if vdevs != 0 {
        return Err(Error::Device);
    }
    let begun = with_link(context, endpoint, |link| {
        let is_up = link.state == StreamState::Connected;
        (is_up || state == State::Error) && link.disconnect()
    })?;
    if !begun {
        return Err(Error::Device);
    }
    ask_both(context, Granule::new(endpoint).ok_or(Error::Input)?, port)?;
    Ok(Reply::NONE)
}

/// `RMI_PDEV_STREAM_COMPLETE`.
pub(crate) fn complete<P: Machine>(
    context: &Context<'_, P>,
    first: u64,
    second: u64,
    handle: u64,
) -> Result {
    let _registry = context.devices();
    let (endpoint, port) = find(context, first, second, handle)?;
    let is_idle = |pdev: &mut Pdev| pdev.comm == Comm::Idle;
    if !with(context, endpoint, is_idle)? || !with(context, port, is_idle)? {
        return Err(Error::Input);
    }
    let has_interfaces = with(context, endpoint, |pdev| pdev.vdevs != 0)?;
    let is_gone = with_link(context, endpoint, |link| {
        if link.phase != Phase::Done {
            return Err(Error::Device);
        }
        link.phase = Phase::Rest;
        link.complete(has_interfaces);
        let is_gone = link.state == StreamState::Disconnecting;
        link.state = if is_gone {
            StreamState::Disconnected
        } else {
            StreamState::Connected
        };
        Ok(is_gone)
    })??;
    for object in [endpoint, port] {
        with(context, object, |pdev| pdev.op = None)?;
    }
    if is_gone {
        remove(context, endpoint, port)?;
    }
    Ok(Reply::NONE)
}

/// Forgets the stream of `endpoint`, of which neither end has a key.
fn remove<P: Machine>(context: &Context<'_, P>, endpoint: u64, port: u64) -> Result<()> {
    let id = with_link(context, endpoint, |link| link.id())?;
    with(context, endpoint, |pdev| {
        pdev.streams = pdev.streams.saturating_sub(1);
        if let Some(endpoint) = pdev.endpoint() {
            endpoint.link = None;
        }
    })?;
    with(context, port, |pdev| {
        pdev.streams = pdev.streams.saturating_sub(1);
        if let Some(port) = pdev.root_port() {
            port.stream_ids.release(id);
        }
    })
}

/// Returns whether an end of the stream of `endpoint` may make its step now, and moves the root
/// port's side on.
pub(super) fn meet<P: Machine>(
    context: &Context<'_, P>,
    endpoint: Granule,
    is_port: bool,
) -> Result<Meet> {
    with_link(context, endpoint.address(), |link| {
        let (phase, meet) = match (link.phase, is_port) {
            (Phase::Asked, true) => (Phase::PortReady, Meet::Wait),
            (Phase::DeviceReady, true) => (Phase::PortDone, Meet::End),
            (Phase::PortReady, false) => (Phase::PortReady, Meet::Go),
            (Phase::PortDone, false) => (Phase::Done, Meet::End),
            (phase, _) => (phase, Meet::Wait),
        };
        link.phase = phase;
        meet
    })
}

/// Takes in how the work of the endpoint `object` ended.
pub(super) fn worked<P: Machine>(
    context: &Context<'_, P>,
    registry: &Registry,
    object: u64,
    ending: Ending,
) -> Result<()> {
    match ending {
        Ending::Done => {
            with_link(context, object, |link| link.phase = Phase::DeviceReady)?;
            with(context, object, |pdev| pdev.comm = Comm::Active)
        }
        Ending::Kept => {
            let port = with_link(context, object, |link| {
                link.phase = Phase::Rest;
                if link.is_secure() {
                    link.state = StreamState::Connected;
                }
                link.port.address()
            })?;
            release(context, object)?;
            release(context, port)
        }
        Ending::Gone => {
            super::fail(context, registry, object);
            Ok(())
        }
    }
}

/// Takes the end `object` out of its stream operation.
fn release<P: Machine>(context: &Context<'_, P>, object: u64) -> Result<()> {
    with(context, object, |pdev| {
        pdev.op = None;
        pdev.comm = Comm::Idle;
    })
}

/// Ends the stream operation of `endpoint`, whose device has failed. The root port is usable for
/// other streams. The stream itself stays until the host takes it down, unless it never came up.
pub(super) fn fail<P: Machine>(context: &Context<'_, P>, endpoint: u64) {
    let found = with_link(context, endpoint, |link| {
        link.phase = Phase::Rest;
        let never_came_up = link.is_down() && link.state == StreamState::Connecting;
        (link.port.address(), never_came_up)
    });
    let Ok((port, never_came_up)) = found else {
        return;
    };
    let own = Granule::new(endpoint).map(|endpoint| Op::Stream { endpoint });
    if with(context, port, |pdev| pdev.op) == Ok(own) {
        let _ = release(context, port);
    }
    if never_came_up {
        let _ = remove(context, endpoint, port);
    }
}

const _: () = assert!(STREAM_TYPE.word() < GRANULE_SIZE);
