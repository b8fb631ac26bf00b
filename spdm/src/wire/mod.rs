// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Wire formats: what is on the mailbox, for either side of the conversation.
//!
//! Layouts follow DSP0274 1.2 to 1.4 (SPDM), DSP0277 (secured messages), and the PCI-SIG's DOE, IDE_KM and
//! TDISP. All fields are little endian. Parsing takes bytes that the other side chose: it checks
//! every length before use, ignores reserved fields, and returns the exact length of the message,
//! because transcripts must not contain the padding of the mailbox. Nothing here keeps state.

pub mod certificate;
pub mod challenge;
pub mod chunk;
pub mod doe;
pub mod error;
pub mod measurements;
pub mod negotiation;
pub mod opaque;
pub mod pci_sig;
pub mod record;
pub mod session;
pub mod vendor;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a nonce.
pub const NONCE_LENGTH: usize = 32;

/// A nonce.
pub type Nonce = [u8; NONCE_LENGTH];
/// What a requester lets a responder repeat, from version 1.3 on.
pub type RequesterContext = [u8; 8];

/// Says why bytes are not the message that was asked for, or why a message cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end before the message does.
    Truncated,
    /// The message is of another SPDM version.
    Version,
    /// The message is another one.
    Code,
    /// A length or count contradicts another, or is out of bounds.
    Length,
    /// A field holds a value that this message cannot have.
    Value,
    /// The buffer to write to is too small.
    NoRoom,
}

/// SPDM version of one message: major in bits 7:4, minor in bits 3:0.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Version(pub u8);

impl Version {
    /// The version that GET_VERSION and VERSION carry.
    pub const V1_0: Self = Self(0x10);
    /// Version 1.2.
    pub const V1_2: Self = Self(0x12);
    /// Version 1.3.
    pub const V1_3: Self = Self(0x13);
    /// Version 1.4.
    pub const V1_4: Self = Self(0x14);

    /// Returns whether this is `other` or a later version.
    #[must_use]
    pub const fn is_at_least(self, other: Self) -> bool {
        self.0 >= other.0
    }
}

/// What a conversation agreed on, as far as messages look different for it. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// SPDM version.
    pub version: Version,
    /// A digest, and an HMAC.
    pub hash: usize,
    /// A signature.
    pub signature: usize,
    /// The exchange value of KEY_EXCHANGE.
    pub exchange_request: usize,
    /// The exchange value of KEY_EXCHANGE_RSP.
    pub exchange_response: usize,
}

/// SPDM request or response code.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Code(pub u8);

macro_rules! codes {
    ($($name:ident = $value:literal),* $(,)?) => {
        impl Code {
            $(
                #[doc = concat!("The code of ", stringify!($name), ".")]
                pub const $name: Self = Self($value);
            )*
        }
    };
}

codes! {
    DIGESTS = 0x01,
    CERTIFICATE = 0x02,
    CHALLENGE_AUTH = 0x03,
    VERSION = 0x04,
    CHUNK_SEND_ACK = 0x05,
    CHUNK_RESPONSE = 0x06,
    MEASUREMENTS = 0x60,
    CAPABILITIES = 0x61,
    ALGORITHMS = 0x63,
    KEY_EXCHANGE_RSP = 0x64,
    FINISH_RSP = 0x65,
    HEARTBEAT_ACK = 0x68,
    KEY_UPDATE_ACK = 0x69,
    END_SESSION_ACK = 0x6c,
    VENDOR_DEFINED_RESPONSE = 0x7e,
    ERROR = 0x7f,
    GET_DIGESTS = 0x81,
    GET_CERTIFICATE = 0x82,
    CHALLENGE = 0x83,
    GET_VERSION = 0x84,
    CHUNK_SEND = 0x85,
    CHUNK_GET = 0x86,
    GET_MEASUREMENTS = 0xe0,
    GET_CAPABILITIES = 0xe1,
    NEGOTIATE_ALGORITHMS = 0xe3,
    KEY_EXCHANGE = 0xe4,
    FINISH = 0xe5,
    HEARTBEAT = 0xe8,
    KEY_UPDATE = 0xe9,
    END_SESSION = 0xec,
    VENDOR_DEFINED_REQUEST = 0xfe,
    RESPOND_IF_READY = 0xff,
}

/// The four bytes that begin every SPDM message, and are the whole of some.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// SPDM version.
    pub version: Version,
    /// Which message this is.
    pub code: Code,
    /// First parameter; its meaning is the message's.
    pub param1: u8,
    /// Second parameter.
    pub param2: u8,
}

impl Header {
    /// Bytes of a header.
    pub const LENGTH: usize = 4;

    /// Makes the header of a message.
    #[must_use]
    pub const fn new(version: Version, code: Code, param1: u8, param2: u8) -> Self {
        Self {
            version,
            code,
            param1,
            param2,
        }
    }

    /// Reads the header of any message, unchecked.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn peek(message: &[u8]) -> Result<Self, Malformed> {
        Reader::new(message).read::<Self>().copied()
    }

    /// Reads a message that is a header and no more.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Version`] or [`Malformed::Code`].
    pub fn parse(message: &[u8], version: Version, code: Code) -> Result<(Self, usize), Malformed> {
        let header = Self::peek(message)?;
        header.expect(version, code)?;
        Ok((header, Self::LENGTH))
    }

    /// Writes the header and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(self)?;
        Ok(writer.written())
    }

    /// Checks that this begins message `code` of `version`.
    ///
    /// # Errors
    /// [`Malformed::Version`] or [`Malformed::Code`].
    pub fn expect(self, version: Version, code: Code) -> Result<(), Malformed> {
        if self.version != version {
            Err(Malformed::Version)
        } else if self.code != code {
            Err(Malformed::Code)
        } else {
            Ok(())
        }
    }
}

/// Takes a message apart from front to back.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    used: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            used: 0,
        }
    }

    /// Takes `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Malformed::Truncated)?;
        self.rest = rest;
        self.used = self.used.saturating_add(length);
        Ok(taken)
    }

    /// Takes one fixed structure.
    pub(crate) fn read<T>(&mut self) -> Result<&'a T, Malformed>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        T::ref_from_bytes(self.take(size_of::<T>())?).map_err(|_| Malformed::Truncated)
    }

    /// Takes bytes that a 16-bit length precedes.
    pub(crate) fn opaque(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.read::<zerocopy::little_endian::U16>()?.get();
        self.take(usize::from(length))
    }

    /// Takes `count` fixed structures.
    pub(crate) fn read_list<T>(&mut self, count: usize) -> Result<&'a [T], Malformed>
    where
        T: FromBytes + Immutable + Unaligned,
    {
        let length = size_of::<T>().checked_mul(count).ok_or(Malformed::Length)?;
        <[T]>::ref_from_bytes(self.take(length)?).map_err(|_| Malformed::Truncated)
    }

    /// Returns the number of bytes taken so far.
    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    /// Returns what has not been taken.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Writes a message from front to back.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    pub(crate) const fn new(out: &'a mut [u8]) -> Self {
        Self { out, written: 0 }
    }

    /// Appends bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let end = self
            .written
            .checked_add(bytes.len())
            .ok_or(Malformed::NoRoom)?;
        self.out
            .get_mut(self.written..end)
            .ok_or(Malformed::NoRoom)?
            .copy_from_slice(bytes);
        self.written = end;
        Ok(())
    }

    /// Appends bytes with their 16-bit length before them.
    pub(crate) fn opaque(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.write(&length16(bytes.len())?)?;
        self.put(bytes)
    }

    /// Appends bytes of which the layout wants `length`.
    pub(crate) fn sized(&mut self, bytes: &[u8], length: usize) -> Result<(), Malformed> {
        if bytes.len() != length {
            return Err(Malformed::Length);
        }
        self.put(bytes)
    }

    /// Appends one fixed structure.
    pub(crate) fn write<T: IntoBytes + Immutable + ?Sized>(
        &mut self,
        value: &T,
    ) -> Result<(), Malformed> {
        self.put(value.as_bytes())
    }

    /// Returns the number of bytes written.
    pub(crate) const fn written(&self) -> usize {
        self.written
    }
}

/// Narrows a length for a 16-bit field.
pub(crate) fn length16(length: usize) -> Result<zerocopy::little_endian::U16, Malformed> {
    u16::try_from(length)
        .map(Into::into)
        .map_err(|_| Malformed::Length)
}

#[cfg(test)]
mod tests;
