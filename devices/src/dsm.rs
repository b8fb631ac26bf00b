// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device security manager: joins SPDM, IDE and TDISP.

use std::time::Instant;

use crate::crypto::NoEntropy;
use crate::doe;
use crate::event::{Event, Observer, SessionId};
use crate::function::{FunctionSource, FunctionView, Layout};
use crate::ide_km::{StreamView, Streams};
use crate::link::{LinkKeys, NoRootPort};
use crate::spdm::{Application, Refusal, Responder, Settings};
use crate::tdisp::{Interface, Surroundings, TdiState};
use crate::{Identity, Measurements};

/// First byte of a PCI-SIG vendor-defined payload.
mod protocol {
    pub(super) const IDE_KM: u8 = 0;
    pub(super) const TDISP: u8 = 1;
}

/// What a [`Dsm`] is made of.
pub struct Config {
    /// Certificates and key.
    pub identity: Identity,
    /// Measurements to report.
    pub measurements: Measurements,
    /// Seconds between heartbeats that a requester owes; 0 for none.
    pub heartbeat_period: u8,
    /// The fixed parts of the function.
    pub layout: Layout,
    /// Where bus number and BARs are learnt from.
    pub function: Box<dyn FunctionSource>,
    /// The other end of the link.
    pub link: Box<dyn LinkKeys>,
    /// Who hears of events.
    pub observer: Box<dyn Observer>,
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
            heartbeat_period: 0xf0,
            layout: Layout::QEMU_NVME,
            function: Box::new(function),
            link: Box::new(NoRootPort),
            observer: Box::new(|_: &Event| {}),
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
    /// State of the interface.
    pub interface: TdiState,
}

/// A device security manager. Objects in, objects out; no time passes but in [`Dsm::tick`].
pub struct Dsm {
    responder: Responder,
    device: Device,
}

/// What hangs on SPDM sessions.
struct Device {
    streams: Streams,
    interface: Interface,
    function: Box<dyn FunctionSource>,
    link: Box<dyn LinkKeys>,
    observer: Box<dyn Observer>,
}

impl Dsm {
    /// Makes a device as after power-on.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            responder: Responder::new(Settings {
                identity: config.identity,
                measurements: config.measurements,
                heartbeat_period: config.heartbeat_period,
            }),
            device: Device {
                streams: Streams::default(),
                interface: Interface::new(config.layout),
                function: config.function,
                link: config.link,
                observer: config.observer,
            },
        }
    }

    /// Answers a whole data object, header included. `None` for an object that has no answer.
    pub fn handle_doe(&mut self, object: &[u8]) -> Option<Vec<u8>> {
        self.tick(Instant::now());
        let answer = match doe::decode(object) {
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
        };
        self.device.settle();
        answer
    }

    /// Looks at the machine, the link and the time. To be called often.
    pub fn tick(&mut self, now: Instant) {
        if self.device.function.take_reset() {
            self.reset();
            self.note(Event::MachineReset);
        }
        self.responder.tick(now, &mut self.device);
        self.device.settle();
    }

    /// Goes back to the state after power-on: sessions, keys and locks are gone.
    pub fn reset(&mut self) {
        self.responder.reset(&mut self.device);
        self.device.streams.forget(None);
        self.device.settle();
        self.device.interface.reset();
    }

    /// Tells the observer.
    pub(crate) fn note(&mut self, event: Event) {
        self.device.observer.event(&event);
    }

    /// Returns the state of the device.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            sessions: self.responder.sessions().collect(),
            streams: self.device.streams.views().collect(),
            interface: self.device.interface.state(),
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
            interface,
            function,
            link,
            observer,
        } = self;
        let mut note = |event: Event| observer.event(&event);
        streams.exercise(link.as_mut(), &mut note);
        let view = function.view();
        interface.check(&mut note, |session, stream, locked| {
            if !streams.carries(stream, session) {
                return Some("the stream is not secure any more");
            }
            // A view that was never taken says nothing; one that differs says that the host
            // moved or disabled what is locked.
            view.is_some_and(|view| view != *locked)
                .then_some("the host changed the configuration of the function")
        });
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
        let function = self.function.view();
        let mut note = |event: Event| self.observer.event(&event);
        let answer = match *protocol {
            protocol::IDE_KM => {
                let rid = function.and_then(|function| function.rid);
                self.streams.handle(session, rid, message, &mut note)?
            }
            protocol::TDISP => {
                let around = Surroundings {
                    session,
                    function,
                    streams: &self.streams,
                    room: room - 1,
                };
                self.interface.handle(message, &around, &mut note)?
            }
            _ => return Err(Refusal::InvalidRequest),
        };
        Ok([&[*protocol][..], &answer].concat())
    }

    fn session_ended(&mut self, session: SessionId) {
        self.streams.forget(Some(session));
        let mut note = |event: Event| self.observer.event(&event);
        self.interface.check(&mut note, |locked_by, _, _| {
            (locked_by == session).then_some("the session that locked ended")
        });
    }

    fn note(&mut self, event: Event) {
        self.observer.event(&event);
    }
}
