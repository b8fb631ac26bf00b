// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! KEY_EXCHANGE and FINISH, and what keeps a session going and ends it.
//!
//! FINISH_RSP (handshake encrypted), HEARTBEAT, KEY_UPDATE, END_SESSION and their acknowledgments
//! are headers and no more.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::challenge::SummaryType;
use super::{
    Code, Digest, Exchange, Header, Malformed, Nonce, Reader, Signature, Writer, length16,
};

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
    exchange: Exchange,
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
    pub exchange: &'a Exchange,
    /// Opaque data.
    pub opaque: &'a [u8],
}

impl<'a> KeyExchange<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = reader.read::<ExchangeFixed>()?;
        fixed.header.expect(Code::KEY_EXCHANGE)?;
        let length = reader.read::<U16>()?.get();
        let view = Self {
            summary: SummaryType(fixed.header.param1),
            slot: fixed.header.param2,
            session_id: fixed.session_id.get(),
            policy: fixed.byte6,
            random: &fixed.random,
            exchange: &fixed.exchange,
            opaque: reader.take(usize::from(length))?,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(Code::KEY_EXCHANGE, self.summary.0, self.slot))?;
        writer.write(&U16::new(self.session_id))?;
        writer.put(&[self.policy, 0])?;
        writer.write(self.random)?;
        writer.write(self.exchange)?;
        writer.write(&length16(self.opaque.len())?)?;
        writer.put(self.opaque)?;
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
    pub exchange: &'a Exchange,
    /// Digest over measurements, if asked for.
    pub summary: Option<&'a Digest>,
    /// Opaque data.
    pub opaque: &'a [u8],
    /// Signature over the transcript.
    pub signature: &'a Signature,
    /// HMAC over the transcript; the last field, present as the handshake is encrypted.
    pub verify_data: &'a Digest,
}

impl<'a> KeyExchangeResponse<'a> {
    /// Bytes after what the signature covers.
    pub const AFTER_SIGNED: usize = super::SIGNATURE_LENGTH + super::HASH_LENGTH;

    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], with_summary: bool) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = reader.read::<ExchangeFixed>()?;
        fixed.header.expect(Code::KEY_EXCHANGE_RSP)?;
        let view = Self {
            heartbeat: fixed.header.param1,
            session_id: fixed.session_id.get(),
            mutual_authentication: fixed.byte6,
            random: &fixed.random,
            exchange: &fixed.exchange,
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
            verify_data: reader.read()?,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length. Sign what precedes the signature, make the HMAC,
    /// then write again.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header::new(Code::KEY_EXCHANGE_RSP, self.heartbeat, 0))?;
        writer.write(&U16::new(self.session_id))?;
        writer.put(&[self.mutual_authentication, 0])?;
        writer.write(self.random)?;
        writer.write(self.exchange)?;
        if let Some(summary) = self.summary {
            writer.write(summary)?;
        }
        writer.write(&length16(self.opaque.len())?)?;
        writer.put(self.opaque)?;
        writer.write(self.signature)?;
        writer.write(self.verify_data)?;
        Ok(writer.written())
    }
}

/// FINISH without a signature, as there is no mutual authentication.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Finish {
    header: Header,
    /// HMAC over the transcript and the header.
    pub verify_data: Digest,
}

impl Finish {
    /// The header, which the HMAC covers.
    pub const HEADER: Header = Header::new(Code::FINISH, 0, 0);

    /// Makes the message.
    #[must_use]
    pub const fn new(verify_data: Digest) -> Self {
        Self {
            header: Self::HEADER,
            verify_data,
        }
    }

    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`]; [`Malformed::Value`] if it holds a signature.
    pub fn parse(message: &[u8]) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = *reader.read::<Self>()?;
        fixed.header.expect(Code::FINISH)?;
        if fixed.header.param1 & 1 != 0 {
            return Err(Malformed::Value);
        }
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
