// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's side of chunks and of answers that are not ready, with places to lie.

use tsm_spdm::wire::chunk::{Chunk, ChunkGet, ChunkSendAck};
use tsm_spdm::wire::error::{ErrorCode, ErrorResponse, Extended, NotReady};
use tsm_spdm::wire::{Code, Header, Malformed, Version};

use crate::responder::{Hook, error};

/// What a message from the requester was.
pub enum Taken {
    /// A message about chunks, and this is the answer.
    Chunk(Code, Vec<u8>),
    /// A request, or the last piece of one.
    Whole(Vec<u8>),
}

/// Takes large answers apart and puts large requests together.
pub struct Chunker {
    /// Bytes of the largest answer that is sent in one piece, and of a CHUNK_RESPONSE.
    pub room: Option<usize>,
    /// Told each CHUNK_RESPONSE and CHUNK_SEND_ACK, and the ERROR that promises chunks.
    pub lie: Hook,
    /// Asked, by the code of an answer, whether it is put off.
    pub put_off: Box<dyn FnMut(Code) -> Option<NotReady>>,
    /// Asked whether a chunk is refused unseen, by what the answer would be.
    pub before: Box<dyn FnMut(Code, u32) -> Option<ErrorCode>>,
    /// Requests that came in chunks.
    pub requests: usize,
    /// Answers that went in chunks.
    pub answers: usize,
    request: Vec<u8>,
    acknowledged: Option<(Version, u8, u32)>,
    answer: Vec<u8>,
    sent: usize,
    waiting: Option<(NotReady, Code, Vec<u8>)>,
}

impl Chunker {
    pub fn new() -> Self {
        Self {
            room: None,
            lie: Box::new(|_, _| ()),
            put_off: Box::new(|_| None),
            before: Box::new(|_, _| None),
            requests: 0,
            answers: 0,
            request: Vec::new(),
            acknowledged: None,
            answer: Vec::new(),
            sent: 0,
            waiting: None,
        }
    }

    /// Returns whether the device knows chunks.
    pub fn is_on(&self) -> bool {
        self.room.is_some()
    }

    fn tell(&mut self, code: Code, mut message: Vec<u8>) -> Taken {
        (self.lie)(code, &mut message);
        Taken::Chunk(code, message)
    }

    /// Takes a message from the requester.
    pub fn take(&mut self, message: &[u8]) -> Result<Taken, Malformed> {
        let header = Header::peek(message)?;
        let version = header.version;
        let mut out = vec![0; 8192];
        match header.code {
            Code::CHUNK_SEND if self.is_on() => {
                let (chunk, _) = Chunk::parse(message, version, header.code)?;
                if let Some(code) = (self.before)(Code::CHUNK_SEND_ACK, chunk.sequence) {
                    return Ok(Taken::Chunk(Code::ERROR, error(code)));
                }
                if chunk.sequence == 0 {
                    self.request.clear();
                }
                self.request.extend(chunk.data);
                if chunk.last {
                    self.requests += 1;
                    self.acknowledged = Some((version, chunk.handle, chunk.sequence));
                    return Ok(Taken::Whole(std::mem::take(&mut self.request)));
                }
                let ack = ChunkSendAck {
                    early_error: false,
                    handle: chunk.handle,
                    sequence: chunk.sequence,
                    response: &[],
                };
                let len = ack.emit(version, &mut out)?;
                out.truncate(len);
                Ok(self.tell(Code::CHUNK_SEND_ACK, out))
            }
            Code::CHUNK_GET if self.is_on() => {
                let (get, _) = ChunkGet::parse(message, version)?;
                if let Some(code) = (self.before)(Code::CHUNK_RESPONSE, get.sequence) {
                    return Ok(Taken::Chunk(Code::ERROR, error(code)));
                }
                let room = self.room.unwrap() - Chunk::data_offset(get.sequence);
                let rest = &self.answer[self.sent..];
                let data = &rest[..room.min(rest.len())];
                let total = u32::try_from(self.answer.len()).unwrap();
                let chunk = Chunk {
                    last: data.len() == rest.len(),
                    handle: get.handle,
                    sequence: get.sequence,
                    total: (get.sequence == 0).then_some(total),
                    data,
                };
                let len = chunk.emit(version, Code::CHUNK_RESPONSE, &mut out)?;
                out.truncate(len);
                self.sent += data.len();
                Ok(self.tell(Code::CHUNK_RESPONSE, out))
            }
            Code::RESPOND_IF_READY => {
                let (when, code, answer) = self.waiting.take().ok_or(Malformed::Code)?;
                if (header.param1, header.param2) != (when.request.0, when.token) {
                    return Err(Malformed::Value);
                }
                let (code, answer) = self.give(code, answer);
                Ok(Taken::Chunk(code, answer))
            }
            _ => Ok(Taken::Whole(message.to_vec())),
        }
    }

    /// Gives an answer as it goes to the requester.
    pub fn give(&mut self, code: Code, answer: Vec<u8>) -> (Code, Vec<u8>) {
        let version = Version(answer[0]);
        let mut answer = (code, answer);
        if let Some(when) = (self.put_off)(code) {
            self.waiting = Some((when, code, answer.1));
            let mut error = vec![0; 8];
            let refusal = ErrorResponse {
                version,
                code: ErrorCode::RESPONSE_NOT_READY,
                data: 0,
                extended: Extended::NotReady(when),
            };
            let len = refusal.emit(&mut error).unwrap();
            error.truncate(len);
            answer = (Code::ERROR, error);
        }
        if self.room.is_some_and(|room| answer.1.len() > room) {
            self.answers += 1;
            let mut error = vec![0; 8];
            let refusal = ErrorResponse {
                version,
                code: ErrorCode::LARGE_RESPONSE,
                data: 0,
                extended: Extended::Large { handle: 0x4c },
            };
            let len = refusal.emit(&mut error).unwrap();
            error.truncate(len);
            (self.lie)(Code::ERROR, &mut error);
            (self.answer, self.sent) = (answer.1, 0);
            answer = (Code::ERROR, error);
        }
        if let Some((version, handle, sequence)) = self.acknowledged.take() {
            let mut out = vec![0; 8192];
            let ack = ChunkSendAck {
                early_error: false,
                handle,
                sequence,
                response: &answer.1,
            };
            let len = ack.emit(version, &mut out).unwrap();
            out.truncate(len);
            (self.lie)(Code::CHUNK_SEND_ACK, &mut out);
            answer.1 = out;
        }
        answer
    }
}
