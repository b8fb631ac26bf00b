// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Large messages in chunks, both ways, and every way to get them wrong.

use tsm_spdm::crypto::{Suite, sha384};
use tsm_spdm::wire::error::ErrorCode;
use tsm_spdm::wire::{Code, Malformed, Version};
use tsm_spdm::{Config, Error, MAX_PAYLOAD, Operation, Output, PeerMisbehaved, Phase};

use crate::identity::SUITE;
use crate::responder::{Pair, Responder, error};

const MEASURE: Operation = Operation::Measure {
    nonce: [3; 32],
    raw: false,
};

fn pair(room: usize, transfer_size: u32) -> Pair {
    let mut pair = Pair::new(true);
    pair.responder.chunker.room = Some(room);
    pair.responder.transfer_size = transfer_size;
    pair
}

fn everything(pair: &mut Pair) -> Result<(), Error> {
    pair.establish()?;
    pair.operate(MEASURE)?;
    pair.vendor(&[7; MAX_PAYLOAD])?;
    pair.operate(Operation::Heartbeat)?;
    pair.operate(Operation::UpdateKeys)?;
    pair.vendor(&[8])?;
    pair.operate(Operation::End).map(|_| ())
}

/// W6: nothing of a conversation depends on what fits one transfer.
#[test]
fn large_messages_go_both_ways_in_chunks_of_any_size() {
    // What the device sends at a time, what it takes, and whether anything is large either way.
    let sizes = [
        (4072, 4096, (false, false)),
        (200, 4096, (true, false)),
        (100, 4096, (true, false)),
        (42, 4096, (true, false)),
        (4072, 150, (false, true)),
        (100, 100, (true, true)),
        (42, 42, (true, true)),
    ];
    for (room, transfer_size, large) in sizes {
        let mut pair = pair(room, transfer_size);
        assert_eq!(everything(&mut pair), Ok(()), "{room}, {transfer_size}");
        let chunker = &pair.responder.chunker;
        assert_eq!((chunker.answers > 0, chunker.requests > 0), large);
        // The host kept the messages and not the chunks.
        let digests = pair.requester.digests();
        let known = [digests.vca(), digests.certificate(), digests.measurements()];
        for (digest, kept) in known.into_iter().zip(&pair.kept) {
            assert_eq!(digest, Some(&sha384(kept)), "{room}, {transfer_size}");
        }
        for output in &pair.sent {
            assert!(matches!(output, Output::Send { len, .. } if *len <= transfer_size as usize));
        }
        assert!(!pair.requester.uses_workspace());
    }
}

/// W6: sequence numbers have 32 bits from version 1.4 on.
#[test]
fn each_version_has_its_own_chunks() {
    for version in [Version::V1_2, Version::V1_3, Version::V1_4] {
        let suite = Suite { version, ..SUITE };
        let mut pair = Pair {
            responder: Responder::new(suite),
            ..Pair::with(Config::new(3))
        };
        pair.responder.chunker.room = Some(60);
        pair.responder.transfer_size = 60;
        assert_eq!(everything(&mut pair), Ok(()), "{version:?}");
        let chunker = &pair.responder.chunker;
        assert!(chunker.answers > 4 && chunker.requests > 2, "{version:?}");
    }
}

#[test]
fn a_vendors_large_answer_is_found_in_the_workspace() {
    let mut pair = pair(100, 4096);
    pair.establish().unwrap();
    let payload: Vec<u8> = (0..128).collect();
    let outcome = pair.vendor(&payload).unwrap();
    let tsm_spdm::Outcome::Vendor {
        source,
        offset,
        len,
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(source, tsm_spdm::Source::Workspace);
    assert_eq!(pair.workspace.message()[offset..][..len], payload);
}

/// Changes a CHUNK_RESPONSE, given its number in its message.
type Change = fn(u8, &mut Vec<u8>);

/// Runs everything with chunks of 100 bytes, lies in the first large answer, or in the first of a
/// session, and returns what is found.
fn fault(inside: bool, change: Change) -> PeerMisbehaved {
    let mut pair = pair(100, 4096);
    if inside {
        pair.establish().unwrap();
    }
    let mut message = 0;
    pair.responder.chunker.lie = Box::new(move |code, bytes| {
        message += u8::from(code == Code::ERROR);
        if code == Code::CHUNK_RESPONSE && message == 1 {
            change(bytes[4], bytes);
        }
    });
    let outcome = if inside {
        pair.operate(MEASURE).map(|_| ())
    } else {
        everything(&mut pair)
    };
    assert_eq!(pair.requester.phase(), Phase::Dead);
    assert!(!pair.requester.uses_workspace());
    assert!(pair.workspace.message().iter().all(|byte| *byte == 0));
    match outcome {
        Err(Error::Peer(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// B14.
#[test]
fn every_lie_about_chunks_is_found_and_named() {
    use PeerMisbehaved as Fault;
    const LAST: u8 = 1;
    let lies: &[(&str, Change, Fault)] = &[
        ("missing", |n, m| m[4] += u8::from(n == 1), Fault::Chunk),
        (
            "the first again",
            |n, m| {
                if n == 1 {
                    again(m)
                }
            },
            Fault::Chunk,
        ),
        (
            "duplicate",
            |n, m| {
                if n == 2 {
                    m[4] = 1
                }
            },
            Fault::Chunk,
        ),
        (
            "far ahead",
            |n, m| {
                if n == 1 {
                    m[5] = 1
                }
            },
            Fault::Chunk,
        ),
        ("last too early", |_, m| m[2] |= LAST, Fault::Chunk),
        ("never the last", |_, m| m[2] &= !LAST, Fault::Chunk),
        (
            "of no size",
            |n, m| {
                if n == 0 {
                    m[12..16].fill(0)
                }
            },
            Fault::Chunk,
        ),
        (
            "one byte less",
            |n, m| {
                if n == 0 {
                    m[12] -= 1
                }
            },
            Fault::Chunk,
        ),
        (
            "one byte more",
            |n, m| {
                if n == 0 {
                    m[12] += 1
                }
            },
            Fault::Chunk,
        ),
        (
            "larger than what is taken",
            |n, m| {
                if n == 0 {
                    m[12..16].copy_from_slice(&12289_u32.to_le_bytes())
                }
            },
            Fault::Oversized,
        ),
        (
            "huge",
            |n, m| {
                if n == 0 {
                    m[12..16].fill(0xff)
                }
            },
            Fault::Oversized,
        ),
        (
            "data behind the end",
            |_, m| m[8] += 1,
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            "data that is nearly endless",
            |_, m| m[8..12].fill(0xff),
            Fault::Malformed(Malformed::Truncated),
        ),
        ("data left over", |_, m| m[8] -= 4, Fault::TrailingBytes),
        (
            "nothing at first",
            |n, m| {
                if n == 0 {
                    empty(m, 16)
                }
            },
            Fault::Chunk,
        ),
        (
            "nothing later",
            |n, m| {
                if n == 1 {
                    empty(m, 12)
                }
            },
            Fault::Chunk,
        ),
        (
            "a crumb at first",
            |n, m| {
                if n == 0 {
                    crumb(m, 16)
                }
            },
            Fault::Chunk,
        ),
        (
            "a crumb later",
            |n, m| {
                if n == 1 {
                    crumb(m, 12)
                }
            },
            Fault::Chunk,
        ),
        ("of another message", |n, m| m[3] ^= n & 1, Fault::Chunk),
        ("of another message at once", |_, m| m[3] ^= 1, Fault::Chunk),
        (
            "what would fit one transfer",
            |_, m| {
                *m = vec![0x12, 6, LAST, 0x4c, 0, 0, 0, 0, 18, 0, 0, 0, 18, 0, 0, 0];
                m.resize(16 + 18, 0);
            },
            Fault::Chunk,
        ),
        (
            "of another version",
            |_, m| m[0] = 0x11,
            Fault::Malformed(Malformed::Version),
        ),
        (
            "another message",
            |_, m| m[1] = 5,
            Fault::Malformed(Malformed::Code),
        ),
        (
            "cut short",
            |_, m| m.truncate(11),
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            "nothing but a header",
            |_, m| m.truncate(4),
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            "chunks of a chunk",
            |_, m| *m = error(ErrorCode::LARGE_RESPONSE),
            Fault::Refused(ErrorCode::LARGE_RESPONSE),
        ),
        (
            "not ready",
            |_, m| *m = error(ErrorCode::RESPONSE_NOT_READY),
            Fault::Refused(ErrorCode::RESPONSE_NOT_READY),
        ),
        (
            "busy for ever",
            |_, m| *m = error(ErrorCode::BUSY),
            Fault::BusyForever,
        ),
        (
            "forgotten",
            |_, m| *m = error(ErrorCode::REQUEST_RESYNCH),
            Fault::Refused(ErrorCode::REQUEST_RESYNCH),
        ),
    ];
    for (name, change, expected) in lies {
        for inside in [false, true] {
            assert_eq!(fault(inside, *change), *expected, "{name}, {inside}");
        }
    }
}

/// Makes a second chunk out to be the first.
fn again(message: &mut Vec<u8>) {
    message[4] = 0;
    message.splice(12..12, [200, 0, 0, 0]).for_each(drop);
}

/// Leaves no data in a chunk.
fn empty(message: &mut Vec<u8>, offset: usize) {
    message[8..12].fill(0);
    message.truncate(offset);
}

/// Leaves one byte in a chunk.
fn crumb(message: &mut Vec<u8>, offset: usize) {
    message[8..12].copy_from_slice(&[1, 0, 0, 0]);
    message.truncate(offset + 1);
}

#[test]
fn an_answer_put_together_is_judged_as_any_other() {
    // A bit of the signature, in the last chunk.
    let bit: Change = |_, m| {
        if m[2] == 1 {
            *m.last_mut().unwrap() ^= 1;
        }
    };
    assert_eq!(fault(true, bit), PeerMisbehaved::Signature);
    // The code of the message.
    let code: Change = |n, m| {
        if n == 0 {
            m[17] = 0x7f;
        }
    };
    for inside in [false, true] {
        assert_eq!(
            fault(inside, code),
            PeerMisbehaved::Malformed(Malformed::Code)
        );
    }
}

#[test]
fn a_device_that_knows_no_chunks_is_not_asked_for_any() {
    for code in [Code::CHALLENGE_AUTH, Code::MEASUREMENTS] {
        let mut pair = Pair::new(true);
        pair.responder.before_sealing = Box::new(move |this, message| {
            if this == code {
                *message = error(ErrorCode::LARGE_RESPONSE);
            }
        });
        let refused = PeerMisbehaved::Refused(ErrorCode::LARGE_RESPONSE);
        assert_eq!(everything(&mut pair), Err(Error::Peer(refused)));
    }
    // Nor can it promise any before it has said that it knows them.
    for code in [Code::VERSION, Code::CAPABILITIES] {
        let mut pair = pair(4072, 4096);
        pair.responder.before_sealing = Box::new(move |this, message| {
            if this == code {
                *message = error(ErrorCode::LARGE_RESPONSE);
            }
        });
        let refused = PeerMisbehaved::Refused(ErrorCode::LARGE_RESPONSE);
        assert_eq!(everything(&mut pair), Err(Error::Peer(refused)));
    }
    let mut pair = Pair::new(true);
    pair.responder.transfer_size = 100;
    let small = PeerMisbehaved::TransferSize;
    assert_eq!(everything(&mut pair), Err(Error::Peer(small)));
}

/// What the device does with the acknowledgement of a chunk of the vendor's request.
fn acknowledged(change: Change) -> (Pair, Result<(), Error>) {
    let mut pair = pair(4072, 100);
    pair.establish().unwrap();
    let mut first = true;
    pair.responder.chunker.lie = Box::new(move |code, bytes| {
        if code == Code::CHUNK_SEND_ACK && first {
            // Once for each sequence number.
            first = bytes[4] != 2;
            change(bytes[4], bytes);
        }
    });
    let outcome = pair.vendor(&[5; MAX_PAYLOAD]).map(|_| ());
    assert!(!pair.requester.uses_workspace());
    assert!(pair.workspace.message().iter().all(|byte| *byte == 0));
    (pair, outcome)
}

/// B14, the other way.
#[test]
fn every_lie_about_a_request_in_chunks_is_found_and_named() {
    use PeerMisbehaved as Fault;
    let lies: &[(&str, Change, Fault)] = &[
        ("of another message", |_, m| m[3] ^= 1, Fault::Chunk),
        (
            "of the chunk before",
            |n, m| m[4] -= u8::from(n == 1),
            Fault::Chunk,
        ),
        ("of the chunk after", |_, m| m[4] += 1, Fault::Chunk),
        (
            "of another version",
            |_, m| m[0] = 0x13,
            Fault::Malformed(Malformed::Version),
        ),
        (
            "another message",
            |_, m| m[1] = 6,
            Fault::Malformed(Malformed::Code),
        ),
        (
            "cut short",
            |_, m| m.truncate(5),
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            "more than was asked",
            |n, m| {
                if n == 0 {
                    m.push(0)
                }
            },
            Fault::TrailingBytes,
        ),
        (
            "an answer too early",
            |n, m| {
                if n == 0 {
                    m.extend([0x12, 0x7e, 0, 0])
                }
            },
            Fault::TrailingBytes,
        ),
        (
            "no answer",
            |_, m| m.truncate(6),
            Fault::Malformed(Malformed::Truncated),
        ),
        (
            "no reason",
            |_, m| m[2] = 1,
            Fault::Malformed(Malformed::Code),
        ),
        (
            "large too early",
            |_, m| *m = error(ErrorCode::LARGE_RESPONSE),
            Fault::Refused(ErrorCode::LARGE_RESPONSE),
        ),
        (
            "forgotten",
            |_, m| *m = error(ErrorCode::REQUEST_RESYNCH),
            Fault::Refused(ErrorCode::REQUEST_RESYNCH),
        ),
    ];
    for (name, change, expected) in lies {
        let (pair, outcome) = acknowledged(*change);
        assert_eq!(outcome, Err(Error::Peer(*expected)), "{name}");
        assert_eq!(pair.requester.phase(), Phase::Dead, "{name}");
    }
}

#[test]
fn a_large_request_refused_before_its_end_leaves_the_session() {
    let early: Change = |_, m| {
        m[2] = 1;
        m.truncate(6);
        m.extend(error(ErrorCode::UNSPECIFIED));
    };
    let (mut pair, outcome) = acknowledged(early);
    assert_eq!(outcome, Err(Error::Refused(ErrorCode::UNSPECIFIED)));
    assert_eq!(pair.requester.phase(), Phase::Established);
    pair.responder.chunker.lie = Box::new(|_, _| ());
    assert!(pair.vendor(&[5; MAX_PAYLOAD]).is_ok());
    assert!(pair.operate(Operation::End).is_ok());
}

#[test]
fn a_device_busy_between_chunks_is_sent_the_same_chunk_again() {
    // The device refuses the second chunk before it looks at it, and CHUNK_GET likewise.
    for code in [Code::CHUNK_SEND_ACK, Code::CHUNK_RESPONSE] {
        let mut pair = pair(100, 100);
        pair.establish().unwrap();
        let kept = pair.kept.clone();
        let mut refusals = 3;
        pair.responder.chunker.before = Box::new(move |this, _| {
            let refuses = this == code && refusals > 0;
            refusals -= i32::from(refuses);
            refuses.then_some(ErrorCode::BUSY)
        });
        pair.vendor(&[5; MAX_PAYLOAD]).unwrap();
        pair.operate(MEASURE).unwrap();
        assert_eq!(pair.kept[..2], kept[..2]);
        let delays: Vec<u32> = pair
            .sent
            .iter()
            .filter_map(|output| match output {
                Output::Send { delay_us, .. } if *delay_us > 0 => Some(*delay_us),
                _ => None,
            })
            .collect();
        assert_eq!(delays, [2_000, 4_000, 8_000], "{code:?}");
    }
}
