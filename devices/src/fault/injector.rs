// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Finds the faults that are due and lets them happen.

use std::collections::VecDeque;
use std::time::Duration;

use super::message::{Known, Message};
use super::{At, Fault, FaultPlan, Occasion, View, What, alter};
use crate::doe;
use crate::event::{Event, SessionId};

/// How often a fault was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultCount {
    /// The word for what happens.
    pub what: &'static str,
    /// How often what the fault waits for came by.
    pub seen: u32,
    /// How often the fault happened. One that changes nothing did not.
    pub fired: u32,
}

struct Row {
    fault: Fault,
    seen: u32,
    fired: u32,
}

/// What happens to the device rather than to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Physical {
    /// A session is forgotten; all of them for `None`.
    LoseSession(Option<SessionId>),
    /// Conventional reset.
    Reset,
    /// Function-level reset.
    FunctionReset(Option<u16>),
    /// All streams fail.
    LinkDown,
    /// The device is gone.
    Remove,
    /// The device does not answer any more.
    Hang,
}

impl Physical {
    /// Returns whether sessions survive it.
    fn is_local(&self) -> bool {
        matches!(self, Self::FunctionReset(_) | Self::LinkDown)
    }
}

/// What becomes of a request.
pub(crate) enum Received {
    /// The device reads it.
    Read,
    /// The device does not read it; this is the answer.
    Answered(Vec<u8>),
}

/// The fault plan at work.
#[derive(Default)]
pub(crate) struct Injector {
    rows: Vec<Row>,
    /// The request under way.
    request: Option<(Known, Option<SessionId>)>,
    /// Wire changes that the answer under way gets.
    on_wire: Vec<(usize, What)>,
    /// What happened to the device and is not done yet.
    physical: Vec<Physical>,
    delay: Duration,
    /// Answers that are late, and messages that nobody asked for.
    queue: VecDeque<Vec<u8>>,
    /// Last answer of each kind, plain, in order of time.
    answers: Vec<(Known, Vec<u8>)>,
    /// Last data object that left.
    object: Option<Vec<u8>>,
    /// A request whose answer was not ready, and its token.
    deferred: Option<(u8, Vec<u8>)>,
    token: u8,
    /// What fired since the observer was told.
    events: Vec<Event>,
}

impl Injector {
    pub(crate) fn new(plan: FaultPlan) -> Self {
        let mut injector = Self::default();
        injector.load(plan);
        injector
    }

    /// Takes another plan. All counts begin anew.
    pub(crate) fn load(&mut self, plan: FaultPlan) {
        let row = |fault| Row {
            fault,
            seen: 0,
            fired: 0,
        };
        self.rows = plan.faults.into_iter().map(row).collect();
        self.queue.clear();
        self.deferred = None;
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = FaultCount> {
        self.rows.iter().map(|row| FaultCount {
            what: row.fault.what.name(),
            seen: row.seen,
            fired: row.fired,
        })
    }

    /// Forgets what belongs to a connection. The plan and its counts stay.
    pub(crate) fn disconnect(&mut self) {
        self.queue.clear();
        self.answers.clear();
        self.object = None;
        self.deferred = None;
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(crate) fn take_physical(&mut self) -> Vec<Physical> {
        std::mem::take(&mut self.physical)
    }

    /// Takes what happens to functions and link.
    pub(crate) fn take_local(&mut self) -> Vec<Physical> {
        let local = |physical: &mut Physical| physical.is_local();
        self.physical.extract_if(.., local).collect()
    }

    pub(crate) fn take_delay(&mut self) -> Duration {
        std::mem::take(&mut self.delay)
    }

    /// Counts an occurrence for all rows that `is` holds for; returns those that are due.
    fn due(&mut self, is: impl Fn(&Fault) -> bool) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, row) in self.rows.iter_mut().enumerate() {
            if is(&row.fault) {
                row.seen = row.seen.saturating_add(1);
                if row.fault.occurrence.holds(row.seen) {
                    due.push(index);
                }
            }
        }
        due
    }

    fn fired(&mut self, row: usize) {
        let Row { fault, fired, .. } = &mut self.rows[row];
        *fired = fired.saturating_add(1);
        self.events.push(Event::Fault {
            row: row + 1,
            what: fault.what.name(),
        });
    }

    /// Lets a fault happen that waits for nothing. Returns whether it can.
    pub(crate) fn inflict(&mut self, what: &What) -> bool {
        if let What::Unsolicited(message) = what {
            self.queue.push_back(doe::encode(doe::kind::SPDM, message));
        } else if let Some(physical) = physical(what, None, None) {
            self.physical.push(physical);
        } else {
            return false;
        }
        true
    }

    /// Takes note of an event.
    pub(crate) fn occasion(&mut self, occasion: Occasion) {
        for row in self.due(|fault| fault.at == At::Event(occasion)) {
            let what = self.rows[row].fault.what.clone();
            if self.inflict(&what) {
                self.fired(row);
            }
        }
    }

    /// Changes a data object before the device opens it.
    pub(crate) fn object(&mut self, object: &mut Vec<u8>) {
        self.request = None;
        self.on_wire.clear();
        let known = match doe::decode(object) {
            Ok((doe::kind::SPDM, message)) => Known::of(message, false),
            // What is inside is not known before it is opened.
            Ok((doe::kind::SECURED_SPDM, _)) => Known::of(&[0, 0x80, 0], true),
            _ => None,
        };
        let Some(known) = known else { return };
        let due = self.due(|fault| {
            matches!(fault.at, At::Message(name)
                if name.is_request() && on_wire(&fault.what) && known.offset_of(name).is_some())
        });
        for row in due {
            let what = self.rows[row].fault.what.clone();
            if change_object(object, &what) {
                self.fired(row);
            }
        }
    }

    /// Changes a request before the device reads it.
    pub(crate) fn receive(
        &mut self,
        session: Option<SessionId>,
        request: &mut Vec<u8>,
    ) -> Received {
        const RESPOND_IF_READY: u8 = 0xff;
        let mut received = self.receive_once(session, request);
        // The request that was deferred is looked at again: it may still not be ready.
        if let (Received::Read, [_, RESPOND_IF_READY, code, token, ..]) = (&received, &request[..])
        {
            let is = |(at, deferred): &mut (u8, Vec<u8>)| *at == *token && deferred[1] == *code;
            if let Some((_, deferred)) = self.deferred.take_if(is) {
                *request = deferred;
                received = self.receive_once(session, request);
            }
        }
        received
    }

    fn receive_once(&mut self, session: Option<SessionId>, request: &mut Vec<u8>) -> Received {
        let Some(known) = Known::of(request, session.is_some()) else {
            return Received::Read;
        };
        self.request = Some((known, session));
        let due = self.due(|fault| {
            matches!(fault.at, At::Message(name)
                if name.is_request()
                    && !on_wire(&fault.what)
                    && about(fault, &known)
                    && known.offset_of(name).is_some())
        });
        let mut received = Received::Read;
        for row in due {
            let fault = &self.rows[row].fault;
            let (at, what) = (fault.at, fault.what.clone());
            let answer = match &what {
                // Not answering is a matter of the data object.
                What::Drop => {
                    self.on_wire.push((row, What::Drop));
                    received = Received::Answered(Vec::new());
                    continue;
                }
                What::Delay(delay) => {
                    self.delay += *delay;
                    None
                }
                What::NotReady { exponent } => Some(self.defer(request, *exponent)),
                What::Unsolicited(message) => {
                    self.queue.push_back(doe::encode(doe::kind::SPDM, message));
                    None
                }
                what => match physical(what, session, known.interface) {
                    Some(physical) => {
                        self.physical.push(physical);
                        // Who lost its memory or is gone does not read the request either.
                        (!physical.is_local()).then(Vec::new)
                    }
                    None => match refuse(request, &known, what) {
                        None if !change(request, &known, at, what) => continue,
                        answer => answer,
                    },
                },
            };
            if let Some(answer) = answer {
                received = Received::Answered(answer);
            }
            self.fired(row);
        }
        received
    }

    fn defer(&mut self, request: &[u8], exponent: u8) -> Vec<u8> {
        self.token = self.token.wrapping_add(1);
        self.deferred = Some((self.token, request.to_vec()));
        vec![
            request[0], 0x7f, 0x42, 0, exponent, request[1], self.token, 2,
        ]
    }

    /// Changes an answer before it is sealed.
    pub(crate) fn send(&mut self, session: Option<SessionId>, answer: &mut Vec<u8>) {
        let Some(known) = Known::of(answer, session.is_some()) else {
            return;
        };
        let original = answer.clone();
        let request = self.request.map(|(request, _)| request);
        let due = self.due(|fault| {
            let here = match fault.at {
                At::Message(name) => !name.is_request() && known.offset_of(name).is_some(),
                At::AnswerTo(name) => {
                    request.is_some_and(|request| request.offset_of(name).is_some())
                }
                At::Event(_) => false,
            };
            here && (about(fault, &known) || request.is_some_and(|known| about(fault, &known)))
        });
        for row in due {
            let fault = &self.rows[row].fault;
            let (at, what) = (fault.at, fault.what.clone());
            let happened = match &what {
                what if on_wire(what) || matches!(what, What::Drop | What::Stale) => {
                    self.on_wire.push((row, what.clone()));
                    continue;
                }
                What::Delay(delay) => {
                    self.delay += *delay;
                    true
                }
                What::Unsolicited(message) => {
                    self.queue.push_back(doe::encode(doe::kind::SPDM, message));
                    true
                }
                What::Replay(_) => replace(answer, self.answers.last()),
                What::Swap(with) => {
                    let other = self
                        .answers
                        .iter()
                        .rfind(|(known, _)| known.offset_of(*with).is_some());
                    replace(answer, other)
                }
                what => match physical(what, session, known.interface) {
                    Some(physical) => {
                        self.physical.push(physical);
                        true
                    }
                    None => match refuse(answer, &known, what) {
                        Some(refusal) => {
                            *answer = refusal;
                            true
                        }
                        None => change(answer, &known, at, what),
                    },
                },
            };
            if happened {
                self.fired(row);
            }
        }
        self.answers
            .retain(|(other, _)| other.name() != known.name());
        self.answers.push((known, original));
    }

    /// Changes the data object that leaves.
    pub(crate) fn leave(&mut self, object: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let mut object = object;
        let previous = self.object.take();
        self.object.clone_from(&object);
        for (row, what) in std::mem::take(&mut self.on_wire) {
            let happened = match &what {
                What::Drop => object.take().is_some(),
                What::Replay(_) => {
                    object.clone_from(&previous);
                    previous.is_some()
                }
                What::Stale => {
                    self.queue.extend(previous.clone());
                    previous.is_some()
                }
                what => object
                    .as_mut()
                    .is_some_and(|object| change_object(object, what)),
            };
            if happened {
                self.fired(row);
            }
        }
        if !self.queue.is_empty() {
            self.queue.extend(object);
            object = self.queue.pop_front();
        }
        object
    }
}

/// Returns whether the fault is about what the message is about.
fn about(fault: &Fault, known: &Known) -> bool {
    fault.interface.is_none() || fault.interface == known.interface
}

/// Returns whether the fault changes the data object rather than the message.
fn on_wire(what: &What) -> bool {
    matches!(
        what,
        What::Flip { view, .. }
        | What::Set { view, .. }
        | What::Truncate { view, .. }
        | What::Extend { view, .. }
        | What::Replay(view) if *view == View::Wire
    )
}

fn physical(what: &What, session: Option<SessionId>, interface: Option<u16>) -> Option<Physical> {
    Some(match what {
        What::LoseSession => Physical::LoseSession(session),
        What::Reset => Physical::Reset,
        What::FunctionReset(function) => Physical::FunctionReset(function.or(interface)),
        What::LinkDown => Physical::LinkDown,
        What::Remove => Physical::Remove,
        What::Hang => Physical::Hang,
        _ => return None,
    })
}

fn replace(answer: &mut Vec<u8>, other: Option<&(Known, Vec<u8>)>) -> bool {
    let Some((_, other)) = other else {
        return false;
    };
    answer.clone_from(other);
    true
}

/// Returns the refusal that comes in place of the answer to `message`, or in place of `message`.
fn refuse(message: &[u8], known: &Known, what: &What) -> Option<Vec<u8>> {
    match what {
        What::Error {
            code,
            data,
            extended,
        } => Some([&[message[0], 0x7f, *code, *data][..], extended].concat()),
        What::TdispError { code, data } => alter::tdisp_error(message, known, *code, *data),
        What::KeyStatus(status) => alter::key_status(message, known, *status),
        _ => None,
    }
}

/// Changes a plain message; tells whether it did.
fn change(message: &mut Vec<u8>, known: &Known, at: At, what: &What) -> bool {
    // What is named as an answer is counted from the most precise name of the answer.
    let (base, name) = match at {
        At::Message(name) => (known.offset_of(name).unwrap_or(0), name),
        _ => (known.inner.map_or(0, |(_, start)| start), known.name()),
    };
    match what {
        What::Flip { offset, bit, .. } => alter::flip(message, base, *offset, *bit),
        What::Set { offset, bytes, .. } => alter::set(message, base, *offset, bytes),
        What::Truncate { keep, .. } => alter::truncate(message, base, *keep),
        What::Extend { by, .. } => {
            message.resize(message.len() + by, 0);
            true
        }
        What::WrongSignature => alter::wrong_signature(message, known),
        What::WrongNonce => alter::wrong_nonce(message, known),
        What::WrongState(state) if known.name() == Message::DEVICE_INTERFACE_STATE => {
            alter::set(message, base, 16, &[*state])
        }
        What::LyingLength(by) => alter::lying_length(message, base, name, *by),
        _ => false,
    }
}

/// Changes a data object; tells whether it did.
fn change_object(object: &mut Vec<u8>, what: &What) -> bool {
    match what {
        What::Flip { offset, bit, .. } => alter::flip(object, 0, *offset, *bit),
        What::Set { offset, bytes, .. } => alter::set(object, 0, *offset, bytes),
        What::Truncate { keep, .. } => alter::truncate(object, 0, *keep),
        What::Extend { by, .. } => {
            object.resize(object.len() + by, 0);
            true
        }
        _ => false,
    }
}
