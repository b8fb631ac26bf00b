// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! GET_MEASUREMENTS, MEASUREMENTS and the blocks they carry.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::challenge::{read_context, write_context};
use super::{
    Code, Header, Layout, Malformed, Nonce, Reader, RequesterContext, Version, Writer, length16,
};

/// Attribute of the request: sign.
pub const ATTRIBUTE_SIGN: u8 = 1;
/// Attribute of the request: raw values rather than digests.
pub const ATTRIBUTE_RAW: u8 = 2;
/// Operation: how many blocks there are.
pub const OPERATION_COUNT: u8 = 0;
/// Operation: all blocks.
pub const OPERATION_ALL: u8 = 0xff;

/// GET_MEASUREMENTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetMeasurements {
    /// Whether raw values are asked for.
    pub raw: bool,
    /// [`OPERATION_COUNT`], [`OPERATION_ALL`], or the index of one block.
    pub operation: u8,
    /// Nonce and slot, if a signature is asked for.
    pub signed: Option<(Nonce, u8)>,
    /// What the answer repeats, from version 1.3 on.
    pub context: RequesterContext,
}

impl GetMeasurements {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(version, Code::GET_MEASUREMENTS)?;
        let signed = if header.param1 & ATTRIBUTE_SIGN == 0 {
            None
        } else {
            let nonce = *reader.read::<Nonce>()?;
            Some((nonce, *reader.read::<u8>()? & 0xf))
        };
        let raw = header.param1 & ATTRIBUTE_RAW != 0;
        Ok((
            Self {
                raw,
                operation: header.param2,
                signed,
                context: read_context(&mut reader, version)?,
            },
            reader.used(),
        ))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`].
    pub fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut attributes = 0;
        if self.signed.is_some() {
            attributes |= ATTRIBUTE_SIGN;
        }
        if self.raw {
            attributes |= ATTRIBUTE_RAW;
        }
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            version,
            Code::GET_MEASUREMENTS,
            attributes,
            self.operation,
        ))?;
        if let Some((nonce, slot)) = &self.signed {
            writer.write(nonce)?;
            writer.write(slot)?;
        }
        write_context(&mut writer, version, &self.context)?;
        Ok(writer.written())
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RecordFixed {
    blocks: u8,
    length: [u8; 3],
}

/// MEASUREMENTS. The signature, if asked for, is the last field.
#[derive(Clone, Copy, Debug)]
pub struct Measurements<'a> {
    /// Number of blocks that there are, if the request asked for it.
    pub total: u8,
    /// Slot of the signing key in bits 3:0, and in bits 5:4 what is known of changes.
    pub attributes: u8,
    /// Number of blocks in the record.
    pub block_count: u8,
    /// The blocks.
    pub record: &'a [u8],
    /// The responder's nonce.
    pub nonce: &'a Nonce,
    /// Opaque data.
    pub opaque: &'a [u8],
    /// What the request said.
    pub context: RequesterContext,
    /// Signature over L1, if asked for.
    pub signature: Option<&'a [u8]>,
}

impl<'a> Measurements<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(
        message: &'a [u8],
        layout: &Layout,
        signed: bool,
    ) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        header.expect(layout.version, Code::MEASUREMENTS)?;
        let fixed = reader.read::<RecordFixed>()?;
        let [b0, b1, b2] = fixed.length;
        let length = u32::from_le_bytes([b0, b1, b2, 0]);
        let record = reader.take(usize::try_from(length).map_err(|_| Malformed::Length)?)?;
        let view = Self {
            total: header.param1,
            attributes: header.param2,
            block_count: fixed.blocks,
            record,
            nonce: reader.read()?,
            opaque: reader.opaque()?,
            context: read_context(&mut reader, layout.version)?,
            signature: if signed {
                Some(reader.take(layout.signature)?)
            } else {
                None
            },
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, layout: &Layout, out: &mut [u8]) -> Result<usize, Malformed> {
        let length = u32::try_from(self.record.len()).map_err(|_| Malformed::Length)?;
        let [b0, b1, b2, 0] = length.to_le_bytes() else {
            return Err(Malformed::Length);
        };
        let mut writer = Writer::new(out);
        writer.write(&Header::new(
            layout.version,
            Code::MEASUREMENTS,
            self.total,
            self.attributes,
        ))?;
        writer.write(&RecordFixed {
            blocks: self.block_count,
            length: [b0, b1, b2],
        })?;
        writer.put(self.record)?;
        writer.write(self.nonce)?;
        writer.opaque(self.opaque)?;
        write_context(&mut writer, layout.version, &self.context)?;
        if let Some(signature) = self.signature {
            writer.sized(signature, layout.signature)?;
        }
        Ok(writer.written())
    }

    /// Yields the blocks, then an error if the record is not made of exactly `block_count` of them.
    #[must_use]
    pub const fn blocks(&self) -> Blocks<'a> {
        Blocks {
            reader: Reader::new(self.record),
            left: self.block_count,
            failed: false,
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct BlockFixed {
    index: u8,
    specification: u8,
    size: U16,
    value_type: u8,
    value_size: U16,
}

/// One measurement block in the DMTF's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Index, from 1.
    pub index: u8,
    /// What was measured; bit 7: the value is raw rather than a digest.
    pub value_type: u8,
    /// The value.
    pub value: &'a [u8],
}

impl Block<'_> {
    /// Writes the block and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let size = self.value.len().checked_add(3).ok_or(Malformed::Length)?;
        let mut writer = Writer::new(out);
        writer.write(&BlockFixed {
            index: self.index,
            specification: super::negotiation::MEASUREMENT_SPECIFICATION_DMTF,
            size: length16(size)?,
            value_type: self.value_type,
            value_size: length16(self.value.len())?,
        })?;
        writer.put(self.value)?;
        Ok(writer.written())
    }
}

/// Yields the blocks of a record.
pub struct Blocks<'a> {
    reader: Reader<'a>,
    left: u8,
    failed: bool,
}

impl<'a> Blocks<'a> {
    fn block(&mut self) -> Result<Block<'a>, Malformed> {
        let fixed = self.reader.read::<BlockFixed>()?;
        if fixed.specification != super::negotiation::MEASUREMENT_SPECIFICATION_DMTF {
            return Err(Malformed::Value);
        }
        if fixed.value_size.get().checked_add(3) != Some(fixed.size.get()) {
            return Err(Malformed::Length);
        }
        let value = self.reader.take(usize::from(fixed.value_size.get()))?;
        Ok(Block {
            index: fixed.index,
            value_type: fixed.value_type,
            value,
        })
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<Block<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = match self.left.checked_sub(1) {
            None if self.reader.rest().is_empty() => return None,
            None => Err(Malformed::Length),
            Some(left) => {
                self.left = left;
                self.block()
            }
        };
        self.failed = item.is_err();
        Some(item)
    }
}
