// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Messages in chunks, both ways (DSP0274 1.2, wider sequence numbers from 1.4).

use super::offer::Peer;
use super::{Header, Reader, Refusal, Version, code, response};

/// CHUNK_SEND and CHUNK_RESPONSE: this is the last chunk.
const LAST: u8 = 1;
/// CHUNK_SEND_ACK: the request will not be answered, the reason follows.
const EARLY_ERROR: u8 = 1;

/// A large request of which some chunks came.
struct Incoming {
    handle: u8,
    /// Sequence number of the next chunk.
    next: u32,
    /// Bytes of the whole.
    size: usize,
    bytes: Vec<u8>,
}

/// A large response of which some chunks went.
struct Outgoing {
    handle: u8,
    next: u32,
    sent: usize,
    bytes: Vec<u8>,
}

/// Large messages under way.
#[derive(Default)]
pub(super) struct Chunks {
    incoming: Option<Incoming>,
    outgoing: Option<Outgoing>,
    last_handle: u8,
}

/// What came of a chunk.
pub(super) enum Taken {
    /// The whole request, and the acknowledgment that the response is to be put behind.
    Whole(Vec<u8>, Vec<u8>),
    /// An acknowledgment, while more chunks are to come.
    More(Vec<u8>),
    /// Why the request is given up; put behind the acknowledgment.
    GivenUp(Refusal, Vec<u8>),
}

fn sequence(version: Version, reader: &mut Reader<'_>) -> Result<u32, Refusal> {
    if version >= Version::V1_4 {
        reader.u32()
    } else {
        reader.u16().map(u32::from)
    }
}

/// Writes a sequence number; before 1.4 it has 16 bits.
fn put_sequence(version: Version, number: u32, message: &mut Vec<u8>) {
    if version >= Version::V1_4 {
        message.extend(number.to_le_bytes());
    } else {
        message.extend((number as u16).to_le_bytes());
    }
}

impl Chunks {
    /// Forgets what is under way, as any request that is not about chunks does.
    pub(super) fn forget(&mut self) {
        self.incoming = None;
        self.outgoing = None;
    }

    /// Takes CHUNK_SEND. `limit` is the largest request, in bytes.
    pub(super) fn take(
        &mut self,
        header: Header,
        mut request: Reader<'_>,
        peer: &Peer,
        limit: usize,
    ) -> Result<Taken, Refusal> {
        if !peer.chunks {
            return Err(Refusal::UnsupportedRequest(code::CHUNK_SEND));
        }
        let number = sequence(peer.version, &mut request)?;
        if peer.version < Version::V1_4 {
            request.u16()?;
        }
        let length = request.u32()? as usize;
        let size = if number == 0 {
            Some(request.u32()? as usize)
        } else {
            None
        };
        let chunk = request.bytes(length)?;

        self.outgoing = None;
        let before = self.incoming.take();
        let incoming = match (size, before) {
            (Some(size), None) if size <= limit => Some(Incoming {
                handle: header.param2,
                next: 0,
                size,
                bytes: Vec::new(),
            }),
            // A first chunk while another message is under way ends both.
            (Some(_), _) => None,
            (None, before) => before,
        };
        let last = header.param1 & LAST != 0;
        let incoming = incoming
            .filter(|whole| whole.handle == header.param2 && whole.next == number)
            .map(|mut whole| {
                whole.bytes.extend(chunk);
                whole.next = whole.next.wrapping_add(1);
                whole
            })
            .filter(|whole| {
                let complete = whole.bytes.len() == whole.size;
                let fits = whole.bytes.len() <= whole.size;
                !chunk.is_empty() && fits && complete == last
            });
        let attributes = if incoming.is_some() { 0 } else { EARLY_ERROR };
        let mut ack = response(peer.version, code::CHUNK_SEND, attributes, header.param2);
        put_sequence(peer.version, number, &mut ack);
        Ok(match incoming {
            None => Taken::GivenUp(Refusal::InvalidRequest, ack),
            Some(whole) if last => Taken::Whole(whole.bytes, ack),
            Some(whole) => {
                self.incoming = Some(whole);
                Taken::More(ack)
            }
        })
    }

    /// Answers CHUNK_GET with a message of at most `room` bytes.
    pub(super) fn give(
        &mut self,
        header: Header,
        mut request: Reader<'_>,
        peer: &Peer,
        room: usize,
    ) -> Result<Vec<u8>, Refusal> {
        if !peer.chunks {
            return Err(Refusal::UnsupportedRequest(code::CHUNK_GET));
        }
        let number = sequence(peer.version, &mut request)?;
        self.incoming = None;
        let mut whole = self.outgoing.take().ok_or(Refusal::UnexpectedRequest)?;
        if header.param2 != whole.handle || number != whole.next {
            return Err(Refusal::InvalidRequest);
        }
        let head = if number == 0 { 16 } else { 12 };
        let rest = &whole.bytes[whole.sent..];
        let chunk = &rest[..rest.len().min(room.saturating_sub(head))];
        let last = chunk.len() == rest.len();
        let attributes = if last { LAST } else { 0 };
        let mut answer = response(peer.version, code::CHUNK_GET, attributes, whole.handle);
        put_sequence(peer.version, number, &mut answer);
        answer.resize(8, 0);
        answer.extend((chunk.len() as u32).to_le_bytes());
        if number == 0 {
            answer.extend((whole.bytes.len() as u32).to_le_bytes());
        }
        answer.extend(chunk);
        whole.sent += chunk.len();
        whole.next += 1;
        if !last {
            self.outgoing = Some(whole);
        }
        Ok(answer)
    }

    /// Returns `answer` if it fits into `room` bytes, else the ERROR that offers it in chunks.
    pub(super) fn fit(
        &mut self,
        answer: Vec<u8>,
        peer: &Peer,
        room: usize,
    ) -> Result<Vec<u8>, Refusal> {
        if answer.len() <= room {
            return Ok(answer);
        }
        if !peer.chunks || answer.len() > peer.message_size {
            return Err(Refusal::ResponseTooLarge(answer.len() as u32));
        }
        self.last_handle = self.last_handle.wrapping_add(1);
        self.outgoing = Some(Outgoing {
            handle: self.last_handle,
            next: 0,
            sent: 0,
            bytes: answer,
        });
        Ok(Refusal::LargeResponse(self.last_handle).message(peer.version.byte()))
    }
}
