// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! DIGESTS, certificates and the chain they carry.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Code, Header, Layout, Malformed, Reader, Version, Writer, length16};

/// Number of certificate slots.
pub const SLOTS: u8 = 8;

/// DIGESTS, of a responder that has not agreed to several keys in use.
#[derive(Clone, Copy, Debug)]
pub struct Digests<'a> {
    /// Bit n: there is a slot n. Version 1.3 brought it; before, nothing is meant by it.
    pub supported_mask: u8,
    /// Bit n: slot n holds a chain.
    pub slot_mask: u8,
    /// One digest for each bit set in the mask, in the order of slots.
    pub digests: &'a [u8],
}

impl<'a> Digests<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], layout: &Layout) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(layout.version, Code::DIGESTS)?;
        let slot_mask = header.param2;
        let view = Self {
            supported_mask: header.param1,
            slot_mask,
            digests: reader.take(Self::length(slot_mask, layout)?)?,
        };
        Ok((view, reader.used()))
    }

    /// Returns the bytes of the digests that a mask announces.
    fn length(slot_mask: u8, layout: &Layout) -> Result<usize, Malformed> {
        let count = usize::try_from(slot_mask.count_ones()).map_err(|_| Malformed::Length)?;
        count.checked_mul(layout.hash).ok_or(Malformed::Length)
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`], or [`Malformed::Length`] if mask and digests do not agree.
    pub fn emit(&self, layout: &Layout, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            layout.version,
            Code::DIGESTS,
            self.supported_mask,
            self.slot_mask,
        ))?;
        writer.sized(self.digests, Self::length(self.slot_mask, layout)?)?;
        Ok(writer.written())
    }

    /// Returns the digest of a slot, if that holds a chain.
    #[must_use]
    pub fn of_slot(&self, slot: u8, layout: &Layout) -> Option<&'a [u8]> {
        let bit = 1_u8.checked_shl(slot.into())?;
        if self.slot_mask & bit == 0 {
            return None;
        }
        let below = usize::try_from((self.slot_mask & bit.wrapping_sub(1)).count_ones()).ok()?;
        let start = below.checked_mul(layout.hash)?;
        let end = start.checked_add(layout.hash)?;
        self.digests.get(start..end)
    }
}

/// GET_CERTIFICATE.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct GetCertificate {
    header: Header,
    /// First byte of the chain that is asked for.
    pub offset: U16,
    /// Most bytes that are asked for.
    pub length: U16,
}

impl GetCertificate {
    /// Makes a request for `length` bytes of the chain in `slot`.
    #[must_use]
    pub fn new(version: Version, slot: u8, offset: u16, length: u16) -> Self {
        Self {
            header: Header::new(version, Code::GET_CERTIFICATE, slot, 0),
            offset: offset.into(),
            length: length.into(),
        }
    }

    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = *reader.read::<Self>()?;
        fixed.header.expect(version, Code::GET_CERTIFICATE)?;
        Ok((fixed, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(self)?;
        Ok(writer.written())
    }

    /// Returns the slot.
    #[must_use]
    pub const fn slot(&self) -> u8 {
        self.header.param1 & 0xf
    }
}

/// CERTIFICATE.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// The slot.
    pub slot: u8,
    /// What kind of chain it is. Version 1.3 brought it; before, nothing is meant by it.
    pub model: u8,
    /// Bytes of the chain, from the offset that was asked for.
    pub portion: &'a [u8],
    /// Bytes of the chain that follow.
    pub remainder: u16,
}

impl<'a> Certificate<'a> {
    /// Bytes before the portion.
    pub const PORTION_OFFSET: usize = 8;

    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(version, Code::CERTIFICATE)?;
        let [length, remainder] = reader.read::<[U16; 2]>()?;
        let portion = reader.take(usize::from(length.get()))?;
        Ok((
            Self {
                slot: header.param1 & 0xf,
                model: header.param2,
                portion,
                remainder: remainder.get(),
            },
            reader.used(),
        ))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            version,
            Code::CERTIFICATE,
            self.slot,
            self.model,
        ))?;
        writer.write(&[length16(self.portion.len())?, self.remainder.into()])?;
        writer.put(self.portion)?;
        Ok(writer.written())
    }
}

/// The first bytes of a chain. The digest of the root certificate follows, which need not be in the
/// chain, then the certificates in DER, from the root's side to the leaf.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ChainHeader {
    /// Bytes of the whole chain, this header included.
    pub length: U16,
    /// Upper half of the length from version 1.4 on, reserved before.
    pub upper: U16,
}

impl ChainHeader {
    /// Bytes of the header.
    pub const LENGTH: usize = size_of::<Self>();

    /// Makes the header for a chain of `certificates` bytes of DER, and a digest of `hash` bytes.
    ///
    /// # Errors
    /// [`Malformed::Length`] if that is more than a chain can have.
    pub fn new(certificates: usize, hash: usize) -> Result<Self, Malformed> {
        let length = certificates
            .checked_add(Self::LENGTH)
            .and_then(|length| length.checked_add(hash))
            .ok_or(Malformed::Length)?;
        Ok(Self {
            length: length16(length)?,
            upper: U16::ZERO,
        })
    }
}
