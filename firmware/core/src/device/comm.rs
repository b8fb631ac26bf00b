// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The pump: how a call asks the host to carry one message to the device, and takes the answer.
//!
//! The host is a courier. It may lose, repeat or change what it carries; the session notices, and
//! a session that noticed is over.

use tsm_abi::rmi::{
    CommObject, CommProtocol, CommStatus, DevCommEnter, DevCommExit, DevCommExitFlags,
};
use tsm_platform::{Granule, HostPa};
use tsm_spdm::{
    Config, Digests, Input, NoEntropy, Object, Operation, Outcome, Output, Protocol, Requester,
    Slice, Source,
};
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroize;

pub(crate) use super::registry::PAYLOAD_BYTES;
use super::registry::{MESSAGE_BYTES, Messages};
use crate::context::{Context, Machine};
use crate::error::{Error, Result};

/// Where the exit part of the page begins.
const EXIT_OFFSET: u64 = 0x800;

/// Progress of an object's exchange, in the words of `RmiDevCommState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comm {
    /// A message is with the host, or the other end of a stream must move first.
    Active,
    /// The exchange failed.
    Error,
    /// Nothing is asked.
    Idle,
    /// An exchange was asked for and has not begun.
    Pending,
}

impl Comm {
    /// Returns whether no exchange is asked for or under way. One that failed is over.
    pub const fn is_quiet(self) -> bool {
        matches!(self, Self::Idle | Self::Error)
    }
}

/// What the host brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    status: CommStatus,
    request: HostPa,
    response: HostPa,
    length: usize,
}

/// Copies the host's part of the page at `data` in and checks it against `comm`.
pub(crate) fn enter<P: Machine>(context: &Context<'_, P>, data: u64, comm: Comm) -> Result<Entry> {
    context.host_granule(data)?;
    if comm.is_quiet() {
        return Err(Error::Device);
    }
    let enter: DevCommEnter = context.host_structure(data)?;
    let status = CommStatus::from_word(u64::from(enter.status)).ok_or(Error::Input)?;
    let length = usize::try_from(enter.resp_len.get()).map_err(|_| Error::Input)?;
    if length > MESSAGE_BYTES || (status == CommStatus::Response && length == 0) {
        return Err(Error::Input);
    }
    if comm == Comm::Pending && status != CommStatus::None {
        return Err(Error::Device);
    }
    let page = |address| {
        context
            .host_granule(address)
            .map(|granule| HostPa(granule.address()))
    };
    Ok(Entry {
        status,
        request: page(enter.req_addr.get())?,
        response: page(enter.resp_addr.get())?,
        length,
    })
}

/// Writes what the host has to do. The step has happened: if the host cannot be told, the exchange
/// cannot go on.
pub(crate) fn leave<P: Machine>(
    context: &Context<'_, P>,
    data: u64,
    exit: &Exit,
) -> core::result::Result<(), Trouble> {
    let to = HostPa(data.saturating_add(EXIT_OFFSET));
    let written = context.host_write(to, exit.0.as_bytes());
    written.map_err(|_| Trouble::Session)
}

/// What the host has to do next.
pub(crate) struct Exit(DevCommExit);

impl Exit {
    /// Makes an exit that asks for nothing.
    pub fn new() -> Self {
        Self(DevCommExit::new_zeroed())
    }

    fn set(&mut self, flags: DevCommExitFlags) {
        self.0.flags.set(self.0.flags.get() | flags.bits());
    }

    /// Asks the host to advance the other end of the stream first.
    pub fn wait_for_stream(&mut self) {
        self.set(DevCommExitFlags::STREAM_WAIT);
    }

    fn keep_request(&mut self, slice: &Slice) {
        self.set(DevCommExitFlags::REQ_CACHE);
        self.0.cache_obj_id = object(slice.object) as u8;
        self.0.cache_req_offset.set(wide(slice.offset));
        self.0.cache_req_len.set(wide(slice.len));
    }

    fn keep_response(&mut self, object: CommObject, offset: usize, length: usize, first: bool) {
        self.set(DevCommExitFlags::RSP_CACHE);
        if first {
            self.set(DevCommExitFlags::RSP_RESET);
        }
        self.0.cache_obj_id = object as u8;
        self.0.cache_rsp_offset.set(wide(offset));
        self.0.cache_rsp_len.set(wide(length));
    }
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

const fn object(object: Object) -> CommObject {
    match object {
        Object::Vca => CommObject::Vca,
        Object::Certificate => CommObject::Certificate,
        Object::Measurements => CommObject::Measurements,
    }
}

/// Why an exchange did not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The session is lost, and everything that rests on it.
    Session,
    /// The device refused or contradicted what was asked inside a session that holds.
    Refused,
}

/// Says what an error of the requester is for an exchange.
const fn trouble(error: tsm_spdm::Error) -> Trouble {
    match error {
        tsm_spdm::Error::Refused(_) => Trouble::Refused,
        _ => Trouble::Session,
    }
}

/// What an exchange needs next.
pub(crate) enum Need {
    /// An operation of the session.
    Operation(Operation),
    /// That many bytes of the payload to be sent as a vendor-defined request.
    Vendor(usize),
    /// Nothing: it is complete.
    Nothing,
}

/// A part of a vendor-defined reply to keep for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Where it starts in the reply's payload.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
    /// Whether it is the first of its object.
    pub first: bool,
}

/// One exchange with a device: operations one after another.
pub(crate) trait Exchange {
    /// Returns what comes next; a vendor-defined request is written into `payload`.
    fn next(&mut self, payload: &mut [u8; PAYLOAD_BYTES]) -> core::result::Result<Need, Trouble>;

    /// Takes in that an operation is done.
    fn done(&mut self, outcome: &Outcome, digests: &Digests) -> core::result::Result<(), Trouble>;

    /// Takes in a vendor-defined reply and returns the part of it to keep.
    fn reply(&mut self, payload: &[u8]) -> core::result::Result<Option<Kept>, Trouble>;

    /// Returns whether the measurements that come now are the first of this exchange.
    fn is_first(&mut self) -> bool;

    /// Returns how long the host has to wait before it sends the present request, in microseconds.
    fn delay_us(&self) -> u32 {
        0
    }
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A request is with the host.
    Sent,
    /// The exchange is complete.
    Complete,
}

/// What one device's exchange is made with.
pub(crate) struct Line<'a> {
    /// What the host donated to the device, for the workspace.
    pub memory: &'a [Granule],
    /// Its requester.
    pub requester: &'a mut Requester,
    /// Where messages stand.
    pub buffers: &'a mut Messages,
}

/// Advances `exchange` until a request is ready for the host or it is complete.
///
/// `awaiting` says whether a request is out. Fails at once, and changes nothing, if the host brought
/// no answer to it; the inner result is the exchange's.
pub(crate) fn advance<P: Machine>(
    context: &Context<'_, P>,
    line: Line<'_>,
    entry: &Entry,
    awaiting: bool,
    exchange: &mut impl Exchange,
    exit: &mut Exit,
) -> Result<core::result::Result<Progress, Trouble>> {
    let Line {
        memory,
        requester,
        buffers,
    } = line;
    if awaiting && entry.status == CommStatus::None {
        return Err(Error::Input);
    }
    let is_heard = awaiting && entry.status == CommStatus::Response;
    if is_heard {
        let into = buffers.response.get_mut(..entry.length);
        context.host_read(entry.response, into.ok_or(Error::Input)?)?;
    }
    let had = requester.uses_workspace();
    let loaded = if had {
        buffers.load(context, memory)
    } else {
        Ok(())
    };
    let mut step = Step {
        context,
        requester,
        buffers,
        entry,
        exit,
    };
    let stepped = match loaded {
        Err(_) => Err(Trouble::Session),
        Ok(()) if is_heard => step.answer(exchange),
        Ok(()) if awaiting => Err(Trouble::Session),
        Ok(()) => step.go_on(exchange),
    };
    let saved = match (had, step.requester.uses_workspace()) {
        (_, true) => step.buffers.save(context, memory),
        (true, false) => scrub(context, memory),
        (false, false) => Ok(()),
    };
    step.buffers.wipe();
    Ok(saved.map_err(|_| Trouble::Session).and(stepped))
}

/// Erases the workspace that a device has in `memory`.
pub(crate) fn scrub<P: Machine>(context: &Context<'_, P>, memory: &[Granule]) -> Result<()> {
    memory.iter().try_for_each(|granule| {
        context.platform.zero(*granule)?;
        Ok(())
    })
}

/// What a requester does in one step.
enum Job {
    /// Takes the response, of that many bytes.
    Answer(usize),
    /// Begins an operation.
    Begin(Operation),
    /// Sends the payload, of that many bytes, as a vendor-defined request.
    Vendor(usize),
}

impl Job {
    fn run<P: Machine>(
        self,
        platform: &P,
        requester: &mut Requester,
        messages: &mut Messages,
    ) -> core::result::Result<Output, tsm_spdm::Error> {
        let mut random = |out: &mut [u8]| platform.fill(out).map_err(|_| NoEntropy);
        let Messages {
            request,
            response,
            workspace,
            payload,
        } = messages;
        match self {
            Self::Answer(length) => {
                let response = response.get_mut(..length);
                let response = response.ok_or(tsm_spdm::Error::Buffer)?;
                requester.step(Input::Response(response), request, workspace, &mut random)
            }
            Self::Begin(operation) => {
                requester.start(operation)?;
                requester.step(Input::Begin, request, workspace, &mut random)
            }
            Self::Vendor(length) => {
                let payload = payload.get(..length).ok_or(tsm_spdm::Error::Payload)?;
                requester.start_vendor(payload, request, workspace)
            }
        }
    }
}

/// One call's work on a requester.
struct Step<'a, 'c, P: Machine> {
    context: &'a Context<'c, P>,
    requester: &'a mut Requester,
    buffers: &'a mut Messages,
    entry: &'a Entry,
    exit: &'a mut Exit,
}

impl<P: Machine> Step<'_, '_, P> {
    /// Runs `job` apart from the rest of the TSM: a requester that panics over what a device sent
    /// costs the session, and what cryptography leaves on a stack is erased.
    fn run(&mut self, job: Job) -> core::result::Result<Output, tsm_spdm::Error> {
        let platform = self.context.platform;
        let lost = || Requester::new(Config::new(0));
        let messages = &mut *self.buffers;
        let work = move |platform: &P, requester: &mut _, messages: &mut _| {
            job.run(platform, requester, messages)
        };
        platform
            .isolated(self.requester, messages, lost, work)
            .unwrap_or(Err(tsm_spdm::Error::Internal))
    }

    fn answer(&mut self, exchange: &mut impl Exchange) -> core::result::Result<Progress, Trouble> {
        let stepped = self.run(Job::Answer(self.entry.length));
        let output = stepped.map_err(trouble)?;
        match output {
            Output::Send { .. } => self.send(&output, exchange),
            Output::Done {
                outcome,
                cache_response,
            } => {
                self.keep(cache_response.as_ref(), exchange)?;
                self.take(&outcome, exchange)?;
                self.go_on(exchange)
            }
        }
    }

    fn take(
        &mut self,
        outcome: &Outcome,
        exchange: &mut impl Exchange,
    ) -> core::result::Result<(), Trouble> {
        let (source, offset, len) = match *outcome {
            // The session's own business, see `go_on`.
            Outcome::KeysUpdated => return Ok(()),
            Outcome::Vendor {
                source,
                offset,
                len,
            } => (source, offset, len),
            _ => return exchange.done(outcome, self.requester.digests()),
        };
        let end = offset.checked_add(len).ok_or(Trouble::Session)?;
        let Messages {
            response,
            workspace,
            ..
        } = &mut *self.buffers;
        let (payload, start) = match source {
            Source::Response => (response.get(offset..end), offset),
            Source::Workspace => (workspace.message().get(offset..end), 0),
        };
        let payload = payload.ok_or(Trouble::Session)?;
        let Some(kept) = exchange.reply(payload)? else {
            return Ok(());
        };
        let start = start.checked_add(kept.offset).ok_or(Trouble::Session)?;
        if source == Source::Workspace {
            // The host gets it where chunks of the answer stood.
            let end = start.checked_add(kept.length).ok_or(Trouble::Session)?;
            let into = response.get_mut(start..end).ok_or(Trouble::Session)?;
            let from = offset.checked_add(start).ok_or(Trouble::Session)?;
            let from = workspace.message().get(from..).ok_or(Trouble::Session)?;
            into.copy_from_slice(from.get(..kept.length).ok_or(Trouble::Session)?);
        }
        self.show(start, kept.length)?;
        self.exit
            .keep_response(CommObject::InterfaceReport, start, kept.length, kept.first);
        Ok(())
    }

    /// Begins what the exchange needs next.
    fn go_on(&mut self, exchange: &mut impl Exchange) -> core::result::Result<Progress, Trouble> {
        let output = match exchange.next(&mut self.buffers.payload)? {
            Need::Nothing => return Ok(Progress::Complete),
            Need::Operation(operation) => self.run(Job::Begin(operation)),
            Need::Vendor(length) => self.run(Job::Vendor(length)),
        };
        // It may have been a key.
        self.buffers.payload.zeroize();
        let output = match output {
            // The exchange is asked again when the session has new keys.
            Err(tsm_spdm::Error::KeyUpdateDue) => self.run(Job::Begin(Operation::UpdateKeys)),
            other => other,
        };
        let output = output.map_err(trouble)?;
        self.send(&output, exchange)
    }

    /// Hands a request to the host.
    fn send(
        &mut self,
        output: &Output,
        exchange: &mut impl Exchange,
    ) -> core::result::Result<Progress, Trouble> {
        let Output::Send {
            len,
            protocol,
            timeout_ms,
            delay_us,
            cache_request,
            cache_response,
        } = output
        else {
            // An operation ends with an answer, never at its beginning.
            return Err(Trouble::Session);
        };
        self.keep(cache_response.as_ref(), exchange)?;
        let bytes = self.buffers.request.get(..*len).ok_or(Trouble::Session)?;
        let written = self.context.host_write(self.entry.request, bytes);
        written.map_err(|_| Trouble::Session)?;
        if let Some(slice) = cache_request {
            self.exit.keep_request(slice);
        }
        self.exit.set(DevCommExitFlags::REQ_SEND);
        let exit = &mut self.exit.0;
        exit.protocol = match protocol {
            Protocol::Spdm => CommProtocol::Spdm as u8,
            Protocol::Secured => CommProtocol::SecureSpdm as u8,
        };
        exit.req_len.set(wide(*len));
        exit.timeout.set(u64::from(*timeout_ms));
        let delay_us = (*delay_us).max(exchange.delay_us());
        exit.req_delay.set(u64::from(delay_us));
        Ok(Progress::Sent)
    }

    /// Asks the host to keep a slice of the response that was just processed.
    fn keep(
        &mut self,
        slice: Option<&Slice>,
        exchange: &mut impl Exchange,
    ) -> core::result::Result<(), Trouble> {
        let Some(slice) = slice else {
            return Ok(());
        };
        self.show(slice.offset, slice.len)?;
        let first = slice.object == Object::Measurements && exchange.is_first();
        self.exit
            .keep_response(object(slice.object), slice.offset, slice.len, first);
        Ok(())
    }

    /// Writes a part of the response back: it may have come sealed, and the host keeps it open.
    fn show(&self, offset: usize, length: usize) -> core::result::Result<(), Trouble> {
        let end = offset.checked_add(length).ok_or(Trouble::Session)?;
        let bytes = self
            .buffers
            .response
            .get(offset..end)
            .ok_or(Trouble::Session)?;
        let to = HostPa(self.entry.response.0.saturating_add(wide(offset)));
        self.context
            .host_write(to, bytes)
            .map_err(|_| Trouble::Session)
    }
}
