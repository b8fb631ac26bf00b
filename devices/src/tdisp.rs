// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! TDISP 1.0, device side: one interface and its state machine.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::random;
use crate::event::{Event, SessionId};
use crate::function::{Bar, FunctionView, Layout};
use crate::ide_km::Streams;
use crate::report::{self, ReportOptions};
use crate::spdm::Refusal;

const VERSION_1_0: u8 = 0x10;
/// Version, type, two reserved bytes, interface id.
const HEADER_SIZE: usize = 16;
/// Widest address that the function can put on the bus, in bits.
const ADDRESS_WIDTH: u8 = 64;

/// Request types; a response has bit 7 clear.
mod kind {
    pub(super) const GET_VERSION: u8 = 0x81;
    pub(super) const GET_CAPABILITIES: u8 = 0x82;
    pub(super) const LOCK_INTERFACE: u8 = 0x83;
    pub(super) const GET_DEVICE_INTERFACE_REPORT: u8 = 0x84;
    pub(super) const GET_DEVICE_INTERFACE_STATE: u8 = 0x85;
    pub(super) const START_INTERFACE: u8 = 0x86;
    pub(super) const STOP_INTERFACE: u8 = 0x87;
    pub(super) const REQUEST: u8 = 0x80;
    pub(super) const ERROR: u8 = 0x7f;
}

/// Bitmap of the supported request types: bit n stands for type 0x80 + n.
const SUPPORTED_REQUESTS: u8 = 0xfe;

/// LOCK_INTERFACE flags that the device honours.
mod flag {
    pub(super) const NO_FIRMWARE_UPDATE: u16 = 1 << 0;
    pub(super) const CACHE_LINE_SIZE: u16 = 1 << 1;
    pub(super) const LOCK_MSIX: u16 = 1 << 2;
    pub(super) const SUPPORTED: u16 = NO_FIRMWARE_UPDATE | CACHE_LINE_SIZE | LOCK_MSIX;
}

/// State of an interface (TDISP 11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TdiState {
    /// The host may configure the function.
    ConfigUnlocked,
    /// The configuration is locked and can be attested.
    ConfigLocked,
    /// The guest uses the function.
    Run,
    /// A lock was broken; nothing but the state and STOP_INTERFACE is left.
    Error,
}

impl TdiState {
    fn encode(self) -> u8 {
        match self {
            Self::ConfigUnlocked => 0,
            Self::ConfigLocked => 1,
            Self::Run => 2,
            Self::Error => 3,
        }
    }
}

impl fmt::Display for TdiState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::ConfigUnlocked => "CONFIG_UNLOCKED",
            Self::ConfigLocked => "CONFIG_LOCKED",
            Self::Run => "RUN",
            Self::Error => "ERROR",
        })
    }
}

/// Why a TDISP request was refused.
struct Fault {
    code: u32,
    data: u32,
    cause: &'static str,
}

/// TDISP error codes.
mod error {
    use super::Fault;

    const fn fault(code: u32, cause: &'static str) -> Fault {
        Fault {
            code,
            data: 0,
            cause,
        }
    }
    pub(super) const fn invalid_request(cause: &'static str) -> Fault {
        fault(0x01, cause)
    }
    pub(super) const fn invalid_state(cause: &'static str) -> Fault {
        fault(0x04, cause)
    }
    pub(super) const fn unsupported(request: u8) -> Fault {
        Fault {
            code: 0x07,
            data: request as u32,
            cause: "unsupported request",
        }
    }
    pub(super) const fn version_mismatch() -> Fault {
        fault(0x41, "TDISP version")
    }
    pub(super) const fn invalid_interface() -> Fault {
        fault(0x101, "no such interface")
    }
    pub(super) const fn invalid_nonce() -> Fault {
        fault(0x102, "the nonce is not that of this lock")
    }
    pub(super) const fn insufficient_entropy() -> Fault {
        fault(0x103, "no entropy")
    }
    pub(super) const fn invalid_configuration(cause: &'static str) -> Fault {
        fault(0x104, cause)
    }
}

/// What a lock pins down.
struct Lock {
    session: SessionId,
    stream: u8,
    function: FunctionView,
    report: Vec<u8>,
}

/// The nonce of a lock. Lives in CONFIG_LOCKED only.
type Nonce = Zeroizing<[u8; 32]>;

enum Tdi {
    ConfigUnlocked,
    ConfigLocked(Lock, Nonce),
    Run(Lock),
    Error,
}

/// The interface of one function.
pub(crate) struct Interface {
    /// The function's place in the device.
    number: usize,
    layout: Layout,
    tdi: Tdi,
    /// The id that the first successful lock used, where the bus number is not known.
    adopted: Option<u16>,
}

/// Returns the requester id of the function that a TDISP message names.
pub(crate) fn named_function(message: &[u8]) -> Option<u16> {
    let header = message.first_chunk::<HEADER_SIZE>()?;
    Some(u16::from_le_bytes([header[4], header[5]]))
}

/// Returns the nonce in an answer to LOCK_INTERFACE.
pub(crate) fn carried_nonce(answer: &[u8]) -> Option<&[u8]> {
    let (header, nonce) = answer.split_first_chunk::<HEADER_SIZE>()?;
    (header[1] | kind::REQUEST == kind::LOCK_INTERFACE).then_some(nonce)
}

/// What a request is judged by.
pub(crate) struct Surroundings<'a> {
    pub(crate) session: SessionId,
    pub(crate) function: Option<FunctionView>,
    pub(crate) streams: &'a Streams,
    /// Most bytes that an answer may have.
    pub(crate) room: usize,
}

impl Interface {
    pub(crate) fn new(number: usize, layout: Layout) -> Self {
        Self {
            number,
            layout,
            tdi: Tdi::ConfigUnlocked,
            adopted: None,
        }
    }

    pub(crate) fn state(&self) -> TdiState {
        match self.tdi {
            Tdi::ConfigUnlocked => TdiState::ConfigUnlocked,
            Tdi::ConfigLocked(..) => TdiState::ConfigLocked,
            Tdi::Run(_) => TdiState::Run,
            Tdi::Error => TdiState::Error,
        }
    }

    /// Goes back to the state after power-on.
    pub(crate) fn reset(&mut self) {
        self.tdi = Tdi::ConfigUnlocked;
        self.adopted = None;
    }

    /// Returns the requester id that the interface answers to, where it is known. `function` is
    /// what the function is now.
    pub(crate) fn name(&self, function: Option<&FunctionView>) -> Option<u16> {
        // While locked the function answers to the id that it was locked by.
        let ours = match &self.tdi {
            Tdi::ConfigLocked(lock, _) | Tdi::Run(lock) => lock.function.rid,
            _ => function.and_then(|function| function.rid),
        };
        ours.or(self.adopted)
    }

    /// Moves a locked or running interface to ERROR if `broken` says why.
    pub(crate) fn check(
        &mut self,
        note: &mut dyn FnMut(Event),
        broken: impl FnOnce(SessionId, u8, &FunctionView) -> Option<&'static str>,
    ) {
        let (Tdi::ConfigLocked(lock, _) | Tdi::Run(lock)) = &self.tdi else {
            return;
        };
        if let Some(cause) = broken(lock.session, lock.stream, &lock.function) {
            self.change(Tdi::Error, cause, note);
        }
    }

    /// Breaks the lock, as a function-level reset does.
    pub(crate) fn function_reset(&mut self, note: &mut dyn FnMut(Event)) {
        if matches!(self.tdi, Tdi::ConfigLocked(..) | Tdi::Run(_)) {
            self.change(Tdi::Error, "function-level reset", note);
        }
    }

    fn change(&mut self, tdi: Tdi, cause: &'static str, note: &mut dyn FnMut(Event)) {
        let from = self.state();
        self.tdi = tdi;
        note(Event::Interface {
            function: self.number,
            from,
            to: self.state(),
            cause,
        });
    }

    /// Answers a TDISP message; the protocol byte is stripped on both sides.
    pub(crate) fn handle(
        &mut self,
        message: &[u8],
        around: &Surroundings<'_>,
        note: &mut dyn FnMut(Event),
    ) -> Result<Vec<u8>, Refusal> {
        // Without an interface id there is nobody to answer for.
        let (header, body) = message
            .split_first_chunk::<HEADER_SIZE>()
            .ok_or(Refusal::InvalidRequest)?;
        let request = header[1];
        let mut answer = *header;
        answer[0] = VERSION_1_0;
        answer[1] = request & !kind::REQUEST;
        answer[2] = 0;
        answer[3] = 0;
        let content = match self.dispatch(header, body, around, note) {
            Ok(content) => content,
            Err(Fault { code, data, cause }) => {
                answer[1] = kind::ERROR;
                note(Event::InterfaceRefused {
                    request,
                    error: code,
                    cause,
                });
                [code.to_le_bytes(), data.to_le_bytes()].concat()
            }
        };
        Ok([&answer[..], &content].concat())
    }

    fn dispatch(
        &mut self,
        header: &[u8; HEADER_SIZE],
        body: &[u8],
        around: &Surroundings<'_>,
        note: &mut dyn FnMut(Event),
    ) -> Result<Vec<u8>, Fault> {
        if header[0] != VERSION_1_0 {
            return Err(error::version_mismatch());
        }
        let rid = self.interface(header, around)?;
        let expected = match header[1] {
            kind::GET_CAPABILITIES | kind::GET_DEVICE_INTERFACE_REPORT => 4,
            kind::LOCK_INTERFACE => 20,
            kind::START_INTERFACE => 32,
            kind::GET_VERSION | kind::GET_DEVICE_INTERFACE_STATE | kind::STOP_INTERFACE => 0,
            other => return Err(error::unsupported(other)),
        };
        if body.len() != expected {
            return Err(error::invalid_request("length"));
        }
        match header[1] {
            kind::GET_VERSION => Ok(vec![1, VERSION_1_0]),
            kind::GET_CAPABILITIES => Ok(capabilities()),
            kind::GET_DEVICE_INTERFACE_STATE => Ok(vec![self.state().encode()]),
            kind::LOCK_INTERFACE => self.lock(rid, body, around, note),
            kind::GET_DEVICE_INTERFACE_REPORT => self.report(body, around),
            kind::START_INTERFACE => self.start(body, around, note),
            _ => self.stop(around, note),
        }
    }

    /// Checks that the interface id names this function, and returns its requester id.
    fn interface(&self, header: &[u8], around: &Surroundings<'_>) -> Result<u16, Fault> {
        let rid = u16::from_le_bytes([header[4], header[5]]);
        let segment = header[6];
        let segment_valid = header[7] & 1 != 0;
        let ours = self.name(around.function.as_ref());
        let elsewhere = ours.is_some_and(|ours| ours != rid);
        if elsewhere || (segment_valid && segment != 0) {
            return Err(error::invalid_interface());
        }
        Ok(rid)
    }

    fn lock(
        &mut self,
        rid: u16,
        body: &[u8],
        around: &Surroundings<'_>,
        note: &mut dyn FnMut(Event),
    ) -> Result<Vec<u8>, Fault> {
        if !matches!(self.tdi, Tdi::ConfigUnlocked) {
            return Err(error::invalid_state("LOCK_INTERFACE needs CONFIG_UNLOCKED"));
        }
        let flags = u16::from_le_bytes([body[0], body[1]]);
        let stream = body[2];
        let mut mmio_offset = [0; 8];
        mmio_offset.copy_from_slice(&body[4..12]);
        let mmio_offset = u64::from_le_bytes(mmio_offset);
        if flags & !flag::SUPPORTED != 0 {
            return Err(error::invalid_request("lock flags"));
        }
        if !mmio_offset.is_multiple_of(4096) {
            return Err(error::invalid_request(
                "the MMIO reporting offset is not a page",
            ));
        }
        if !around.streams.carries(stream, around.session) {
            return Err(error::invalid_request("the default stream is not secure"));
        }
        let function = around
            .function
            .clone()
            .filter(|function| !function.bars.is_empty())
            .ok_or(error::invalid_configuration("no BAR decodes"))?;
        let is_placed = |bar: &Bar| bar.address.checked_add(bar.size).is_some();
        if !function.bars.iter().all(is_placed) {
            return Err(error::invalid_configuration("a BAR ends outside memory"));
        }
        let nonce = Nonce::new(random().map_err(|_| error::insufficient_entropy())?);

        let report = report::build(
            &function,
            &self.layout,
            ReportOptions {
                no_update: flags & flag::NO_FIRMWARE_UPDATE != 0,
                lock_msix: flags & flag::LOCK_MSIX != 0,
                mmio_offset,
            },
        );
        if function.rid.is_none() {
            self.adopted = Some(rid);
        }
        let answer = nonce.to_vec();
        let lock = Lock {
            session: around.session,
            stream,
            function,
            report,
        };
        self.change(Tdi::ConfigLocked(lock, nonce), "LOCK_INTERFACE", note);
        Ok(answer)
    }

    fn report(&self, body: &[u8], around: &Surroundings<'_>) -> Result<Vec<u8>, Fault> {
        let (Tdi::ConfigLocked(lock, _) | Tdi::Run(lock)) = &self.tdi else {
            return Err(error::invalid_state("there is a report only while locked"));
        };
        let offset = usize::from(u16::from_le_bytes([body[0], body[1]]));
        let length = usize::from(u16::from_le_bytes([body[2], body[3]]));
        let rest = lock.report.get(offset..).unwrap_or_default();
        let room = around.room.saturating_sub(HEADER_SIZE + 4);
        let portion = &rest[..rest.len().min(length).min(room)];
        if portion.is_empty() {
            return Err(error::invalid_request("portion of the report"));
        }
        let mut answer = Vec::new();
        answer.extend((portion.len() as u16).to_le_bytes());
        answer.extend(((rest.len() - portion.len()) as u16).to_le_bytes());
        answer.extend(portion);
        Ok(answer)
    }

    fn start(
        &mut self,
        body: &[u8],
        around: &Surroundings<'_>,
        note: &mut dyn FnMut(Event),
    ) -> Result<Vec<u8>, Fault> {
        let Tdi::ConfigLocked(lock, nonce) = &self.tdi else {
            return Err(error::invalid_state("START_INTERFACE needs CONFIG_LOCKED"));
        };
        if lock.session != around.session {
            return Err(error::invalid_request("locked in another session"));
        }
        if !bool::from(nonce.ct_eq(body)) {
            return Err(error::invalid_nonce());
        }
        // The nonce is good for one start: it is erased with the state that holds it.
        let Tdi::ConfigLocked(lock, _) = std::mem::replace(&mut self.tdi, Tdi::ConfigUnlocked)
        else {
            return Err(error::invalid_state("START_INTERFACE needs CONFIG_LOCKED"));
        };
        self.tdi = Tdi::Run(lock);
        note(Event::Interface {
            function: self.number,
            from: TdiState::ConfigLocked,
            to: TdiState::Run,
            cause: "START_INTERFACE",
        });
        Ok(vec![])
    }

    /// Unlocks. Legal in every state; only who locked may unlock while the lock holds.
    fn stop(
        &mut self,
        around: &Surroundings<'_>,
        note: &mut dyn FnMut(Event),
    ) -> Result<Vec<u8>, Fault> {
        match &self.tdi {
            Tdi::ConfigLocked(lock, _) | Tdi::Run(lock) if lock.session != around.session => {
                return Err(error::invalid_request("locked in another session"));
            }
            Tdi::ConfigUnlocked => {}
            _ => self.change(Tdi::ConfigUnlocked, "STOP_INTERFACE", note),
        }
        Ok(vec![])
    }
}

fn capabilities() -> Vec<u8> {
    let mut answer = vec![0; 4];
    answer.push(SUPPORTED_REQUESTS);
    answer.extend([0; 15]);
    answer.extend(flag::SUPPORTED.to_le_bytes());
    // Address width; one request at a time, for this interface and for the device.
    answer.extend([0, 0, 0, ADDRESS_WIDTH, 1, 1]);
    answer
}
