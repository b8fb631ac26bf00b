// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Changes of one message. Each function tells whether it changed anything.

use super::message::{Known, Message};

/// Returns the place that `offset` means behind `base`; negative offsets count from the end.
fn place(length: usize, base: usize, offset: i32) -> Option<usize> {
    let distance = offset.unsigned_abs() as usize;
    let place = if offset < 0 {
        length.checked_sub(distance)?
    } else {
        base + distance
    };
    (base..length).contains(&place).then_some(place)
}

pub(super) fn flip(bytes: &mut [u8], base: usize, offset: i32, bit: u8) -> bool {
    let Some(place) = place(bytes.len(), base, offset) else {
        return false;
    };
    bytes[place] ^= 1 << bit;
    true
}

pub(super) fn set(bytes: &mut [u8], base: usize, offset: i32, new: &[u8]) -> bool {
    let room = place(bytes.len(), base, offset).and_then(|place| bytes.get_mut(place..));
    let Some(room) = room.and_then(|room| room.get_mut(..new.len())) else {
        return false;
    };
    let changes = room != new;
    room.copy_from_slice(new);
    changes
}

pub(super) fn truncate(bytes: &mut Vec<u8>, base: usize, keep: usize) -> bool {
    let before = bytes.len();
    bytes.truncate(base.saturating_add(keep));
    bytes.len() != before
}

/// Inverts a bit of the signature; where there is none, of the last byte.
pub(super) fn wrong_signature(message: &mut [u8], known: &Known) -> bool {
    // In KEY_EXCHANGE_RSP the signature comes before a verification value of 32 or 48 bytes, and is
    // longer than the difference.
    let from_end = if known.spdm == Message::KEY_EXCHANGE_RSP {
        49
    } else {
        1
    };
    flip(message, 0, -from_end, 0)
}

/// Inverts a bit of the nonce of the message.
pub(super) fn wrong_nonce(message: &mut [u8], known: &Known) -> bool {
    let base = known.inner.map_or(0, |(_, start)| start);
    let offset = match known.name() {
        Message::CHALLENGE | Message::GET_MEASUREMENTS => 4,
        Message::KEY_EXCHANGE | Message::KEY_EXCHANGE_RSP => 8,
        // Behind a digest of 32 or 48 bytes: the nonce is longer than the difference.
        Message::CHALLENGE_AUTH => 4 + 48,
        Message::MEASUREMENTS => match *message {
            [_, _, _, _, _, low, middle, high, ..] => {
                8 + i32::from(low) + (i32::from(middle) << 8) + (i32::from(high) << 16)
            }
            _ => return false,
        },
        Message::LOCK_INTERFACE_RESPONSE | Message::START_INTERFACE_REQUEST => 16,
        _ => return false,
    };
    flip(message, base, offset, 0)
}

/// Returns offset and size of the first length field of `message`.
pub(super) fn length_field(message: Message) -> Option<(usize, usize)> {
    Some(match message {
        Message::VERSION => (5, 1),
        Message::NEGOTIATE_ALGORITHMS | Message::ALGORITHMS | Message::CERTIFICATE => (4, 2),
        Message::MEASUREMENTS => (5, 3),
        Message::CHUNK_RESPONSE => (8, 4),
        Message::VENDOR_DEFINED_REQUEST | Message::VENDOR_DEFINED_RESPONSE => (9, 2),
        Message::TDISP_VERSION => (16, 1),
        Message::DEVICE_INTERFACE_REPORT => (16, 2),
        _ => return None,
    })
}

/// Adds `by` to a little-endian length field.
pub(super) fn lying_length(message: &mut [u8], base: usize, name: Message, by: i32) -> bool {
    let field = length_field(name)
        .and_then(|(offset, size)| message.get_mut(base + offset..base + offset + size));
    let Some(field) = field else { return false };
    let mut value = [0; 8];
    value[..field.len()].copy_from_slice(field);
    let value = i64::from_le_bytes(value).wrapping_add(i64::from(by));
    let bytes = value.to_le_bytes();
    field.copy_from_slice(&bytes[..field.len()]);
    by != 0
}

/// Builds the vendor-defined answer to `message` with the payload `inner`, protocol byte included.
fn vendor_answer(message: &[u8], start: usize, inner: &[u8]) -> Vec<u8> {
    let mut answer = message[..start - 1].to_vec();
    answer[1] = 0x7e;
    if start == 12 {
        answer[9..11].copy_from_slice(&(inner.len() as u16).to_le_bytes());
    } else {
        answer[11..15].copy_from_slice(&(inner.len() as u32).to_le_bytes());
    }
    answer.extend(inner);
    answer
}

/// Returns a TDISP error in answer to `message`, which may be request or answer.
pub(super) fn tdisp_error(message: &[u8], known: &Known, code: u32, data: u32) -> Option<Vec<u8>> {
    known.interface?;
    let (_, start) = known.inner?;
    let mut inner = vec![1, 0x10, 0x7f, 0, 0];
    inner.extend(message.get(start + 4..start + 16)?);
    inner.extend(code.to_le_bytes());
    inner.extend(data.to_le_bytes());
    Some(vendor_answer(message, start, &inner))
}

/// Returns a KP_ACK with `status` in answer to `message`, which may be KEY_PROG or KP_ACK.
pub(super) fn key_status(message: &[u8], known: &Known, status: u8) -> Option<Vec<u8>> {
    let (name, start) = known.inner?;
    if !matches!(name, Message::KEY_PROG | Message::KP_ACK) {
        return None;
    }
    let &[_, _, _, stream, _, sub_stream, port] = message.get(start..start + 7)? else {
        return None;
    };
    let inner = [0, 3, 0, 0, stream, status, sub_stream, port];
    Some(vendor_answer(message, start, &inner))
}

#[cfg(test)]
mod tests {
    use super::super::message::{Known, Message};
    use super::{flip, key_status, lying_length, place, set, tdisp_error, truncate};

    #[test]
    fn offsets_count_from_the_named_message_or_from_the_end() {
        assert_eq!(place(20, 12, 0), Some(12));
        assert_eq!(place(20, 12, 7), Some(19));
        assert_eq!(place(20, 12, 8), None);
        assert_eq!(place(20, 12, -8), Some(12));
        assert_eq!(place(20, 12, -9), None);
        assert_eq!(place(4, 0, i32::MIN), None);
    }

    #[test]
    fn what_lies_outside_changes_nothing() {
        let mut bytes = vec![1, 2, 3];
        assert!(!flip(&mut bytes, 0, 3, 0) && !set(&mut bytes, 0, 2, &[0, 0]));
        assert!(!truncate(&mut bytes, 1, 2));
        assert_eq!(bytes, [1, 2, 3]);
        assert!(flip(&mut bytes, 1, 0, 7) && set(&mut bytes, 0, -1, &[9]));
        assert!(truncate(&mut bytes, 0, 2));
        assert_eq!(bytes, [1, 0x82]);
    }

    #[test]
    fn a_length_wraps_in_its_own_field() {
        let mut message = vec![0x12, 0x60, 0, 0, 2, 0xff, 0xff, 0, 7];
        assert!(lying_length(&mut message, 0, Message::MEASUREMENTS, 1));
        assert_eq!(message[4..], [2, 0, 0, 1, 7]);
        assert!(lying_length(
            &mut message,
            0,
            Message::MEASUREMENTS,
            -0x1_0001
        ));
        assert_eq!(message[4..], [2, 0xff, 0xff, 0xff, 7]);
        assert!(!lying_length(&mut message, 0, Message::DIGESTS, 1));
    }

    #[test]
    fn answers_are_built_from_requests() {
        let mut prog = vec![
            0x12, 0xfe, 0, 0, 3, 0, 2, 1, 0, 48, 0, 0, 2, 0, 0, 5, 0, 0x12, 0,
        ];
        prog.resize(59, 0);
        let known = Known::of(&prog, true).unwrap();
        let ack = key_status(&prog, &known, 4).unwrap();
        assert_eq!(ack[..11], [0x12, 0x7e, 0, 0, 3, 0, 2, 1, 0, 8, 0]);
        assert_eq!(ack[11..], [0, 3, 0, 0, 5, 4, 0x12, 0]);
        assert_eq!(tdisp_error(&prog, &known, 3, 0), None);
        let mut stop = vec![0x12, 0xfe, 0, 0, 3, 0, 2, 1, 0, 17, 0, 1, 0x10, 0x87, 0, 0];
        stop.extend([0x08, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let known = Known::of(&stop, true).unwrap();
        let error = tdisp_error(&stop, &known, 3, 0).unwrap();
        assert_eq!(error[9..19], [25, 0, 1, 0x10, 0x7f, 0, 0, 8, 1, 0]);
        assert_eq!(error.len(), 11 + 25);
        assert_eq!(key_status(&stop, &known, 1), None);
    }
}
