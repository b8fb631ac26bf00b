// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Physical devices and root ports.

mod calls;
mod create;
mod exchange;
mod link;
mod stream;

use core::hash::{Hash, Hasher};
use core::mem::discriminant;

use heapless::Vec;
use tsm_abi::rmi::StreamState as WireStreamState;
use tsm_ide::StreamIds;
use tsm_platform::{Granule, Object, Platform, Rid};
use tsm_spdm::crypto::PublicKey;
use tsm_spdm::{Config, Requester};

use super::comm::{self, Comm};
use super::registry::Registry;
use super::vdev;
use crate::context::{Context, Machine};
use crate::error::{Error, Result};
use crate::granule;

pub(crate) use calls::{abort, communicate, destroy, get_state, set_pubkey, stop};
pub(crate) use create::{cancel, create, donate, proceed};
pub(crate) use exchange::advance_interface;
pub(crate) use link::Link;
pub(crate) use stream::{
    complete, connect, disconnect, leave, occupy, purge, refresh, sound_stream,
};

/// Granules that the host donates to an endpoint.
pub(crate) const MEMORY_GRANULES: usize = 4;

/// Granules that the host donated to an endpoint.
type Memory = Vec<Granule, MEMORY_GRANULES>;

/// State of a physical device, in the numbers of `RmiPdevState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Created; the host has not pumped it yet.
    New = 0,
    /// Its certificates are known; the host must set the key to prove.
    NeedsKey = 1,
    /// The key is set; there is no session yet.
    HasKey = 2,
    /// Usable: an endpoint has a session.
    Ready = 3,
    /// Over. Only destruction is left.
    Stopped = 4,
    /// Failed. Only stopping leads out.
    Error = 5,
}

/// What moves a device from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The exchange of a new root port is complete; there is none to speak of.
    Opened,
    /// The exchange up to the certificates is complete.
    Discovered,
    /// The host set the key.
    KeySet,
    /// The session is established.
    Established,
    /// The session has ended, or is not to be ended any more.
    Ended,
    /// An exchange failed.
    Failed,
}

/// Every legal change of state: from, event, to. What is not here is refused.
pub const TRANSITIONS: [(State, Event, State); 13] = {
    use State::{Error, HasKey, NeedsKey, New, Ready, Stopped};
    [
        (New, Event::Opened, Ready),
        (New, Event::Discovered, NeedsKey),
        (NeedsKey, Event::KeySet, HasKey),
        (HasKey, Event::Established, Ready),
        (New, Event::Ended, Stopped),
        (NeedsKey, Event::Ended, Stopped),
        (Ready, Event::Ended, Stopped),
        (Error, Event::Ended, Stopped),
        (New, Event::Failed, Error),
        (NeedsKey, Event::Failed, Error),
        (HasKey, Event::Failed, Error),
        (Ready, Event::Failed, Error),
        (Error, Event::Failed, Error),
    ]
};

impl State {
    /// Returns the state after `event`, if the table has one.
    #[must_use]
    pub fn after(self, event: Event) -> Option<Self> {
        let mut rows = TRANSITIONS.iter();
        rows.find(|row| row.0 == self && row.1 == event)
            .map(|row| row.2)
    }
}

/// What an exchange of a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// To become usable: discovery, then the session.
    Connect,
    /// To bring a stream up, replace its keys or take it down; the endpoint's object says which.
    Stream {
        /// Object of the endpoint.
        endpoint: Granule,
    },
    /// To end the session.
    Stop,
}

/// Who waits for the answer to the request that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Nobody: none is out.
    Nobody,
    /// The device's own exchange.
    Device,
    /// The exchange of the interface whose object is at this address.
    Interface(u64),
}

/// A physical device or root port.
pub(crate) struct Pdev {
    /// Its function.
    pub rid: Rid,
    /// Certificate slot, as the host named it.
    pub slot: u64,
    /// Streams that it is an end of.
    pub streams: u32,
    /// Interfaces made of it.
    pub vdevs: u32,
    /// State.
    pub state: State,
    /// Progress of its own exchange.
    pub comm: Comm,
    /// What its own exchange is for.
    pub op: Option<Op>,
    /// What it is.
    pub role: Role,
}

/// What a physical device is.
#[expect(clippy::large_enum_variant, reason = "either has a granule of its own")]
pub(crate) enum Role {
    /// A root port: reached by registers, so it has no session.
    RootPort(RootPort),
    /// A device below a root port.
    Endpoint(Endpoint),
}

/// What a root port has.
pub(crate) struct RootPort {
    /// Stream ids in use.
    pub stream_ids: StreamIds,
}

/// What an endpoint has.
pub(crate) struct Endpoint {
    /// Requester ids that belong to the device: base, and top which is not included.
    pub rids: (u32, u32),
    /// Granules that the host donated.
    memory: Memory,
    /// The session.
    pub requester: Requester,
    /// The key that it must prove.
    pub key: Option<PublicKey>,
    /// Who waits for the answer that is out.
    pub user: User,
    /// Whether the session is lost: it is not spoken to any more.
    pub lost: bool,
    /// Its stream.
    pub link: Option<Link>,
}

impl Object for Pdev {
    fn observe(&self, hasher: &mut impl Hasher) {
        (self.rid.0, self.slot, self.streams, self.vdevs).hash(hasher);
        (self.state as u8, discriminant(&self.comm)).hash(hasher);
        self.op.map(|op| discriminant(&op)).hash(hasher);
        let Role::Endpoint(endpoint) = &self.role else {
            return;
        };
        (endpoint.lost, endpoint.key.is_some()).hash(hasher);
        for granule in &endpoint.memory {
            granule.address().hash(hasher);
        }
        discriminant(&endpoint.user).hash(hasher);
        if let Some(link) = &endpoint.link {
            (discriminant(&link.state), discriminant(&link.phase)).hash(hasher);
            (link.id(), link.is_secure(), link.is_protecting()).hash(hasher);
            discriminant(&link.usage).hash(hasher);
        }
    }
}

// An object and the platform's bookkeeping share a granule.
const _: () = assert!(size_of::<Pdev>() <= 4096 - 64);

impl Pdev {
    /// Returns the endpoint part.
    pub const fn endpoint(&mut self) -> Option<&mut Endpoint> {
        match &mut self.role {
            Role::Endpoint(endpoint) => Some(endpoint),
            Role::RootPort(_) => None,
        }
    }

    /// Returns the root port part.
    pub const fn root_port(&mut self) -> Option<&mut RootPort> {
        match &mut self.role {
            Role::RootPort(port) => Some(port),
            Role::Endpoint(_) => None,
        }
    }

    /// Returns whether a stream operation may begin.
    const fn is_free(&self) -> bool {
        matches!(self.state, State::Ready) && self.comm.is_quiet() && self.op.is_none()
    }

    fn apply(&mut self, event: Event) -> Result<()> {
        self.state = self.state.after(event).ok_or(Error::Device)?;
        Ok(())
    }
}

impl Endpoint {
    /// Returns the id of the stream, if both ends use its keys.
    pub fn connected_stream(&self) -> Option<u8> {
        let link = self.link.as_ref()?;
        (link.state == WireStreamState::Connected && link.is_secure()).then(|| link.id())
    }

    /// Returns the id of the stream, if one of its key sets protects packets now: it does while the
    /// other set is being brought up.
    pub fn protecting_stream<P: Platform>(&self, platform: &P) -> Option<u8> {
        let link = self.link.as_ref().filter(|_| !self.lost)?;
        (link.is_protecting() && link.is_in_place(platform)).then(|| link.id())
    }
}

/// Runs `work` on the device whose object is at `address`. The device lock is held.
pub(crate) fn with<P: Machine, R>(
    context: &Context<'_, P>,
    address: u64,
    work: impl FnOnce(&mut Pdev) -> R,
) -> Result<R> {
    with_in(context, address, granule::State::Pdev, work)
}

/// Does the same for a device whose granule is in `state`: it may wait for its memory.
fn with_in<P: Machine, R>(
    context: &Context<'_, P>,
    address: u64,
    state: granule::State,
    work: impl FnOnce(&mut Pdev) -> R,
) -> Result<R> {
    if context.tsm.granules.state(address)? != state {
        return Err(Error::Input);
    }
    let granule = Granule::new(address).ok_or(Error::Input)?;
    context.with(granule, |pdev: &mut Pdev| Ok(work(pdev)))
}

/// Ends everything that rests on the session of the device at `address`: first the access of its
/// interfaces, then the keys of its stream, then the device itself.
///
/// A root port that fails takes the endpoint with it whose stream operation it is in.
pub(crate) fn fail<P: Machine>(context: &Context<'_, P>, registry: &Registry, address: u64) {
    let endpoint = match with(context, address, |pdev| pdev.op) {
        Ok(Some(Op::Stream { endpoint })) => endpoint.address(),
        _ => address,
    };
    fail_one(context, registry, endpoint);
    stream::fail(context, endpoint);
    if endpoint != address {
        fail_one(context, registry, address);
    }
}

fn fail_one<P: Machine>(context: &Context<'_, P>, registry: &Registry, address: u64) {
    vdev::fail_all(context, registry, address);
    let _ = with(context, address, |pdev| {
        if let Some(endpoint) = pdev.endpoint() {
            endpoint.lost = true;
            endpoint.user = User::Nobody;
            // Dropping the requester erases the session's keys.
            endpoint.requester = Requester::new(Config::new(0));
            // A key may be there that is on its way to the device.
            let _ = comm::scrub(context, &endpoint.memory);
            if let Some(link) = &mut endpoint.link {
                link.lose_device(context.platform);
            }
        }
        pdev.op = None;
        pdev.comm = Comm::Error;
        pdev.state = pdev.state.after(Event::Failed).unwrap_or(pdev.state);
    });
}

#[cfg(test)]
mod tests {
    use super::{Event, State, TRANSITIONS};

    const STATES: [State; 6] = [
        State::New,
        State::NeedsKey,
        State::HasKey,
        State::Ready,
        State::Stopped,
        State::Error,
    ];
    const EVENTS: [Event; 6] = [
        Event::Opened,
        Event::Discovered,
        Event::KeySet,
        Event::Established,
        Event::Ended,
        Event::Failed,
    ];

    /// The states after each event, in the order of `EVENTS`; written down apart from the table.
    fn expected(state: State) -> [Option<State>; 6] {
        use State::{Error, HasKey, NeedsKey, New, Ready, Stopped};
        match state {
            New => [
                Some(Ready),
                Some(NeedsKey),
                None,
                None,
                Some(Stopped),
                Some(Error),
            ],
            NeedsKey => [None, None, Some(HasKey), None, Some(Stopped), Some(Error)],
            HasKey => [None, None, None, Some(Ready), None, Some(Error)],
            Ready => [None, None, None, None, Some(Stopped), Some(Error)],
            Stopped => [None; 6],
            Error => [None, None, None, None, Some(Stopped), Some(Error)],
        }
    }

    #[test]
    fn every_pair_of_state_and_event_is_legal_or_refused_as_written() {
        for state in STATES {
            for (event, to) in EVENTS.into_iter().zip(expected(state)) {
                assert_eq!(state.after(event), to, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn no_pair_has_two_rows() {
        for row in &TRANSITIONS {
            let same = TRANSITIONS
                .iter()
                .filter(|other| (other.0, other.1) == (row.0, row.1));
            assert_eq!(same.count(), 1);
        }
    }
}
