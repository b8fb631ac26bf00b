// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The certificate chain, looked at while it passes.
//!
//! The chain is not kept: it is hashed, counted, and its DER walked with a few words of state, only
//! to find the public key of the last certificate. Nothing else in it is judged here; the guest's
//! verifier does that, with the whole chain, whose digest it gets.

use crate::crypto::{PUBLIC_KEY_LENGTH, Transcript};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::Digest;
use crate::wire::certificate::{Certificate, ChainHeader};

/// Portions after which a device is not taken to be serious about sending a chain.
const MAX_PORTIONS: u16 = 256;

/// DER of a `SubjectPublicKeyInfo` for an uncompressed point of P-384, up to the point: SEQUENCE,
/// AlgorithmIdentifier { id-ecPublicKey, secp384r1 }, BIT STRING with no unused bits.
const P384_KEY_INFO: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
const KEY_INFO_LENGTH: usize = P384_KEY_INFO.len() + PUBLIC_KEY_LENGTH;

const TAG_INTEGER: u8 = 0x02;
const TAG_SEQUENCE: u8 = 0x30;
const TAG_EXPLICIT_VERSION: u8 = 0xa0;

/// Takes the portions of a chain in order.
pub(super) struct ChainReader {
    hash: Transcript,
    walker: Walker,
    /// Bytes of the chain, once the first portion told.
    total: Option<u16>,
    received: u16,
    portions: u16,
}

/// Digest of a whole chain, and the point in its leaf certificate.
pub(super) type Whole = (Digest, [u8; PUBLIC_KEY_LENGTH]);

impl ChainReader {
    pub(super) fn new() -> Self {
        Self {
            hash: Transcript::new(),
            walker: Walker::new(),
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
    /// whole.
    pub(super) fn take(
        &mut self,
        answer: &Certificate<'_>,
        asked: u16,
    ) -> Result<Option<Whole>, Error> {
        let length =
            u16::try_from(answer.portion.len()).map_err(|_| PeerMisbehaved::WrongPortion)?;
        if answer.slot != 0 || length == 0 || length > asked {
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
        self.walker.take(answer.portion, total)?;
        if answer.remainder != 0 {
            return Ok(None);
        }
        Ok(Some((self.hash.digest(), self.walker.finish()?)))
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
    /// The point.
    Point,
    /// The rest of the certificate.
    Rest,
}

/// Walks a chain byte by byte.
struct Walker {
    place: Place,
    /// Bytes to pass over before looking again.
    skip: usize,
    /// Bytes of the certificate that have not been passed, while inside one.
    left: usize,
    /// The element header or key that is being gathered.
    held: [u8; KEY_INFO_LENGTH],
    held_length: usize,
    /// The point in the certificate that was walked last.
    point: Option<[u8; PUBLIC_KEY_LENGTH]>,
}

const FORMAT: Error = Error::Peer(PeerMisbehaved::ChainFormat);

impl Walker {
    const fn new() -> Self {
        Self {
            place: Place::ChainHeader,
            skip: 0,
            left: 0,
            held: [0; KEY_INFO_LENGTH],
            held_length: 0,
            point: None,
        }
    }

    fn take(&mut self, bytes: &[u8], total: u16) -> Result<(), Error> {
        for byte in bytes {
            self.step(*byte, total)?;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8, total: u16) -> Result<(), Error> {
        if !matches!(self.place, Place::ChainHeader | Place::Certificate) {
            self.left = self.left.checked_sub(1).ok_or(FORMAT)?;
        }
        if self.skip > 0 {
            self.skip = self.skip.saturating_sub(1);
        } else {
            *self.held.get_mut(self.held_length).ok_or(FORMAT)? = byte;
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
                if let [low, high] = *self.held() {
                    if u16::from_le_bytes([low, high]) != total {
                        return Err(PeerMisbehaved::ChainLength.into());
                    }
                    self.go(Place::Certificate, ChainHeader::LENGTH - 2);
                }
            }
            Place::Point => {
                if self.held_length == KEY_INFO_LENGTH {
                    self.point = self.p384_point();
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
                self.point = None;
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
            // The header stays held: it is part of what a key is compared with.
            (Place::KeyInfo, TAG_SEQUENCE) if length == KEY_INFO_LENGTH - 2 => {
                self.place = Place::Point;
            }
            // A key of another kind, as a certificate authority may have.
            (Place::KeyInfo, TAG_SEQUENCE) => self.go(Place::Rest, self.left),
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

    fn p384_point(&self) -> Option<[u8; PUBLIC_KEY_LENGTH]> {
        let (prefix, point) = self.held.split_last_chunk::<PUBLIC_KEY_LENGTH>()?;
        (*prefix == P384_KEY_INFO).then_some(*point)
    }

    /// Returns the point of the last certificate, if the chain ends where that does.
    fn finish(&self) -> Result<[u8; PUBLIC_KEY_LENGTH], Error> {
        if self.place == Place::Certificate && self.skip == 0 && self.held_length == 0 {
            self.point.ok_or(FORMAT)
        } else {
            Err(FORMAT)
        }
    }
}
