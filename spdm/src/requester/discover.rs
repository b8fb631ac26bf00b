// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! GET_VERSION to CERTIFICATE.

use super::chain::ChainReader;
use super::offer::MAX_NEGOTIATE;
use super::workspace::{MAX_LARGE_MESSAGE, RawKey};
use super::{Answer, Event, Next, Object, Outcome, Progress, Request, Shared, State};
use crate::crypto::{Digest, Opening, PublicKey, Transcript};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::certificate::{Certificate, Digests, GetCertificate};
use crate::wire::chunk::MIN_TRANSFER_SIZE;
use crate::wire::negotiation::{
    Algorithms, Capabilities, CapabilitiesMessage, GET_VERSION, VersionResponse,
};
use crate::wire::{Code, Header, Malformed};

/// Capabilities without which there is no session worth having.
const REQUIRED: Capabilities = Capabilities::CERT
    .union(Capabilities::CHAL)
    .union(Capabilities::MEAS_SIGNED)
    .union(Capabilities::ENCRYPT)
    .union(Capabilities::MAC)
    .union(Capabilities::KEY_EX);
/// Cryptography that takes longer than 2^24 microseconds, 16 seconds, is a hang.
const MAX_CT_EXPONENT: u8 = 24;

/// Bytes of the largest message that is taken in chunks.
const LARGE_MESSAGE: u32 = 12288;
const _: () = assert!(LARGE_MESSAGE as usize == MAX_LARGE_MESSAGE);

/// Returns `opening` with a request, which `write` writes once more, and the answer to it. The
/// requests of VCA follow from the configuration alone: what is hashed is what was sent.
fn heard(
    opening: &Opening,
    write: impl FnOnce(&mut [u8]) -> Result<usize, Malformed>,
    answer: &[u8],
) -> Result<Opening, Error> {
    let mut request = [0; MAX_NEGOTIATE];
    let len = write(&mut request)?;
    let mut opening = opening.clone();
    opening.update(request.get(..len).ok_or(Error::Internal)?);
    opening.update(answer);
    Ok(opening)
}

/// GET_VERSION.
pub(super) struct ReadVersion;

impl ReadVersion {
    pub(super) fn request(&self, out: &mut [u8]) -> Result<Request, Error> {
        Ok(Request::in_vca(GET_VERSION.emit(out)?))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let (versions, used) = VersionResponse::parse(answer.bytes)?;
        let message = answer.exact(used)?;
        shared.suite.version = shared
            .config
            .offer
            .version(&versions)
            .ok_or(PeerMisbehaved::NoCommonVersion)?;
        let vca = heard(&Opening::new(), |out| GET_VERSION.emit(out), message)?;
        let next = State::Capabilities(ReadCapabilities { vca });
        Ok(Progress::to(next).caching(Object::Vca, 0, used))
    }
}

/// GET_CAPABILITIES.
pub(super) struct ReadCapabilities {
    vca: Opening,
}

impl ReadCapabilities {
    fn message(shared: &Shared) -> CapabilitiesMessage {
        let mut message = CapabilitiesMessage::new(
            shared.suite.version,
            Code::GET_CAPABILITIES,
            0,
            shared.config.capabilities,
            shared.config.data_transfer_size,
        );
        if shared.config.capabilities.contains(Capabilities::CHUNK) {
            message.max_message_size.set(LARGE_MESSAGE);
        }
        message
    }

    pub(super) fn request(&self, shared: &Shared, out: &mut [u8]) -> Result<Request, Error> {
        Ok(Request::in_vca(Self::message(shared).emit(out)?))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let version = shared.suite.version;
        let (device, used) = CapabilitiesMessage::parse(answer.bytes, version, Code::CAPABILITIES)?;
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
        let is_too_small = usize::try_from(size).is_ok_and(|size| size < MIN_TRANSFER_SIZE);
        if is_too_small || size > device.max_message_size.get() {
            return Err(PeerMisbehaved::TransferSize.into());
        }
        shared.common = device.flags().intersection(shared.config.capabilities);
        shared.request_limit = size;
        shared.message_limit = device.max_message_size.get();
        shared.crypto_time_ms = (1_u32 << device.ct_exponent.min(MAX_CT_EXPONENT)).div_ceil(1000);
        let vca = heard(&self.vca, |out| Self::message(shared).emit(out), message)?;
        let next = State::Algorithms(ReadAlgorithms { vca });
        Ok(Progress::to(next).caching(Object::Vca, 0, used))
    }
}

/// NEGOTIATE_ALGORITHMS.
pub(super) struct ReadAlgorithms {
    vca: Opening,
}

impl ReadAlgorithms {
    pub(super) fn request(&self, shared: &Shared, out: &mut [u8]) -> Result<Request, Error> {
        let len = shared.config.offer.emit(shared.suite.version, out)?;
        Ok(Request::in_vca(len))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let version = shared.suite.version;
        let offer = shared.config.offer;
        let (selected, used) = Algorithms::parse(answer.bytes, version)?;
        let message = answer.exact(used)?;
        shared.suite = offer.suite(version, &selected)?;
        let vca = heard(&self.vca, |out| offer.emit(version, out), message)?;
        shared.digests.vca = Some(vca.fingerprint());
        let vca = vca.agreed(shared.suite.hash);
        let next = State::Digests(ReadDigests { vca });
        Ok(Progress::to(next).caching(Object::Vca, 0, used))
    }
}

/// GET_DIGESTS.
pub(super) struct ReadDigests {
    vca: Transcript,
}

impl ReadDigests {
    pub(super) fn request(&self, shared: &mut Shared, out: &mut [u8]) -> Result<Request, Error> {
        let len = Header::new(shared.suite.version, Code::GET_DIGESTS, 0, 0).emit(out)?;
        shared.branch(&self.vca, out, len);
        Ok(Request::quick(len))
    }

    pub(super) fn answer<K>(
        &self,
        shared: &mut Shared,
        answer: Answer<'_>,
    ) -> Result<Progress<K>, Error> {
        let layout = shared.suite.layout();
        let (digests, used) = Digests::parse(answer.bytes, &layout)?;
        let message = answer.exact(used)?;
        let promised = digests
            .of_slot(shared.config.slot, &layout)
            .ok_or(PeerMisbehaved::NoChain)?;
        let promised = Digest::new(shared.suite.hash, promised).ok_or(Error::Internal)?;
        Ok(Progress::to(State::Certificate(ReadCertificate {
            vca: self.vca.clone(),
            m1: shared.joined(message),
            chain: ChainReader::new(&shared.suite),
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
        let (version, slot) = (shared.suite.version, shared.config.slot);
        let len = GetCertificate::new(version, slot, offset, length).emit(out)?;
        shared.branch(&self.m1, out, len);
        Ok(Request::quick(len))
    }

    pub(super) fn answer<K>(
        &mut self,
        shared: &mut Shared,
        answer: Answer<'_>,
        raw: &mut RawKey,
    ) -> Result<Progress<K>, Error> {
        let (portion, used) = Certificate::parse(answer.bytes, shared.suite.version)?;
        let message = answer.exact(used)?;
        if portion.slot != shared.config.slot {
            return Err(PeerMisbehaved::WrongPortion.into());
        }
        let (_, asked) = self.wanted(shared);
        let whole = self.chain.take(&portion, asked, raw)?;
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
            Some(chain) => {
                if chain.digest != self.promised {
                    return Err(PeerMisbehaved::ChainDigest.into());
                }
                shared.digests.certificate = Some(chain.fingerprint);
                let next = State::Discovered(Discovered {
                    vca: self.vca.clone(),
                    m1: self.m1.clone(),
                    chain: chain.digest,
                    leaf: chain.leaf,
                });
                Progress::to(next).done(Outcome::Discovered)
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
    /// Digest of the chain.
    pub(super) chain: Digest,
    /// The key in the leaf certificate.
    pub(super) leaf: PublicKey,
}
