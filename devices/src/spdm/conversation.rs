// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Messages that are whole requests, parts of one, or ask for a part of an answer.

use super::chunk::{Chunks, Taken};
use super::offer::Peer;
use super::responder::{Application, Place, Reply, Responder, note};
use super::{Header, RECORD_OVERHEAD, Refusal, code};

/// What the two ends of a conversation can take, in bytes.
struct Room {
    peer: Peer,
    /// Largest answer in one piece.
    answer: usize,
}

impl Responder {
    /// Answers one message.
    pub(super) fn converse(
        &mut self,
        mut place: Place<'_>,
        message: &[u8],
        application: &mut dyn Application,
    ) -> Reply {
        let id = place.as_ref().map(|session| session.id);
        // Plain messages come with up to three bytes of padding.
        let too_large = message.len() > self.settings.offer.piece().next_multiple_of(4);
        let decoded = Header::decode(message)
            .map(|(header, _)| header)
            .and_then(|header| match too_large {
                true => Err(Refusal::RequestTooLarge),
                false => Ok(header),
            });
        let header = match decoded {
            Ok(header) => header,
            Err(refusal) => {
                note(Some(&refusal), message, id, application);
                return self.refuse(refusal, id, message);
            }
        };
        let mut chunks = std::mem::take(match &mut place {
            Some(session) => &mut session.chunks,
            None => &mut self.chunks,
        });
        let overhead = if place.is_some() { RECORD_OVERHEAD } else { 0 };
        let room = self.phase.peer().map(|peer| Room {
            peer,
            answer: peer.transfer_size.saturating_sub(overhead),
        });
        let part = matches!(header.code, code::CHUNK_SEND | code::CHUNK_GET);
        let reply = match room {
            // What came in chunks goes on only in the version that was agreed on.
            Some(room) if part && header.version == room.peer.version.byte() => self.part(
                place.as_deref_mut(),
                message,
                &mut chunks,
                &room,
                application,
            ),
            room => {
                chunks.forget();
                let reply = self.answer(place.as_deref_mut(), message, application);
                // GET_VERSION is answered to whoever asks: what was known of the peer is void.
                match room.filter(|_| id.is_some() || header.code != code::GET_VERSION) {
                    Some(room) => fit(reply, &mut chunks, &room.peer, room.answer),
                    None => reply,
                }
            }
        };
        match place {
            Some(session) => session.chunks = chunks,
            None => self.chunks = chunks,
        }
        reply
    }

    /// Answers CHUNK_SEND and CHUNK_GET.
    fn part(
        &mut self,
        place: Place<'_>,
        message: &[u8],
        chunks: &mut Chunks,
        room: &Room,
        application: &mut dyn Application,
    ) -> Reply {
        let id = place.as_ref().map(|session| session.id);
        let mut message = message.to_vec();
        let mut reply = match application.receive(id, &mut message) {
            Some(answer) => Reply::from(answer),
            None => {
                let result = self.chunk(place, &message, chunks, room, application);
                note(result.as_ref().err(), &message, id, application);
                result.unwrap_or_else(|refusal| self.refuse(refusal, id, &message))
            }
        };
        application.send(id, &mut reply.answer);
        reply
    }

    fn chunk(
        &mut self,
        place: Place<'_>,
        message: &[u8],
        chunks: &mut Chunks,
        room: &Room,
        application: &mut dyn Application,
    ) -> Result<Reply, Refusal> {
        let (header, request) = Header::decode(message)?;
        if header.code == code::CHUNK_GET {
            return chunks
                .give(header, request, &room.peer, room.answer)
                .map(Reply::from);
        }
        let limit = self.settings.offer.message_size;
        let version = room.peer.version.byte();
        let (whole, mut ack) = match chunks.take(header, request, &room.peer, limit)? {
            Taken::More(ack) => return Ok(Reply::from(ack)),
            Taken::GivenUp(refusal, mut ack) => {
                ack.extend(refusal.message(version));
                return Ok(Reply::from(ack));
            }
            Taken::Whole(whole, ack) => (whole, ack),
        };
        // Chunks of chunks there are none, and GET_VERSION has no version to be chunked in.
        let nested = whole.get(1).is_none_or(|code| {
            matches!(
                *code,
                code::CHUNK_SEND | code::CHUNK_GET | code::GET_VERSION
            )
        });
        let reply = if nested {
            Reply::from(Refusal::InvalidRequest.message(version))
        } else {
            self.answer(place, &whole, application)
        };
        let rest = room.answer.saturating_sub(ack.len());
        let Reply { answer, then } = fit(reply, chunks, &room.peer, rest);
        ack.extend(answer);
        Ok(Reply { answer: ack, then })
    }
}

/// Leaves a reply as it is if it fits into `room` bytes, else offers it in chunks.
fn fit(reply: Reply, chunks: &mut Chunks, peer: &Peer, room: usize) -> Reply {
    let Reply { answer, then } = reply;
    let answer = chunks
        .fit(answer, peer, room)
        .unwrap_or_else(|refusal| refusal.message(peer.version.byte()));
    Reply { answer, then }
}
