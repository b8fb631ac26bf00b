// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Looks at every call: counts it, keeps the host's journal, checks that nobody has access that the
//! states do not allow, and ends somebody at one of the calls.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tsm_abi::rmi::Call;
use tsm_abi::rsi;
use tsm_platform::StreamId;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Host, Owner, STATUS_SUCCESS, Stream, Vcpu};

use super::flow::{READY, STARTED};
use super::rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Rig};

const LOCKED: u64 = 2;

/// What a host unwinds with that stops where it is.
pub struct Stopped;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The host stops before it makes it.
    StopBefore,
    /// The host stops after it, and does not see the reply.
    StopAfter,
    /// The device does not answer any more; the host goes on.
    Silence,
    /// The device is pulled; the host goes on.
    Pull,
}

/// Addresses that a host writes down before it makes the call that makes an object of them, and the
/// one number that only a reply tells. It is all that the next host knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Journal {
    pub realm: u64,
    pub rec: u64,
    pub port: u64,
    pub device: u64,
    pub interface: u64,
    /// Of the stream.
    pub handle: u64,
}

impl Journal {
    fn note(&mut self, call: &Call) {
        match *call {
            Call::RealmCreate { rd, .. } => self.realm = rd,
            Call::RecCreate { rec, .. } => self.rec = rec,
            Call::PdevCreate { pdev, .. } if self.port == 0 => self.port = pdev,
            Call::PdevCreate { pdev, .. } => self.device = pdev,
            Call::VdevCreate { vdev, .. } => self.interface = vdev,
            _ => {}
        }
    }
}

#[derive(Default)]
struct Seen {
    calls: usize,
    event: Option<(usize, Event)>,
    is_silent: bool,
    journal: Journal,
    vcpu: Option<Vcpu>,
    asked: Arc<Mutex<Vec<rsi::Call>>>,
    /// How much the guest had asked when the interface started.
    started_at: usize,
    /// Whether the guest's memory of the device was validated under the lock that holds.
    validated: bool,
}

/// A watch over the calls of a host.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    /// Watches the calls of `rig` from now on.
    pub fn over(rig: &Rig) -> Self {
        let watch = Self::default();
        watch.lock().asked = rig.asked.clone();
        let own = watch.clone();
        let watcher = move |host: &Host, call: Call, reply: Option<&[u64; 8]>| match reply {
            None => own.lock().before(host, &call),
            Some(reply) => own.lock().after(host, &call, reply),
        };
        rig.host.set_watcher(Some(Box::new(watcher)));
        watch
    }

    /// Locks what a host that stopped has poisoned.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins at call 0, at one of which something happens.
    pub fn begin(&self, event: Option<(usize, Event)>) {
        let mut seen = self.lock();
        *seen = Seen {
            event,
            asked: seen.asked.clone(),
            ..Seen::default()
        };
    }

    /// Says how the guest that was built translates.
    pub fn meet(&self, vcpu: Option<&Vcpu>) {
        self.lock().vcpu = vcpu.cloned();
    }

    /// Lets nothing happen any more.
    pub fn disarm(&self) {
        self.lock().event = None;
    }

    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    pub fn journal(&self) -> Journal {
        self.lock().journal
    }

    /// Returns whether the device answers nothing.
    pub fn is_silent(&self) -> bool {
        self.lock().is_silent
    }
}

impl Seen {
    fn before(&mut self, host: &Host, call: &Call) {
        self.journal.note(call);
        match self.event {
            Some((at, Event::StopBefore)) if at == self.calls => resume_unwind(Box::new(Stopped)),
            Some((at, event)) if at == self.calls && event != Event::StopAfter => {
                self.is_silent = true;
                if event == Event::Pull {
                    host.fake.remove_function(ENDPOINT);
                }
            }
            _ => {}
        }
        self.calls += 1;
    }

    fn after(&mut self, host: &Host, call: &Call, reply: &[u64; 8]) {
        self.check(host, call, reply);
        if self.event == Some((self.calls - 1, Event::StopAfter)) {
            resume_unwind(Box::new(Stopped));
        }
        if let (Call::PdevStreamConnect { .. }, [STATUS_SUCCESS, handle, ..]) = (call, reply) {
            self.journal.handle = *handle;
        }
    }

    /// Checks P1 to P4 by the published states, which no access may outlive.
    fn check(&mut self, host: &Host, call: &Call, reply: &[u64; 8]) {
        let state = |call: Call| {
            let (function, registers) = call.encode();
            let [status, state, ..] = host.tsm.host_call(&host.fake, function, &registers);
            (status == STATUS_SUCCESS).then_some(state)
        };
        let Journal {
            device: pdev,
            interface: vdev,
            ..
        } = self.journal;
        let device = state(Call::PdevGetState { pdev });
        let interface = state(Call::VdevGetState { vdev });

        if interface != Some(STARTED) {
            let asked = self.asked().len();
            self.started_at = asked;
        }
        let stream = host.fake.stream(StreamId(ENDPOINT.0.into()));
        match stream {
            Stream::Host => assert_eq!(interface, None, "the host's DMA, {call:x?}"),
            Stream::Blocked => {}
            Stream::Guest(_) => {
                assert_eq!(interface, Some(STARTED), "DMA, {call:x?}");
                assert!(self.is_wanted(), "DMA that the guest did not ask for");
            }
        }

        if let (Call::RttDevValidate { .. }, [STATUS_SUCCESS, ..]) = (call, reply) {
            self.validated = true;
        }
        if !matches!(interface, Some(LOCKED | STARTED)) {
            self.validated = false;
        }
        for page in (0..PRIVATE_PAGES).map(|page| page * PAGE) {
            let Some(at) = self.reach(host, DEVICE_IPA + page) else {
                continue;
            };
            assert!(self.validated, "device memory, {interface:?}, {call:x?}");
            assert_eq!(at, ENDPOINT_BAR + page);
            assert_eq!(host.fake.owner(at), Owner::Realm, "{call:x?}");
        }
        if let Some(at) = self.reach(host, DATA_IPA) {
            assert_eq!(host.fake.owner(at), Owner::Realm, "{call:x?}");
        }
        assert_eq!(host.fake.stale_translations(), [0; 0], "{call:x?}");

        if host.fake.keys() != 0 {
            assert_eq!(device, Some(READY), "keys of the link, {call:x?}");
        }
    }

    fn reach(&self, host: &Host, ipa: u64) -> Option<u64> {
        self.vcpu.as_ref()?.translate(&host.fake, ipa)
    }

    /// Returns whether the guest has asked for DMA since the interface started.
    fn is_wanted(&self) -> bool {
        let asked = self.asked();
        let mut since = asked.iter().skip(self.started_at);
        since.any(|call| matches!(call, rsi::Call::VdevDmaEnable { .. }))
    }

    fn asked(&self) -> MutexGuard<'_, Vec<rsi::Call>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
