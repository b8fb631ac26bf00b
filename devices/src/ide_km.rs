// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! IDE key management, device side.

use zeroize::Zeroizing;

use crate::event::{Event, SessionId};
use crate::link::{KEYS_PER_STREAM, KeySlot, LinkKey, LinkKeys, LinkStatus, Traffic, exercise};
use crate::spdm::Refusal;

/// Selective IDE streams that the device can hold keys for.
const STREAM_LIMIT: usize = 2;
/// The only port.
const PORT_INDEX: u8 = 0;
/// The invocation field that a key starts with.
const FIRST_IV: u64 = 1;

/// Object ids.
mod object {
    pub(super) const QUERY: u8 = 0;
    pub(super) const QUERY_RESP: u8 = 1;
    pub(super) const KEY_PROG: u8 = 2;
    pub(super) const KP_ACK: u8 = 3;
    pub(super) const K_SET_GO: u8 = 4;
    pub(super) const K_SET_STOP: u8 = 5;
    pub(super) const K_GOSTOP_ACK: u8 = 6;
}

/// Status of KP_ACK.
mod status {
    pub(super) const SUCCESSFUL: u8 = 0;
    pub(super) const INCORRECT_LENGTH: u8 = 1;
    pub(super) const UNSUPPORTED_PORT: u8 = 2;
    pub(super) const UNSUPPORTED_VALUE: u8 = 3;
    pub(super) const UNSPECIFIED_FAILURE: u8 = 4;
}

/// Bytes of KEY_PROG after the protocol byte, and of the objects without a key.
const KEY_PROG_SIZE: usize = 7 + 32 + 8;
const SHORT_SIZE: usize = 7;

struct Key {
    value: LinkKey,
    go: bool,
}

struct Stream {
    id: u8,
    /// The session that programmed every key of the stream.
    session: SessionId,
    keys: [Option<Key>; KEYS_PER_STREAM],
    status: LinkStatus,
    traffic: Traffic,
    packet: u64,
}

/// The IDE streams of the device.
#[derive(Default)]
pub(crate) struct Streams(Vec<Stream>);

/// What others may know about a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamView {
    /// Stream id.
    pub id: u8,
    /// The session that programmed it.
    pub session: SessionId,
    /// Number of keys that are programmed.
    pub programmed: usize,
    /// Number of keys that are in use.
    pub in_use: usize,
    /// What the link model says.
    pub status: LinkStatus,
    /// Packets that flowed under the keys in use, both ways. Wraps.
    pub sent: u32,
    /// How many of them could not be opened. Wraps.
    pub lost: u32,
}

impl Streams {
    pub(crate) fn views(&self) -> impl Iterator<Item = StreamView> {
        self.0.iter().map(|stream| StreamView {
            id: stream.id,
            session: stream.session,
            programmed: stream.keys.iter().flatten().count(),
            in_use: stream.keys.iter().flatten().filter(|key| key.go).count(),
            status: stream.status,
            sent: stream.traffic.sent,
            lost: stream.traffic.lost,
        })
    }

    /// Returns the stream that the function's traffic takes: the one that got keys first.
    pub(crate) fn default_stream(&self) -> Option<StreamView> {
        self.views().next()
    }

    /// Returns whether `id` is the default stream, is secure, and belongs to `session`.
    pub(crate) fn carries(&self, id: u8, session: SessionId) -> bool {
        self.default_stream().is_some_and(|stream| {
            stream.id == id && stream.session == session && stream.status.secure
        })
    }

    /// Answers an IDE_KM object; the protocol byte is stripped on both sides.
    pub(crate) fn handle(
        &mut self,
        session: SessionId,
        rid: Option<u16>,
        object: &[u8],
        note: &mut dyn FnMut(Event),
    ) -> Result<Vec<u8>, Refusal> {
        match object {
            [object::QUERY, _, port, ..] if *port == PORT_INDEX => Ok(self.query(rid)),
            [object::KEY_PROG, _, _, stream, _, sub_stream, port, ..] => {
                let status = self.key_prog(session, *stream, *sub_stream, *port, object);
                if status != status::SUCCESSFUL {
                    note(Event::KeyRefused {
                        stream: *stream,
                        status,
                    });
                }
                Ok(vec![
                    object::KP_ACK,
                    0,
                    0,
                    *stream,
                    status,
                    *sub_stream,
                    *port,
                ])
            }
            [
                kind @ (object::K_SET_GO | object::K_SET_STOP),
                _,
                _,
                stream,
                _,
                sub_stream,
                port,
                ..,
            ] if *port == PORT_INDEX => {
                let slot = KeySlot::decode(*sub_stream).ok_or(Refusal::InvalidRequest)?;
                debug_assert!(object.len() >= SHORT_SIZE);
                if *kind == object::K_SET_GO {
                    self.key_set_go(session, *stream, slot)?;
                } else {
                    self.key_set_stop(session, *stream, slot)?;
                }
                Ok(vec![
                    object::K_GOSTOP_ACK,
                    0,
                    0,
                    *stream,
                    0,
                    *sub_stream,
                    *port,
                ])
            }
            _ => Err(Refusal::InvalidRequest),
        }
    }

    fn key_prog(
        &mut self,
        session: SessionId,
        id: u8,
        sub_stream: u8,
        port: u8,
        object: &[u8],
    ) -> u8 {
        if object.len() != KEY_PROG_SIZE {
            return status::INCORRECT_LENGTH;
        }
        if port != PORT_INDEX {
            return status::UNSUPPORTED_PORT;
        }
        let (key, iv) = object[SHORT_SIZE..].split_at(32);
        let (Some(slot), FIRST_IV) = (KeySlot::decode(sub_stream), wire_iv(iv)) else {
            return status::UNSUPPORTED_VALUE;
        };
        let position = self.0.iter().position(|stream| stream.id == id);
        if position.is_none() && self.0.len() >= STREAM_LIMIT {
            return status::UNSUPPORTED_VALUE;
        }
        let index = position.unwrap_or_else(|| {
            self.0.push(Stream {
                id,
                session,
                keys: [const { None }; KEYS_PER_STREAM],
                status: LinkStatus::default(),
                traffic: Traffic::default(),
                packet: 0,
            });
            self.0.len() - 1
        });
        let stream = &mut self.0[index];
        let entry = &mut stream.keys[slot.index()];
        // A stream belongs to one session, and a key in use is not replaced under its traffic.
        if stream.session != session || entry.as_ref().is_some_and(|key| key.go) {
            return status::UNSPECIFIED_FAILURE;
        }
        *entry = Some(Key {
            value: LinkKey {
                key: wire_key(key),
                iv: FIRST_IV,
            },
            go: false,
        });
        status::SUCCESSFUL
    }

    fn key_set_go(&mut self, session: SessionId, id: u8, slot: KeySlot) -> Result<(), Refusal> {
        let key = self
            .0
            .iter_mut()
            .find(|stream| stream.id == id && stream.session == session)
            .and_then(|stream| stream.keys[slot.index()].as_mut())
            .ok_or(Refusal::InvalidRequest)?;
        key.go = true;
        Ok(())
    }

    /// Erases a key. One that was never programmed is stopped already.
    fn key_set_stop(&mut self, session: SessionId, id: u8, slot: KeySlot) -> Result<(), Refusal> {
        let Some(stream) = self.0.iter_mut().find(|stream| stream.id == id) else {
            return Ok(());
        };
        if stream.session != session {
            return Err(Refusal::InvalidRequest);
        }
        stream.keys[slot.index()] = None;
        Ok(())
    }

    /// Erases all keys that `session` programmed; all keys at all for `None`.
    pub(crate) fn forget(&mut self, session: Option<SessionId>) {
        for stream in &mut self.0 {
            if session.is_none_or(|session| stream.session == session) {
                stream.keys = [const { None }; KEYS_PER_STREAM];
            }
        }
    }

    /// Tries all keys that both ends use, tells the root port, and drops streams without keys.
    pub(crate) fn exercise(&mut self, link: &mut dyn LinkKeys, note: &mut dyn FnMut(Event)) {
        for stream in &mut self.0 {
            let before = stream.status;
            let ours = stream
                .keys
                .each_ref()
                .map(|key| key.as_ref().filter(|key| key.go).map(|key| &key.value));
            let theirs = link.keys(stream.id);
            exercise(&ours, &theirs, stream.packet, &mut stream.status);
            stream.traffic.flow(&ours, &theirs, stream.packet);
            stream.packet += 1;
            if stream.status != before {
                link.publish(stream.id, stream.status);
            }
            match (before.secure, stream.status.secure) {
                (false, true) => note(Event::StreamSecure(stream.id)),
                (true, false) => note(Event::StreamInsecure(stream.id)),
                _ => {}
            }
        }
        self.0
            .retain(|stream| stream.keys.iter().any(Option::is_some));
    }

    /// Builds QUERY_RESP: the port, then the IDE extended capability from its capability register.
    fn query(&self, rid: Option<u16>) -> Vec<u8> {
        let [dev_func, bus] = rid.unwrap_or(0).to_le_bytes();
        let mut answer = vec![
            object::QUERY_RESP,
            0,
            PORT_INDEX,
            dev_func,
            bus,
            0,
            PORT_INDEX,
        ];
        for register in self.registers() {
            answer.extend(register.to_le_bytes());
        }
        answer
    }

    fn registers(&self) -> Vec<u32> {
        // Capability: selective streams and IDE_KM; AES-GCM with 96-bit tags; number of streams - 1
        // in bits 23:16. Control: nothing enabled.
        let capability = 1 << 1 | 1 << 6 | (STREAM_LIMIT as u32 - 1) << 16;
        let mut registers = vec![capability, 0];
        for index in 0..STREAM_LIMIT {
            let stream = self.0.get(index);
            // Stream capability (no address association), control (enable bit 0, default stream
            // bit 22, id 31:24), status (2 secure), two RID association registers.
            let control = stream.map_or(0, |stream| {
                1 | u32::from(index == 0) << 22 | u32::from(stream.id) << 24
            });
            let secure = stream.is_some_and(|stream| stream.status.secure);
            registers.extend([0, control, if secure { 2 } else { 0 }, 0, 0]);
        }
        registers
    }
}

/// Returns the key in an object as the wire has it, if it carries one.
pub(crate) fn carried_key(object: &[u8]) -> Option<&[u8]> {
    match object {
        [object::KEY_PROG, ..] => object.get(SHORT_SIZE..SHORT_SIZE + 32),
        _ => None,
    }
}

/// Reads a key as KEY_PROG carries it: words most significant first, each little endian.
fn wire_key(wire: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    for (out, word) in key.chunks_exact_mut(4).zip(wire.chunks_exact(4)) {
        out.copy_from_slice(&[word[3], word[2], word[1], word[0]]);
    }
    key
}

/// Reads an invocation field: upper word first, each word little endian.
fn wire_iv(wire: &[u8]) -> u64 {
    let words: Vec<u64> = wire
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]])))
        .collect();
    words.iter().fold(0, |value, word| value << 32 | word)
}

#[cfg(test)]
mod tests {
    use super::{SessionId, Streams, wire_iv, wire_key};
    use crate::link::KeySlot;
    use crate::spdm::Refusal;

    const SESSION: SessionId = SessionId(1);

    fn run(streams: &mut Streams, session: SessionId, object: &[u8]) -> Result<Vec<u8>, Refusal> {
        streams.handle(session, Some(0x0108), object, &mut |_| {})
    }

    fn key_prog(stream: u8, sub_stream: u8, port: u8, iv: u8) -> Vec<u8> {
        let mut object = vec![2, 0, 0, stream, 0, sub_stream, port];
        object.extend([0x5a; 32]);
        object.extend([0, 0, 0, 0, iv, 0, 0, 0]);
        object
    }

    #[test]
    fn a_counting_key_comes_out_in_cipher_order() {
        let mut wire = Vec::new();
        for word in 0..8_u8 {
            wire.extend([4 * word + 3, 4 * word + 2, 4 * word + 1, 4 * word]);
        }
        let expected: Vec<u8> = (0..32).collect();
        assert_eq!(wire_key(&wire)[..], expected[..]);
        assert_eq!(wire_iv(&[2, 0, 0, 0, 1, 0, 0, 0]), 0x2_0000_0001);
    }

    #[test]
    fn key_prog_reports_what_is_wrong() {
        let mut streams = Streams::default();
        let mut status = |object: &[u8]| run(&mut streams, SESSION, object).unwrap()[4];
        assert_eq!(status(&key_prog(3, 0, 0, 1)), 0);
        assert_eq!(status(&key_prog(3, 0, 0, 1)[..40]), 1);
        assert_eq!(status(&[&key_prog(3, 0, 0, 1)[..], &[0; 4]].concat()), 1);
        assert_eq!(status(&key_prog(3, 0, 1, 1)), 2);
        assert_eq!(status(&key_prog(3, 0x30, 0, 1)), 3);
        assert_eq!(status(&key_prog(3, 0, 0, 2)), 3);
        assert_eq!(status(&key_prog(4, 0, 0, 1)), 0);
        assert_eq!(status(&key_prog(5, 0, 0, 1)), 3);
    }

    #[test]
    fn a_key_must_be_programmed_before_it_is_used() {
        let mut streams = Streams::default();
        assert_eq!(
            run(&mut streams, SESSION, &[4, 0, 0, 3, 0, 0, 0]),
            Err(Refusal::InvalidRequest)
        );
        run(&mut streams, SESSION, &key_prog(3, 0x12, 0, 1)).unwrap();
        for other in [0x02, 0x10, 0x13, 0x22] {
            let object = [4, 0, 0, 3, 0, other, 0];
            assert_eq!(
                run(&mut streams, SESSION, &object),
                Err(Refusal::InvalidRequest)
            );
        }
        let ack = run(&mut streams, SESSION, &[4, 0, 0, 3, 0, 0x12, 0]).unwrap();
        assert_eq!(ack, [6, 0, 0, 3, 0, 0x12, 0]);
    }

    #[test]
    fn a_key_in_use_is_not_replaced() {
        let mut streams = Streams::default();
        run(&mut streams, SESSION, &key_prog(3, 0, 0, 1)).unwrap();
        run(&mut streams, SESSION, &[4, 0, 0, 3, 0, 0, 0]).unwrap();
        assert_eq!(
            run(&mut streams, SESSION, &key_prog(3, 0, 0, 1)).unwrap()[4],
            4
        );
        run(&mut streams, SESSION, &[5, 0, 0, 3, 0, 0, 0]).unwrap();
        assert_eq!(
            run(&mut streams, SESSION, &key_prog(3, 0, 0, 1)).unwrap()[4],
            0
        );
    }

    #[test]
    fn another_session_cannot_touch_a_stream() {
        let other = SessionId(2);
        let mut streams = Streams::default();
        run(&mut streams, SESSION, &key_prog(3, 0, 0, 1)).unwrap();
        assert_eq!(
            run(&mut streams, other, &key_prog(3, 1, 0, 1)).unwrap()[4],
            4
        );
        assert!(run(&mut streams, other, &[4, 0, 0, 3, 0, 0, 0]).is_err());
        assert!(run(&mut streams, other, &[5, 0, 0, 3, 0, 0, 0]).is_err());
        assert_eq!(streams.views().next().unwrap().programmed, 1);
    }

    #[test]
    fn stopping_what_never_started_is_acknowledged() {
        let mut streams = Streams::default();
        assert_eq!(
            run(&mut streams, SESSION, &[5, 0, 0, 9, 0, 0x21, 0]).unwrap()[0],
            6
        );
    }

    #[test]
    fn the_query_names_the_function_and_the_default_stream() {
        let mut streams = Streams::default();
        run(&mut streams, SESSION, &key_prog(3, 0, 0, 1)).unwrap();
        let answer = run(&mut streams, SESSION, &[0, 0, 0]).unwrap();
        assert_eq!(answer[..7], [1, 0, 0, 0x08, 0x01, 0, 0]);
        assert_eq!(answer.len(), 7 + 12 * 4);
        assert_eq!(answer[7 + 12..7 + 16], [1, 0, 0x40, 3]);
        assert!(run(&mut streams, SESSION, &[0, 0, 1]).is_err());
        assert!(run(&mut streams, SESSION, &[0]).is_err());
    }

    #[test]
    fn slots_have_twelve_places() {
        let places: Vec<usize> = (0..2)
            .flat_map(KeySlot::of_set)
            .map(KeySlot::index)
            .collect();
        assert_eq!(places, (0..12).collect::<Vec<_>>());
    }
}
