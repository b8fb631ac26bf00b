// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! GET_VERSION to CERTIFICATE.

use super::chain::ChainReader;
use super::{Answer, Event, Next, Object, Outcome, Progress, Request, Shared, State};
use crate::crypto::{PUBLIC_KEY_LENGTH, Transcript, equal};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::certificate::{Certificate, Digests, GetCertificate};
use crate::wire::negotiation::{
    Algorithm, Algorithms, Capabilities, CapabilitiesMessage, GET_VERSION, NegotiateAlgorithms,
    VersionResponse,
};
use crate::wire::{Code, Digest, Header, Version};

/// Capabilities without which there is no session worth having.
const REQUIRED: Capabilities = Capabilities::CERT
    .union(Capabilities::CHAL)
    .union(Capabilities::MEAS_SIGNED)
    .union(Capabilities::ENCRYPT)
    .union(Capabilities::MAC)
    .union(Capabilities::KEY_EX);
/// Cryptography that takes longer than 2^24 microseconds, 16 seconds, is a hang.
const MAX_CT_EXPONENT: u8 = 24;
/// The specification's own minimum.
const MIN_TRANSFER_SIZE: u32 = 42;

/// GET_VERSION.
pub(super) struct ReadVersion;

impl ReadVersion {
    pub(super) fn request(&self, shared: &mut Shared, out: &mut [u8]) -> Result<Request, Error> {
        let len = GET_VERSION.emit(out)?;
        shared.branch(&Transcript::new(), out, len);
        Ok(Request::in_vca(len))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (versions, used) = VersionResponse::parse(answer.bytes)?;
        let message = answer.exact(used)?;
        if !versions.offers(Version::V1_2) {
            return Err(PeerMisbehaved::NoCommonVersion.into());
        }
        let vca = shared.joined(message);
        let next = State::Capabilities(ReadCapabilities { vca });
        Ok(Progress::to(next).caching(Object::Vca, 0, used))
    }
}

/// GET_CAPABILITIES.
pub(super) struct ReadCapabilities {
    vca: Transcript,
}

impl ReadCapabilities {
    pub(super) fn request(&self, shared: &mut Shared, out: &mut [u8]) -> Result<Request, Error> {
        let message = CapabilitiesMessage::new(
            Code::GET_CAPABILITIES,
            0,
            shared.config.capabilities,
            shared.config.data_transfer_size,
        );
        let len = message.emit(out)?;
        shared.branch(&self.vca, out, len);
        Ok(Request::in_vca(len))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (device, used) = CapabilitiesMessage::parse(answer.bytes, Code::CAPABILITIES)?;
        let message = answer.exact(used)?;
        // Both bits for measurements are a reserved value.
        if !device.flags().contains(REQUIRED)
            || device.flags().contains(Capabilities::MEAS_UNSIGNED)
        {
            return Err(PeerMisbehaved::MissingCapability.into());
        }
        if device.ct_exponent > MAX_CT_EXPONENT {
            return Err(PeerMisbehaved::CryptoTime.into());
        }
        let size = device.data_transfer_size.get();
        if size < MIN_TRANSFER_SIZE || size > device.max_message_size.get() {
            return Err(PeerMisbehaved::TransferSize.into());
        }
        shared.common = device.flags().intersection(shared.config.capabilities);
        shared.request_limit = size;
        shared.crypto_time_ms = (1_u32 << device.ct_exponent.min(MAX_CT_EXPONENT)).div_ceil(1000);
        let vca = shared.joined(message);
        let next = State::Algorithms(ReadAlgorithms { vca });
        Ok(Progress::to(next).caching(Object::Vca, 0, used))
    }
}

/// NEGOTIATE_ALGORITHMS.
pub(super) struct ReadAlgorithms {
    vca: Transcript,
}

impl ReadAlgorithms {
    pub(super) fn request(&self, shared: &mut Shared, out: &mut [u8]) -> Result<Request, Error> {
        let len = NegotiateAlgorithms::SUITE.emit(out)?;
        shared.branch(&self.vca, out, len);
        Ok(Request::in_vca(len))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (selected, used) = Algorithms::parse(answer.bytes)?;
        let message = answer.exact(used)?;
        if !is_our_suite(&selected) {
            return Err(PeerMisbehaved::WrongAlgorithm.into());
        }
        let vca = shared.joined(message);
        shared.digests.vca = Some(vca.digest());
        let next = State::Digests(ReadDigests { vca });
        Ok(Progress::to(next).caching(Object::Vca, 0, used))
    }
}

/// Returns whether exactly the one suite that was offered is selected.
fn is_our_suite(selected: &Algorithms<'_>) -> bool {
    let ours = Algorithms::SUITE;
    let fixed = selected.measurement_specification == ours.measurement_specification
        && selected.other_parameters == ours.other_parameters
        && selected.measurement_hash == ours.measurement_hash
        && selected.asym == ours.asym
        && selected.hash == ours.hash;
    let once = |wanted: &Algorithm| {
        let mut found = selected
            .algorithms
            .iter()
            .filter(|algorithm| *algorithm == wanted);
        found.next().is_some() && found.next().is_none()
    };
    // A kind that was not offered may be listed, with nothing selected.
    let no_other = selected
        .algorithms
        .iter()
        .all(|algorithm| algorithm.mask.get() == 0 || Algorithm::SUITE.contains(algorithm));
    fixed && no_other && Algorithm::SUITE.iter().all(once)
}

/// GET_DIGESTS.
pub(super) struct ReadDigests {
    vca: Transcript,
}

impl ReadDigests {
    pub(super) fn request(&self, shared: &mut Shared, out: &mut [u8]) -> Result<Request, Error> {
        let len = Header::new(Code::GET_DIGESTS, 0, 0).emit(out)?;
        shared.branch(&self.vca, out, len);
        Ok(Request::quick(len))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (digests, used) = Digests::parse(answer.bytes)?;
        let message = answer.exact(used)?;
        let promised = *digests.slot0().ok_or(PeerMisbehaved::NoChain)?;
        Ok(Progress::to(State::Certificate(ReadCertificate {
            vca: self.vca.clone(),
            m1: shared.joined(message),
            chain: ChainReader::new(),
            promised,
        })))
    }
}

/// GET_CERTIFICATE, as often as it takes.
pub(super) struct ReadCertificate {
    vca: Transcript,
    /// M1 of the challenge to come: VCA, then every message about digests and certificates.
    m1: Transcript,
    chain: ChainReader,
    /// What DIGESTS said.
    promised: Digest,
}

impl ReadCertificate {
    /// Returns offset and length to ask for.
    fn wanted(&self, shared: &Shared) -> (u16, u16) {
        let room = usize::try_from(shared.config.data_transfer_size)
            .unwrap_or(usize::MAX)
            .saturating_sub(Certificate::PORTION_OFFSET);
        let room = u16::try_from(room).unwrap_or(u16::MAX);
        let (offset, rest) = self.chain.next();
        (offset, rest.unwrap_or(room).min(room))
    }

    pub(super) fn request(&self, shared: &mut Shared, out: &mut [u8]) -> Result<Request, Error> {
        let (offset, length) = self.wanted(shared);
        let len = GetCertificate::new(0, offset, length).emit(out)?;
        shared.branch(&self.m1, out, len);
        Ok(Request::quick(len))
    }

    pub(super) fn answer<K>(
        &mut self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (portion, used) = Certificate::parse(answer.bytes)?;
        let message = answer.exact(used)?;
        let (_, asked) = self.wanted(shared);
        let whole = self.chain.take(&portion, asked)?;
        self.m1 = shared.joined(message);
        let progress = match whole {
            None => {
                let event = Event::Portion;
                Progress {
                    event,
                    next: Next::Stay,
                    cache: None,
                    outcome: None,
                }
            }
            Some((digest, leaf)) => {
                if !equal(&digest, &self.promised) {
                    return Err(PeerMisbehaved::ChainDigest.into());
                }
                shared.digests.certificate = Some(digest);
                let (vca, m1) = (self.vca.clone(), self.m1.clone());
                Progress::to(State::Discovered(Discovered { vca, m1, leaf }))
                    .done(Outcome::Discovered)
            }
        };
        let offset = Certificate::PORTION_OFFSET;
        Ok(progress.caching(Object::Certificate, offset, portion.portion.len()))
    }
}

/// The device is known; nothing is to be answered.
pub(super) struct Discovered {
    pub(super) vca: Transcript,
    /// M1 up to the challenge.
    pub(super) m1: Transcript,
    /// The point in the leaf certificate.
    pub(super) leaf: [u8; PUBLIC_KEY_LENGTH],
}
