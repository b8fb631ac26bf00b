// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KEY_EXCHANGE and FINISH, and what keeps a session going and ends it.
//!
//! HEARTBEAT, KEY_UPDATE, END_SESSION and their acknowledgments are headers and no more.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::challenge::SummaryType;
use super::{Code, Header, Layout, Malformed, Nonce, Reader, Version, Writer};

/// The number of a session: the requester's half in bits 15:0, the responder's in bits 31:16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub u32);

impl SessionId {
    /// Joins the two halves.
    #[must_use]
    pub fn new(requester: u16, responder: u16) -> Self {
        let ([a, b], [c, d]) = (requester.to_le_bytes(), responder.to_le_bytes());
        Self(u32::from_le_bytes([a, b, c, d]))
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ExchangeFixed {
    header: Header,
    session_id: U16,
    /// Request: session policy. Response: mutual authentication.
    byte6: u8,
    /// Request: reserved. Response: slot for mutual authentication.
    byte7: u8,
    random: Nonce,
}

/// KEY_EXCHANGE.
#[derive(Clone, Copy, Debug)]
pub struct KeyExchange<'a> {
    /// Which measurements the response shall sum up.
    pub summary: SummaryType,
    /// Slot of the chain that answers for the responder.
    pub slot: u8,
    /// The requester's half of the session id.
    pub session_id: u16,
    /// Bit 0: the session outlives an update of the responder's firmware.
    pub policy: u8,
    /// The requester's random data.
    pub random: &'a Nonce,
    /// The requester's exchange value.
    pub exchange: &'a [u8],
    /// Opaque data.
    pub opaque: &'a [u8],
}

impl<'a> KeyExchange<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], layout: &Layout) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = reader.read::<ExchangeFixed>()?;
        fixed.header.expect(layout.version, Code::KEY_EXCHANGE)?;
        let view = Self {
            summary: SummaryType(fixed.header.param1),
            slot: fixed.header.param2,
            session_id: fixed.session_id.get(),
            policy: fixed.byte6,
            random: &fixed.random,
            exchange: reader.take(layout.exchange_request)?,
            opaque: reader.opaque()?,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, layout: &Layout, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            layout.version,
            Code::KEY_EXCHANGE,
            self.summary.0,
            self.slot,
        ))?;
        writer.write(&U16::new(self.session_id))?;
        writer.put(&[self.policy, 0])?;
        writer.write(self.random)?;
        writer.sized(self.exchange, layout.exchange_request)?;
        writer.opaque(self.opaque)?;
        Ok(writer.written())
    }
}

/// KEY_EXCHANGE_RSP.
#[derive(Clone, Copy, Debug)]
pub struct KeyExchangeResponse<'a> {
    /// Seconds between heartbeats; 0 for none.
    pub heartbeat: u8,
    /// The responder's half of the session id.
    pub session_id: u16,
    /// Mutual authentication asked for; 0 for none.
    pub mutual_authentication: u8,
    /// The responder's random data.
    pub random: &'a Nonce,
    /// The responder's exchange value.
    pub exchange: &'a [u8],
    /// Digest over measurements, if asked for.
    pub summary: Option<&'a [u8]>,
    /// Opaque data.
    pub opaque: &'a [u8],
    /// Signature over the transcript.
    pub signature: &'a [u8],
    /// HMAC over the transcript; the last field, present as the handshake is encrypted.
    pub verify_data: &'a [u8],
}

impl<'a> KeyExchangeResponse<'a> {
    /// Returns the bytes after what the signature covers.
    #[must_use]
    pub const fn after_signed(layout: &Layout) -> usize {
        layout.signature.saturating_add(layout.hash)
    }

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
        let fixed = reader.read::<ExchangeFixed>()?;
        fixed
            .header
            .expect(layout.version, Code::KEY_EXCHANGE_RSP)?;
        let view = Self {
            heartbeat: fixed.header.param1,
            session_id: fixed.session_id.get(),
            mutual_authentication: fixed.byte6,
            random: &fixed.random,
            exchange: reader.take(layout.exchange_response)?,
            summary: if with_summary {
                Some(reader.take(layout.hash)?)
            } else {
                None
            },
            opaque: reader.opaque()?,
            signature: reader.take(layout.signature)?,
            verify_data: reader.take(layout.hash)?,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length. Sign what precedes the signature, make the HMAC,
    /// then write again.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, layout: &Layout, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            layout.version,
            Code::KEY_EXCHANGE_RSP,
            self.heartbeat,
            0,
        ))?;
        writer.write(&U16::new(self.session_id))?;
        writer.put(&[self.mutual_authentication, 0])?;
        writer.write(self.random)?;
        writer.sized(self.exchange, layout.exchange_response)?;
        if let Some(summary) = self.summary {
            writer.sized(summary, layout.hash)?;
        }
        writer.opaque(self.opaque)?;
        writer.sized(self.signature, layout.signature)?;
        writer.sized(self.verify_data, layout.hash)?;
        Ok(writer.written())
    }
}

/// FINISH without a signature, as there is no mutual authentication.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// Opaque data, from version 1.4 on.
    pub opaque: &'a [u8],
    /// HMAC over the transcript and what precedes it in the message.
    pub verify_data: &'a [u8],
}

impl<'a> Finish<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`]; [`Malformed::Value`] if it holds a signature.
    pub fn parse(message: &'a [u8], layout: &Layout) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(layout.version, Code::FINISH)?;
        if header.param1 & 1 != 0 {
            return Err(Malformed::Value);
        }
        let view = Self {
            opaque: read_opaque(&mut reader, layout.version)?,
            verify_data: reader.take(layout.hash)?,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length. Make the HMAC over what precedes the verify data,
    /// then write again.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, layout: &Layout, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(layout.version, Code::FINISH, 0, 0))?;
        write_opaque(&mut writer, layout.version, self.opaque)?;
        writer.sized(self.verify_data, layout.hash)?;
        Ok(writer.written())
    }
}

/// FINISH_RSP without verify data, as the handshake is encrypted.
#[derive(Clone, Copy, Debug)]
pub struct FinishResponse<'a> {
    /// Opaque data, from version 1.4 on.
    pub opaque: &'a [u8],
}

impl<'a> FinishResponse<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        reader.read::<Header>()?.expect(version, Code::FINISH_RSP)?;
        let opaque = read_opaque(&mut reader, version)?;
        Ok((Self { opaque }, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(version, Code::FINISH_RSP, 0, 0))?;
        write_opaque(&mut writer, version, self.opaque)?;
        Ok(writer.written())
    }
}

/// Reads the opaque data that version 1.4 brought.
fn read_opaque<'a>(reader: &mut Reader<'a>, version: Version) -> Result<&'a [u8], Malformed> {
    if version.is_at_least(Version::V1_4) {
        reader.opaque()
    } else {
        Ok(&[])
    }
}

/// Writes the opaque data that version 1.4 brought.
fn write_opaque(writer: &mut Writer<'_>, version: Version, opaque: &[u8]) -> Result<(), Malformed> {
    if version.is_at_least(Version::V1_4) {
        writer.opaque(opaque)
    } else {
        Ok(())
    }
}

/// What KEY_UPDATE does; its first parameter. The second is a tag, which the answer echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUpdateOperation(pub u8);

impl KeyUpdateOperation {
    /// Changes the key of the requester's direction.
    pub const UPDATE_KEY: Self = Self(1);
    /// Changes the keys of both directions; the answer comes under the new one.
    pub const UPDATE_ALL_KEYS: Self = Self(2);
    /// Shows that the sender has the new keys.
    pub const VERIFY_NEW_KEY: Self = Self(3);
}
