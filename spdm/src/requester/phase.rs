// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Phases of a conversation, and the one table of how they follow each other.

/// Where the conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was sent.
    Start,
    /// GET_VERSION is to be answered.
    Version,
    /// GET_CAPABILITIES is to be answered.
    Capabilities,
    /// NEGOTIATE_ALGORITHMS is to be answered.
    Algorithms,
    /// GET_DIGESTS is to be answered.
    Digests,
    /// GET_CERTIFICATE is to be answered.
    Certificate,
    /// The device's chain is known.
    Discovered,
    /// CHALLENGE is to be answered.
    Challenge,
    /// KEY_EXCHANGE is to be answered.
    KeyExchange,
    /// FINISH is to be answered.
    Finish,
    /// A session exists, and nothing is to be answered.
    Established,
    /// GET_MEASUREMENTS is to be answered.
    Measurements,
    /// VENDOR_DEFINED_REQUEST is to be answered.
    Vendor,
    /// HEARTBEAT is to be answered.
    Heartbeat,
    /// KEY_UPDATE is to be answered.
    UpdateKeys,
    /// KEY_UPDATE that verifies the new keys is to be answered.
    VerifyKeys,
    /// END_SESSION is to be answered.
    EndSession,
    /// The session ended in good order.
    Ended,
    /// Something went wrong.
    Dead,
}

/// What moves a conversation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The caller wants to know the device.
    Discover,
    /// The caller wants a session, beginning with a challenge.
    Challenge,
    /// The caller wants a session without one.
    Exchange,
    /// The caller wants measurements.
    Measure,
    /// The caller has a vendor-defined request.
    Vendor,
    /// The caller wants a sign of life.
    Heartbeat,
    /// The caller wants new keys.
    UpdateKeys,
    /// The caller wants the session to end.
    End,
    /// A good answer came, and another is needed before the phase is over.
    Portion,
    /// A good answer came.
    Answer,
    /// The device refused a request that leaves the session as it is.
    Refusal,
}

/// Every way from one phase to another, but one: any fault leads to [`Phase::Dead`].
pub const TRANSITIONS: [(Phase, Event, Phase); 25] = [
    (Phase::Start, Event::Discover, Phase::Version),
    (Phase::Version, Event::Answer, Phase::Capabilities),
    (Phase::Capabilities, Event::Answer, Phase::Algorithms),
    (Phase::Algorithms, Event::Answer, Phase::Digests),
    (Phase::Digests, Event::Answer, Phase::Certificate),
    (Phase::Certificate, Event::Portion, Phase::Certificate),
    (Phase::Certificate, Event::Answer, Phase::Discovered),
    (Phase::Discovered, Event::Challenge, Phase::Challenge),
    (Phase::Discovered, Event::Exchange, Phase::KeyExchange),
    (Phase::Challenge, Event::Answer, Phase::KeyExchange),
    (Phase::KeyExchange, Event::Answer, Phase::Finish),
    (Phase::Finish, Event::Answer, Phase::Established),
    (Phase::Established, Event::Measure, Phase::Measurements),
    (Phase::Measurements, Event::Answer, Phase::Established),
    (Phase::Measurements, Event::Refusal, Phase::Established),
    (Phase::Established, Event::Vendor, Phase::Vendor),
    (Phase::Vendor, Event::Answer, Phase::Established),
    (Phase::Vendor, Event::Refusal, Phase::Established),
    (Phase::Established, Event::Heartbeat, Phase::Heartbeat),
    (Phase::Heartbeat, Event::Answer, Phase::Established),
    (Phase::Established, Event::UpdateKeys, Phase::UpdateKeys),
    (Phase::UpdateKeys, Event::Answer, Phase::VerifyKeys),
    (Phase::VerifyKeys, Event::Answer, Phase::Established),
    (Phase::Established, Event::End, Phase::EndSession),
    (Phase::EndSession, Event::Answer, Phase::Ended),
];

impl Phase {
    /// Returns the phase that follows, if the event belongs here.
    #[must_use]
    pub fn after(self, event: Event) -> Option<Self> {
        TRANSITIONS
            .iter()
            .find(|(from, on, _)| (*from, *on) == (self, event))
            .map(|(_, _, to)| *to)
    }

    /// Returns whether version, capabilities and algorithms are not all agreed on.
    #[must_use]
    pub const fn is_opening(self) -> bool {
        matches!(self, Self::Version | Self::Capabilities | Self::Algorithms)
    }

    /// Returns whether a request of this phase is to be sent or answered.
    #[must_use]
    pub fn is_exchange(self) -> bool {
        self.after(Event::Answer).is_some()
    }
}
