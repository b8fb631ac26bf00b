// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Messages that are larger than one transfer, taken apart and put together.
//!
//! The message stands in the caller's [`Workspace`](super::Workspace), which has a fixed size;
//! sizes that the device names are compared with it and with each other, and allocate nothing.

use super::workspace::MAX_LARGE_MESSAGE;
use crate::error::{Error, PeerMisbehaved};
use crate::wire::chunk::{Chunk, ChunkGet, ChunkSendAck, MIN_TRANSFER_SIZE};
use crate::wire::record::OVERHEAD;
use crate::wire::{Code, Malformed, Version};

/// A request that is on its way to the device.
pub(super) struct Sending {
    handle: u8,
    /// The chunk that was sent last, or is to be sent.
    sequence: u32,
    /// Where in the message that chunk begins.
    offset: usize,
    /// Bytes of the message.
    len: usize,
    /// Bytes of a CHUNK_SEND.
    room: usize,
}

impl Sending {
    /// Takes a message of `len` bytes apart into transfers of `room` bytes.
    pub(super) fn new(handle: u8, len: usize, room: usize) -> Result<Self, Error> {
        if room <= Chunk::FIRST_DATA_OFFSET {
            return Err(PeerMisbehaved::TransferSize.into());
        }
        Ok(Self {
            handle,
            sequence: 0,
            offset: 0,
            len,
            room,
        })
    }

    /// Returns where the chunk ends in the message.
    fn end(&self) -> usize {
        let data = self.room.saturating_sub(Chunk::data_offset(self.sequence));
        self.offset.saturating_add(data).min(self.len)
    }

    /// Returns the bytes of the message that the chunk holds.
    pub(super) fn data_length(&self) -> usize {
        self.end().saturating_sub(self.offset)
    }

    /// Returns where in CHUNK_SEND they stand.
    pub(super) const fn data_offset(&self) -> usize {
        Chunk::data_offset(self.sequence)
    }

    /// Returns whether the chunk is the last, to which the device answers.
    pub(super) fn is_last(&self) -> bool {
        self.end() == self.len
    }

    /// Writes CHUNK_SEND and returns its length.
    pub(super) fn request(
        &self,
        version: Version,
        message: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let data = message
            .get(self.offset..self.end())
            .ok_or(Error::Internal)?;
        let total = u32::try_from(self.len).map_err(|_| Error::Internal)?;
        let chunk = Chunk {
            last: self.is_last(),
            handle: self.handle,
            sequence: self.sequence,
            total: (self.sequence == 0).then_some(total),
            data,
        };
        Ok(chunk.emit(version, Code::CHUNK_SEND, out)?)
    }

    /// Takes CHUNK_SEND_ACK. Returns the number of bytes before the response to the message, if it
    /// is there; if not, the next chunk is to be sent.
    pub(super) fn acknowledge(
        &mut self,
        version: Version,
        answer: &[u8],
        padding: usize,
    ) -> Result<Option<usize>, Error> {
        let (ack, used) = ChunkSendAck::parse(answer, version)?;
        if (ack.handle, ack.sequence) != (self.handle, self.sequence) {
            return Err(PeerMisbehaved::Chunk.into());
        }
        if ack.early_error {
            // Nothing but a refusal comes before the end.
            return match ack.response.get(1) {
                Some(code) if *code == Code::ERROR.0 => Ok(Some(used)),
                _ => Err(Malformed::Code.into()),
            };
        }
        if self.is_last() {
            return Ok(Some(used));
        }
        if ack.response.len() > padding {
            return Err(PeerMisbehaved::TrailingBytes.into());
        }
        self.offset = self.end();
        self.sequence = self.sequence.saturating_add(1);
        Ok(None)
    }
}

/// An answer that is fetched from the device.
pub(super) struct Fetching {
    handle: u8,
    /// The chunk that was asked for.
    sequence: u32,
    /// Bytes of the message that are there.
    received: usize,
    /// Bytes of the message, once the first chunk told.
    total: usize,
    /// Bytes that each CHUNK_RESPONSE but the last has at least.
    least: usize,
}

/// A chunk of an answer that was taken.
pub(super) struct Taken {
    /// Where its data begins in the message.
    pub(super) at: usize,
    /// Bytes before the data in CHUNK_RESPONSE.
    pub(super) offset: usize,
    /// Bytes of the data.
    pub(super) len: usize,
    /// Bytes of the message, if it is whole.
    pub(super) whole: Option<usize>,
}

impl Fetching {
    /// Begins with the answer that ERROR named. A device may count what records add to a transfer.
    pub(super) const fn new(handle: u8, is_secured: bool) -> Self {
        let overhead = if is_secured { OVERHEAD } else { 0 };
        Self {
            least: MIN_TRANSFER_SIZE.saturating_sub(overhead),
            handle,
            sequence: 0,
            received: 0,
            total: 0,
        }
    }

    /// Writes CHUNK_GET and returns its length.
    pub(super) fn request(&self, version: Version, out: &mut [u8]) -> Result<usize, Error> {
        let get = ChunkGet {
            handle: self.handle,
            sequence: self.sequence,
        };
        Ok(get.emit(version, out)?)
    }

    /// Takes CHUNK_RESPONSE and puts its data into `message`.
    pub(super) fn take(
        &mut self,
        version: Version,
        answer: &[u8],
        padding: usize,
        message: &mut [u8; MAX_LARGE_MESSAGE],
    ) -> Result<Taken, Error> {
        let (chunk, used) = Chunk::parse(answer, version, Code::CHUNK_RESPONSE)?;
        if answer.len().saturating_sub(used) > padding {
            return Err(PeerMisbehaved::TrailingBytes.into());
        }
        if (chunk.handle, chunk.sequence) != (self.handle, self.sequence) {
            return Err(PeerMisbehaved::Chunk.into());
        }
        if let Some(total) = chunk.total {
            self.total = usize::try_from(total).map_err(|_| PeerMisbehaved::Oversized)?;
            if self.total > message.len() {
                return Err(PeerMisbehaved::Oversized.into());
            }
        }
        let at = self.received;
        let end = at.saturating_add(chunk.data.len());
        let is_whole = end == self.total;
        // Each chunk but the last fills a transfer: that bounds their number.
        let crumb = used < self.least && !is_whole;
        if end > self.total || chunk.last != is_whole || crumb || chunk.data.is_empty() {
            return Err(PeerMisbehaved::Chunk.into());
        }
        // What fits one transfer of any device is not sent in chunks.
        if is_whole && self.total <= self.least {
            return Err(PeerMisbehaved::Chunk.into());
        }
        message
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..chunk.data.len()))
            .ok_or(PeerMisbehaved::Oversized)?
            .copy_from_slice(chunk.data);
        self.received = end;
        self.sequence = self.sequence.saturating_add(1);
        Ok(Taken {
            at,
            offset: Chunk::data_offset(chunk.sequence),
            len: chunk.data.len(),
            whole: is_whole.then_some(end),
        })
    }
}
