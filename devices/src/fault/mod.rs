// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A device that misbehaves on order: what goes wrong, and at which message or event.

mod alter;
mod injector;
mod message;
mod text;

use std::time::Duration;

pub use injector::FaultCount;
pub(crate) use injector::{Injector, Physical, Received};
pub use message::Message;
pub use text::PlanError;

/// Everything that is to go wrong. The default is a device that behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// The faults. Each counts for itself; several may apply to one message, in this order.
    pub faults: Vec<Fault>,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub at: At,
    /// At which of the occurrences of that.
    pub occurrence: Occurrence,
    /// Counts only what is about this function: requester id. Only TDISP messages are.
    pub interface: Option<u16>,
    /// What happens.
    pub what: What,
}

impl Fault {
    /// Makes a fault at the first occurrence of `at`, whatever function it is about.
    #[must_use]
    pub fn new(at: At, what: What) -> Self {
        Self {
            at,
            occurrence: Occurrence::Nth(1),
            interface: None,
            what,
        }
    }
}

/// Where something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At a message: a request before the device reads it, a response before it leaves.
    Message(Message),
    /// At the answer to a request, whichever it is.
    AnswerTo(Message),
    /// At an event.
    Event(Occasion),
}

/// An event that a fault can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A requester connected to the socket.
    Connect,
    /// A requester left the socket.
    Disconnect,
    /// Time passed: ten milliseconds behind a socket.
    Tick,
    /// A session was established.
    Session,
    /// A stream became secure: link training with keys is over.
    Stream,
}

/// Which occurrences count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// Only this one, counted from 1.
    Nth(u32),
    /// Each time that this many have passed.
    Every(u32),
    /// Each one after this many.
    After(u32),
}

impl Occurrence {
    /// Returns whether the occurrence with this number, counted from 1, counts.
    fn holds(self, number: u32) -> bool {
        match self {
            Self::Nth(nth) => number == nth,
            Self::Every(period) => number.is_multiple_of(period),
            Self::After(count) => number > count,
        }
    }
}

/// Which bytes a change counts in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// The named message itself, decrypted. For IDE_KM and TDISP the protocol byte is not part.
    #[default]
    Plain,
    /// The data object as it is carried, its 8-byte header included.
    Wire,
}

/// What goes wrong.
///
/// Offsets that are negative count from the end. What falls outside of the message changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The message is lost. A lost request is not read.
    Drop,
    /// The answer comes late.
    Delay(Duration),
    /// One bit is inverted.
    Flip {
        /// Where `offset` counts.
        view: View,
        /// Byte.
        offset: i32,
        /// Bit in the byte, 0 to 7.
        bit: u8,
    },
    /// Bytes are replaced.
    Set {
        /// Where `offset` counts.
        view: View,
        /// First byte.
        offset: i32,
        /// The new bytes.
        bytes: Vec<u8>,
    },
    /// Only the first bytes are left.
    Truncate {
        /// Where `keep` counts.
        view: View,
        /// Bytes that stay.
        keep: usize,
    },
    /// Zero bytes follow.
    Extend {
        /// Where they are added.
        view: View,
        /// How many.
        by: usize,
    },
    /// The answer before comes once more: sealed anew, or the record itself.
    Replay(View),
    /// From here on each answer comes one request late.
    Stale,
    /// The last answer of another kind comes instead, sealed anew.
    Swap(Message),
    /// A signature, or else a verification value, is not what it was.
    WrongSignature,
    /// A nonce is not what it was.
    WrongNonce,
    /// The device claims another TDISP state: 0 to 3, or a number that is none.
    WrongState(u8),
    /// The first length field of the message says this much more.
    LyingLength(i32),
    /// An SPDM ERROR comes instead. A request is not acted on.
    Error {
        /// Error code.
        code: u8,
        /// Error data.
        data: u8,
        /// Extended error data.
        extended: Vec<u8>,
    },
    /// SPDM ERROR ResponseNotReady; RESPOND_IF_READY then gets the answer.
    NotReady {
        /// Exponent of two of the microseconds that the requester is told to wait.
        exponent: u8,
    },
    /// A TDISP error comes instead. A request is not acted on.
    TdispError {
        /// Error code.
        code: u32,
        /// Error data.
        data: u32,
    },
    /// KP_ACK has this status. At KEY_PROG no key is taken.
    KeyStatus(u8),
    /// The device forgets the session of the message, or all of them at an event.
    LoseSession,
    /// A conventional reset: sessions, keys and locks are gone.
    Reset,
    /// Function-level reset of this function, or of the first.
    FunctionReset(Option<u16>),
    /// The link goes down: all IDE streams fail.
    LinkDown,
    /// The device is gone: it is reset, and answers nothing until it is inserted again.
    Remove,
    /// The device answers nothing until it is reset.
    Hang,
    /// This plain message comes before the answer, which then waits for the next request.
    Unsolicited(Vec<u8>),
}

impl What {
    /// Returns the word that plans use for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Delay(_) => "delay",
            Self::Flip { .. } => "flip",
            Self::Set { .. } => "set",
            Self::Truncate { .. } => "truncate",
            Self::Extend { .. } => "extend",
            Self::Replay(_) => "replay",
            Self::Stale => "stale",
            Self::Swap(_) => "swap",
            Self::WrongSignature => "wrong-signature",
            Self::WrongNonce => "wrong-nonce",
            Self::WrongState(_) => "wrong-state",
            Self::LyingLength(_) => "lying-length",
            Self::Error { .. } => "error",
            Self::NotReady { .. } => "not-ready",
            Self::TdispError { .. } => "tdisp-error",
            Self::KeyStatus(_) => "key-status",
            Self::LoseSession => "lose-session",
            Self::Reset => "reset",
            Self::FunctionReset(_) => "flr",
            Self::LinkDown => "link-down",
            Self::Remove => "remove",
            Self::Hang => "hang",
            Self::Unsolicited(_) => "unsolicited",
        }
    }
}
