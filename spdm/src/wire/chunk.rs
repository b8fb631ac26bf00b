// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CHUNK_SEND to CHUNK_RESPONSE: pieces of a message that is larger than one transfer.
//!
//! The pieces are not part of any transcript; the message that they make up is.

use zerocopy::little_endian::{U16, U32};

use super::{Code, Header, Malformed, Reader, Version, Writer};

/// Smallest transfer size, in bytes, that a side may announce. Every chunk but the last fills at
/// least a transfer of this size.
pub const MIN_TRANSFER_SIZE: usize = 42;

/// Attribute of CHUNK_SEND and CHUNK_RESPONSE: there are no more chunks.
const LAST: u8 = 1;
/// Attribute of CHUNK_SEND_ACK: the message is refused before its end.
const EARLY_ERROR: u8 = 1;

/// Returns whether sequence numbers have 32 bits rather than 16.
const fn is_wide(version: Version) -> bool {
    version.is_at_least(Version::V1_4)
}

/// Narrows a sequence number for versions that have 16 bits for it.
fn narrow(sequence: u32) -> Result<U16, Malformed> {
    u16::try_from(sequence)
        .map(Into::into)
        .map_err(|_| Malformed::Length)
}

fn put_sequence(writer: &mut Writer<'_>, version: Version, sequence: u32) -> Result<(), Malformed> {
    if is_wide(version) {
        writer.write(&U32::new(sequence))
    } else {
        writer.write(&narrow(sequence)?)
    }
}

fn read_sequence(reader: &mut Reader<'_>, version: Version) -> Result<u32, Malformed> {
    Ok(if is_wide(version) {
        reader.read::<U32>()?.get()
    } else {
        reader.read::<U16>()?.get().into()
    })
}

/// Reads a header and checks it.
fn read_header(reader: &mut Reader<'_>, version: Version, code: Code) -> Result<Header, Malformed> {
    let header = *reader.read::<Header>()?;
    if header.version != version {
        return Err(Malformed::Version);
    }
    if header.code != code {
        return Err(Malformed::Code);
    }
    Ok(header)
}

/// CHUNK_SEND and CHUNK_RESPONSE, which have one layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Whether there are no more.
    pub last: bool,
    /// Which large message it is of; the sender's choice.
    pub handle: u8,
    /// Which chunk it is, from 0.
    pub sequence: u32,
    /// Bytes of the large message; in the first chunk only.
    pub total: Option<u32>,
    /// The piece.
    pub data: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Bytes before the data of the first chunk.
    pub const FIRST_DATA_OFFSET: usize = 16;
    /// Bytes before the data of the others.
    pub const DATA_OFFSET: usize = 12;

    /// Returns the number of bytes before the data.
    #[must_use]
    pub const fn data_offset(sequence: u32) -> usize {
        if sequence == 0 {
            Self::FIRST_DATA_OFFSET
        } else {
            Self::DATA_OFFSET
        }
    }

    /// Takes message `code` apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(
        message: &'a [u8],
        version: Version,
        code: Code,
    ) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = read_header(&mut reader, version, code)?;
        let sequence = read_sequence(&mut reader, version)?;
        if !is_wide(version) {
            reader.take(2)?;
        }
        let length = reader.read::<U32>()?.get();
        let total = if sequence == 0 {
            Some(reader.read::<U32>()?.get())
        } else {
            None
        };
        let length = usize::try_from(length).map_err(|_| Malformed::Length)?;
        let chunk = Self {
            last: header.param1 & LAST != 0,
            handle: header.param2,
            sequence,
            total,
            data: reader.take(length)?,
        };
        Ok((chunk, reader.used()))
    }

    /// Writes message `code` and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, version: Version, code: Code, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header {
            version,
            code,
            param1: if self.last { LAST } else { 0 },
            param2: self.handle,
        })?;
        put_sequence(&mut writer, version, self.sequence)?;
        if !is_wide(version) {
            writer.put(&[0; 2])?;
        }
        let length = u32::try_from(self.data.len()).map_err(|_| Malformed::Length)?;
        writer.write(&U32::new(length))?;
        if let Some(total) = self.total {
            writer.write(&U32::new(total))?;
        }
        writer.put(self.data)?;
        Ok(writer.written())
    }
}

/// CHUNK_SEND_ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSendAck<'a> {
    /// Whether the message is refused before its end; the response is an ERROR.
    pub early_error: bool,
    /// The handle of the request.
    pub handle: u8,
    /// The sequence number of the request.
    pub sequence: u32,
    /// Whatever follows: the response to the large message, if this was its last chunk, and the
    /// padding of the mailbox.
    pub response: &'a [u8],
}

impl<'a> ChunkSendAck<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = read_header(&mut reader, version, Code::CHUNK_SEND_ACK)?;
        let sequence = read_sequence(&mut reader, version)?;
        let ack = Self {
            early_error: header.param1 & EARLY_ERROR != 0,
            handle: header.param2,
            sequence,
            response: reader.rest(),
        };
        Ok((ack, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header {
            version,
            code: Code::CHUNK_SEND_ACK,
            param1: if self.early_error { EARLY_ERROR } else { 0 },
            param2: self.handle,
        })?;
        put_sequence(&mut writer, version, self.sequence)?;
        writer.put(self.response)?;
        Ok(writer.written())
    }
}

/// CHUNK_GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkGet {
    /// The handle that ERROR(LargeResponse) gave.
    pub handle: u8,
    /// Which chunk is wanted.
    pub sequence: u32,
}

impl ChunkGet {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = read_header(&mut reader, version, Code::CHUNK_GET)?;
        let sequence = read_sequence(&mut reader, version)?;
        let get = Self {
            handle: header.param2,
            sequence,
        };
        Ok((get, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header {
            version,
            code: Code::CHUNK_GET,
            param1: 0,
            param2: self.handle,
        })?;
        put_sequence(&mut writer, version, self.sequence)?;
        Ok(writer.written())
    }
}
