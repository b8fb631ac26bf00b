// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CHALLENGE and CHALLENGE_AUTH.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Code, Digest, Header, Malformed, Nonce, Reader, Signature, Writer, length16};

/// Which measurements a summary covers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct SummaryType(pub u8);

impl SummaryType {
    /// No summary in the response.
    pub const NONE: Self = Self(0);
    /// Those of the trusted computing base.
    pub const TCB: Self = Self(1);
    /// All.
    pub const ALL: Self = Self(0xff);
}

/// CHALLENGE.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Challenge {
    header: Header,
    /// The requester's nonce.
    pub nonce: Nonce,
}

impl Challenge {
    /// Makes a challenge to the chain in `slot`.
    #[must_use]
    pub const fn new(slot: u8, summary: SummaryType, nonce: Nonce) -> Self {
        Self {
            header: Header::new(Code::CHALLENGE, slot, summary.0),
            nonce,
        }
    }

    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8]) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = *reader.read::<Self>()?;
        fixed.header.expect(Code::CHALLENGE)?;
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
        self.header.param1
    }

    /// Returns which measurements the answer shall sum up.
    #[must_use]
    pub const fn summary(&self) -> SummaryType {
        SummaryType(self.header.param2)
    }
}

/// CHALLENGE_AUTH. The signature is the last field: what it covers ends where it begins.
#[derive(Clone, Copy, Debug)]
pub struct ChallengeAuth<'a> {
    /// Slot in bits 3:0; bit 7 asks for basic mutual authentication.
    pub attributes: u8,
    /// Bit n: slot n holds a chain.
    pub slot_mask: u8,
    /// Digest of the chain.
    pub chain_digest: &'a Digest,
    /// The responder's nonce.
    pub nonce: &'a Nonce,
    /// Digest over measurements, if the challenge asked for it.
    pub summary: Option<&'a Digest>,
    /// Opaque data.
    pub opaque: &'a [u8],
    /// Signature over M1.
    pub signature: &'a Signature,
}

impl<'a> ChallengeAuth<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], with_summary: bool) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(Code::CHALLENGE_AUTH)?;
        let view = Self {
            attributes: header.param1,
            slot_mask: header.param2,
            chain_digest: reader.read()?,
            nonce: reader.read()?,
            summary: if with_summary {
                Some(reader.read()?)
            } else {
                None
            },
            opaque: {
                let length = reader.read::<U16>()?.get();
                reader.take(usize::from(length))?
            },
            signature: reader.read()?,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length. Sign what precedes the signature, then write
    /// again.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            Code::CHALLENGE_AUTH,
            self.attributes,
            self.slot_mask,
        ))?;
        writer.write(self.chain_digest)?;
        writer.write(self.nonce)?;
        if let Some(summary) = self.summary {
            writer.write(summary)?;
        }
        writer.write(&length16(self.opaque.len())?)?;
        writer.put(self.opaque)?;
        writer.write(self.signature)?;
        Ok(writer.written())
    }
}
