// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The exchanges of a device interface: what each step asks, and what its answer means.

use tsm_platform::{Entropy, Rid};
use tsm_spdm::wire::pci_sig::tdisp::{Body, InterfaceId, LockRequest, Message, VERSION_1_0};
use zeroize::Zeroizing;

use super::super::policy::{self, REPORTING_OFFSET};
use super::super::report::Assembly;
use super::super::tdisp::{self, InterfaceState, Request, State, Step, Verdict};
use super::Vdev;

/// Bytes of the report that are asked for at a time: what fits beside the headers of a message.
const PORTION: u16 = 2048;

/// Reports that the device answered what it must not, or another state than it should be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misbehaved;

/// First wait for a busy device, in microseconds; each further one is twice as long, so that all of
/// [`tdisp::MOST_RETRIES`] take about a quarter of a second.
const BUSY_DELAY_US: u32 = 1000;

/// What the answer to a step means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    /// On to the next step.
    Next,
    /// The same step again.
    Again,
    /// The same step again, after a while.
    Later,
    /// The exchange is over.
    Over,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// Send this TDISP message.
    Send,
    /// Fetch measurements.
    Measure,
    /// The exchange is complete.
    Complete,
}

impl Vdev {
    fn steps(&self) -> &'static [Step] {
        let row = self
            .request
            .and_then(|request| tdisp::find(self.state, request));
        row.map_or(&[], |row| row.steps)
    }

    /// Returns the present step.
    fn present(&self) -> Option<Step> {
        self.steps().get(self.step).copied()
    }

    /// Returns what the present step needs.
    pub(super) fn now(&self) -> Now {
        match self.present() {
            Some(Step::Measure) => Now::Measure,
            Some(_) => Now::Send,
            None => Now::Complete,
        }
    }

    /// Writes the request of the present step and returns its length.
    pub(super) fn compose(&self, out: &mut [u8]) -> Result<usize, Misbehaved> {
        let body = match self.present().ok_or(Misbehaved)? {
            Step::Version => Body::GetVersion,
            Step::Capabilities => Body::GetCapabilities(0),
            Step::Expect(_) | Step::ExpectUnlessFailed(_) | Step::UnlessUnlocked => Body::GetState,
            Step::Lock => {
                let (flags, stream) = (self.lock_flags, self.stream_id);
                Body::Lock(LockRequest::new(flags, stream, REPORTING_OFFSET))
            }
            Step::Start => Body::Start(*self.start_nonce),
            Step::Stop => Body::Stop,
            Step::Report => Body::GetReport {
                offset: u16::try_from(self.assembly.next_offset()).map_err(|_| Misbehaved)?,
                length: PORTION,
            },
            Step::Measure => return Err(Misbehaved),
        };
        let message = Message::new(interface(self.rid), body);
        message.emit(out).map_err(|_| Misbehaved)
    }

    /// Takes the device's answer to the present step and moves on. Returns the part of `payload` to
    /// keep for the guest, as offset and length, and whether it begins the report.
    pub(super) fn take_answer(
        &mut self,
        payload: &[u8],
    ) -> Result<Option<(usize, usize, bool)>, Misbehaved> {
        let message = Message::parse(payload).map_err(|_| Misbehaved)?;
        if message.version != VERSION_1_0 || message.interface != interface(self.rid) {
            return Err(Misbehaved);
        }
        let keep = match message.body {
            Body::Report { portion, .. } => {
                let offset = payload.len().checked_sub(portion.len()).ok_or(Misbehaved)?;
                Some((offset, portion.len(), self.assembly.next_offset() == 0))
            }
            _ => None,
        };
        let step = self.present().ok_or(Misbehaved)?;
        let judged = self.judge(step, &message.body)?;
        match judged {
            Judged::Next => self.step = self.step.saturating_add(1),
            Judged::Again => {}
            Judged::Later => {
                self.retries = self.retries.saturating_add(1);
                return Ok(keep);
            }
            Judged::Over => self.step = self.steps().len(),
        }
        self.retries = 0;
        Ok(keep)
    }

    /// Returns how long the host has to wait before it sends the present step, in microseconds.
    pub(super) fn delay_us(&self) -> u32 {
        let doublings = u32::from(self.retries).checked_sub(1);
        let factor = doublings.map_or(0, |times| 1_u32.checked_shl(times).unwrap_or(0));
        BUSY_DELAY_US.saturating_mul(factor)
    }

    /// Ends the exchange for good without a charge against the device.
    fn decline(&mut self) -> Misbehaved {
        self.declined = true;
        Misbehaved
    }

    fn judge(&mut self, step: Step, body: &Body<'_>) -> Result<Judged, Misbehaved> {
        match (step, body) {
            (_, Body::Error { code, .. }) => {
                match tdisp::judge_refusal(step, *code, self.retries) {
                    Verdict::Retry => Ok(Judged::Later),
                    Verdict::GoOn => Ok(Judged::Next),
                    Verdict::Decline => Err(self.decline()),
                    Verdict::CutOff => Err(Misbehaved),
                }
            }
            (Step::Version, Body::Version(versions)) => {
                if versions.contains(&VERSION_1_0) {
                    Ok(Judged::Next)
                } else {
                    Err(self.decline())
                }
            }
            (Step::Capabilities, Body::Capabilities(capabilities)) => {
                let flags = policy::lock_flags(capabilities, self.cache_line);
                self.lock_flags = flags.ok_or_else(|| self.decline())?;
                Ok(Judged::Next)
            }
            (Step::Expect(expected) | Step::ExpectUnlessFailed(expected), Body::State(state))
                if state == &expected =>
            {
                Ok(Judged::Next)
            }
            (Step::ExpectUnlessFailed(_), Body::State(InterfaceState::Error)) => Ok(Judged::Next),
            (Step::UnlessUnlocked, Body::State(InterfaceState::ConfigUnlocked)) => Ok(Judged::Over),
            (Step::UnlessUnlocked, Body::State(_)) => Ok(Judged::Next),
            (Step::Lock, Body::Locked(nonce)) => {
                self.start_nonce = Zeroizing::new(*nonce);
                Ok(Judged::Next)
            }
            (Step::Start, Body::Started) | (Step::Stop, Body::Stopped) => Ok(Judged::Next),
            (Step::Report, Body::Report { portion, .. }) if portion.len() > PORTION.into() => {
                Err(Misbehaved)
            }
            (Step::Report, Body::Report { portion, remainder }) => {
                let taken = self.assembly.take(&mut self.report, portion, *remainder);
                let last = taken.map_err(|_| Misbehaved)?;
                Ok(if last { Judged::Next } else { Judged::Again })
            }
            // Another answer, or another state than the one that is believed: never adopted.
            _ => Err(Misbehaved),
        }
    }

    /// Begins the exchange for `request`, which the table allows in the present state.
    pub(super) fn begin(&mut self, request: Request) {
        self.request = Some(request);
        self.step = 0;
        self.first = true;
        self.retries = 0;
        self.declined = false;
        self.comm = super::Comm::Pending;
        match request {
            Request::Lock => self.forget_lock(),
            // It must not start any more, whatever becomes of this.
            Request::Unlock => self.forget_start_nonce(),
            Request::Report => self.assembly = Assembly::new(),
            _ => {}
        }
    }

    /// Takes in that measurements were fetched.
    pub(super) fn measured(&mut self, digest: &[u8; 48]) {
        self.measurements = *digest;
        self.step = self.step.saturating_add(1);
    }

    /// Moves to the state that the completed exchange leads to.
    ///
    /// An interface that was cut off meanwhile stays so: the table has no row for what was asked.
    pub(super) fn complete<E: Entropy>(&mut self, entropy: &E) -> Result<(), Misbehaved> {
        self.comm = super::Comm::Idle;
        let Some(request) = self.request.take() else {
            return Ok(());
        };
        let Some(row) = tdisp::find(self.state, request) else {
            return Ok(());
        };
        match request {
            Request::Lock => self.nonces.lock = nonce(entropy)?,
            Request::Measure => self.nonces.measurements = nonce(entropy)?,
            Request::Report => self.nonces.report = nonce(entropy)?,
            // A nonce starts an interface once.
            Request::Start => self.forget_start_nonce(),
            Request::Unlock => self.forget_lock(),
            Request::Open => {}
        }
        self.state = row.to;
        Ok(())
    }

    /// Ends an exchange that the device has declined. Returns whether it has.
    pub(super) fn take_declined(&mut self) -> bool {
        core::mem::take(&mut self.declined)
    }

    /// Ends the exchange without the device. Only unlocking can: access is gone already.
    pub(super) fn complete_unheard(&mut self) -> bool {
        if self.request != Some(Request::Unlock) {
            return false;
        }
        self.request = None;
        self.comm = super::Comm::Idle;
        self.forget_lock();
        self.state = State::Unlocked;
        true
    }
}

fn interface(rid: Rid) -> InterfaceId {
    InterfaceId::new(rid.0)
}

/// Makes a nonce that is not zero.
fn nonce<E: Entropy>(entropy: &E) -> Result<u64, Misbehaved> {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes).map_err(|_| Misbehaved)?;
    let nonce = u64::from_le_bytes(bytes);
    if nonce == 0 {
        Err(Misbehaved)
    } else {
        Ok(nonce)
    }
}
