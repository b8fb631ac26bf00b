// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! VENDOR_DEFINED_REQUEST and VENDOR_DEFINED_RESPONSE.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::doe::VENDOR_PCI_SIG;
use super::{Code, Header, Malformed, Reader, Version, Writer, length16};

/// The registry that PCI vendor ids are from.
const STANDARD_PCI_SIG: u16 = 3;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct VendorFixed {
    header: Header,
    standard: U16,
    vendor_length: u8,
    vendor: U16,
    payload_length: U16,
}

/// A request or response of the PCI-SIG's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorDefined<'a> {
    /// The payload; its first byte names the protocol.
    pub payload: &'a [u8],
}

impl<'a> VendorDefined<'a> {
    /// Bytes before the payload.
    pub const PAYLOAD_OFFSET: usize = size_of::<VendorFixed>();

    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`]; [`Malformed::Value`] for another vendor.
    pub fn parse(
        message: &'a [u8],
        version: Version,
        code: Code,
    ) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = reader.read::<VendorFixed>()?;
        fixed.header.expect(version, code)?;
        let ours = fixed.standard.get() == STANDARD_PCI_SIG
            && fixed.vendor_length == 2
            && fixed.vendor.get() == VENDOR_PCI_SIG;
        if !ours {
            return Err(Malformed::Value);
        }
        let payload = reader.take(usize::from(fixed.payload_length.get()))?;
        Ok((Self { payload }, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, version: Version, code: Code, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&VendorFixed {
            header: Header::new(version, code, 0, 0),
            standard: STANDARD_PCI_SIG.into(),
            vendor_length: 2,
            vendor: VENDOR_PCI_SIG.into(),
            payload_length: length16(self.payload.len())?,
        })?;
        writer.put(self.payload)?;
        Ok(writer.written())
    }
}
