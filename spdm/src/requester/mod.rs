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
mod offer;
mod phase;
mod session;
mod state;
mod workspace;

pub use self::api::{
    Config, Digests, Input, MAX_MESSAGE, MIN_BUFFER, Object, Operation, Outcome, Output, Protocol,
    Slice, SpdmRequester,
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
use crate::crypto::{Ephemeral, KeyAgreement, NoEntropy, PublicKey, Random, Suite, Transcript};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::certificate::SLOTS;
use crate::wire::error::{ErrorCode, ErrorResponse};
use crate::wire::negotiation::Capabilities;
use crate::wire::record::{MESSAGE_OFFSET, TAG_LENGTH};
use crate::wire::{Code, Header, Malformed};

/// Milliseconds that any answer may take, beyond the time for cryptography.
const ANSWER_TIME_MS: u32 = 1000;
/// Times that a request is sent again to a busy device.
const MAX_RETRIES: u8 = 8;
/// Microseconds to wait before the first retry. The wait doubles each time.
const FIRST_RETRY_US: u32 = 2_000;

/// A requester for one conversation. `K` is how the session's secret is agreed on.
pub struct Requester<K = Ephemeral> {
    shared: Shared,
    state: State<K>,
    /// Whether a request is to be answered rather than sent.
    sent: bool,
    retries: u8,
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
            },
            state: State::Start,
            sent: false,
            retries: 0,
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

    /// Returns whether the next step needs the [`Workspace`] as the last one left it.
    #[must_use]
    pub const fn uses_workspace(&self) -> bool {
        false
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
        self.sent = false;
        self.retries = 0;
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
        if session.update_due() && !matches!(new, Task::UpdateKeys { .. } | Task::End) {
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
        self.sent = false;
        self.retries = 0;
        // The request holds nothing random.
        let sent = self.send(out, &mut |_| Err(NoEntropy), None);
        self.end_on_fault(sent, workspace)
    }

    /// Takes what the caller brings and says what to do. `out` has at least [`MIN_BUFFER`] bytes.
    ///
    /// # Errors
    /// [`Error::Phase`] or [`Error::Buffer`], upon which nothing changed; else the requester is
    /// dead.
    pub fn step(
        &mut self,
        input: Input<'_>,
        out: &mut [u8],
        workspace: &mut Workspace,
        random: Random<'_>,
    ) -> Result<Output, Error> {
        let in_turn = match input {
            Input::Begin => !self.sent,
            Input::Response(_) => self.sent,
        };
        if !in_turn || !self.phase().is_exchange() {
            return Err(Error::Phase);
        }
        if out.len() < MIN_BUFFER {
            return Err(Error::Buffer);
        }
        let stepped = match input {
            Input::Begin => self.send(out, random, None),
            Input::Response(response) => self.receive(response, out, random),
        };
        self.end_on_fault(stepped, workspace)
    }

    /// Erases everything upon an error: those that leave things as they are were seen before.
    fn end_on_fault(
        &mut self,
        result: Result<Output, Error>,
        workspace: &mut Workspace,
    ) -> Result<Output, Error> {
        if result.is_err() {
            if self.uses_workspace() {
                workspace.zeroize();
            }
            self.state = State::Dead;
            self.shared.pending = Transcript::new(self.shared.suite.hash);
        }
        result
    }

    /// Writes the request of this phase.
    fn send(
        &mut self,
        out: &mut [u8],
        random: Random<'_>,
        cache_response: Option<Slice>,
    ) -> Result<Output, Error> {
        let shared = &mut self.shared;
        let (request, protocol) = match &mut self.state {
            State::Finish(state) => {
                let mut request = state.request(shared, inside_record(out)?)?;
                request.len = state.seal(out, request.len)?;
                (request, Protocol::Secured)
            }
            State::Session(session, task) => {
                let mut request = task.request(session, shared, inside_record(out)?, random)?;
                request.len = session.seal(out, request.len)?;
                task.after_sealing(session);
                (request, Protocol::Secured)
            }
            State::Version(state) => (state.request(out)?, Protocol::Spdm),
            State::Capabilities(state) => (state.request(shared, out)?, Protocol::Spdm),
            State::Algorithms(state) => (state.request(shared, out)?, Protocol::Spdm),
            State::Digests(state) => (state.request(shared, out)?, Protocol::Spdm),
            State::Certificate(state) => (state.request(shared, out)?, Protocol::Spdm),
            State::Challenge(state) => (state.request(shared, out, random)?, Protocol::Spdm),
            State::KeyExchange(state) => (state.request(shared, out, random)?, Protocol::Spdm),
            State::Start | State::Discovered(_) | State::Ended | State::Dead => {
                return Err(Error::Internal);
            }
        };
        if usize::try_from(self.shared.request_limit).is_ok_and(|limit| request.len > limit) {
            return Err(PeerMisbehaved::TransferSize.into());
        }
        self.sent = true;
        Ok(self.to_send(&request, protocol, cache_response))
    }

    fn to_send(
        &self,
        request: &Request,
        protocol: Protocol,
        cache_response: Option<Slice>,
    ) -> Output {
        let crypto_time = if request.slow {
            self.shared.crypto_time_ms
        } else {
            0
        };
        let delay_us = match self.retries.checked_sub(1) {
            None => 0,
            Some(doublings) => FIRST_RETRY_US.saturating_mul(1 << doublings.min(MAX_RETRIES)),
        };
        // What is sent again was kept the first time.
        let cache_request = request
            .cache
            .filter(|_| self.retries == 0)
            .map(|object| Slice {
                object,
                offset: 0,
                len: request.len,
            });
        Output::Send {
            len: request.len,
            protocol,
            timeout_ms: ANSWER_TIME_MS.saturating_add(crypto_time),
            delay_us,
            cache_request,
            cache_response,
        }
    }

    /// Takes an answer.
    fn receive(
        &mut self,
        response: &mut [u8],
        out: &mut [u8],
        random: Random<'_>,
    ) -> Result<Output, Error> {
        // Up to three bytes of padding may follow a message of the largest size.
        let limit = usize::try_from(self.shared.config.data_transfer_size)
            .unwrap_or(usize::MAX)
            .saturating_add(3);
        if response.len() > limit {
            return Err(PeerMisbehaved::Oversized.into());
        }
        let opened = match &mut self.state {
            State::Finish(state) => Some(state.open(response)?),
            State::Session(session, _) => Some(session.open(response)?),
            _ => None,
        };
        let (offset, answer) = match opened {
            Some(len) => {
                let bytes = response
                    .get(MESSAGE_OFFSET..)
                    .and_then(|rest| rest.get(..len));
                let bytes = bytes.ok_or(Malformed::Truncated)?;
                (MESSAGE_OFFSET, Answer { bytes, padding: 0 })
            }
            None => (
                0,
                Answer {
                    bytes: response,
                    padding: 3,
                },
            ),
        };
        if Header::peek(answer.bytes)?.code == Code::ERROR {
            self.refused(ErrorResponse::parse(answer.bytes)?.code)?;
            return self.send(out, random, None);
        }
        let progress = self.answer(answer)?;
        let shift = |at: usize| at.saturating_add(offset);
        let cache_response = progress.cache.map(|slice| Slice {
            offset: shift(slice.offset),
            ..slice
        });
        self.advance(progress.event, progress.next)?;
        Ok(match progress.outcome {
            None => return self.send(out, random, cache_response),
            Some(Outcome::Vendor { offset, len }) => Output::Done {
                outcome: Outcome::Vendor {
                    offset: shift(offset),
                    len,
                },
                cache_response,
            },
            Some(outcome) => Output::Done {
                outcome,
                cache_response,
            },
        })
    }

    /// Lets the state judge an answer.
    fn answer(&mut self, answer: Answer<'_>) -> Result<Progress<K>, Error> {
        let shared = &mut self.shared;
        match &mut self.state {
            State::Version(state) => state.answer(shared, answer),
            State::Capabilities(state) => state.answer(shared, answer),
            State::Algorithms(state) => state.answer(shared, answer),
            State::Digests(state) => state.answer(shared, answer),
            State::Certificate(state) => state.answer(shared, answer),
            State::Challenge(state) => state.answer(shared, answer),
            State::KeyExchange(state) => state.answer(shared, answer),
            State::Finish(state) => state.answer(shared, answer),
            State::Session(session, task) => task.answer(session, shared, answer),
            State::Start | State::Discovered(_) | State::Ended | State::Dead => {
                Err(Error::Internal)
            }
        }
    }

    /// Moves on, if the table knows the way.
    fn advance(&mut self, event: Event, next: Next<K>) -> Result<(), Error> {
        let from = self.phase();
        match next {
            Next::State(state) => self.state = state,
            Next::Task(new) => match &mut self.state {
                State::Session(_, task) => *task = new,
                _ => return Err(Error::Internal),
            },
            Next::Stay => {}
        }
        if from.after(event) != Some(self.phase()) {
            return Err(Error::Internal);
        }
        self.sent = false;
        self.retries = 0;
        Ok(())
    }

    /// Judges a refusal: only a busy device is asked again, and not for ever.
    fn refused(&mut self, code: ErrorCode) -> Result<(), Error> {
        // A key update that was sent has changed our keys: it cannot be sent again.
        let once = matches!(self.phase(), Phase::UpdateKeys | Phase::VerifyKeys);
        if code != ErrorCode::BUSY || once {
            return Err(PeerMisbehaved::Refused(code).into());
        }
        if self.retries >= MAX_RETRIES {
            return Err(PeerMisbehaved::BusyForever.into());
        }
        self.retries = self.retries.saturating_add(1);
        Ok(())
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

/// Returns the part of `out` in which a message stands that is going to be sealed.
fn inside_record(out: &mut [u8]) -> Result<&mut [u8], Error> {
    let end = out.len().saturating_sub(TAG_LENGTH);
    out.get_mut(MESSAGE_OFFSET..end).ok_or(Error::Internal)
}

#[cfg(test)]
mod tests;
