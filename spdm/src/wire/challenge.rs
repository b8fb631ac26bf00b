// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CHALLENGE and CHALLENGE_AUTH.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Code, Header, Layout, Malformed, Nonce, Reader, RequesterContext, Version, Writer};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Slot of the chain that answers for the responder.
    pub slot: u8,
    /// Which measurements the answer shall sum up.
    pub summary: SummaryType,
    /// The requester's nonce.
    pub nonce: Nonce,
    /// What the answer repeats, from version 1.3 on.
    pub context: RequesterContext,
}

impl Challenge {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(version, Code::CHALLENGE)?;
        let challenge = Self {
            slot: header.param1,
            summary: SummaryType(header.param2),
            nonce: *reader.read()?,
            context: read_context(&mut reader, version)?,
        };
        Ok((challenge, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`].
    pub fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            version,
            Code::CHALLENGE,
            self.slot,
            self.summary.0,
        ))?;
        writer.write(&self.nonce)?;
        write_context(&mut writer, version, &self.context)?;
        Ok(writer.written())
    }
}

/// Reads the field that version 1.3 brought; before, it counts as zeros.
pub(super) fn read_context(
    reader: &mut Reader<'_>,
    version: Version,
) -> Result<RequesterContext, Malformed> {
    if version.is_at_least(Version::V1_3) {
        reader.read().copied()
    } else {
        Ok(RequesterContext::default())
    }
}

/// Writes the field that version 1.3 brought.
pub(super) fn write_context(
    writer: &mut Writer<'_>,
    version: Version,
    context: &RequesterContext,
) -> Result<(), Malformed> {
    if version.is_at_least(Version::V1_3) {
        writer.write(context)
    } else {
        Ok(())
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
    pub chain_digest: &'a [u8],
    /// The responder's nonce.
    pub nonce: &'a Nonce,
    /// Digest over measurements, if the challenge asked for it.
    pub summary: Option<&'a [u8]>,
    /// Opaque data.
    pub opaque: &'a [u8],
    /// What the challenge said.
    pub context: RequesterContext,
    /// Signature over M1.
    pub signature: &'a [u8],
}

impl<'a> ChallengeAuth<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(
        message: &'a [u8],
        layout: &Layout,
        with_summary: bool,
    ) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(layout.version, Code::CHALLENGE_AUTH)?;
        let view = Self {
            attributes: header.param1,
            slot_mask: header.param2,
            chain_digest: reader.take(layout.hash)?,
            nonce: reader.read()?,
            summary: if with_summary {
                Some(reader.take(layout.hash)?)
            } else {
                None
            },
            opaque: reader.opaque()?,
            context: read_context(&mut reader, layout.version)?,
            signature: reader.take(layout.signature)?,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length. Sign what precedes the signature, then write
    /// again.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, layout: &Layout, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            layout.version,
            Code::CHALLENGE_AUTH,
            self.attributes,
            self.slot_mask,
        ))?;
        writer.sized(self.chain_digest, layout.hash)?;
        writer.write(self.nonce)?;
        if let Some(summary) = self.summary {
            writer.sized(summary, layout.hash)?;
        }
        writer.opaque(self.opaque)?;
        write_context(&mut writer, layout.version, &self.context)?;
        writer.sized(self.signature, layout.signature)?;
        Ok(writer.written())
    }
}
