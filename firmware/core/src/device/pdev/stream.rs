// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's calls about IDE streams, and how the exchanges of both ends meet.

use heapless::Vec;
use tsm_abi::rmi::{PdevStreamParams, StreamState, StreamType};
use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, Rid};

use super::super::comm::Comm;
use super::super::pci::Function;
use super::super::registry::Registry;
use super::link::{Ending, Link, Phase};
use super::{Op, Pdev, Role, State, with};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};

/// The type of stream that is there; a handle is the endpoint's address plus this.
const STREAM_TYPE: StreamType = StreamType::NonCoherent;
/// Most address ranges of a stream (`RmiPdevStreamParams`).
const MOST_RANGES: usize = 16;

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

fn check(params: &PdevStreamParams) -> Result<u8> {
    let kind = StreamType::from_word(params.stream_type.get()).ok_or(Error::Input)?;
    let count = usize::try_from(params.num_addr_range.get()).map_err(|_| Error::Input)?;
    let mut ranges: Vec<GranuleRange, MOST_RANGES> = Vec::new();
    for range in params.addr_range.get(..count).ok_or(Error::Input)? {
        let range = GranuleRange::new(range.base.get(), range.top.get()).ok_or(Error::Input)?;
        if ranges.iter().any(|other| other.overlaps(range)) {
            return Err(Error::Input);
        }
        ranges.push(range).map_err(|_| Error::Input)?;
    }
    if params.flags.get() != 0 {
        return Err(Error::Input);
    }
    if kind != STREAM_TYPE {
        return Err(Error::NotSupported);
    }
    u8::try_from(params.ide_sid.get()).map_err(|_| Error::Input)
}

/// `RMI_PDEV_STREAM_CONNECT`.
pub(crate) fn connect<P: Machine>(context: &Context<'_, P>, params: u64) -> Result {
    let params: PdevStreamParams = context.host_structure(params)?;
    let id = check(&params)?;
    let _registry = context.devices();
    let (endpoint, port) = ends(context, params.pdev_1.get(), params.pdev_2.get())?;
    let (device_rid, is_free) = with(context, endpoint, |pdev| {
        let has_stream = pdev
            .endpoint()
            .is_none_or(|endpoint| endpoint.link.is_some());
        (pdev.rid, pdev.is_free() && !has_stream)
    })?;
    let port_granule = Granule::new(port).ok_or(Error::Input)?;
    let endpoint_granule = Granule::new(endpoint).ok_or(Error::Input)?;
    if !is_free || !is_below(context, port, device_rid)? {
        return Err(Error::Input);
    }
    let link = with(context, port, |pdev| {
        let (is_free, rid) = (pdev.is_free(), pdev.rid);
        let ids = &mut pdev.root_port().ok_or(Error::Input)?.stream_ids;
        let link = Link::connect(id, port_granule, rid).ok_or(Error::Global)?;
        if !is_free || !ids.claim(id) {
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

fn is_below<P: Machine>(context: &Context<'_, P>, port: u64, device: Rid) -> Result<bool> {
    let rid = with(context, port, |pdev| pdev.rid)?;
    Ok(Function::new(context.platform, rid).is_above(device))
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
    let _registry = context.devices();
    let (endpoint, port) = find(context, first, second, handle)?;
    if !with(context, endpoint, |pdev| pdev.is_free())?
        || !with(context, port, |pdev| pdev.is_free())?
    {
        return Err(Error::Input);
    }
    let begun = with_link(context, endpoint, |link| {
        link.state == StreamState::Connected && link.refresh()
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
    let is_gone = with_link(context, endpoint, |link| {
        if link.phase != Phase::Done {
            return Err(Error::Device);
        }
        link.phase = Phase::Rest;
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
