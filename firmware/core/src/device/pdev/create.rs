// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Creation of physical devices, which for an endpoint waits for memory, and its reverse.
//!
//! `RMI_PDEV_CREATE` of an endpoint begins a stateful operation: it answers INCOMPLETE with the
//! object's address as handle, `RMI_OP_MEM_DONATE` brings the memory, `RMI_OP_CONTINUE` makes the
//! device. Until then the object takes the function, so that nobody else creates it, and no other
//! call finds it. `RMI_OP_CANCEL` and `RMI_PDEV_DESTROY` give everything back at once, so there is
//! never anything for `RMI_OP_MEM_RECLAIM`.

use tsm_abi::MemoryRequest;
use tsm_abi::rmi::{
    BlockSize, DonateRequest, HashAlgorithm, PdevCategory, PdevFlags, PdevParams, RangeDescriptor,
};
use tsm_ide::StreamIds;
use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, HostPa, Rid};
use tsm_spdm::{Config, Requester};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::super::comm::{self, Comm};
use super::super::pci::Function;
use super::super::registry::{Device, Registry};
use super::{Endpoint, MEMORY_GRANULES, Memory, Op, Pdev, Role, RootPort, State, User, with_in};
use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::granule;

/// First number that is no requester id.
const RIDS: u64 = 1 << 16;
/// Number of certificate slots of a device.
const CERTIFICATE_SLOTS: u8 = 8;

/// What `RMI_PDEV_CREATE` was given, checked.
struct Wanted {
    rid: Rid,
    slot: u8,
    /// Requester ids of an endpoint.
    rids: Option<(u32, u32)>,
}

fn check(params: &PdevParams) -> Result<Wanted> {
    let flags = PdevFlags::from_bits(params.flags.get()).ok_or(Error::Input)?;
    let is_endpoint = match flags.category() {
        Some(PdevCategory::RootPort) => false,
        Some(PdevCategory::EndpointOffChip) => true,
        // Devices inside the chip have no link to protect and no port to program.
        Some(PdevCategory::EndpointOnChip) => return Err(Error::NotSupported),
        None => return Err(Error::Input),
    };
    if is_endpoint && !flags.contains(PdevFlags::SPDM) {
        return Err(Error::NotSupported);
    }
    let algorithm = HashAlgorithm::from_word(u64::from(params.hash_algo)).ok_or(Error::Input)?;
    let slot = u8::try_from(params.id_index.get()).map_err(|_| Error::Input)?;
    if slot >= CERTIFICATE_SLOTS {
        return Err(Error::Input);
    }
    if is_endpoint && algorithm != HashAlgorithm::Sha384 {
        return Err(Error::NotSupported);
    }
    let id = params.pdev_id.get();
    let rid = u16::try_from(id).map(Rid).map_err(|_| Error::Input)?;
    let (base, top) = (params.rid_base.get(), params.rid_top.get());
    let rids = is_endpoint.then_some((base, top));
    if is_endpoint {
        let own = u64::from(base)..u64::from(top);
        if !own.contains(&id) || own.end > RIDS {
            return Err(Error::Input);
        }
    }
    Ok(Wanted { rid, slot, rids })
}

/// Returns whether no other device has the function or shares requester ids.
fn is_new<P: Machine>(context: &Context<'_, P>, registry: &Registry, wanted: &Wanted) -> bool {
    registry.devices().iter().all(|device| {
        let shares = |other: &mut Pdev| match (wanted.rids, other.endpoint()) {
            (Some((base, top)), Some(other)) => base < other.rids.1 && other.rids.0 < top,
            _ => false,
        };
        let state = context.tsm.granules.state(device.object);
        let shared = state.and_then(|state| with_in(context, device.object, state, shares));
        device.rid != wanted.rid && shared == Ok(false)
    })
}

/// `RMI_PDEV_CREATE`.
pub(crate) fn create<P: Machine>(context: &Context<'_, P>, object: u64, params: u64) -> Result {
    let params: PdevParams = context.host_structure(params)?;
    let wanted = check(&params)?;
    let mut registry = context.devices();
    let function = Function::new(context.platform, wanted.rid);
    let is_hidden = context.platform.is_hidden(wanted.rid);
    let is_its_kind = match wanted.rids {
        None => function.is_root_port(),
        Some(_) => !function.is_bridge(),
    };
    if is_hidden || !function.is_present() || !is_its_kind {
        return Err(Error::Input);
    }
    if !is_new(context, &registry, &wanted) {
        return Err(Error::Input);
    }
    if !registry.has_room().0 {
        return Err(Error::Device);
    }
    if !context.is_memory(object) {
        return Err(Error::Input);
    }
    let guard = context.lock(object, granule::State::Delegated)?;
    let (role, state, reply) = match wanted.rids {
        None => {
            let port = RootPort {
                stream_ids: StreamIds::new(),
            };
            (Role::RootPort(port), granule::State::Pdev, Reply::NONE)
        }
        Some(rids) => {
            let endpoint = Endpoint {
                rids,
                memory: Memory::new(),
                requester: Requester::new(Config {
                    slot: wanted.slot,
                    ..Config::new(session_id(context)?)
                }),
                key: None,
                user: User::Nobody,
                lost: false,
                link: None,
            };
            let reply = waiting(object, 0);
            (Role::Endpoint(endpoint), granule::State::Forming, reply)
        }
    };
    let pdev = Pdev {
        rid: wanted.rid,
        slot: u64::from(wanted.slot),
        streams: 0,
        vdevs: 0,
        state: State::New,
        comm: Comm::Pending,
        op: Some(Op::Connect),
        role,
    };
    context.place(&guard, state, pdev)?;
    let device = Device {
        object,
        rid: wanted.rid,
    };
    // There was room, and the lock is held.
    registry.add_device(device).map_err(|_| Error::Global)?;
    Ok(reply)
}

/// Makes the TSM's half of a session id.
fn session_id<P: Machine>(context: &Context<'_, P>) -> Result<u16> {
    let mut bytes = [0; 2];
    context.platform.fill(&mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

/// Runs `work` on the memory of the endpoint at `object`, whose creation waits.
fn with_memory<P: Machine, R>(
    context: &Context<'_, P>,
    object: u64,
    work: impl FnOnce(&mut Memory) -> R,
) -> Result<R> {
    with_in(context, object, granule::State::Forming, |pdev| {
        let endpoint = pdev.endpoint().ok_or(Error::Global)?;
        Ok(work(&mut endpoint.memory))
    })?
}

/// Returns the answer of an operation whose object has `have` granules, with `first` in register 1.
fn waiting(first: u64, have: usize) -> Reply {
    match u64::try_from(MEMORY_GRANULES.saturating_sub(have)) {
        Ok(missing @ 1..) => {
            let request = DonateRequest::pages(missing).0;
            Reply::incomplete(MemoryRequest::Donate, [first, request])
        }
        _ => Reply::incomplete(MemoryRequest::None, [first, 0]),
    }
}

/// `RMI_OP_MEM_DONATE`. Takes all of the list or nothing of it.
pub(crate) fn donate<P: Machine>(
    context: &Context<'_, P>,
    object: u64,
    list: u64,
    count: u64,
) -> Result {
    let _registry = context.devices();
    let have = with_memory(context, object, |memory| memory.len())?;
    let mut entries = [U64::ZERO; MEMORY_GRANULES];
    let room = MEMORY_GRANULES.saturating_sub(have);
    let wanted = usize::try_from(count).map_err(|_| Error::Input)?;
    // Each entry is one granule at least.
    let entries = entries.get_mut(..wanted).ok_or(Error::Input)?;
    if !(1..=room).contains(&wanted) || !list.is_multiple_of(8) {
        return Err(Error::Input);
    }
    context.host_read(HostPa(list), entries.as_mut_bytes())?;
    let mut taken = Memory::new();
    let outcome = entries.iter().try_for_each(|entry| {
        let range = donated_range(RangeDescriptor(entry.get()))?;
        range.granules().try_for_each(|granule| {
            if taken.len() >= room {
                return Err(Error::Input);
            }
            take(context, granule)?;
            taken.push(granule).map_err(|_| Error::Input)
        })
    });
    if let Err(error) = outcome {
        return_all(context, &taken)?;
        return Err(error);
    }
    let consumed = u64::try_from(taken.len()).map_err(|_| Error::Global)?;
    let have = with_memory(context, object, |memory| {
        // There was room.
        let _ = memory.extend_from_slice(&taken);
        memory.len()
    })?;
    Ok(waiting(consumed, have))
}

/// Returns the granules of a descriptor: pages that the host has delegated.
fn donated_range(descriptor: RangeDescriptor) -> Result<GranuleRange> {
    let is_plain = descriptor.size() == BlockSize::Page
        && !descriptor.is_undelegated()
        && !descriptor.has_reserved_bits();
    let bytes = descriptor.count().checked_mul(GRANULE_SIZE);
    let top = bytes.and_then(|bytes| descriptor.address().checked_add(bytes));
    let range = top.and_then(|top| GranuleRange::new(descriptor.address(), top));
    range.filter(|_| is_plain).ok_or(Error::Input)
}

fn take<P: Machine>(context: &Context<'_, P>, granule: Granule) -> Result<()> {
    let address = granule.address();
    if !context.is_memory(address) {
        return Err(Error::Input);
    }
    let (from, to) = (granule::State::Delegated, granule::State::PdevAux);
    context.tsm.granules.claim(address, from, to)?;
    // What the host left there is no workspace.
    Ok(context.platform.zero(granule)?)
}

/// Scrubs donated granules and lets go of them.
fn return_all<P: Machine>(context: &Context<'_, P>, memory: &Memory) -> Result<()> {
    comm::scrub(context, memory)?;
    let (from, to) = (granule::State::PdevAux, granule::State::Delegated);
    let table = &context.tsm.granules;
    memory
        .iter()
        .try_for_each(|granule| table.change(granule.address(), from, to))
}

/// `RMI_OP_CONTINUE`. No flag is defined.
pub(crate) fn proceed<P: Machine>(context: &Context<'_, P>, object: u64, flags: u64) -> Result {
    let _registry = context.devices();
    let have = with_memory(context, object, |memory| memory.len())?;
    if have < MEMORY_GRANULES || flags != 0 {
        return Err(Error::Input);
    }
    let guard = context.lock(object, granule::State::Forming)?;
    guard.set_state(granule::State::Pdev);
    Ok(Reply::NONE)
}

/// `RMI_OP_CANCEL`.
pub(crate) fn cancel<P: Machine>(context: &Context<'_, P>, object: u64) -> Result {
    let mut registry = context.devices();
    give_back(context, &mut registry, object, granule::State::Forming)
}

/// Makes the granules of the device at `object`, which is in `state`, plain delegated ones.
pub(super) fn give_back<P: Machine>(
    context: &Context<'_, P>,
    registry: &mut Registry,
    object: u64,
    state: granule::State,
) -> Result {
    let guard = context.lock(object, state)?;
    let memory = with_in(context, object, state, |pdev| match pdev.endpoint() {
        Some(endpoint) => core::mem::take(&mut endpoint.memory),
        None => Memory::new(),
    })?;
    context.discard::<Pdev>(&guard)?;
    registry.remove_device(object);
    drop(guard);
    return_all(context, &memory).map(|()| Reply::NONE)
}
