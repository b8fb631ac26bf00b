// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Steps of a device's exchanges, and of its interfaces', on the one session that they share.

use tsm_platform::Rid;
use tsm_spdm::{Digests, Operation, Outcome, PublicKey};

use super::super::comm::{
    self, Entry, Exchange, Exit, Kept, Line, Need, PAYLOAD_BYTES, Progress, Trouble,
};
use super::super::registry::Messages;
use super::{Endpoint, Link, Op, Pdev, Role, State, User};
use crate::context::{Context, Machine};
use crate::error::{Error, Result};

type Step<T = ()> = core::result::Result<T, Trouble>;

/// The exchange of a device up to a session, or out of it.
struct Session<'a> {
    need: Option<Operation>,
    key: Option<&'a PublicKey>,
}

impl<'a> Session<'a> {
    fn new(state: State, op: Op, key: Option<&'a PublicKey>) -> Self {
        let need = match (op, state) {
            (Op::Stop, _) => Some(Operation::End),
            (_, State::New) => Some(Operation::Discover),
            (_, State::HasKey) => key.map(|key| Operation::Establish { key: *key }),
            _ => None,
        };
        Self { need, key }
    }
}

impl Exchange for Session<'_> {
    fn next(&mut self, _: &mut [u8; PAYLOAD_BYTES]) -> Step<Need> {
        Ok(self.need.map_or(Need::Nothing, Need::Operation))
    }

    fn done(&mut self, outcome: &Outcome, _: &Digests) -> Step {
        let is_expected = match outcome {
            Outcome::Discovered | Outcome::Ended => true,
            // The session proved the key that the host set.
            Outcome::Established { .. } => self.key.is_some(),
            _ => false,
        };
        self.need = None;
        if is_expected {
            Ok(())
        } else {
            Err(Trouble::Session)
        }
    }

    fn reply(&mut self, _: &[u8]) -> Step<Option<Kept>> {
        Err(Trouble::Session)
    }

    fn is_first(&mut self) -> bool {
        false
    }
}

/// The work of a stream operation.
struct Keys<'a, P> {
    platform: &'a P,
    link: &'a mut Link,
    device: Rid,
    ending: Option<super::link::Ending>,
}

impl<P: Machine> Exchange for Keys<'_, P> {
    fn next(&mut self, payload: &mut [u8; PAYLOAD_BYTES]) -> Step<Need> {
        match self.link.work(self.platform, payload)? {
            Ok(length) => Ok(Need::Vendor(length)),
            Err(ending) => {
                self.ending = Some(ending);
                Ok(Need::Nothing)
            }
        }
    }

    fn done(&mut self, _: &Outcome, _: &Digests) -> Step {
        Err(Trouble::Session)
    }

    fn reply(&mut self, payload: &[u8]) -> Step<Option<Kept>> {
        self.link.take_answer(payload, self.device)?;
        Ok(None)
    }

    fn is_first(&mut self) -> bool {
        false
    }
}

/// How a step of a device's own exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stepped {
    /// The host has something to carry.
    Sent,
    /// The exchange is complete.
    Complete,
    /// The work of a stream operation is over.
    Worked(super::link::Ending),
}

impl Pdev {
    /// Advances the exchange of an endpoint that is not waiting for its root port.
    pub(super) fn advance<P: Machine>(
        &mut self,
        context: &Context<'_, P>,
        buffers: &mut Messages,
        entry: &Entry,
        exit: &mut Exit,
    ) -> Result<Step<Stepped>> {
        let (state, rid) = (self.state, self.rid);
        let op = self.op.unwrap_or(Op::Connect);
        let Role::Endpoint(endpoint) = &mut self.role else {
            return Ok(Ok(Stepped::Complete));
        };
        let awaiting = match endpoint.user {
            User::Nobody => false,
            User::Device => true,
            User::Interface(_) => return Err(Error::Busy),
        };
        if endpoint.lost {
            return Ok(Ok(unheard(context, endpoint, op)));
        }
        let Endpoint {
            requester,
            key,
            link,
            user,
            memory,
            ..
        } = endpoint;
        let line = Line {
            memory,
            requester,
            buffers,
        };
        let (progress, ending) = match (op, link) {
            (Op::Stream { .. }, Some(link)) => {
                let platform = context.platform;
                let mut work = Keys {
                    platform,
                    link,
                    device: rid,
                    ending: None,
                };
                let progress = comm::advance(context, line, entry, awaiting, &mut work, exit)?;
                (progress, work.ending)
            }
            (Op::Stream { .. }, None) => return Err(Error::Device),
            // There is a session to end only in this state.
            (Op::Stop, _) if state != State::Ready => return Ok(Ok(Stepped::Complete)),
            _ => {
                let mut session = Session::new(state, op, key.as_ref());
                let progress = comm::advance(context, line, entry, awaiting, &mut session, exit)?;
                (progress, None)
            }
        };
        Ok(progress.map(|progress| match (progress, ending) {
            (Progress::Sent, _) => {
                *user = User::Device;
                Stepped::Sent
            }
            (Progress::Complete, Some(ending)) => {
                *user = User::Nobody;
                Stepped::Worked(ending)
            }
            (Progress::Complete, None) => {
                *user = User::Nobody;
                Stepped::Complete
            }
        }))
    }
}

/// Ends an exchange of a device that is not spoken to any more.
fn unheard<P: Machine>(context: &Context<'_, P>, endpoint: &mut Endpoint, op: Op) -> Stepped {
    match (op, &mut endpoint.link) {
        (Op::Stream { .. }, Some(link)) => {
            link.lose_device(context.platform);
            Stepped::Worked(link.ending_without_device())
        }
        _ => Stepped::Complete,
    }
}

/// Advances an exchange of the interface whose object is at `interface` on the session of `pdev`.
pub(crate) fn advance_interface<P: Machine>(
    context: &Context<'_, P>,
    pdev: &mut Pdev,
    interface: u64,
    buffers: &mut Messages,
    entry: &Entry,
    exchange: &mut impl Exchange,
    exit: &mut Exit,
) -> Result<Step<Progress>> {
    let endpoint = pdev.endpoint().ok_or(Error::Device)?;
    let awaiting = match endpoint.user {
        User::Nobody => false,
        User::Interface(user) if user == interface => true,
        _ => return Err(Error::Busy),
    };
    if endpoint.lost {
        return Ok(Err(Trouble::Session));
    }
    let line = Line {
        memory: &endpoint.memory,
        requester: &mut endpoint.requester,
        buffers,
    };
    let progress = comm::advance(context, line, entry, awaiting, exchange, exit)?;
    endpoint.user = match progress {
        Ok(Progress::Sent) => User::Interface(interface),
        _ => User::Nobody,
    };
    Ok(progress)
}
