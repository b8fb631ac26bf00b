// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The system that the model walks: one device with two interfaces, two guests, a host that calls
//! in any order, and hardware that may not confirm.
//!
//! What is legal comes from the tables that the firmware runs on; this file says only what the
//! handlers do around them.

use tsm_core::tables::interface::{
    Grant, InterfaceState, MOST_RETRIES, Request, State, Step, TdispError, Verdict, find,
    judge_refusal,
};
use tsm_core::tables::stream;

/// Interfaces.
pub const TDIS: usize = 2;
/// Guests.
pub const VMS: usize = 2;
/// Most locks, and most objects fetched, of one interface: enough for each to be stale once.
const MOST_LOCKS: u8 = 2;
const MOST_FETCHES: u8 = 4;

/// A rule that a broken firmware forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// None: the firmware as it is.
    None,
    /// The state moves although hardware has not confirmed that DMA is off.
    UnconfirmedCut,
    /// Grants do not ask for the evidence that is current.
    StaleEvidence,
    /// DMA stays on when unlocking begins.
    UnlockKeepsDma,
    /// The nonce that starts an interface outlives the lock.
    KeptStartNonce,
    /// Losing the session cuts nothing off.
    NoCascade,
    /// An interface in ERROR cannot be unlocked without its device.
    NoUnlockUnheard,
}

/// What the TSM keeps of an interface that is assigned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    pub owner: usize,
    state: u8,
    request: Option<u8>,
    step: u8,
    retries: u8,
    /// Whether a request is out.
    active: bool,
    /// Whether the last exchange failed and was not acknowledged.
    failed: bool,
    condemned: bool,
    pub dma: bool,
    /// Whether its memory is mapped for the guest, and whether the guest reaches it.
    mapped: bool,
    pub private: bool,
    pub start_nonce: bool,
    locks: u8,
    fetches: u8,
    /// Which fetch the current evidence is of; 0 if there is none.
    measured: u8,
    reported: u8,
}

/// What a guest verified: lock, measurements and report by number.
type Evidence = (u8, u8, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tdi {
    /// State that the device is really in, as an index of [`DEVICE`].
    device: u8,
    pub object: Option<Object>,
    verified: Option<Evidence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct System {
    pub session: bool,
    stream: u8,
    pub tdis: [Tdi; TDIS],
    pub alive: [bool; VMS],
    /// Whether hardware does not confirm at present, and how often it will still begin not to.
    pub stuck: bool,
    sticks: u8,
    /// Sessions that the host will still open.
    sessions: u8,
}

const DEVICE: [InterfaceState; 4] = [
    InterfaceState::ConfigUnlocked,
    InterfaceState::ConfigLocked,
    InterfaceState::Run,
    InterfaceState::Error,
];
const STREAM: [stream::State; 6] = stream::State::ALL;

/// What the device does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Does it if its state allows it, else says that it does not; tells its true state.
    Honest,
    /// Says that it did, or is, what was asked for.
    Pretends,
    /// Reports another state than the TSM believes.
    OtherState,
    /// Is busy once, or for ever.
    Busy,
    BusyForEver,
    /// Refuses.
    Refuses,
    /// Nothing comes, or what comes is no record of this session.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create(usize, usize),
    Ask(usize, Request),
    /// The host carries one message; none if there is nothing to ask.
    Pump(usize, Answer),
    Map(usize),
    Unmap(usize),
    Abort(usize),
    Destroy(usize),
    DestroyVm(usize),
    /// The host disturbs the interface's configuration.
    Disturb(usize),
    LoseSession,
    NewSession,
    Stream(stream::Event),
    /// The guest looks at the evidence, and finds it good.
    Verify(usize),
    AcceptMemory(usize),
    EnableDma(usize),
    DeviceFails(usize),
    DeviceResets(usize),
    Stick,
    Unstick,
}

impl Object {
    pub fn state(&self) -> State {
        State::ALL[usize::from(self.state)]
    }

    pub fn request(&self) -> Option<Request> {
        self.request.map(|index| Request::ALL[usize::from(index)])
    }

    pub fn is_condemned(&self) -> bool {
        self.condemned
    }

    fn evidence(&self) -> Evidence {
        (self.locks, self.measured, self.reported)
    }

    fn forget_lock(&mut self, flaw: Flaw) {
        if flaw != Flaw::KeptStartNonce {
            self.start_nonce = false;
        }
        (self.measured, self.reported) = (0, 0);
    }

    fn present(&self) -> Option<Step> {
        let row = find(self.state(), self.request()?)?;
        row.steps.get(usize::from(self.step)).copied()
    }

    fn set(&mut self, state: State) {
        self.state = state as u8;
    }
}

impl Tdi {
    /// Returns whether the guest verified evidence of the present lock.
    pub fn is_of_this_lock(&self) -> bool {
        let object = self.object.as_ref();
        object.is_some_and(|object| self.verified.is_some_and(|seen| seen.0 == object.locks))
    }

    /// Returns whether what the guest verified is what the TSM would grant anything on.
    fn is_current(&self) -> bool {
        let object = self.object.as_ref();
        object.is_some_and(|object| {
            object.measured != 0 && object.reported != 0 && self.verified == Some(object.evidence())
        })
    }
}

impl System {
    pub fn new() -> Self {
        let tdi = Tdi {
            device: 0,
            object: None,
            verified: None,
        };
        Self {
            session: true,
            stream: code(stream::State::Connected),
            tdis: [tdi.clone(), tdi],
            alive: [true; VMS],
            stuck: false,
            sticks: 1,
            sessions: 1,
        }
    }

    fn stream(&self) -> stream::State {
        STREAM[usize::from(self.stream)]
    }

    /// Returns whether packets of the stream are protected.
    pub fn is_protecting(&self) -> bool {
        use stream::State::{Connected, Purging, Refreshing};
        self.session && matches!(self.stream(), Connected | Refreshing | Purging)
    }

    pub fn is_empty(&self) -> bool {
        self.tdis.iter().all(|tdi| tdi.object.is_none())
    }

    /// Takes every access of an interface away: DMA, then its private memory, then the state.
    fn cut_off(&mut self, index: usize, flaw: Flaw) -> bool {
        let stuck = self.stuck;
        let Some(object) = &mut self.tdis[index].object else {
            return true;
        };
        object.condemned = true;
        if flaw != Flaw::KeptStartNonce {
            object.start_nonce = false;
        }
        if stuck && flaw != Flaw::UnconfirmedCut {
            return false;
        }
        // Hardware that does not confirm has not done it.
        object.dma &= stuck;
        object.private = false;
        object.condemned = false;
        object.set(object.state().after_cut());
        object.forget_lock(flaw);
        true
    }

    /// Loses the session, and everything that rests on it.
    fn lose_session(&mut self, flaw: Flaw) {
        self.session = false;
        if flaw != Flaw::NoCascade {
            self.fail_all(flaw);
        }
        self.stream = code(stream::State::Disconnected);
    }

    fn fail_all(&mut self, flaw: Flaw) {
        for index in 0..TDIS {
            if let Some(object) = &mut self.tdis[index].object {
                if object.request.take().is_some() {
                    object.failed = true;
                }
                object.active = false;
            }
            self.cut_off(index, flaw);
        }
    }

    /// Finishes a cut that was not confirmed; without that, calls about the interface are refused.
    fn settle(&mut self, index: usize, flaw: Flaw) -> bool {
        let object = self.tdis[index].object.as_ref();
        !object.is_some_and(|object| object.condemned) || self.cut_off(index, flaw)
    }

    /// Makes one move; `None` if it is refused and changes nothing.
    pub fn after(&self, action: Action, flaw: Flaw) -> Option<Self> {
        let mut next = self.clone();
        next.act(action, flaw)?;
        Some(next)
    }

    fn act(&mut self, action: Action, flaw: Flaw) -> Option<()> {
        match action {
            Action::Create(index, owner) => self.create(index, owner),
            Action::Ask(index, request) => self.ask(index, request, flaw),
            Action::Pump(index, answer) => self.pump(index, answer, flaw),
            Action::Map(index) => {
                let object = self.tdis[index].object.as_mut()?;
                (!std::mem::replace(&mut object.mapped, true)).then_some(())
            }
            Action::Unmap(index) => {
                let object = self.tdis[index].object.as_mut()?;
                object.private = false;
                std::mem::take(&mut object.mapped).then_some(())
            }
            Action::Abort(index) => self.abort(index, flaw),
            Action::Destroy(index) => self.destroy(index),
            Action::DestroyVm(vm) => {
                let mut objects = self.tdis.iter().filter_map(|tdi| tdi.object.as_ref());
                let is_used = objects.any(|object| object.owner == vm);
                (!is_used && std::mem::take(&mut self.alive[vm])).then_some(())
            }
            Action::Disturb(index) => {
                let object = self.tdis[index].object.as_ref()?;
                object.state().is_bound().then_some(())?;
                self.cut_off(index, flaw);
                Some(())
            }
            Action::LoseSession => {
                self.session.then_some(())?;
                self.lose_session(flaw);
                Some(())
            }
            Action::NewSession => {
                (!self.session && self.is_empty()).then_some(())?;
                self.sessions = self.sessions.checked_sub(1)?;
                self.session = true;
                Some(())
            }
            Action::Stream(event) => self.move_stream(event, flaw),
            Action::Verify(index) => {
                let tdi = &mut self.tdis[index];
                let object = tdi.object.as_ref()?;
                let is_there = object.measured != 0 && object.reported != 0;
                let is_locked = object.state() == State::Locked && is_there;
                let seen = object.evidence();
                (is_locked && tdi.verified.replace(seen) != Some(seen)).then_some(())
            }
            Action::AcceptMemory(index) => {
                self.grant(index, Grant::Memory, flaw)?;
                let object = self.tdis[index].object.as_mut()?;
                (object.mapped && !std::mem::replace(&mut object.private, true)).then_some(())
            }
            Action::EnableDma(index) => {
                (self.is_protecting() && !self.stuck).then_some(())?;
                self.grant(index, Grant::Dma, flaw)?;
                let object = self.tdis[index].object.as_mut()?;
                (object.mapped && !std::mem::replace(&mut object.dma, true)).then_some(())
            }
            Action::DeviceFails(index) => self.move_device(index, 3),
            Action::DeviceResets(index) => self.move_device(index, 0),
            Action::Stick => {
                self.sticks = self.sticks.checked_sub(1)?;
                (!std::mem::replace(&mut self.stuck, true)).then_some(())
            }
            Action::Unstick => std::mem::take(&mut self.stuck).then_some(()),
        }
    }

    fn move_device(&mut self, index: usize, state: u8) -> Option<()> {
        let device = &mut self.tdis[index].device;
        (std::mem::replace(device, state) != state).then_some(())
    }

    fn create(&mut self, index: usize, owner: usize) -> Option<()> {
        let is_ready = self.session && self.stream() == stream::State::Connected;
        let is_free = self.tdis[index].object.is_none();
        (is_ready && is_free && self.alive[owner]).then_some(())?;
        self.tdis[index].verified = None;
        self.tdis[index].object = Some(Object {
            owner,
            state: State::New as u8,
            request: Some(position(Request::Open)),
            step: 0,
            retries: 0,
            active: false,
            failed: false,
            condemned: false,
            dma: false,
            mapped: false,
            private: false,
            start_nonce: false,
            locks: 0,
            fetches: 0,
            measured: 0,
            reported: 0,
        });
        Some(())
    }

    fn ask(&mut self, index: usize, request: Request, flaw: Flaw) -> Option<()> {
        self.settle(index, flaw).then_some(())?;
        let (is_connected, stuck) = (
            self.session && self.stream() == stream::State::Connected,
            self.stuck,
        );
        let object = self.tdis[index].object.as_mut()?;
        find(object.state(), request)?;
        (object.request.is_none() && !object.active).then_some(())?;
        match request {
            Request::Open => return None,
            Request::Lock => {
                (is_connected && object.locks < MOST_LOCKS).then_some(())?;
                object.forget_lock(flaw);
            }
            Request::Start => is_connected.then_some(())?,
            Request::Unlock => {
                (!object.mapped).then_some(())?;
                if flaw != Flaw::UnlockKeepsDma {
                    (!stuck).then_some(())?;
                    object.dma = false;
                }
                if flaw != Flaw::KeptStartNonce {
                    object.start_nonce = false;
                }
            }
            Request::Measure | Request::Report => {
                (object.fetches < MOST_FETCHES).then_some(())?;
            }
        }
        object.request = Some(position(request));
        object.step = 0;
        object.retries = 0;
        object.failed = false;
        Some(())
    }

    fn pump(&mut self, index: usize, answer: Answer, flaw: Flaw) -> Option<()> {
        self.settle(index, flaw).then_some(())?;
        let session = self.session;
        let tdi = &mut self.tdis[index];
        let object = tdi.object.as_mut()?;
        object.request?;
        let Some(step) = object.present() else {
            // Nothing to ask, or cut off meanwhile.
            (answer == Answer::Honest).then_some(())?;
            complete(object, flaw);
            return Some(());
        };
        let is_unlocking = object.request() == Some(Request::Unlock);
        if !session || answer == Answer::Silent {
            if !session && is_unlocking && flaw != Flaw::NoUnlockUnheard {
                object.request = None;
                object.active = false;
                object.forget_lock(flaw);
                object.set(State::Unlocked);
            } else {
                object.request = None;
                object.failed = true;
                self.lose_session(flaw);
            }
            return Some(());
        }
        object.active = true;
        match reply(step, answer, &mut tdi.device, object.retries) {
            Judged::Next => {
                object.retries = 0;
                object.step += 1;
                if step == Step::Lock {
                    object.start_nonce = true;
                    object.locks += 1;
                }
                if object.present().is_none() {
                    complete(object, flaw);
                }
            }
            Judged::Later => object.retries = 1,
            Judged::Over => complete(object, flaw),
            Judged::Declined => {
                object.request = None;
                object.active = false;
                object.failed = true;
            }
            Judged::Lied => {
                object.request = None;
                object.active = false;
                object.failed = true;
                self.cut_off(index, flaw);
            }
            Judged::Impossible => return None,
        }
        Some(())
    }

    fn abort(&mut self, index: usize, flaw: Flaw) -> Option<()> {
        self.settle(index, flaw).then_some(())?;
        let object = self.tdis[index].object.as_mut()?;
        (object.request.is_some() || object.failed).then_some(())?;
        object.request = None;
        object.failed = false;
        if std::mem::take(&mut object.active) {
            self.lose_session(flaw);
            return Some(());
        }
        self.cut_off(index, flaw).then_some(())
    }

    fn destroy(&mut self, index: usize) -> Option<()> {
        let object = self.tdis[index].object.as_ref()?;
        let is_over = !object.active && !object.condemned && !self.stuck;
        (is_over && object.state().is_destroyable() && !object.mapped).then_some(())?;
        self.tdis[index].object = None;
        self.tdis[index].verified = None;
        Some(())
    }

    fn move_stream(&mut self, event: stream::Event, flaw: Flaw) -> Option<()> {
        self.session.then_some(())?;
        let to = self.stream().after(event)?;
        let was = self.is_protecting();
        let mut next = self.clone();
        next.stream = code(to);
        // What rests on the stream goes first.
        if was && !next.is_protecting() {
            self.fail_all(flaw);
        }
        self.stream = code(to);
        Some(())
    }

    fn grant(&mut self, index: usize, grant: Grant, flaw: Flaw) -> Option<()> {
        let tdi = &self.tdis[index];
        let object = tdi.object.as_ref()?;
        let is_fresh = tdi.is_current() || flaw == Flaw::StaleEvidence && tdi.verified.is_some();
        let is_quiet = !object.condemned && object.request.is_none();
        (is_quiet && is_fresh && object.state().allows(grant)).then_some(())
    }
}

/// What the answer to a step means.
enum Judged {
    Next,
    Later,
    Over,
    Declined,
    Lied,
    /// The device cannot answer so.
    Impossible,
}

/// Lets the device answer a step.
fn reply(step: Step, answer: Answer, device: &mut u8, retries: u8) -> Judged {
    let refused = |code, retries| match judge_refusal(step, code, retries) {
        Verdict::Retry => Judged::Later,
        Verdict::GoOn => Judged::Next,
        Verdict::Decline => Judged::Declined,
        Verdict::CutOff => Judged::Lied,
    };
    let told = |state: InterfaceState| match step {
        Step::Expect(wanted) if state == wanted => Judged::Next,
        Step::ExpectUnlessFailed(wanted) if state == wanted || state == InterfaceState::Error => {
            Judged::Next
        }
        Step::UnlessUnlocked if state == InterfaceState::ConfigUnlocked => Judged::Over,
        Step::UnlessUnlocked => Judged::Next,
        _ => Judged::Lied,
    };
    let asks_state = matches!(
        step,
        Step::Expect(_) | Step::ExpectUnlessFailed(_) | Step::UnlessUnlocked
    );
    match answer {
        Answer::Honest if asks_state => told(DEVICE[usize::from(*device)]),
        Answer::Honest => match (step, *device) {
            (Step::Lock, 0) => {
                *device = 1;
                Judged::Next
            }
            (Step::Start, 1) => {
                *device = 2;
                Judged::Next
            }
            (Step::Stop, _) => {
                *device = 0;
                Judged::Next
            }
            (Step::Lock | Step::Start, _) => refused(TdispError::INVALID_INTERFACE_STATE, 0),
            _ => Judged::Next,
        },
        Answer::Pretends => match step {
            Step::Expect(wanted) | Step::ExpectUnlessFailed(wanted) => told(wanted),
            Step::UnlessUnlocked => told(InterfaceState::ConfigUnlocked),
            _ => Judged::Next,
        },
        Answer::OtherState => match step {
            Step::Expect(wanted) | Step::ExpectUnlessFailed(wanted) => {
                let other = DEVICE.iter().find(|state| **state != wanted);
                other.map_or(Judged::Impossible, |state| told(*state))
            }
            _ => Judged::Impossible,
        },
        Answer::Busy if retries == 0 => refused(TdispError::BUSY, 0),
        Answer::Busy => Judged::Impossible,
        Answer::BusyForEver => refused(TdispError::BUSY, MOST_RETRIES),
        Answer::Refuses => refused(TdispError::UNSPECIFIED, 0),
        Answer::Silent => Judged::Impossible,
    }
}

/// Moves to the state that a complete exchange leads to.
fn complete(object: &mut Object, flaw: Flaw) {
    object.active = false;
    let Some(request) = object.request() else {
        return;
    };
    object.request = None;
    let Some(row) = find(object.state(), request) else {
        return;
    };
    match request {
        Request::Measure => {
            object.fetches += 1;
            object.measured = object.fetches;
        }
        Request::Report => {
            object.fetches += 1;
            object.reported = object.fetches;
        }
        Request::Start => object.start_nonce = flaw == Flaw::KeptStartNonce,
        Request::Unlock => object.forget_lock(flaw),
        Request::Open | Request::Lock => {}
    }
    object.set(row.to);
}

fn code(state: stream::State) -> u8 {
    state.code()
}

fn position(request: Request) -> u8 {
    let index = Request::ALL.iter().position(|other| *other == request);
    index
        .and_then(|index| u8::try_from(index).ok())
        .unwrap_or(0)
}
