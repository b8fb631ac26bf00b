// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! States, what they share, and what they say of requests and answers.

use super::api::{Config, Digests, Object, Outcome, Slice};
use super::discover::{
    Discovered, ReadAlgorithms, ReadCapabilities, ReadCertificate, ReadDigests, ReadVersion,
};
use super::establish::{Challenged, Exchanging, Finishing};
use super::phase::{Event, Phase};
use super::session::{Session, Task};
use crate::crypto::{Suite, Transcript};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::negotiation::Capabilities;
use crate::wire::{Code, Header, Malformed, Version};

/// Each phase with the data that is valid in it.
#[expect(
    clippy::large_enum_variant,
    reason = "there is no heap to keep the large one on"
)]
pub(super) enum State<K> {
    Start,
    Version(ReadVersion),
    Capabilities(ReadCapabilities),
    Algorithms(ReadAlgorithms),
    Digests(ReadDigests),
    Certificate(ReadCertificate),
    Discovered(Discovered),
    Challenge(Challenged),
    KeyExchange(Exchanging<K>),
    Finish(Finishing),
    Session(Session, Task),
    Ended,
    Dead,
}

impl<K> State<K> {
    pub(super) const fn phase(&self) -> Phase {
        match self {
            Self::Start => Phase::Start,
            Self::Version(_) => Phase::Version,
            Self::Capabilities(_) => Phase::Capabilities,
            Self::Algorithms(_) => Phase::Algorithms,
            Self::Digests(_) => Phase::Digests,
            Self::Certificate(_) => Phase::Certificate,
            Self::Discovered(_) => Phase::Discovered,
            Self::Challenge(_) => Phase::Challenge,
            Self::KeyExchange(_) => Phase::KeyExchange,
            Self::Finish(_) => Phase::Finish,
            Self::Session(_, task) => task.phase(),
            Self::Ended => Phase::Ended,
            Self::Dead => Phase::Dead,
        }
    }
}

/// What the states share: it outlives each of them.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) digests: Digests,
    /// What was agreed on; the strongest of all until then.
    pub(super) suite: Suite,
    /// The transcript of the phase, with the request that is to be answered.
    pub(super) pending: Transcript,
    /// Milliseconds that the device may need for cryptography.
    pub(super) crypto_time_ms: u32,
    /// Capabilities that both sides announced.
    pub(super) common: Capabilities,
    /// Bytes of the largest transfer that the device takes.
    pub(super) request_limit: u32,
    /// Bytes of the largest message that the device takes.
    pub(super) message_limit: u32,
    /// Seconds within which the device wants a sign of life.
    pub(super) heartbeat: u8,
}

impl Shared {
    /// Branches off `transcript` with the request that is the first `len` bytes of `out`.
    pub(super) fn branch(&mut self, transcript: &Transcript, out: &[u8], len: usize) {
        self.pending = transcript.clone().with(out.get(..len).unwrap_or_default());
    }

    /// Returns the branch with an answer, or a part of one, appended.
    pub(super) fn joined(&self, answer: &[u8]) -> Transcript {
        self.pending.clone().with(answer)
    }
}

/// Where a good answer leads.
#[expect(
    clippy::large_enum_variant,
    reason = "there is no heap to keep the large one on"
)]
pub(super) enum Next<K> {
    /// To another state.
    State(State<K>),
    /// To another task of the same session.
    Task(Task),
    /// Nowhere; the state has taken what it needed.
    Stay,
}

/// What a good answer does.
pub(super) struct Progress<K> {
    pub(super) event: Event,
    pub(super) next: Next<K>,
    /// What to keep of the answer, by offset in the message.
    pub(super) cache: Option<Slice>,
    /// What came of the operation, if it is done.
    pub(super) outcome: Option<Outcome>,
}

impl<K> Progress<K> {
    pub(super) const fn to(state: State<K>) -> Self {
        Self {
            event: Event::Answer,
            next: Next::State(state),
            cache: None,
            outcome: None,
        }
    }

    pub(super) const fn to_task(task: Task) -> Self {
        Self {
            event: Event::Answer,
            next: Next::Task(task),
            cache: None,
            outcome: None,
        }
    }

    pub(super) fn caching(self, object: Object, offset: usize, len: usize) -> Self {
        Self {
            cache: Some(Slice {
                object,
                offset,
                len,
            }),
            ..self
        }
    }

    pub(super) fn done(self, outcome: Outcome) -> Self {
        Self {
            outcome: Some(outcome),
            ..self
        }
    }
}

/// An answer, taken out of its record, with the padding of the mailbox if it had no record.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) padding: usize,
}

impl<'a> Answer<'a> {
    /// Returns the message alone, which is `used` bytes long.
    pub(super) fn exact(&self, used: usize) -> Result<&'a [u8], Error> {
        let (message, rest) = self
            .bytes
            .split_at_checked(used)
            .ok_or(Malformed::Truncated)?;
        if rest.len() > self.padding {
            return Err(PeerMisbehaved::TrailingBytes.into());
        }
        Ok(message)
    }

    /// Checks that the message is the header `code` and no more, and returns it.
    pub(super) fn bare(&self, version: Version, code: Code) -> Result<Header, Error> {
        let (header, used) = Header::parse(self.bytes, version, code)?;
        self.exact(used)?;
        Ok(header)
    }
}

/// What is known of a request once it is written.
pub(super) struct Request {
    /// Bytes of the message, before it is sealed.
    pub(super) len: usize,
    /// Whether the device needs time for cryptography.
    pub(super) slow: bool,
    /// The object that the request is part of.
    pub(super) cache: Option<Object>,
}

impl Request {
    pub(super) const fn quick(len: usize) -> Self {
        Self {
            len,
            slow: false,
            cache: None,
        }
    }

    pub(super) const fn slow(len: usize) -> Self {
        Self {
            len,
            slow: true,
            cache: None,
        }
    }

    pub(super) const fn in_vca(len: usize) -> Self {
        Self {
            len,
            slow: false,
            cache: Some(Object::Vca),
        }
    }
}
