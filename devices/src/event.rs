// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the library tells its user while it runs.

use std::fmt;

use crate::tdisp::TdiState;

/// Names an SPDM session: the responder's half in the upper 16 bits, the requester's in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub u32);

impl fmt::Display for SessionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:08x}", self.0)
    }
}

/// Why a session is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The requester ended it.
    Requested,
    /// The requester began a new connection with GET_VERSION, or the link was reset.
    Reset,
    /// A record or a verification value did not authenticate.
    Forged,
    /// Nothing was heard for two heartbeat periods.
    Silent,
    /// An unfinished handshake made room for a newer one.
    Displaced,
    /// The fault plan took it.
    Lost,
}

/// Something worth a line in a log. No event carries a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A requester connected to the socket.
    Connected,
    /// The requester is gone; everything is as after power-on, unless the device keeps its state.
    Disconnected,
    /// The machine was reset; everything is as after power-on.
    MachineReset,
    /// A frame or data object was not well formed and got no answer of its own.
    Malformed(&'static str),
    /// An SPDM request was answered.
    Answered {
        /// Request code.
        request: u8,
        /// The session it came in, if any.
        session: Option<SessionId>,
    },
    /// An SPDM request was refused.
    Refused {
        /// Request code.
        request: u8,
        /// Code of the ERROR response.
        error: u8,
    },
    /// A handshake was finished.
    SessionStarted(SessionId),
    /// A session is gone, and its keys are erased.
    SessionEnded(SessionId, SessionEnd),
    /// An IDE stream became secure.
    StreamSecure(u8),
    /// An IDE stream is not secure any more.
    StreamInsecure(u8),
    /// An interface changed its TDISP state.
    Interface {
        /// Place of its function in the device, counted from 0.
        function: usize,
        /// State before.
        from: TdiState,
        /// State now.
        to: TdiState,
        /// What caused it.
        cause: &'static str,
    },
    /// A TDISP request was refused.
    InterfaceRefused {
        /// TDISP request type.
        request: u8,
        /// TDISP error code.
        error: u32,
        /// What was wrong.
        cause: &'static str,
    },
    /// A fault of the plan happened.
    Fault {
        /// Its place in the plan, counted from 1.
        row: usize,
        /// The plan's word for it.
        what: &'static str,
    },
    /// An IDE key was refused.
    KeyRefused {
        /// Stream of the key.
        stream: u8,
        /// Status in the acknowledgment.
        status: u8,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => out.write_str("requester connected"),
            Self::Disconnected => out.write_str("requester gone"),
            Self::MachineReset => out.write_str("machine reset, device reset"),
            Self::Malformed(what) => write!(out, "malformed: {what}"),
            Self::Answered {
                request,
                session: Some(session),
            } => {
                write!(
                    out,
                    "answered {} in session {session}",
                    request_name(*request)
                )
            }
            Self::Answered {
                request,
                session: None,
            } => {
                write!(out, "answered {}", request_name(*request))
            }
            Self::Refused { request, error } => {
                write!(
                    out,
                    "refused {}: error {error:#04x}",
                    request_name(*request)
                )
            }
            Self::SessionStarted(session) => write!(out, "session {session} established"),
            Self::SessionEnded(session, why) => write!(out, "session {session} ended: {why:?}"),
            Self::StreamSecure(stream) => write!(out, "stream {stream} secure"),
            Self::StreamInsecure(stream) => write!(out, "stream {stream} insecure"),
            Self::Interface {
                function,
                from,
                to,
                cause,
            } => write!(out, "interface {function} {from} -> {to}: {cause}"),
            Self::InterfaceRefused {
                request,
                error,
                cause,
            } => {
                write!(
                    out,
                    "refused TDISP request {request:#04x}: error {error:#x}: {cause}"
                )
            }
            Self::Fault { row, what } => write!(out, "fault {row}: {what}"),
            Self::KeyRefused { stream, status } => {
                write!(out, "refused key of stream {stream}: status {status}")
            }
        }
    }
}

/// Returns the name of an SPDM request code.
fn request_name(code: u8) -> &'static str {
    use crate::spdm::code;
    match code {
        code::GET_DIGESTS => "GET_DIGESTS",
        code::GET_CERTIFICATE => "GET_CERTIFICATE",
        code::CHALLENGE => "CHALLENGE",
        code::GET_VERSION => "GET_VERSION",
        code::GET_MEASUREMENTS => "GET_MEASUREMENTS",
        code::GET_CAPABILITIES => "GET_CAPABILITIES",
        code::NEGOTIATE_ALGORITHMS => "NEGOTIATE_ALGORITHMS",
        code::KEY_EXCHANGE => "KEY_EXCHANGE",
        code::FINISH => "FINISH",
        code::HEARTBEAT => "HEARTBEAT",
        code::KEY_UPDATE => "KEY_UPDATE",
        code::END_SESSION => "END_SESSION",
        code::VENDOR_DEFINED => "VENDOR_DEFINED",
        _ => "an unknown request",
    }
}

/// Receives events. The library itself prints nothing.
pub trait Observer: Send {
    /// Takes note of `event`.
    fn event(&mut self, event: &Event);
}

impl<F: FnMut(&Event) + Send> Observer for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}
