// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The requester: one conversation with one device, without transport, clock or source of entropy.
//!
//! The caller starts an [`Operation`] and then carries bytes: [`Requester::step`] says what to send,
//! takes the answer, and says what to send next, until the operation is done. One operation runs at
//! a time. Once a fault was seen the requester is dead and its keys are erased.
//!
//! Each state reads its own data and the answer, and returns the state that follows; only then does
//! the old one go. Transcripts are hashed as they grow: a request is hashed into a branch, which
//! counts only when the answer is good, so that a request sent twice is hashed once.

mod api;
mod chain;
mod discover;
mod establish;
mod large;
mod offer;
mod phase;
mod session;
mod state;
mod turn;
mod workspace;

pub use self::api::{
    Config, Digests, Input, MAX_MESSAGE, MIN_BUFFER, Object, Operation, Outcome, Output, Protocol,
    Slice, Source, SpdmRequester,
};
pub use self::offer::Offer;
pub use self::phase::{Event, Phase, TRANSITIONS};
pub use self::session::MAX_PAYLOAD;
pub use self::workspace::{MAX_LARGE_MESSAGE, MAX_RAW_KEY, Workspace};

use zeroize::Zeroize;

use self::discover::ReadVersion;
use self::establish::{Challenged, Exchanging};
use self::session::Task;
use self::state::{Answer, Next, Progress, Request, Shared, State};
use self::turn::{Exchange, Turn};
use crate::crypto::{Ephemeral, KeyAgreement, NoEntropy, PublicKey, Random, Suite, Transcript};
use crate::error::Error;
use crate::wire::certificate::SLOTS;
use crate::wire::negotiation::Capabilities;

/// A requester for one conversation. `K` is how the session's secret is agreed on.
pub struct Requester<K = Ephemeral> {
    shared: Shared,
    state: State<K>,
    exchange: Exchange,
}

impl Requester {
    /// Makes a requester that has sent nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_key_agreement(config)
    }
}

impl<K: KeyAgreement> Requester<K> {
    /// Makes a requester that has sent nothing and agrees on secrets by `K`.
    #[must_use]
    pub fn with_key_agreement(config: Config) -> Self {
        let capabilities = Capabilities(config.capabilities.0 & !Config::UNSUPPORTED.0);
        Self {
            shared: Shared {
                config: Config {
                    capabilities,
                    offer: config.offer.known(),
                    slot: config.slot % SLOTS,
                    ..config
                },
                digests: Digests::default(),
                suite: Suite::STRONGEST,
                pending: Transcript::new(Suite::STRONGEST.hash),
                crypto_time_ms: 0,
                common: Capabilities::default(),
                request_limit: u32::MAX,
                message_limit: u32::MAX,
                heartbeat: 0,
            },
            state: State::Start,
            exchange: Exchange::new(),
        }
    }

    /// Returns where the conversation is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// Returns the digests known so far.
    #[must_use]
    pub const fn digests(&self) -> &Digests {
        &self.shared.digests
    }

    /// Returns the seconds within which the device wants a sign of life, any request, or else it
    /// ends the session; 0 if it does not, or there is no session.
    ///
    /// There is no clock here: the caller, or whoever has one, starts [`Operation::Heartbeat`] in
    /// time. A device that is not asked ends the session, which the next request finds out.
    #[must_use]
    pub const fn heartbeat_period(&self) -> u8 {
        match self.state {
            State::Session(..) => self.shared.heartbeat,
            _ => 0,
        }
    }

    /// Returns whether the next step needs the [`Workspace`] as the last one left it.
    #[must_use]
    pub const fn uses_workspace(&self) -> bool {
        self.exchange.is_large() || self.holds_long_key()
    }

    /// Returns whether the device's key is in the workspace, or on its way there.
    const fn holds_long_key(&self) -> bool {
        let may_hold = matches!(
            self.state,
            State::Certificate(_)
                | State::Discovered(_)
                | State::Challenge(_)
                | State::KeyExchange(_)
                | State::Finish(_)
                | State::Session(..)
        );
        may_hold && self.shared.suite.signature.has_long_keys()
    }

    /// Starts an operation; [`step`](Self::step) with [`Input::Begin`] follows.
    ///
    /// # Errors
    /// [`Error::Phase`] if the operation does not belong here, [`Error::Unsupported`],
    /// [`Error::KeyMismatch`], [`Error::KeyUpdateDue`]. Nothing changed.
    pub fn start(&mut self, operation: Operation) -> Result<(), Error> {
        let event = match operation {
            Operation::Discover => Event::Discover,
            Operation::Establish { .. } if self.shared.config.challenge => Event::Challenge,
            Operation::Establish { .. } => Event::Exchange,
            Operation::Measure { .. } => Event::Measure,
            Operation::Heartbeat => Event::Heartbeat,
            Operation::UpdateKeys => Event::UpdateKeys,
            Operation::End => Event::End,
        };
        self.phase().after(event).ok_or(Error::Phase)?;
        let needed = match operation {
            Operation::Heartbeat => Capabilities::HBEAT,
            Operation::UpdateKeys => Capabilities::KEY_UPD,
            _ => Capabilities::default(),
        };
        if !self.shared.common.contains(needed) {
            return Err(Error::Unsupported);
        }
        match operation {
            Operation::Discover => self.state = State::Version(ReadVersion),
            Operation::Establish { key } => self.start_establish(&key)?,
            Operation::Measure { nonce, raw } => self.start_task(Task::measure(nonce, raw))?,
            Operation::Heartbeat => self.start_task(Task::Heartbeat)?,
            Operation::UpdateKeys => self.start_task(Task::UpdateKeys { tag: 0 })?,
            Operation::End => self.start_task(Task::End)?,
        }
        self.exchange.reset();
        Ok(())
    }

    fn start_establish(&mut self, key: &PublicKey) -> Result<(), Error> {
        let State::Discovered(discovered) = &self.state else {
            return Err(Error::Phase);
        };
        // The host names the key; the chain that the guest will see has to hold that very one.
        if *key != discovered.leaf {
            return Err(Error::KeyMismatch);
        }
        self.shared.digests.public_key = Some(key.fingerprint());
        self.state = if self.shared.config.challenge {
            State::Challenge(Challenged::new(discovered, *key))
        } else {
            State::KeyExchange(Exchanging::new(&discovered.vca, discovered.chain, *key))
        };
        Ok(())
    }

    fn start_task(&mut self, new: Task) -> Result<(), Error> {
        let State::Session(session, task) = &mut self.state else {
            return Err(Error::Phase);
        };
        if session.update_due(&self.shared.config)
            && !matches!(new, Task::UpdateKeys { .. } | Task::End)
        {
            return Err(Error::KeyUpdateDue);
        }
        *task = new;
        Ok(())
    }

    /// Starts a vendor-defined exchange with the PCI-SIG's `payload`, whose first byte names the
    /// protocol, and writes the request to `out`, which has at least [`MIN_BUFFER`] bytes.
    ///
    /// # Errors
    /// [`Error::Phase`], [`Error::Payload`], [`Error::Buffer`] or [`Error::KeyUpdateDue`], upon
    /// which nothing changed; else the requester is dead.
    pub fn start_vendor(
        &mut self,
        payload: &[u8],
        out: &mut [u8],
        workspace: &mut Workspace,
    ) -> Result<Output, Error> {
        self.phase().after(Event::Vendor).ok_or(Error::Phase)?;
        if out.len() < MIN_BUFFER {
            return Err(Error::Buffer);
        }
        self.start_task(Task::vendor(payload)?)?;
        self.exchange.reset();
        // The request holds nothing random.
        let sent = self.send(out, workspace, &mut |_| Err(NoEntropy), None);
        self.end_on_fault(sent, workspace)
    }

    /// Takes what the caller brings and says what to do. `out` has at least [`MIN_BUFFER`] bytes.
    ///
    /// # Errors
    /// [`Error::Phase`] or [`Error::Buffer`], upon which nothing changed; [`Error::Refused`], upon
    /// which the operation is over and the session is not; else the requester is dead.
    pub fn step(
        &mut self,
        input: Input<'_>,
        out: &mut [u8],
        workspace: &mut Workspace,
        random: Random<'_>,
    ) -> Result<Output, Error> {
        let in_turn = match input {
            Input::Begin => matches!(self.exchange.turn, Turn::Request),
            Input::Response(_) => !matches!(self.exchange.turn, Turn::Request),
        };
        if !in_turn || !self.phase().is_exchange() {
            return Err(Error::Phase);
        }
        if out.len() < MIN_BUFFER {
            return Err(Error::Buffer);
        }
        let stepped = match input {
            Input::Begin => self.send(out, workspace, random, None),
            Input::Response(response) => self.receive(response, out, workspace, random),
        };
        self.end_on_fault(stepped, workspace)
    }

    /// Erases everything upon a fault, and what the operation left upon a refusal. Errors that
    /// leave things as they are were seen before.
    fn end_on_fault(
        &mut self,
        result: Result<Output, Error>,
        workspace: &mut Workspace,
    ) -> Result<Output, Error> {
        if let Err(error) = result {
            if self.exchange.is_large() {
                workspace.message.zeroize();
            }
            self.exchange.reset();
            self.shared.pending = Transcript::new(self.shared.suite.hash);
            if error.is_fatal() {
                self.state = State::Dead;
            }
        }
        result
    }
}

impl<K: KeyAgreement + Send + 'static> SpdmRequester for Requester<K> {
    fn start(&mut self, operation: Operation) -> Result<(), Error> {
        Self::start(self, operation)
    }

    fn start_vendor(
        &mut self,
        payload: &[u8],
        out: &mut [u8],
        workspace: &mut Workspace,
    ) -> Result<Output, Error> {
        Self::start_vendor(self, payload, out, workspace)
    }

    fn step(
        &mut self,
        input: Input<'_>,
        out: &mut [u8],
        workspace: &mut Workspace,
        random: Random<'_>,
    ) -> Result<Output, Error> {
        Self::step(self, input, out, workspace, random)
    }

    fn heartbeat_period(&self) -> u8 {
        Self::heartbeat_period(self)
    }

    fn uses_workspace(&self) -> bool {
        Self::uses_workspace(self)
    }

    fn digests(&self) -> &Digests {
        Self::digests(self)
    }

    fn phase(&self) -> Phase {
        Self::phase(self)
    }
}

#[cfg(test)]
mod tests;
