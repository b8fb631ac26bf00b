// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Data Object Exchange: the objects of the mailbox, and discovery.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Malformed, Reader, Writer};

/// The PCI-SIG's vendor id, which owns every object type used here.
pub const VENDOR_PCI_SIG: u16 = 1;
/// Bytes of the header of an object.
pub const HEADER_LENGTH: usize = 8;
/// The length field counts double words; 0 stands for this many.
const MAX_DWORDS: u32 = 1 << 18;

/// What an object of the PCI-SIG holds.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct ObjectType(pub u8);

impl ObjectType {
    /// Which object types the mailbox knows.
    pub const DISCOVERY: Self = Self(0);
    /// A plain SPDM message.
    pub const SPDM: Self = Self(1);
    /// A secured SPDM record.
    pub const SECURED_SPDM: Self = Self(2);
}

/// The first two double words of an object.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ObjectHeader {
    /// Vendor id.
    pub vendor: U16,
    /// Object type.
    pub kind: ObjectType,
    reserved: u8,
    length: U32,
}

impl ObjectHeader {
    /// Makes the header of an object of the PCI-SIG with `payload` bytes, which are padded to a
    /// double word.
    ///
    /// # Errors
    /// [`Malformed::Length`] if that is more than an object can hold.
    pub fn new(kind: ObjectType, payload: usize) -> Result<Self, Malformed> {
        let dwords = payload
            .checked_add(HEADER_LENGTH)
            .map(|length| length.div_ceil(4))
            .and_then(|dwords| u32::try_from(dwords).ok())
            .filter(|dwords| *dwords <= MAX_DWORDS)
            .ok_or(Malformed::Length)?;
        // The largest object is written as zero.
        let field = if dwords == MAX_DWORDS { 0 } else { dwords };
        Ok(Self {
            vendor: VENDOR_PCI_SIG.into(),
            kind,
            reserved: 0,
            length: field.into(),
        })
    }

    /// Returns the length of the whole object in bytes, header included.
    #[must_use]
    pub fn object_length(&self) -> usize {
        let dwords = match self.length.get() & MAX_DWORDS.wrapping_sub(1) {
            0 => MAX_DWORDS,
            dwords => dwords,
        };
        usize::try_from(dwords)
            .unwrap_or(usize::MAX)
            .saturating_mul(4)
    }
}

/// One whole object of the PCI-SIG.
#[derive(Clone, Copy, Debug)]
pub struct DataObject<'a> {
    /// What the payload is.
    pub kind: ObjectType,
    /// The payload, with its padding when parsed.
    pub payload: &'a [u8],
}

impl<'a> DataObject<'a> {
    /// Takes the object at the start of `bytes` and returns its length.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Length`] if the length field cannot hold the header,
    /// [`Malformed::Value`] for another vendor.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(bytes);
        let header = reader.read::<ObjectHeader>()?;
        if header.vendor.get() != VENDOR_PCI_SIG {
            return Err(Malformed::Value);
        }
        let payload = header
            .object_length()
            .checked_sub(HEADER_LENGTH)
            .ok_or(Malformed::Length)?;
        let payload = reader.take(payload)?;
        Ok((
            Self {
                kind: header.kind,
                payload,
            },
            reader.used(),
        ))
    }

    /// Writes the object, padded with zeros to a double word, and returns its length.
    ///
    /// # Errors
    /// [`Malformed::Length`] or [`Malformed::NoRoom`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let header = ObjectHeader::new(self.kind, self.payload.len())?;
        let mut writer = Writer::new(out);
        writer.write(&header)?;
        writer.put(self.payload)?;
        while writer.written() < header.object_length() {
            writer.put(&[0])?;
        }
        Ok(writer.written())
    }
}

/// Payload of a discovery request: asks for entry `index`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiscoveryRequest {
    /// Entry asked for; begins with 0.
    pub index: u8,
    /// Version of discovery.
    pub version: u8,
    reserved: [u8; 2],
}

impl DiscoveryRequest {
    /// Makes a request for entry `index`.
    #[must_use]
    pub const fn new(index: u8) -> Self {
        Self {
            index,
            version: 0,
            reserved: [0; 2],
        }
    }
}

/// Payload of a discovery response: one entry.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DiscoveryResponse {
    /// Vendor of the object type.
    pub vendor: U16,
    /// The object type.
    pub kind: ObjectType,
    /// Entry to ask for next; 0 at the end.
    pub next: u8,
}
