// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Framing of secured records in PCI DOE (DSP0277): no sequence number on the wire, no padding.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::session::SessionId;
use super::{Malformed, Reader};

/// Bytes of the authentication tag at the end of a record.
pub const TAG_LENGTH: usize = 16;
/// Bytes before the message: the header and the encrypted length of the message.
pub const MESSAGE_OFFSET: usize = RecordHeader::LENGTH + 2;
/// Bytes that a record adds to the message it holds.
pub const OVERHEAD: usize = MESSAGE_OFFSET + TAG_LENGTH;

/// The part of a record that is authenticated and not encrypted.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    session_id: U32,
    length: U16,
}

impl RecordHeader {
    /// Bytes of the header.
    pub const LENGTH: usize = size_of::<Self>();

    /// Makes the header of a record for a message of `message` bytes.
    ///
    /// # Errors
    /// [`Malformed::Length`] if no record can hold it.
    pub fn new(session: SessionId, message: usize) -> Result<Self, Malformed> {
        let length = message
            .checked_add(2 + TAG_LENGTH)
            .ok_or(Malformed::Length)?;
        Ok(Self {
            session_id: session.0.into(),
            length: super::length16(length)?,
        })
    }

    /// Reads the header of a record.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if the record is cut off, [`Malformed::Length`] if it is too short
    /// to hold a message of no bytes.
    pub fn parse(record: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(record);
        let header = *reader.read::<Self>()?;
        if header.body_length() < 2 + TAG_LENGTH {
            return Err(Malformed::Length);
        }
        reader.take(header.body_length())?;
        Ok(header)
    }

    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId(self.session_id.get())
    }

    /// Returns the number of bytes that follow the header: ciphertext and tag.
    #[must_use]
    pub fn body_length(&self) -> usize {
        usize::from(self.length.get())
    }
}
