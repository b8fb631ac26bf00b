// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! DIGESTS, certificates and the chain they carry.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Code, Digest, Header, Malformed, Reader, Writer, length16};

/// Number of certificate slots.
pub const SLOTS: u8 = 8;

/// DIGESTS.
#[derive(Clone, Copy, Debug)]
pub struct Digests<'a> {
    /// Bit n: slot n holds a chain.
    pub slot_mask: u8,
    /// One digest for each bit set in the mask, in the order of slots.
    pub digests: &'a [Digest],
}

impl<'a> Digests<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(Code::DIGESTS)?;
        let slot_mask = header.param2;
        let count = usize::try_from(slot_mask.count_ones()).map_err(|_| Malformed::Length)?;
        let digests = reader.read_list(count)?;
        Ok((Self { slot_mask, digests }, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`], or [`Malformed::Length`] if mask and digests do not agree.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        if usize::try_from(self.slot_mask.count_ones()) != Ok(self.digests.len()) {
            return Err(Malformed::Length);
        }
        let mut writer = Writer::new(out);
        writer.write(&Header::new(Code::DIGESTS, 0, self.slot_mask))?;
        writer.write(self.digests)?;
        Ok(writer.written())
    }

    /// Returns the digest of slot 0, whose bit is the lowest.
    #[must_use]
    pub fn slot0(&self) -> Option<&'a Digest> {
        if self.slot_mask & 1 == 1 {
            self.digests.first()
        } else {
            None
        }
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
    pub fn new(slot: u8, offset: u16, length: u16) -> Self {
        Self {
            header: Header::new(Code::GET_CERTIFICATE, slot, 0),
            offset: offset.into(),
            length: length.into(),
        }
    }

    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8]) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = *reader.read::<Self>()?;
        fixed.header.expect(Code::GET_CERTIFICATE)?;
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
    pub fn parse(message: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(Code::CERTIFICATE)?;
        let [length, remainder] = reader.read::<[U16; 2]>()?;
        let portion = reader.take(usize::from(length.get()))?;
        Ok((
            Self {
                slot: header.param1 & 0xf,
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
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(Code::CERTIFICATE, self.slot, 0))?;
        writer.write(&[length16(self.portion.len())?, self.remainder.into()])?;
        writer.put(self.portion)?;
        Ok(writer.written())
    }
}

/// The first bytes of a chain; the certificates follow in DER, from the root's side to the leaf.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ChainHeader {
    /// Bytes of the whole chain, this header included.
    pub length: U16,
    reserved: U16,
    /// Digest of the root certificate, which need not be in the chain.
    pub root_digest: Digest,
}

impl ChainHeader {
    /// Bytes of the header.
    pub const LENGTH: usize = size_of::<Self>();

    /// Makes the header for a chain of `certificates` bytes of DER.
    ///
    /// # Errors
    /// [`Malformed::Length`] if that is more than a chain can have.
    pub fn new(certificates: usize, root_digest: Digest) -> Result<Self, Malformed> {
        let length = certificates
            .checked_add(Self::LENGTH)
            .ok_or(Malformed::Length)?;
        Ok(Self {
            length: length16(length)?,
            reserved: U16::ZERO,
            root_digest,
        })
    }
}
