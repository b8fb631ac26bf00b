// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Model of the link between root port and device: test packets under the keys of both ends.
//!
//! QEMU moves no encrypted packets. What can be shown is that both ends hold the same keys: each
//! key in use is tried by sealing a packet with the sender's copy and opening it with the
//! receiver's.

use zeroize::Zeroizing;

use crate::crypto::Cipher;

/// Number of keys of a stream: two key sets, three sub-streams, two directions.
pub const KEYS_PER_STREAM: usize = 12;

/// Names one key of a stream, as one end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// Key set, 0 or 1.
    pub key_set: u8,
    /// Sub-stream: 0 posted, 1 non-posted, 2 completion.
    pub sub_stream: u8,
    /// Whether this end transmits with the key.
    pub transmit: bool,
}

impl KeySlot {
    /// Reads the sub-stream byte of an IDE_KM object.
    #[must_use]
    pub fn decode(byte: u8) -> Option<Self> {
        // Bit 0 key set, bit 1 direction, bits 3:2 reserved, bits 7:4 sub-stream.
        let sub_stream = byte >> 4;
        (sub_stream < 3).then_some(Self {
            key_set: byte & 1,
            sub_stream,
            transmit: byte & 2 != 0,
        })
    }

    /// Returns the place of the key among those of its stream.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.key_set) * 6
            + usize::from(self.sub_stream) * 2
            + usize::from(self.transmit)
    }

    /// Returns the name of the same key at the other end of the link.
    #[must_use]
    pub fn opposite(self) -> Self {
        Self {
            transmit: !self.transmit,
            ..self
        }
    }

    /// Lists the six keys of a key set.
    pub fn of_set(key_set: u8) -> impl Iterator<Item = Self> {
        (0..3).flat_map(move |sub_stream| {
            [false, true].map(|transmit| Self {
                key_set,
                sub_stream,
                transmit,
            })
        })
    }
}

/// A key that one end uses. Erased when dropped.
pub struct LinkKey {
    /// AES-256 key in the byte order of AES-GCM.
    pub key: Zeroizing<[u8; 32]>,
    /// Invocation field of the first packet.
    pub iv: u64,
}

/// The keys of one stream at one end that are in use, by [`KeySlot::index`].
pub type EndKeys = [Option<LinkKey>; KEYS_PER_STREAM];

/// What the link model found out about a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// All six keys of a key set are in use at both ends, and no packet failed.
    pub secure: bool,
    /// Test packets that opened. Wraps.
    pub opened: u32,
    /// Test packets that did not. Wraps.
    pub failed: u32,
}

/// The root port's end of the link.
pub trait LinkKeys: Send {
    /// Takes note of where the function is now: the root port tells streams apart by it.
    fn place(&mut self, rid: Option<u16>) {
        let _ = rid;
    }
    /// Returns the keys of `stream` that the root port uses, named as the root port sees them.
    fn keys(&mut self, stream: u8) -> EndKeys;
    /// Shows the root port what became of `stream`.
    fn publish(&mut self, stream: u8, status: LinkStatus);
}

/// A root port that does not exist: no stream ever becomes secure.
pub struct NoRootPort;

impl LinkKeys for NoRootPort {
    fn keys(&mut self, _: u8) -> EndKeys {
        [const { None }; KEYS_PER_STREAM]
    }

    fn publish(&mut self, _: u8, _: LinkStatus) {}
}

/// Sends one packet from `sender` to `receiver`; `packet` is its number, so that no nonce repeats.
fn arrives(sender: &LinkKey, receiver: &LinkKey, packet: u64) -> bool {
    // PCIe IDE: four zero bytes, then the invocation field, most significant byte first.
    let nonce = |end: &LinkKey| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&end.iv.wrapping_add(packet).to_be_bytes());
        nonce
    };
    let content = packet.to_le_bytes();
    let mut text = content;
    let tag = Cipher::Aes256Gcm.seal(
        &sender.key[..],
        &nonce(sender),
        b"IDE test packet",
        &mut text,
    );
    Cipher::Aes256Gcm.open(
        &receiver.key[..],
        &nonce(receiver),
        b"IDE test packet",
        &mut text,
        &tag,
    ) && text == content
}

/// Tries every key that both ends use and brings `status` up to date.
pub(crate) fn exercise(
    device: &[Option<&LinkKey>; KEYS_PER_STREAM],
    port: &EndKeys,
    packet: u64,
    status: &mut LinkStatus,
) {
    let mut failed = false;
    let mut complete = false;
    for key_set in 0..2 {
        let mut works = 0;
        for slot in KeySlot::of_set(key_set) {
            let ends = (device[slot.index()], &port[slot.opposite().index()]);
            let (Some(ours), Some(theirs)) = ends else {
                continue;
            };
            let (sender, receiver) = if slot.transmit {
                (ours, theirs)
            } else {
                (theirs, ours)
            };
            if arrives(sender, receiver, packet) {
                status.opened = status.opened.wrapping_add(1);
                works += 1;
            } else {
                status.failed = status.failed.wrapping_add(1);
                failed = true;
            }
        }
        complete |= works == 6;
    }
    status.secure = complete && !failed;
}

/// Packets that flow all the time: each sender takes up a key set when it starts, and keeps to it
/// until it starts the other one or stops this one.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Whether each sender had the key of each set, and which set it sends under.
    senders: [([bool; 2], Option<u8>); 6],
    /// Packets that were sent.
    pub sent: u32,
    /// Packets that were sent and could not be opened.
    pub lost: u32,
}

impl Traffic {
    /// Sends one packet from each sender that has a key. Without the root port's registers no packet
    /// takes the stream.
    pub fn flow(
        &mut self,
        device: &[Option<&LinkKey>; KEYS_PER_STREAM],
        port: &EndKeys,
        packet: u64,
    ) {
        if port.iter().all(Option::is_none) {
            *self = Self {
                senders: Default::default(),
                ..*self
            };
            return;
        }
        for (number, slot) in KeySlot::of_set(0).enumerate() {
            let keys = [0, 1].map(|key_set| {
                let slot = KeySlot { key_set, ..slot };
                let (ours, theirs) = (device[slot.index()], port[slot.opposite().index()].as_ref());
                if slot.transmit {
                    (ours, theirs)
                } else {
                    (theirs, ours)
                }
            });
            let has = keys.map(|(sender, _)| sender.is_some());
            let (had, sending) = self.senders[number];
            let started = (0..2).find(|set| has[*set] && !had[*set]);
            let kept = sending.map(usize::from).filter(|set| has[*set]);
            let other = (0..2).find(|set| has[*set]);
            let now = started.or(kept).or(other);
            self.senders[number] = (has, now.map(|set| set as u8));
            let Some((Some(sender), receiver)) = now.map(|set| keys[set]) else {
                continue;
            };
            self.sent = self.sent.wrapping_add(1);
            if !receiver.is_some_and(|receiver| arrives(sender, receiver, packet)) {
                self.lost = self.lost.wrapping_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EndKeys, KEYS_PER_STREAM, KeySlot, LinkKey, LinkStatus, Traffic, exercise};
    use zeroize::Zeroizing;

    fn key(byte: u8) -> LinkKey {
        LinkKey {
            key: Zeroizing::new([byte; 32]),
            iv: 1,
        }
    }

    /// Six keys of set 0: the key of `slot` at the device is that of its opposite at the port.
    fn ends() -> (EndKeys, EndKeys) {
        let mut device = [const { None }; KEYS_PER_STREAM];
        let mut port = [const { None }; KEYS_PER_STREAM];
        for slot in KeySlot::of_set(0) {
            device[slot.index()] = Some(key(slot.index() as u8));
            port[slot.opposite().index()] = Some(key(slot.index() as u8));
        }
        (device, port)
    }

    fn run(device: &EndKeys, port: &EndKeys) -> LinkStatus {
        let mut status = LinkStatus::default();
        exercise(&device.each_ref().map(Option::as_ref), port, 5, &mut status);
        status
    }

    #[test]
    fn six_matching_keys_are_a_secure_stream() {
        let (device, port) = ends();
        assert_eq!(
            run(&device, &port),
            LinkStatus {
                secure: true,
                opened: 6,
                failed: 0
            }
        );
    }

    #[test]
    fn a_missing_key_at_either_end_is_not_secure() {
        for end in 0..2 {
            for slot in 0..6 {
                let mut ends = ends();
                let side = if end == 0 { &mut ends.0 } else { &mut ends.1 };
                side[slot] = None;
                assert_eq!(
                    run(&ends.0, &ends.1),
                    LinkStatus {
                        secure: false,
                        opened: 5,
                        failed: 0
                    }
                );
            }
        }
    }

    #[test]
    fn a_key_or_invocation_field_that_differs_is_found() {
        let (device, mut port) = ends();
        port[0] = Some(key(0xee));
        assert_eq!(
            run(&device, &port),
            LinkStatus {
                secure: false,
                opened: 5,
                failed: 1
            }
        );
        let (device, mut port) = ends();
        port[3].as_mut().unwrap().iv = 2;
        assert_eq!(
            run(&device, &port),
            LinkStatus {
                secure: false,
                opened: 5,
                failed: 1
            }
        );
    }

    #[test]
    fn keys_in_the_same_direction_do_not_match() {
        let (device, _) = ends();
        let (port, _) = ends();
        assert!(!run(&device, &port).secure);
    }

    #[test]
    fn a_sender_that_takes_up_keys_before_its_receiver_loses_packets() {
        let (mut device, mut port) = ends();
        let mut traffic = Traffic::default();
        let flow = |traffic: &mut Traffic, device: &EndKeys, port: &EndKeys| {
            traffic.flow(&device.each_ref().map(Option::as_ref), port, 7);
            (traffic.sent, traffic.lost)
        };
        assert_eq!(flow(&mut traffic, &device, &port), (6, 0));
        let new = KeySlot {
            key_set: 1,
            sub_stream: 0,
            transmit: true,
        };
        device[new.index()] = Some(key(9));
        assert_eq!(flow(&mut traffic, &device, &port), (12, 1));
        assert_eq!(flow(&mut traffic, &device, &port), (18, 2));
        port[new.opposite().index()] = Some(key(9));
        assert_eq!(flow(&mut traffic, &device, &port), (24, 2));
        // The old key may go at the sender, not at a receiver that is still sent to under it.
        let old = KeySlot { key_set: 0, ..new };
        device[old.index()] = None;
        port[old.opposite().index()] = None;
        assert_eq!(flow(&mut traffic, &device, &port), (30, 2));
        port[old.index()] = None;
        device[old.opposite().index()] = None;
        assert_eq!(flow(&mut traffic, &device, &port), (35, 2));
        port = [const { None }; KEYS_PER_STREAM];
        assert_eq!(flow(&mut traffic, &device, &port), (35, 2));
    }
}
