// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What may happen to a device interface, and when. The tables here are the only place that says
//! so: handlers ask them, tests and models walk them, `docs/states.md` is made of them.
//!
//! A row of [`TRANSITIONS`] names the exchange that leads from one state to the other. The state
//! moves when the last step of the exchange has succeeded, never before. Leaving a state that lets a
//! device reach a guest is not in the table: access is taken away when the request is accepted,
//! before any step.

pub use tsm_spdm::wire::pci_sig::tdisp::{InterfaceState, TdispError};

/// State of a device interface, in the numbers of `RmiVdevState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
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

/// What a guest may turn on, with nonces that say that it judged the present evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// Private mappings of the interface's memory.
    Memory,
    /// DMA to the guest's memory.
    Dma,
}

/// One exchange with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Agree on the TDISP version.
    Version,
    /// Learn what the device can do.
    Capabilities,
    /// Require the device to report this state.
    Expect(InterfaceState),
    /// Require the device to report this state or ERROR.
    ExpectUnlessFailed(InterfaceState),
    /// Learn the state of a device that is not believed to be in any; the exchange is over if it is
    /// unlocked.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// State in which it is legal.
    pub from: State,
    /// The request.
    pub request: Request,
    /// State after the last step.
    pub to: State,
    /// The exchange.
    pub steps: &'static [Step],
}

/// What becomes of an exchange when the device answers a step with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same step again, after a while; at most [`MOST_RETRIES`] times in a row.
    Retry,
    /// On to the next step, which tells whether it matters.
    GoOn,
    /// Over. The interface stays in its state: nothing was granted, and nothing is believed that the
    /// device denies.
    Decline,
    /// Over. The device contradicts what is believed: the interface is cut off.
    CutOff,
}

/// One row of [`REFUSALS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The step that is refused; any if there is none.
    pub step: Option<Step>,
    /// The error; any if there is none.
    pub code: Option<TdispError>,
    /// What becomes of the exchange.
    pub verdict: Verdict,
}

/// Times that a busy device is asked again before it counts as one that refuses.
pub const MOST_RETRIES: u8 = 8;

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
const UNLOCK_LOCKED: &[Step] = &[
    Step::ExpectUnlessFailed(InterfaceState::ConfigLocked),
    Step::Stop,
    Step::Expect(InterfaceState::ConfigUnlocked),
];
const UNLOCK_STARTED: &[Step] = &[
    Step::ExpectUnlessFailed(InterfaceState::Run),
    Step::Stop,
    Step::Expect(InterfaceState::ConfigUnlocked),
];
const UNLOCK_ERROR: &[Step] = &[
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
pub const TRANSITIONS: &[Transition] = {
    use Request::{Lock, Measure, Open, Report, Start, Unlock};
    use State::{Error, Locked, New, Started, Unlocked};
    &[
        row(New, Open, Unlocked, &[]),
        row(Unlocked, Lock, Locked, LOCK),
        row(Unlocked, Measure, Unlocked, MEASURE),
        row(Locked, Start, Started, START),
        row(Locked, Measure, Locked, MEASURE),
        row(Locked, Report, Locked, REPORT_LOCKED),
        row(Locked, Unlock, Unlocked, UNLOCK_LOCKED),
        row(Started, Measure, Started, MEASURE),
        row(Started, Report, Started, REPORT_STARTED),
        row(Started, Unlock, Unlocked, UNLOCK_STARTED),
        row(Error, Unlock, Unlocked, UNLOCK_ERROR),
    ]
};

/// State before and after what takes an interface away from its guest: a device that refuses or
/// contradicts, a session or stream that ends, a host that disturbs it.
pub const CUT_OFF: [(State, State); 5] = [
    (State::New, State::Error),
    (State::Unlocked, State::Error),
    (State::Locked, State::Error),
    (State::Started, State::Error),
    (State::Error, State::Error),
];

/// What a guest may turn on in which state. In a state with a row, a change of the interface or of
/// its path from outside cuts it off.
pub const GRANTS: &[(State, Grant)] = &[
    (State::Locked, Grant::Memory),
    (State::Started, Grant::Memory),
    (State::Started, Grant::Dma),
];

/// States in which the object may be destroyed.
pub const DESTROYABLE: &[State] = &[State::New, State::Unlocked];

/// What a refusal by the device means; the first row that fits counts.
pub const REFUSALS: &[Refusal] = {
    use Verdict::{CutOff, Decline, GoOn, Retry};
    const fn row(step: Option<Step>, code: Option<TdispError>, verdict: Verdict) -> Refusal {
        Refusal {
            step,
            code,
            verdict,
        }
    }
    &[
        row(None, Some(TdispError::BUSY), Retry),
        // Some devices refuse to stop what is stopped already.
        row(
            Some(Step::Stop),
            Some(TdispError::INVALID_INTERFACE_STATE),
            GoOn,
        ),
        // It said a moment ago that it is unlocked.
        row(
            Some(Step::Lock),
            Some(TdispError::INVALID_INTERFACE_STATE),
            CutOff,
        ),
        row(Some(Step::Version), None, Decline),
        row(Some(Step::Capabilities), None, Decline),
        row(Some(Step::Lock), None, Decline),
        row(None, None, CutOff),
    ]
};

/// Returns the row for `request` in `from`, if that is legal.
#[must_use]
pub fn find(from: State, request: Request) -> Option<&'static Transition> {
    TRANSITIONS
        .iter()
        .find(|row| row.from == from && row.request == request)
}

/// Returns what becomes of an exchange whose step `step` the device refused with `code`, having been
/// busy `retries` times in a row before.
#[must_use]
pub fn judge_refusal(step: Step, code: TdispError, retries: u8) -> Verdict {
    let is_patient = retries < MOST_RETRIES;
    let fits = |row: &&Refusal| {
        let step_fits = row.step.is_none_or(|own| own == step);
        let code_fits = row.code.is_none_or(|own| own == code);
        step_fits && code_fits && (is_patient || row.verdict != Verdict::Retry)
    };
    let row = REFUSALS.iter().find(fits);
    row.map_or(Verdict::CutOff, |row| row.verdict)
}

impl State {
    /// Every state, in the order of the numbers.
    pub const ALL: [Self; 5] = [
        Self::New,
        Self::Unlocked,
        Self::Locked,
        Self::Started,
        Self::Error,
    ];

    /// Returns the state after the interface was cut off.
    #[must_use]
    pub fn after_cut(self) -> Self {
        let row = CUT_OFF.iter().find(|row| row.0 == self);
        row.map_or(Self::Error, |row| row.1)
    }

    /// Returns whether the device holds a configuration on behalf of a guest: a change of it from
    /// outside cuts the interface off.
    #[must_use]
    pub fn is_bound(self) -> bool {
        GRANTS.iter().any(|row| row.0 == self)
    }

    /// Returns whether the guest may turn `grant` on.
    #[must_use]
    pub fn allows(self, grant: Grant) -> bool {
        GRANTS.contains(&(self, grant))
    }

    /// Returns whether the object may be destroyed.
    #[must_use]
    pub fn is_destroyable(self) -> bool {
        DESTROYABLE.contains(&self)
    }

    /// Returns the state in the numbers of `RsiVdevState`, as a guest sees it.
    #[must_use]
    pub const fn for_guest(self) -> u8 {
        match self {
            Self::New | Self::Unlocked => 0,
            Self::Locked => 1,
            Self::Started => 2,
            Self::Error => 3,
        }
    }
}

impl Request {
    /// Every request.
    pub const ALL: [Self; 6] = [
        Self::Open,
        Self::Lock,
        Self::Start,
        Self::Unlock,
        Self::Measure,
        Self::Report,
    ];
}

#[cfg(test)]
mod tests {
    use super::{
        CUT_OFF, Grant, InterfaceState, MOST_RETRIES, REFUSALS, Request, State, Step, TRANSITIONS,
        TdispError, Verdict, find, judge_refusal,
    };

    /// The states after each request, in the order of `Request::ALL`; written down apart from the table.
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
        for state in State::ALL {
            for (request, to) in Request::ALL.into_iter().zip(expected(state)) {
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
        for state in State::ALL {
            let bound = matches!(state, State::Locked | State::Started);
            assert_eq!(state.is_bound(), bound);
            assert_eq!(state.allows(Grant::Dma), state == State::Started);
            assert_eq!(state.allows(Grant::Memory), bound);
            assert!(!(state.is_bound() && state.is_destroyable()));
        }
        assert!(!State::Error.is_destroyable());
    }

    #[test]
    fn every_state_can_be_cut_off_and_only_unlocking_leads_back() {
        for (at, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, at);
            assert_eq!(CUT_OFF[at].0, state);
            assert_eq!(state.after_cut(), State::Error);
        }
        let out = TRANSITIONS.iter().filter(|row| row.from == State::Error);
        assert!(out.map(|row| row.request).eq([Request::Unlock]));
    }

    #[test]
    fn what_is_believed_of_a_bound_device_is_polled_before_it_is_left() {
        let bound = TRANSITIONS.iter().filter(|row| row.from.is_bound());
        for row in bound.filter(|row| row.from != row.to) {
            let believed = match row.from {
                State::Locked => InterfaceState::ConfigLocked,
                _ => InterfaceState::Run,
            };
            let first = row.steps.first();
            let polls = [Step::Expect(believed), Step::ExpectUnlessFailed(believed)];
            assert!(first.is_some_and(|first| polls.contains(first)), "{row:?}");
        }
    }

    #[test]
    fn a_busy_device_is_asked_again_a_bounded_number_of_times() {
        for step in [Step::Lock, Step::Stop, Step::Report, Step::UnlessUnlocked] {
            let after = |retries| judge_refusal(step, TdispError::BUSY, retries);
            assert_eq!(after(0), Verdict::Retry);
            assert_eq!(after(MOST_RETRIES - 1), Verdict::Retry);
            assert_ne!(after(MOST_RETRIES), Verdict::Retry);
            assert_ne!(after(u8::MAX), Verdict::Retry);
        }
    }

    #[test]
    fn a_refusal_is_harmless_only_before_there_is_a_lock() {
        let unbound = [Step::Version, Step::Capabilities, Step::Lock];
        for row in REFUSALS
            .iter()
            .filter(|row| row.verdict == Verdict::Decline)
        {
            assert!(row.step.is_some_and(|step| unbound.contains(&step)));
        }
        // The exchange that such a step is in begins where nothing is granted.
        let holding = |row: &&super::Transition| row.steps.iter().any(|one| unbound.contains(one));
        for row in TRANSITIONS.iter().filter(holding) {
            assert!(!row.from.is_bound() && row.from != State::Error);
        }
        for code in [0, 1, 5, 7, 0x41, 0x101, 0x102, 0x103, 0x104, u32::MAX] {
            let code = TdispError(code);
            assert_eq!(judge_refusal(Step::Start, code, 0), Verdict::CutOff);
            assert_eq!(judge_refusal(Step::Stop, code, 0), Verdict::CutOff);
            assert_eq!(judge_refusal(Step::Report, code, 0), Verdict::CutOff);
        }
        let wrong_state = TdispError::INVALID_INTERFACE_STATE;
        assert_eq!(judge_refusal(Step::Lock, wrong_state, 0), Verdict::CutOff);
        assert_eq!(judge_refusal(Step::Stop, wrong_state, 0), Verdict::GoOn);
    }
}
