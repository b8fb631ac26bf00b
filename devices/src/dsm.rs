// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device security manager: joins SPDM, IDE and TDISP.

use std::time::{Duration, Instant};

use crate::crypto::NoEntropy;
use crate::doe;
use crate::event::{Event, Observer, SessionEnd, SessionId};
use crate::fault::{FaultCount, FaultPlan, Injector, Occasion, Physical, Received, What};
use crate::function::{Function, FunctionSource, FunctionView, Layout};
use crate::functions::{Functions, InterfaceView};
use crate::ide_km::{self, StreamView, Streams};
use crate::link::{LinkKeys, NoRootPort};
use crate::secrets::Confidant;
use crate::spdm::{Application, Offer, Refusal, Responder, Settings};
use crate::tdisp::{self, TdiState};
use crate::{Identity, Measurements};

/// First byte of a PCI-SIG vendor-defined payload.
mod protocol {
    pub(super) const IDE_KM: u8 = 0;
    pub(super) const TDISP: u8 = 1;
}

/// ERROR InvalidSession.
const INVALID_SESSION: [u8; 4] = [0x12, 0x7f, 0x02, 0];

/// What a [`Dsm`] is made of.
pub struct Config {
    /// Certificates and key.
    pub identity: Identity,
    /// Measurements to report.
    pub measurements: Measurements,
    /// Versions, algorithms and sizes of SPDM.
    pub offer: Offer,
    /// Seconds between heartbeats that a requester owes; 0 for none.
    pub heartbeat_period: u8,
    /// The fixed parts of the first function.
    pub layout: Layout,
    /// Where bus number and BARs of the first function are learnt from.
    pub function: Box<dyn FunctionSource>,
    /// The other functions.
    pub others: Vec<Function>,
    /// The other end of the link.
    pub link: Box<dyn LinkKeys>,
    /// Who hears of events.
    pub observer: Box<dyn Observer>,
    /// Who is told secrets: for tests only.
    pub confidant: Confidant,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// Whether sessions, keys and locks outlive the requester's connection to the socket.
    pub keeps_state: bool,
}

impl Config {
    /// Makes a device with a new identity at a fixed place, without root port and observer.
    ///
    /// # Errors
    /// The operating system gave no entropy.
    pub fn new(firmware: &[u8], function: FunctionView) -> Result<Self, NoEntropy> {
        let configuration = concat!("portcullis-dsm ", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            identity: Identity::generate()?,
            measurements: Measurements::new(firmware, configuration.as_bytes()),
            offer: Offer::default(),
            heartbeat_period: 0xf0,
            layout: Layout::QEMU_NVME,
            function: Box::new(function),
            others: Vec::new(),
            link: Box::new(NoRootPort),
            observer: Box::new(|_: &Event| {}),
            confidant: Confidant::default(),
            faults: FaultPlan::default(),
            keeps_state: false,
        })
    }
}

/// State of the device as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Sessions, and whether each has finished its handshake.
    pub sessions: Vec<(SessionId, bool)>,
    /// IDE streams that have keys.
    pub streams: Vec<StreamView>,
    /// State of the first function's interface.
    pub interface: TdiState,
    /// All interfaces, the first one first.
    pub interfaces: Vec<InterfaceView>,
    /// How often each fault of the plan was due, in the plan's order.
    pub faults: Vec<FaultCount>,
}

/// A device security manager. Objects in, objects out; no time passes but in [`Dsm::tick`].
pub struct Dsm {
    responder: Responder,
    device: Device,
    /// Whether the device answers nothing.
    silent: bool,
    keeps_state: bool,
}

/// What hangs on SPDM sessions.
struct Device {
    streams: Streams,
    functions: Functions,
    link: Box<dyn LinkKeys>,
    observer: Box<dyn Observer>,
    confidant: Confidant,
    faults: Injector,
    /// Whether the request under way was not read.
    unread: bool,
}

/// Tells the observer, and the fault plan if it may wait for that.
fn tell(observer: &mut dyn Observer, faults: &mut Injector, event: &Event) {
    observer.event(event);
    match event {
        Event::SessionStarted(_) => faults.occasion(Occasion::Session),
        Event::StreamSecure(_) => faults.occasion(Occasion::Stream),
        _ => {}
    }
}

impl Dsm {
    /// Makes a device as after power-on.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let first = Function {
            layout: config.layout,
            source: config.function,
        };
        config.identity.tell_keys(&config.confidant);
        Self {
            responder: Responder::new(Settings {
                identity: config.identity,
                measurements: config.measurements,
                heartbeat_period: config.heartbeat_period,
                offer: config.offer,
                confidant: config.confidant.clone(),
            }),
            device: Device {
                streams: Streams::default(),
                functions: Functions::new(std::iter::once(first).chain(config.others)),
                link: config.link,
                observer: config.observer,
                confidant: config.confidant,
                faults: Injector::new(config.faults),
                unread: false,
            },
            silent: false,
            keeps_state: config.keeps_state,
        }
    }

    /// Answers a whole data object, header included. `None` for an object that has no answer.
    pub fn handle_doe(&mut self, object: &[u8]) -> Option<Vec<u8>> {
        self.catch_up(Instant::now());
        if self.silent {
            return None;
        }
        let mut object = object.to_vec();
        self.device.unread = false;
        self.device.faults.object(&mut object);
        let answer = self.answer(&object);
        self.device.settle();
        let answer = self.suffer(answer);
        let answer = self.device.faults.leave(answer);
        self.device.tell_faults();
        answer
    }

    /// Returns how late the last answer is to be, and forgets it.
    pub fn take_delay(&mut self) -> Duration {
        self.device.faults.take_delay()
    }

    fn answer(&mut self, object: &[u8]) -> Option<Vec<u8>> {
        match doe::decode(object) {
            Ok((doe::kind::DISCOVERY, payload)) => doe::discover(payload),
            Ok((doe::kind::SPDM, message)) => {
                let answer = self.responder.plain(message, &mut self.device);
                Some(doe::encode(doe::kind::SPDM, &answer))
            }
            Ok((doe::kind::SECURED_SPDM, record)) => {
                let (sealed, answer) = self.responder.secured(record, &mut self.device);
                let kind = if sealed {
                    doe::kind::SECURED_SPDM
                } else {
                    doe::kind::SPDM
                };
                Some(doe::encode(kind, &answer))
            }
            Ok(_) => {
                self.note(Event::Malformed("data object of an unknown type"));
                None
            }
            Err(what) => {
                self.note(Event::Malformed(what));
                None
            }
        }
    }

    /// Lets happen to the device what the fault plan asked for; returns what leaves of `answer`.
    fn suffer(&mut self, answer: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let mut answer = answer;
        // Sessions that end and streams that fail are occasions themselves: a bounded number.
        for physical in self.device.faults.take_physical() {
            match physical {
                Physical::LoseSession(session) => {
                    self.responder
                        .forget(session, SessionEnd::Lost, &mut self.device);
                    // A request that was not read came in a session that is not known any more.
                    if self.device.unread {
                        answer = Some(doe::encode(doe::kind::SPDM, &INVALID_SESSION));
                    }
                }
                Physical::Reset => {
                    self.reset();
                    answer = answer.filter(|_| !self.device.unread);
                }
                Physical::Remove => {
                    self.reset();
                    self.silent = true;
                    answer = None;
                }
                Physical::Hang => {
                    self.silent = true;
                    answer = None;
                }
                Physical::FunctionReset(_) | Physical::LinkDown => self.device.suffer(physical),
            }
            self.device.settle();
        }
        answer
    }

    /// Looks at the machine, the link and the time. To be called often.
    pub fn tick(&mut self, now: Instant) {
        self.catch_up(now);
        self.happen(Occasion::Tick);
    }

    /// Takes note of an event that faults may wait for.
    pub(crate) fn happen(&mut self, occasion: Occasion) {
        self.device.faults.occasion(occasion);
        self.device.unread = false;
        self.suffer(None);
        self.device.tell_faults();
    }

    fn catch_up(&mut self, now: Instant) {
        if self.device.functions.take_reset() {
            self.reset();
            self.note(Event::MachineReset);
        }
        self.responder.tick(now, &mut self.device);
        self.device.settle();
    }

    /// Goes back to the state after power-on: sessions, keys and locks are gone.
    ///
    /// A device that hangs answers again; one that was removed is inserted again.
    pub fn reset(&mut self) {
        self.responder.reset(&mut self.device);
        self.device.streams.forget(None);
        self.device.settle();
        self.device.functions.reset();
        self.device.faults.disconnect();
        self.silent = false;
    }

    /// Lets one fault happen to the device now. Returns whether it is one that can: lost sessions,
    /// resets, a link that fails, a device that is gone or hangs, an unsolicited message.
    pub fn inflict(&mut self, what: &What) -> bool {
        let happens = self.device.faults.inflict(what);
        self.device.unread = false;
        self.suffer(None);
        happens
    }

    /// Returns whether the device answers nothing: it was removed, or hangs.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// Takes note that the requester left the socket.
    pub(crate) fn disconnect(&mut self) {
        self.happen(Occasion::Disconnect);
        if !self.keeps_state {
            self.reset();
        }
        self.note(Event::Disconnected);
    }

    /// Takes another fault plan; counts begin anew, and a device that was silent answers again.
    pub fn load_faults(&mut self, plan: FaultPlan) {
        self.device.faults.load(plan);
        self.silent = false;
    }

    /// Tells the observer.
    pub(crate) fn note(&mut self, event: Event) {
        self.device.observer.event(&event);
    }

    /// Returns the state of the device.
    #[must_use]
    pub fn state(&self) -> State {
        let interfaces: Vec<InterfaceView> = self.device.functions.views().collect();
        State {
            sessions: self.responder.sessions().collect(),
            streams: self.device.streams.views().collect(),
            interface: interfaces
                .first()
                .map_or(TdiState::Error, |first| first.state),
            interfaces,
            faults: self.device.faults.counts().collect(),
        }
    }

    /// Returns the certificates of the device.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.responder.settings().identity
    }

    /// Returns the measurements of the device.
    #[must_use]
    pub fn measurements(&self) -> &Measurements {
        &self.responder.settings().measurements
    }
}

impl Device {
    /// Brings the link model up to date and breaks a lock whose ground is gone.
    fn settle(&mut self) {
        let Self {
            streams,
            functions,
            link,
            observer,
            faults,
            ..
        } = self;
        let mut note = |event: Event| tell(observer.as_mut(), faults, &event);
        link.place(functions.first().and_then(|view| view.rid));
        streams.exercise(link.as_mut(), &mut note);
        functions.check(&mut note, &|session, stream, locked, now| {
            if !streams.carries(stream, session) {
                return Some("the stream is not secure any more");
            }
            // A view that was never taken says nothing; one that differs says that the host
            // moved or disabled what is locked.
            now.is_some_and(|now| now != locked)
                .then_some("the host changed the configuration of the function")
        });
    }

    /// Lets happen to functions and link what the fault plan asked for.
    fn suffer(&mut self, physical: Physical) {
        let mut note = |event: Event| self.observer.event(&event);
        match physical {
            Physical::FunctionReset(rid) => self.functions.reset_function(rid, &mut note),
            Physical::LinkDown => self.streams.forget(None),
            _ => {}
        }
        self.settle();
    }

    /// Lets happen at once what a message of the same exchange may show.
    fn suffer_at_once(&mut self) {
        for physical in self.faults.take_local() {
            self.suffer(physical);
        }
    }

    fn tell_faults(&mut self) {
        for event in self.faults.take_events() {
            self.observer.event(&event);
        }
    }
}

impl Application for Device {
    fn vendor_request(
        &mut self,
        session: SessionId,
        payload: &[u8],
        room: usize,
    ) -> Result<Vec<u8>, Refusal> {
        let (protocol, message) = payload.split_first().ok_or(Refusal::InvalidRequest)?;
        let Self {
            streams,
            functions,
            observer,
            confidant,
            faults,
            ..
        } = self;
        let mut note = |event: Event| tell(observer.as_mut(), faults, &event);
        let answer = match *protocol {
            protocol::IDE_KM => {
                // One that will be refused was a secret, too.
                if let Some(key) = ide_km::carried_key(message) {
                    confidant.tell("link-key", key);
                }
                let rid = functions.first().and_then(|function| function.rid);
                streams.handle(session, rid, message, &mut note)?
            }
            protocol::TDISP => {
                let answer = functions.handle(message, session, streams, room - 1, &mut note)?;
                if let Some(nonce) = tdisp::carried_nonce(&answer) {
                    confidant.tell("start-nonce", nonce);
                }
                answer
            }
            _ => return Err(Refusal::InvalidRequest),
        };
        Ok([&[*protocol][..], &answer].concat())
    }

    fn receive(&mut self, session: Option<SessionId>, request: &mut Vec<u8>) -> Option<Vec<u8>> {
        let received = self.faults.receive(session, request);
        self.suffer_at_once();
        match received {
            Received::Read => None,
            Received::Answered(answer) => {
                self.unread = answer.is_empty();
                Some(answer)
            }
        }
    }

    fn send(&mut self, session: Option<SessionId>, answer: &mut Vec<u8>) {
        self.faults.send(session, answer);
        self.suffer_at_once();
    }

    fn session_ended(&mut self, session: SessionId) {
        self.streams.forget(Some(session));
        let mut note = |event: Event| self.observer.event(&event);
        self.functions.check(&mut note, &|locked_by, _, _, _| {
            (locked_by == session).then_some("the session that locked ended")
        });
    }

    fn note(&mut self, event: Event) {
        tell(self.observer.as_mut(), &mut self.faults, &event);
    }
}
