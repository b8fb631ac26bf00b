// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's certificate chain, signed with any of the algorithms that a device may have.
//!
//! Validity dates are not checked: a guest has no clock that the host does not set.

use sha2::{Digest as _, Sha256};

use crate::agreed::Hash;
use crate::der::{Malformed, Reader, tag};
use crate::key::{Algorithm, DeviceKey};
use crate::{Digest, sha384};

/// Most certificates in a chain.
pub const MAX_CERTIFICATES: usize = 8;

/// Why a chain is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes are not a chain of certificates, or use what is not understood.
    Malformed,
    /// The chain does not start at the policy's root.
    Root,
    /// A certificate names another issuer than the one before it.
    Issuer,
    /// An issuer may not sign certificates, or the device's key may not sign at all.
    Usage,
    /// A signature is wrong.
    Signature,
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

/// Bits of the key usage extension's first byte.
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;

/// What counts of one certificate.
struct Certificate<'a> {
    to_be_signed: &'a [u8],
    algorithm: Algorithm,
    signature: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    key: DeviceKey<'a>,
    is_authority: bool,
    /// Certification authorities that may follow, if limited.
    path_length: Option<usize>,
    usage: Option<u8>,
}

impl<'a> Certificate<'a> {
    fn parse(whole: &'a [u8]) -> Result<Self, Malformed> {
        let mut outer = Reader::new(whole);
        let mut parts = outer.sequence()?;
        outer.end()?;
        let to_be_signed = parts.expect(tag::SEQUENCE)?;
        let algorithm = Algorithm::read(parts.sequence()?)?;
        let signature = parts.expect(tag::BIT_STRING)?.bits()?;
        parts.end()?;

        let mut fields = Reader::new(to_be_signed.content);
        // Version 3, the only one with extensions.
        if fields.expect(tag::VERSION)?.content != [tag::INTEGER, 1, 2] {
            return Err(Malformed);
        }
        fields.expect(tag::INTEGER)?;
        // RFC 5280, 4.1.1.2: what is signed names the same algorithm.
        if Algorithm::read(fields.sequence()?)? != algorithm {
            return Err(Malformed);
        }
        let issuer = fields.expect(tag::SEQUENCE)?.whole;
        fields.expect(tag::SEQUENCE)?;
        let subject = fields.expect(tag::SEQUENCE)?.whole;
        let key = DeviceKey::read(fields.sequence()?)?;
        let mut this = Self {
            to_be_signed: to_be_signed.whole,
            algorithm,
            signature,
            issuer,
            subject,
            key,
            is_authority: false,
            path_length: None,
            usage: None,
        };
        if let Some(extensions) = fields.optional(tag::EXTENSIONS)? {
            let mut list = Reader::new(extensions.content);
            this.extensions(list.sequence()?)?;
            list.end()?;
        }
        fields.end()?;
        Ok(this)
    }

    fn extensions(&mut self, mut list: Reader<'a>) -> Result<(), Malformed> {
        while !list.is_empty() {
            let mut extension = list.sequence()?;
            let id = extension.expect(tag::OBJECT_ID)?.content;
            let critical = extension.optional(tag::BOOLEAN)?;
            let value = extension.expect(tag::OCTET_STRING)?.content;
            extension.end()?;
            match id {
                BASIC_CONSTRAINTS => self.constraints(value)?,
                KEY_USAGE => {
                    let mut bits = Reader::new(value);
                    let [_unused, first, ..] = bits.expect(tag::BIT_STRING)?.content else {
                        return Err(Malformed);
                    };
                    self.usage = Some(*first);
                }
                // What the chain is for follows from the root, which the owner chose for this.
                EXTENDED_KEY_USAGE => {}
                // RFC 5280, 4.2: what is critical and not understood refuses the certificate.
                _ if critical.is_some_and(|flag| flag.content != [0]) => return Err(Malformed),
                _ => {}
            }
        }
        Ok(())
    }

    fn constraints(&mut self, value: &'a [u8]) -> Result<(), Malformed> {
        let mut constraints = Reader::new(value).sequence()?;
        let authority = constraints.optional(tag::BOOLEAN)?;
        self.is_authority = authority.is_some_and(|flag| flag.content == [0xff]);
        if let Some(limit) = constraints.optional(tag::INTEGER)? {
            let mut length = [0];
            limit.unsigned(&mut length)?;
            self.path_length = Some(usize::from(length[0]));
        }
        constraints.end()
    }

    /// Returns whether the certificate may sign another one that `authorities` more authorities
    /// follow.
    fn may_issue(&self, authorities: usize) -> bool {
        self.is_authority
            && self.usage.is_none_or(|usage| usage & KEY_CERT_SIGN != 0)
            && self.path_length.is_none_or(|limit| authorities <= limit)
    }

    fn is_signed_by(&self, key: &DeviceKey<'_>) -> bool {
        key.signed(self.algorithm, self.to_be_signed, self.signature)
    }
}

/// Checks the SPDM certificate chain structure `chain` (DSP0274, 10.6.1: length, digest of the
/// root with the agreed `hash`, certificates from the root down) against the SHA-384 digest of the
/// root that the owner wants, and returns the device's key.
///
/// # Errors
/// See [`Error`].
pub fn verify_chain<'a>(
    chain: &'a [u8],
    root: &Digest,
    hash: Hash,
) -> Result<DeviceKey<'a>, Error> {
    let (head, rest) = chain.split_first_chunk::<4>().ok_or(Error::Malformed)?;
    let [low, high, 0, 0] = *head else {
        return Err(Error::Malformed);
    };
    if usize::from(u16::from_le_bytes([low, high])) != chain.len() {
        return Err(Error::Malformed);
    }
    let digest_size = match hash {
        Hash::Sha256 => 32,
        Hash::Sha384 => 48,
    };
    let (stated_root, certificates) = rest.split_at_checked(digest_size).ok_or(Error::Malformed)?;
    let mut values = Reader::new(certificates);
    let first = values.expect(tag::SEQUENCE)?.whole;
    let states_first = match hash {
        Hash::Sha256 => stated_root == Sha256::digest(first).as_slice(),
        Hash::Sha384 => stated_root == sha384(first),
    };
    if !states_first || sha384(first) != *root {
        return Err(Error::Root);
    }
    let mut issuer = Certificate::parse(first)?;
    if issuer.issuer != issuer.subject {
        return Err(Error::Issuer);
    }
    if !issuer.is_signed_by(&issuer.key) {
        return Err(Error::Signature);
    }
    let below = Reader::new(certificates);
    let below = count(below)?.checked_sub(1).ok_or(Error::Malformed)?;
    for after in (0..below).rev() {
        let certificate = Certificate::parse(values.expect(tag::SEQUENCE)?.whole)?;
        // Of the certificates after this one, the last is the device's own.
        if !issuer.may_issue(after) {
            return Err(Error::Usage);
        }
        if certificate.issuer != issuer.subject {
            return Err(Error::Issuer);
        }
        if !certificate.is_signed_by(&issuer.key) {
            return Err(Error::Signature);
        }
        issuer = certificate;
    }
    // A chain of one certificate, or one that ends with an authority, names no device.
    if issuer.is_authority
        || issuer
            .usage
            .is_some_and(|usage| usage & DIGITAL_SIGNATURE == 0)
    {
        return Err(Error::Usage);
    }
    Ok(issuer.key)
}

fn count(mut values: Reader<'_>) -> Result<usize, Malformed> {
    let mut count = 0_usize;
    while !values.is_empty() {
        values.expect(tag::SEQUENCE)?;
        count = count.checked_add(1).ok_or(Malformed)?;
        if count > MAX_CERTIFICATES {
            return Err(Malformed);
        }
    }
    Ok(count)
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
pub(crate) mod tests;
