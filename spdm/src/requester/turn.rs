// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How a request becomes transfers, and transfers become an answer.
//!
//! One request may take several transfers: it may be sent in chunks, its answer may be fetched in
//! chunks, and a device may ask for time. States know nothing of that: they write a request and
//! judge an answer.

use zeroize::Zeroize;

use super::large::{Fetching, Sending, Taken};
use super::session::Task;
use super::workspace::RawKey;
use super::{
    Answer, Event, Next, Object, Outcome, Output, Phase, Progress, Protocol, Request, Requester,
    Slice, Source, State, Workspace,
};
use crate::crypto::{KeyAgreement, Random};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::certificate::Certificate;
use crate::wire::error::{ErrorCode, ErrorResponse, Extended, NotReady};
use crate::wire::negotiation::Capabilities;
use crate::wire::record::{MESSAGE_OFFSET, OVERHEAD, TAG_LENGTH};
use crate::wire::{Code, Header, Malformed};

/// Milliseconds that any answer may take, beyond the time for cryptography.
const ANSWER_TIME_MS: u32 = 1000;
/// Times that a device may ask for more time before it answers one request.
const MAX_RETRIES: u8 = 8;
/// Microseconds to wait before the first retry. The wait doubles each time.
const FIRST_RETRY_US: u32 = 2_000;
/// A device that wants more than 2^23 microseconds, 8 seconds, at a time is not waited for.
const MAX_NOT_READY_EXPONENT: u8 = 23;
/// Bytes of padding that the mailbox adds to a message that has no record.
const MAX_PADDING: usize = 3;

/// What comes next in an exchange.
pub(super) enum Turn {
    /// A request is to be written.
    Request,
    /// The request was sent in one piece.
    Answer,
    /// RESPOND_IF_READY was sent in its place.
    Wait {
        /// Names the answer.
        token: u8,
    },
    /// A chunk of it was sent.
    Send(Sending),
    /// A chunk of the answer was asked for.
    Fetch(Fetching),
}

/// The request that is under way.
pub(super) struct Exchange {
    pub(super) turn: Turn,
    /// Its code.
    code: Code,
    /// Whether the device needs time for cryptography.
    slow: bool,
    /// What the host is to keep of it.
    cache: Option<Object>,
    /// Times that the device asked for more time.
    retries: u8,
    /// Microseconds to wait before the next transfer.
    delay_us: u32,
    /// Handle of the next request that is sent in chunks.
    handle: u8,
}

impl Exchange {
    pub(super) const fn new() -> Self {
        Self {
            turn: Turn::Request,
            code: Code(0),
            slow: false,
            cache: None,
            retries: 0,
            delay_us: 0,
            handle: 0,
        }
    }

    /// Makes ready for another request.
    pub(super) fn reset(&mut self) {
        *self = Self {
            handle: self.handle,
            ..Self::new()
        };
    }

    /// Returns whether part of a message is in the workspace.
    pub(super) const fn is_large(&self) -> bool {
        matches!(self.turn, Turn::Send(_) | Turn::Fetch(_))
    }

    /// Returns whether the device has the whole request, so that it may speak of the answer.
    fn is_sent(&self) -> bool {
        match &self.turn {
            Turn::Answer | Turn::Wait { .. } => true,
            Turn::Send(sending) => sending.is_last(),
            Turn::Request | Turn::Fetch(_) => false,
        }
    }

    /// Counts a request for more time, and waits for `delay_us` before the next transfer.
    fn wait(&mut self, delay_us: u32) -> Result<(), Error> {
        if self.retries >= MAX_RETRIES {
            return Err(PeerMisbehaved::BusyForever.into());
        }
        self.retries = self.retries.saturating_add(1);
        self.delay_us = delay_us;
        Ok(())
    }
}

/// What to do about a refusal.
enum Again {
    /// Write the request anew.
    Request,
    /// Send the transfer that the turn says.
    Transfer,
}

/// Where an answer stands, and what of the transfer that brought it is to be kept.
struct Place {
    source: Source,
    offset: usize,
    cache: Option<Slice>,
}

impl<K: KeyAgreement> Requester<K> {
    /// Writes the request of this phase.
    pub(super) fn send(
        &mut self,
        out: &mut [u8],
        workspace: &mut Workspace,
        random: Random<'_>,
        cache_response: Option<Slice>,
    ) -> Result<Output, Error> {
        let place = self.place(out)?;
        let request = self.compose(place, random)?;
        self.exchange.code = Header::peek(place)?.code;
        self.exchange.slow = request.slow;
        // What is sent again was kept the first time.
        self.exchange.cache = request.cache.filter(|_| self.exchange.retries == 0);
        let room = self.room();
        if request.len > room {
            self.take_apart(place, request.len, room, workspace)?;
            return self.transfer(out, workspace, cache_response, self.exchange.cache);
        }
        let cache_request = self.exchange.cache.map(|object| Slice {
            object,
            offset: 0,
            len: request.len,
        });
        let len = self.seal(out, request.len)?;
        if let State::Session(session, task) = &mut self.state {
            task.after_sealing(session);
        }
        self.exchange.turn = Turn::Answer;
        Ok(self.output(len, request.slow, cache_request, cache_response))
    }

    /// Puts a request that is larger than a transfer into the workspace.
    fn take_apart(
        &mut self,
        request: &mut [u8],
        len: usize,
        room: usize,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let limit = usize::try_from(self.shared.message_limit).unwrap_or(usize::MAX);
        if !self.shared.common.contains(Capabilities::CHUNK) || len > limit {
            return Err(PeerMisbehaved::TransferSize.into());
        }
        let request = request.get_mut(..len).ok_or(Error::Internal)?;
        workspace
            .message
            .get_mut(..len)
            .ok_or(Error::Internal)?
            .copy_from_slice(request);
        request.zeroize();
        let handle = self.exchange.handle;
        self.exchange.handle = handle.wrapping_add(1);
        self.exchange.turn = Turn::Send(Sending::new(handle, len, room)?);
        Ok(())
    }

    /// Writes the transfer that the turn says.
    fn transfer(
        &mut self,
        out: &mut [u8],
        workspace: &Workspace,
        cache_response: Option<Slice>,
        keep: Option<Object>,
    ) -> Result<Output, Error> {
        let version = self.shared.suite.version;
        let place = self.place(out)?;
        let mut cache_request = None;
        let (len, slow) = match &self.exchange.turn {
            Turn::Request | Turn::Answer => return Err(Error::Internal),
            Turn::Wait { token } => {
                let header = Header {
                    version,
                    code: Code::RESPOND_IF_READY,
                    param1: self.exchange.code.0,
                    param2: *token,
                };
                (header.emit(place)?, self.exchange.slow)
            }
            Turn::Send(sending) => {
                cache_request = keep.map(|object| Slice {
                    object,
                    offset: sending.data_offset(),
                    len: sending.data_length(),
                });
                let len = sending.request(version, &workspace.message, place)?;
                (len, self.exchange.slow && sending.is_last())
            }
            Turn::Fetch(fetching) => (fetching.request(version, place)?, false),
        };
        let len = self.seal(out, len)?;
        Ok(self.output(len, slow, cache_request, cache_response))
    }

    fn output(
        &mut self,
        len: usize,
        slow: bool,
        cache_request: Option<Slice>,
        cache_response: Option<Slice>,
    ) -> Output {
        let crypto_time = if slow { self.shared.crypto_time_ms } else { 0 };
        Output::Send {
            len,
            protocol: if self.state.is_secured() {
                Protocol::Secured
            } else {
                Protocol::Spdm
            },
            timeout_ms: ANSWER_TIME_MS.saturating_add(crypto_time),
            delay_us: core::mem::take(&mut self.exchange.delay_us),
            cache_request,
            cache_response,
        }
    }

    /// Returns the part of `out` in which a message stands, which may be sealed there.
    fn place<'a>(&self, out: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        if !self.state.is_secured() {
            return Ok(out);
        }
        let end = out.len().saturating_sub(TAG_LENGTH);
        out.get_mut(MESSAGE_OFFSET..end).ok_or(Error::Internal)
    }

    /// Returns how many bytes a message may have that is sent in one piece. The device may count
    /// what a record adds.
    fn room(&self) -> usize {
        let limit = usize::try_from(self.shared.request_limit).unwrap_or(usize::MAX);
        if self.state.is_secured() {
            limit.saturating_sub(OVERHEAD)
        } else {
            limit
        }
    }

    fn seal(&mut self, out: &mut [u8], len: usize) -> Result<usize, Error> {
        match &mut self.state {
            State::Finish(state) => state.seal(out, len),
            State::Session(session, _) => session.seal(out, len),
            _ => Ok(len),
        }
    }

    /// Lets the state write its request.
    fn compose(&mut self, out: &mut [u8], random: Random<'_>) -> Result<Request, Error> {
        let shared = &mut self.shared;
        match &mut self.state {
            State::Version(state) => state.request(out),
            State::Capabilities(state) => state.request(shared, out),
            State::Algorithms(state) => state.request(shared, out),
            State::Digests(state) => state.request(shared, out),
            State::Certificate(state) => state.request(shared, out),
            State::Challenge(state) => state.request(shared, out, random),
            State::KeyExchange(state) => state.request(shared, out, random),
            State::Finish(state) => state.request(shared, out),
            State::Session(session, task) => task.request(session, shared, out, random),
            State::Start | State::Discovered(_) | State::Ended | State::Dead => {
                Err(Error::Internal)
            }
        }
    }

    /// Takes what came back.
    pub(super) fn receive(
        &mut self,
        response: &mut [u8],
        out: &mut [u8],
        workspace: &mut Workspace,
        random: Random<'_>,
    ) -> Result<Output, Error> {
        let (offset, bytes, padding) = self.open(response)?;
        let is_refusal = Header::peek(bytes)?.code == Code::ERROR;
        let version = self.shared.suite.version;
        let (used, whole) = match &mut self.exchange.turn {
            Turn::Fetch(fetching) if !is_refusal => {
                let taken = fetching.take(version, bytes, padding, &mut workspace.message)?;
                let cache = self.state.kept_of(&taken, offset);
                let Some(total) = taken.whole else {
                    return self.transfer(out, workspace, cache, None);
                };
                return self.take_large(total, cache, out, workspace, random);
            }
            Turn::Send(sending) if !is_refusal => {
                match sending.acknowledge(version, bytes, padding)? {
                    Some(used) => (used, true),
                    None => return self.transfer(out, workspace, None, self.exchange.cache),
                }
            }
            turn => (0, matches!(turn, Turn::Answer)),
        };
        let bytes = bytes.get(used..).ok_or(Malformed::Truncated)?;
        if Header::peek(bytes)?.code == Code::ERROR {
            let refusal = ErrorResponse::parse(bytes)?;
            return match self.refused(&refusal, whole)? {
                Again::Request => self.send(out, workspace, random, None),
                Again::Transfer => self.transfer(out, workspace, None, None),
            };
        }
        let place = Place {
            source: Source::Response,
            offset: offset.saturating_add(used),
            cache: None,
        };
        if self.exchange.is_large() {
            workspace.message.zeroize();
        }
        let answer = Answer { bytes, padding };
        match self.conclude(answer, place, &mut workspace.key)? {
            (None, cache_response) => self.send(out, workspace, random, cache_response),
            (Some(outcome), cache_response) => Ok(Output::Done {
                outcome,
                cache_response,
            }),
        }
    }

    /// Takes a transfer out of its record, if it has one. Returns where the message stands, the
    /// message, and how much padding may follow it.
    fn open<'a>(&mut self, response: &'a mut [u8]) -> Result<(usize, &'a [u8], usize), Error> {
        let limit = usize::try_from(self.shared.config.data_transfer_size).unwrap_or(usize::MAX);
        let is_secured = self.state.is_secured();
        let limit = if is_secured {
            limit.saturating_add(OVERHEAD)
        } else {
            limit
        };
        if response.len() > limit.saturating_add(MAX_PADDING) {
            return Err(PeerMisbehaved::Oversized.into());
        }
        let len = match &mut self.state {
            State::Finish(state) => state.open(response)?,
            State::Session(session, _) => session.open(response)?,
            _ => return Ok((0, response, MAX_PADDING)),
        };
        let rest = response.get(MESSAGE_OFFSET..).ok_or(Malformed::Truncated)?;
        let message = rest.get(..len).ok_or(Malformed::Truncated)?;
        Ok((MESSAGE_OFFSET, message, 0))
    }

    /// Takes an answer that is whole in the workspace.
    fn take_large(
        &mut self,
        total: usize,
        cache: Option<Slice>,
        out: &mut [u8],
        workspace: &mut Workspace,
        random: Random<'_>,
    ) -> Result<Output, Error> {
        let place = Place {
            source: Source::Workspace,
            offset: 0,
            cache,
        };
        let bytes = workspace.message.get(..total).ok_or(Error::Internal)?;
        let answer = Answer { bytes, padding: 0 };
        match self.conclude(answer, place, &mut workspace.key)? {
            (None, cache_response) => {
                workspace.message.zeroize();
                self.send(out, workspace, random, cache_response)
            }
            // The caller reads a vendor's answer there.
            (Some(outcome), cache_response) => Ok(Output::Done {
                outcome,
                cache_response,
            }),
        }
    }

    /// Lets the state judge an answer, and moves on.
    fn conclude(
        &mut self,
        answer: Answer<'_>,
        place: Place,
        raw: &mut RawKey,
    ) -> Result<(Option<Outcome>, Option<Slice>), Error> {
        let progress = self.answer(answer, raw)?;
        let cache = match place.source {
            Source::Workspace => place.cache,
            Source::Response => progress.cache.map(|slice| Slice {
                offset: slice.offset.saturating_add(place.offset),
                ..slice
            }),
        };
        self.advance(progress.event, progress.next)?;
        let outcome = match progress.outcome {
            Some(Outcome::Vendor { offset, len, .. }) => Some(Outcome::Vendor {
                source: place.source,
                offset: offset.saturating_add(place.offset),
                len,
            }),
            other => other,
        };
        Ok((outcome, cache))
    }

    /// Lets the state judge an answer.
    fn answer(&mut self, answer: Answer<'_>, raw: &mut RawKey) -> Result<Progress<K>, Error> {
        let shared = &mut self.shared;
        match &mut self.state {
            State::Version(state) => state.answer(shared, answer),
            State::Capabilities(state) => state.answer(shared, answer),
            State::Algorithms(state) => state.answer(shared, answer),
            State::Digests(state) => state.answer(shared, answer),
            State::Certificate(state) => state.answer(shared, answer, raw),
            State::Challenge(state) => state.answer(shared, answer, raw),
            State::KeyExchange(state) => state.answer(shared, answer, raw),
            State::Finish(state) => state.answer(shared, answer),
            State::Session(session, task) => task.answer(session, shared, answer, raw),
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
        self.exchange.reset();
        Ok(())
    }

    /// Judges a refusal, of the whole request or of a transfer alone.
    fn refused(&mut self, refusal: &ErrorResponse, whole: bool) -> Result<Again, Error> {
        let is_sent = self.exchange.is_sent();
        // A key update that was sent has changed our keys: nothing can be sent in its place.
        let once = matches!(self.phase(), Phase::UpdateKeys | Phase::VerifyKeys);
        match (refusal.code, refusal.extended) {
            (ErrorCode::BUSY, _) if !once => {
                let doublings = self.exchange.retries.min(MAX_RETRIES);
                self.exchange.wait(FIRST_RETRY_US << doublings)?;
                if !whole {
                    return Ok(Again::Transfer);
                }
                self.exchange.turn = Turn::Request;
                Ok(Again::Request)
            }
            (_, Extended::NotReady(when)) if is_sent && !once && !self.phase().is_opening() => {
                self.exchange.wait(self.delay_of(when)?)?;
                self.exchange.turn = Turn::Wait { token: when.token };
                Ok(Again::Transfer)
            }
            (_, Extended::Large { handle })
                if is_sent && !once && self.shared.common.contains(Capabilities::CHUNK) =>
            {
                self.exchange.turn = Turn::Fetch(Fetching::new(handle, self.state.is_secured()));
                Ok(Again::Transfer)
            }
            (code, _) => Err(self.refusal(code)),
        }
    }

    /// Returns the microseconds after which the device says that it has the answer.
    fn delay_of(&self, when: NotReady) -> Result<u32, Error> {
        if when.request != self.exchange.code {
            return Err(PeerMisbehaved::WrongEcho.into());
        }
        // An answer that is kept for no time at all cannot be asked for.
        if when.exponent > MAX_NOT_READY_EXPONENT || when.multiplier == 0 {
            return Err(PeerMisbehaved::NotReadyTime.into());
        }
        Ok(1 << when.exponent.min(MAX_NOT_READY_EXPONENT))
    }

    /// Ends the operation: alone, if the session is none the worse for it.
    fn refusal(&mut self, code: ErrorCode) -> Error {
        match &mut self.state {
            State::Session(_, task)
                if task.phase().after(Event::Refusal).is_some() && code.is_about_request() =>
            {
                *task = Task::Idle;
                Error::Refused(code)
            }
            _ => PeerMisbehaved::Refused(code).into(),
        }
    }
}

impl<K> State<K> {
    /// Returns whether messages stand in records.
    const fn is_secured(&self) -> bool {
        matches!(self, Self::Finish(_) | Self::Session(..))
    }

    /// Returns what of a chunk is to be kept, given where CHUNK_RESPONSE stands in its transfer.
    fn kept_of(&self, taken: &Taken, message: usize) -> Option<Slice> {
        let (object, skipped) = match self {
            Self::Version(_) | Self::Capabilities(_) | Self::Algorithms(_) => (Object::Vca, 0),
            Self::Certificate(_) => (Object::Certificate, Certificate::PORTION_OFFSET),
            Self::Session(_, Task::Measure { .. }) => (Object::Measurements, 0),
            _ => return None,
        };
        let before = skipped.saturating_sub(taken.at);
        let len = taken.len.checked_sub(before).filter(|len| *len > 0)?;
        let offset = message.checked_add(taken.offset)?.checked_add(before)?;
        Some(Slice {
            object,
            offset,
            len,
        })
    }
}
