// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What may happen to a device interface, and when. One table says it; handlers ask, tests compare.
//!
//! A row names the exchange that leads from one state to the other. The state moves when the last
//! step of the exchange has succeeded, never before. Leaving a state that lets a device reach a
//! guest is not in the table: access is taken away when the request is accepted, before any step.

pub(crate) use tsm_spdm::wire::pci_sig::tdisp::{InterfaceState, LockFlags};

/// State of a device interface, in the numbers of `RmiVdevState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Created; the host has not pumped it yet.
    New = 0,
    /// The host's to configure; nothing is trusted.
    Unlocked = 1,
    /// Its configuration is frozen and can be attested.
    Locked = 2,
    /// Runs for its guest.
    Started = 3,
    /// Cut off. Only unlocking leads out.
    Error = 4,
}

/// What the host asks of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// First pump after creation.
    Open,
    /// Freeze the configuration.
    Lock,
    /// Let it run.
    Start,
    /// Give it back to the host.
    Unlock,
    /// Fetch measurements.
    Measure,
    /// Fetch the interface report.
    Report,
}

/// One exchange with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Agree on the TDISP version.
    Version,
    /// Learn what the device can do.
    Capabilities,
    /// Require the device to report this state.
    Expect(InterfaceState),
    /// Learn the state; the exchange is over if it is already unlocked.
    UnlessUnlocked,
    /// `LOCK_INTERFACE_REQUEST`.
    Lock,
    /// `START_INTERFACE_REQUEST`.
    Start,
    /// `STOP_INTERFACE_REQUEST`.
    Stop,
    /// `GET_DEVICE_INTERFACE_REPORT`, portion by portion.
    Report,
    /// SPDM measurements.
    Measure,
}

/// One legal request.
pub(crate) struct Transition {
    /// State in which it is legal.
    pub from: State,
    /// The request.
    pub request: Request,
    /// State after the last step.
    pub to: State,
    /// The exchange.
    pub steps: &'static [Step],
}

/// `GET_VERSION` is sent only here: it may reset a device's context, and an unlocked one has none.
const LOCK: &[Step] = &[
    Step::Version,
    Step::Capabilities,
    Step::Expect(InterfaceState::ConfigUnlocked),
    Step::Lock,
    Step::Expect(InterfaceState::ConfigLocked),
];
const START: &[Step] = &[
    Step::Expect(InterfaceState::ConfigLocked),
    Step::Start,
    Step::Expect(InterfaceState::Run),
];
const UNLOCK: &[Step] = &[
    Step::UnlessUnlocked,
    Step::Stop,
    Step::Expect(InterfaceState::ConfigUnlocked),
];
const MEASURE: &[Step] = &[Step::Measure];
const REPORT_LOCKED: &[Step] = &[Step::Report, Step::Expect(InterfaceState::ConfigLocked)];
const REPORT_STARTED: &[Step] = &[Step::Report, Step::Expect(InterfaceState::Run)];

const fn row(from: State, request: Request, to: State, steps: &'static [Step]) -> Transition {
    Transition {
        from,
        request,
        to,
        steps,
    }
}

/// Every legal request. What is not here is refused and changes nothing.
pub(crate) const TRANSITIONS: &[Transition] = &[
    row(State::New, Request::Open, State::Unlocked, &[]),
    row(State::Unlocked, Request::Lock, State::Locked, LOCK),
    row(State::Unlocked, Request::Measure, State::Unlocked, MEASURE),
    row(State::Locked, Request::Start, State::Started, START),
    row(State::Locked, Request::Measure, State::Locked, MEASURE),
    row(State::Locked, Request::Report, State::Locked, REPORT_LOCKED),
    row(State::Locked, Request::Unlock, State::Unlocked, UNLOCK),
    row(State::Started, Request::Measure, State::Started, MEASURE),
    row(
        State::Started,
        Request::Report,
        State::Started,
        REPORT_STARTED,
    ),
    row(State::Started, Request::Unlock, State::Unlocked, UNLOCK),
    row(State::Error, Request::Unlock, State::Unlocked, UNLOCK),
];

/// Returns the row for `request` in `from`, if that is legal.
pub(crate) fn find(from: State, request: Request) -> Option<&'static Transition> {
    TRANSITIONS
        .iter()
        .find(|row| row.from == from && row.request == request)
}

impl State {
    /// Returns whether the device holds a configuration on behalf of a guest: a change of it from
    /// outside cuts the interface off.
    pub const fn is_bound(self) -> bool {
        matches!(self, Self::Locked | Self::Started)
    }

    /// Returns whether the object may be destroyed.
    pub const fn is_destroyable(self) -> bool {
        matches!(self, Self::New | Self::Unlocked)
    }

    /// Returns whether the guest may turn DMA on.
    pub const fn allows_dma(self) -> bool {
        matches!(self, Self::Started)
    }

    /// Returns the state in the numbers of `RsiVdevState`, as a guest sees it.
    pub const fn for_guest(self) -> u8 {
        match self {
            Self::New | Self::Unlocked => 0,
            Self::Locked => 1,
            Self::Started => 2,
            Self::Error => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{InterfaceState, Request, State, Step, TRANSITIONS, find};

    const STATES: [State; 5] = [
        State::New,
        State::Unlocked,
        State::Locked,
        State::Started,
        State::Error,
    ];
    const REQUESTS: [Request; 6] = [
        Request::Open,
        Request::Lock,
        Request::Start,
        Request::Unlock,
        Request::Measure,
        Request::Report,
    ];

    /// The states after each request, in the order of `REQUESTS`; written down apart from the table.
    fn expected(state: State) -> [Option<State>; 6] {
        use State::{Error, Locked, New, Started, Unlocked};
        match state {
            New => [Some(Unlocked), None, None, None, None, None],
            Unlocked => [None, Some(Locked), None, None, Some(Unlocked), None],
            Locked => [
                None,
                None,
                Some(Started),
                Some(Unlocked),
                Some(Locked),
                Some(Locked),
            ],
            Started => [
                None,
                None,
                None,
                Some(Unlocked),
                Some(Started),
                Some(Started),
            ],
            Error => [None, None, None, Some(Unlocked), None, None],
        }
    }

    #[test]
    fn every_pair_of_state_and_request_is_legal_or_refused_as_written() {
        for state in STATES {
            for (request, to) in REQUESTS.into_iter().zip(expected(state)) {
                let found = find(state, request).map(|row| row.to);
                assert_eq!(found, to, "{state:?} {request:?}");
            }
        }
    }

    #[test]
    fn no_pair_has_two_rows() {
        for row in TRANSITIONS {
            let same = TRANSITIONS
                .iter()
                .filter(|other| other.from == row.from && other.request == row.request);
            assert_eq!(same.count(), 1);
        }
    }

    #[test]
    fn a_move_to_another_state_ends_with_the_device_saying_so() {
        for row in TRANSITIONS.iter().filter(|row| row.from != row.to) {
            let last = match row.to {
                State::Unlocked if row.request == Request::Open => continue,
                State::Unlocked => InterfaceState::ConfigUnlocked,
                State::Locked => InterfaceState::ConfigLocked,
                State::Started => InterfaceState::Run,
                State::New | State::Error => panic!("no request leads to {:?}", row.to),
            };
            assert_eq!(row.steps.last(), Some(&Step::Expect(last)));
        }
    }

    #[test]
    fn the_version_is_asked_of_unlocked_devices_only() {
        for row in TRANSITIONS
            .iter()
            .filter(|row| row.steps.contains(&Step::Version))
        {
            assert_eq!(row.from, State::Unlocked);
        }
    }

    #[test]
    fn only_locked_and_started_are_bound_and_only_started_may_have_dma() {
        for state in STATES {
            let bound = matches!(state, State::Locked | State::Started);
            assert_eq!(state.is_bound(), bound);
            assert_eq!(state.allows_dma(), state == State::Started);
            assert!(!(state.is_bound() && state.is_destroyable()));
        }
        assert!(!State::Error.is_destroyable());
    }
}
