// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The certificate chain, looked at while it passes.
//!
//! The chain is not kept: it is hashed, counted, and its DER walked with a few words of state, only
//! to find the public key of the last certificate. Nothing else in it is judged here; the guest's
//! verifier does that, with the whole chain, whose digest it gets.

use sha2::{Digest as _, Sha384};
use zerocopy::FromBytes;

use super::workspace::RawKey;
use crate::crypto::{
    Digest, Fingerprint, MAX_POINT_LENGTH, PublicKey, SignatureAlgorithm, Suite, Transcript,
};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::Version;
use crate::wire::certificate::{Certificate, ChainHeader};

/// Portions after which a device is not taken to be serious about sending a chain.
const MAX_PORTIONS: u16 = 256;

/// DER of the `SubjectPublicKeyInfo` of each kind of key, up to the key: SEQUENCE,
/// AlgorithmIdentifier, BIT STRING with no unused bits.
const KEY_INFOS: [(SignatureAlgorithm, &[u8]); 4] = [
    // id-ecPublicKey, secp256r1.
    (
        SignatureAlgorithm::EcdsaP256,
        &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ],
    ),
    // id-ecPublicKey, secp384r1.
    (
        SignatureAlgorithm::EcdsaP384,
        &[
            0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
        ],
    ),
    // id-ml-dsa-65.
    (
        SignatureAlgorithm::MlDsa65,
        &[
            0x30, 0x82, 0x07, 0xb2, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03,
            0x04, 0x03, 0x12, 0x03, 0x82, 0x07, 0xa1, 0x00,
        ],
    ),
    // id-ml-dsa-87.
    (
        SignatureAlgorithm::MlDsa87,
        &[
            0x30, 0x82, 0x0a, 0x32, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03,
            0x04, 0x03, 0x13, 0x03, 0x82, 0x0a, 0x21, 0x00,
        ],
    ),
];

const TAG_INTEGER: u8 = 0x02;
const TAG_SEQUENCE: u8 = 0x30;
const TAG_EXPLICIT_VERSION: u8 = 0xa0;

/// Takes the portions of a chain in order.
pub(super) struct ChainReader {
    hash: Transcript,
    evidence: Sha384,
    walker: Walker,
    /// Bytes of the chain, once the first portion told.
    total: Option<u16>,
    received: u16,
    portions: u16,
}

/// What is known of a chain that was read to its end.
pub(super) struct Whole {
    /// Digest of the chain, of the hash that was agreed on.
    pub(super) digest: Digest,
    /// SHA-384 digest of the chain.
    pub(super) fingerprint: Fingerprint,
    /// The key in its last certificate.
    pub(super) leaf: PublicKey,
}

impl ChainReader {
    pub(super) fn new(suite: &Suite) -> Self {
        Self {
            hash: Transcript::new(suite.hash),
            evidence: Sha384::new(),
            walker: Walker::new(suite),
            total: None,
            received: 0,
            portions: 0,
        }
    }

    /// Returns the next offset to ask for, and the number of bytes that follow it if that is known.
    pub(super) fn next(&self) -> (u16, Option<u16>) {
        (
            self.received,
            self.total.map(|total| total.saturating_sub(self.received)),
        )
    }

    /// Takes the answer to a request for at most `asked` bytes. Says what the chain is once it is
    /// whole. A key that is too long to be held is written to `raw`.
    pub(super) fn take(
        &mut self,
        answer: &Certificate<'_>,
        asked: u16,
        raw: &mut RawKey,
    ) -> Result<Option<Whole>, Error> {
        let length =
            u16::try_from(answer.portion.len()).map_err(|_| PeerMisbehaved::WrongPortion)?;
        if length == 0 || length > asked {
            return Err(PeerMisbehaved::WrongPortion.into());
        }
        self.portions = self.portions.saturating_add(1);
        if self.portions > MAX_PORTIONS {
            return Err(PeerMisbehaved::TooManyPortions.into());
        }
        // The sum of 16-bit fields need not fit 16 bits (DMTF/libspdm#1816).
        let received = self
            .received
            .checked_add(length)
            .ok_or(PeerMisbehaved::ChainLength)?;
        let total = received
            .checked_add(answer.remainder)
            .ok_or(PeerMisbehaved::ChainLength)?;
        if self.total.is_some_and(|known| known != total) {
            return Err(PeerMisbehaved::ChainLength.into());
        }
        self.total = Some(total);
        self.received = received;
        self.hash.update(answer.portion);
        self.evidence.update(answer.portion);
        self.walker.take(answer.portion, total, raw)?;
        if answer.remainder != 0 {
            return Ok(None);
        }
        Ok(Some(Whole {
            digest: self.hash.digest(),
            fingerprint: self.evidence.clone().finalize().into(),
            leaf: self.walker.finish(raw)?,
        }))
    }
}

/// Where in a certificate the walk is. Each name says what comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The header of the chain.
    ChainHeader,
    /// `Certificate`.
    Certificate,
    /// `TBSCertificate`.
    TbsCertificate,
    /// `version`, which may be left out, or `serialNumber`.
    Version,
    /// `serialNumber`.
    SerialNumber,
    /// That many elements before `subjectPublicKeyInfo`: `signature`, `issuer`, `validity`,
    /// `subject`.
    Elements(u8),
    /// `subjectPublicKeyInfo`.
    KeyInfo,
    /// What of that stands before the key.
    Algorithm,
    /// The key.
    Key(SignatureAlgorithm),
    /// The rest of the certificate.
    Rest,
}

/// What is known of a certificate's key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Not there yet, or of no kind that is known.
    None,
    /// For other signatures than were agreed on.
    Other,
    /// A point.
    Short(PublicKey),
    /// A key that was written where keys go that are not held.
    Long(SignatureAlgorithm),
}

/// Walks a chain byte by byte.
struct Walker {
    version: Version,
    /// What the leaf's key is to sign with.
    signature: SignatureAlgorithm,
    /// Bytes of the digest behind the header of the chain.
    root_digest: usize,
    place: Place,
    /// Bytes to pass over before looking again.
    skip: usize,
    /// Bytes of the certificate that have not been passed, while inside one.
    left: usize,
    /// The element header, algorithm or point that is being gathered.
    held: [u8; MAX_POINT_LENGTH],
    held_length: usize,
    /// The key in the certificate that was walked last.
    key: Key,
}

const FORMAT: Error = Error::Peer(PeerMisbehaved::ChainFormat);

impl Walker {
    const fn new(suite: &Suite) -> Self {
        Self {
            version: suite.version,
            signature: suite.signature,
            root_digest: suite.hash.length(),
            place: Place::ChainHeader,
            skip: 0,
            left: 0,
            held: [0; MAX_POINT_LENGTH],
            held_length: 0,
            key: Key::None,
        }
    }

    fn take(&mut self, bytes: &[u8], total: u16, raw: &mut RawKey) -> Result<(), Error> {
        for byte in bytes {
            self.step(*byte, total, raw)?;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8, total: u16, raw: &mut RawKey) -> Result<(), Error> {
        if !matches!(self.place, Place::ChainHeader | Place::Certificate) {
            self.left = self.left.checked_sub(1).ok_or(FORMAT)?;
        }
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(1);
        } else {
            let into: &mut [u8] = match self.place {
                Place::Key(algorithm) if algorithm.has_long_keys() => raw,
                _ => &mut self.held,
            };
            *into.get_mut(self.held_length).ok_or(FORMAT)? = byte;
            self.held_length = self.held_length.saturating_add(1);
            self.look(total)?;
        }
        // A certificate ends where its length says, with nothing half done.
        if self.left == 0 && self.place == Place::Rest && self.skip == 0 {
            self.go(Place::Certificate, 0);
        }
        Ok(())
    }

    /// Acts on what is held, if it is enough.
    fn look(&mut self, total: u16) -> Result<(), Error> {
        match self.place {
            Place::ChainHeader => {
                if let Ok(header) = ChainHeader::read_from_bytes(self.held()) {
                    // Nothing that portions can carry has an upper half.
                    let upper = self.version.is_at_least(Version::V1_4) && header.upper != 0;
                    if header.length != total || upper {
                        return Err(PeerMisbehaved::ChainLength.into());
                    }
                    self.go(Place::Certificate, self.root_digest);
                }
            }
            Place::Algorithm => {
                let held = self.held();
                match KEY_INFOS.iter().find(|(_, info)| info.starts_with(held)) {
                    Some((algorithm, info)) if info.len() == held.len() => {
                        if *algorithm == self.signature {
                            self.go(Place::Key(*algorithm), 0);
                        } else {
                            self.key = Key::Other;
                            self.go(Place::Rest, self.left);
                        }
                    }
                    Some(_) => {}
                    // A key of another kind, as a certificate authority may have.
                    None => self.go(Place::Rest, self.left),
                }
            }
            Place::Key(algorithm) => {
                if self.held_length == algorithm.key_length() {
                    self.key = if algorithm.has_long_keys() {
                        Key::Long(algorithm)
                    } else {
                        PublicKey::new(self.held()).map_or(Key::None, Key::Short)
                    };
                    self.go(Place::Rest, self.left);
                }
            }
            place => {
                if let Some((tag, length)) = self.element()? {
                    self.enter(place, tag, length)?;
                }
            }
        }
        Ok(())
    }

    /// Acts on the header of an element at `place`.
    fn enter(&mut self, place: Place, tag: u8, length: usize) -> Result<(), Error> {
        if place != Place::Certificate && length > self.left {
            return Err(FORMAT);
        }
        match (place, tag) {
            (Place::Certificate, TAG_SEQUENCE) => {
                self.left = length;
                self.key = Key::None;
                self.go(Place::TbsCertificate, 0);
            }
            (Place::TbsCertificate, TAG_SEQUENCE) => self.go(Place::Version, 0),
            (Place::Version, TAG_EXPLICIT_VERSION) => self.go(Place::SerialNumber, length),
            (Place::Version | Place::SerialNumber, TAG_INTEGER) => {
                self.go(Place::Elements(4), length);
            }
            (Place::Elements(count), TAG_SEQUENCE) => match count.checked_sub(1) {
                Some(0) | None => self.go(Place::KeyInfo, length),
                Some(count) => self.go(Place::Elements(count), length),
            },
            // The header stays held: it is part of what says which algorithm it is.
            (Place::KeyInfo, TAG_SEQUENCE) => self.place = Place::Algorithm,
            _ => return Err(FORMAT),
        }
        Ok(())
    }

    fn go(&mut self, place: Place, skip: usize) {
        self.place = place;
        self.skip = skip;
        self.held_length = 0;
    }

    fn held(&self) -> &[u8] {
        self.held.get(..self.held_length).unwrap_or_default()
    }

    /// Returns tag and length of the element whose header is held, if the header is whole.
    fn element(&self) -> Result<Option<(u8, usize)>, Error> {
        match *self.held() {
            [tag, short @ 0..=0x7f] => Ok(Some((tag, usize::from(short)))),
            [tag, 0x81, long @ 0x80..=0xff] => Ok(Some((tag, usize::from(long)))),
            [tag, 0x82, high @ 1..=0xff, low] => {
                Ok(Some((tag, usize::from(u16::from_be_bytes([high, low])))))
            }
            [] | [_] | [_, 0x81 | 0x82] | [_, 0x82, 1..=0xff] => Ok(None),
            // No length form that DER forbids, and none that a chain cannot hold.
            _ => Err(FORMAT),
        }
    }

    /// Returns the key of the last certificate, if the chain ends where that does.
    fn finish(&self, raw: &RawKey) -> Result<PublicKey, Error> {
        if self.place != Place::Certificate || self.skip != 0 || self.held_length != 0 {
            return Err(FORMAT);
        }
        match self.key {
            Key::None => Err(FORMAT),
            Key::Other => Err(PeerMisbehaved::WrongKey.into()),
            Key::Short(key) => Ok(key),
            Key::Long(algorithm) => {
                let raw = raw.get(..algorithm.key_length()).ok_or(Error::Internal)?;
                PublicKey::from_raw(algorithm, raw).map_err(|_| FORMAT)
            }
        }
    }
}
