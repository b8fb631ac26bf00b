// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Names of keys, and the one key that is on its way.

use tsm_platform::KeySlot;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Initial invocation field of every key: the 64-bit counter half of the AES-GCM IV.
pub const INITIAL_IV: u64 = 1;

/// One of the two key sets of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// K0, the first one used.
    K0,
    /// K1.
    K1,
}

impl KeySet {
    /// Both key sets.
    pub const ALL: [Self; 2] = [Self::K0, Self::K1];

    /// Returns the one that is not `self`.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::K0 => Self::K1,
            Self::K1 => Self::K0,
        }
    }

    /// Returns 0 or 1.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::K0 => 0,
            Self::K1 => 1,
        }
    }
}

/// The kind of requests that a key protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubStream {
    /// Posted requests (PR).
    Posted,
    /// Non-posted requests (NPR).
    NonPosted,
    /// Completions (CPL).
    Completion,
}

impl SubStream {
    /// Every sub-stream.
    pub const ALL: [Self; 3] = [Self::Posted, Self::NonPosted, Self::Completion];

    /// Returns the number that IDE_KM and root ports use: 0 to 2.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Posted => 0,
            Self::NonPosted => 1,
            Self::Completion => 2,
        }
    }
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From the root port to the device.
    Downstream,
    /// From the device to the root port.
    Upstream,
}

impl Flow {
    /// Both ways.
    pub const ALL: [Self; 2] = [Self::Downstream, Self::Upstream];
}

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device, reached by IDE_KM messages.
    Device,
    /// The root port, reached through the platform.
    RootPort,
}

impl End {
    /// Both ends.
    pub const ALL: [Self; 2] = [Self::Device, Self::RootPort];
}

/// One of the twelve keys of a stream. Both ends hold the same key: what one end transmits with,
/// the other receives with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Key set.
    pub set: KeySet,
    /// Sub-stream.
    pub sub_stream: SubStream,
    /// Which way the packets go that the key protects.
    pub flow: Flow,
}

impl Key {
    /// Number of keys of one key set.
    pub const PER_SET: usize = 6;

    /// Yields the keys of `set`.
    pub fn of(set: KeySet) -> impl Iterator<Item = Self> {
        SubStream::ALL.into_iter().flat_map(move |sub_stream| {
            Flow::ALL.into_iter().map(move |flow| Self {
                set,
                sub_stream,
                flow,
            })
        })
    }

    /// Returns whether `end` transmits with this key.
    #[must_use]
    pub const fn is_transmitted_by(self, end: End) -> bool {
        matches!(
            (self.flow, end),
            (Flow::Downstream, End::RootPort) | (Flow::Upstream, End::Device)
        )
    }

    /// Returns the byte by which IDE_KM messages to the device name this key: key set in bit 0,
    /// direction seen from the device in bit 1 (1 transmits), sub-stream in bits 7:4.
    #[must_use]
    pub const fn device_byte(self) -> u8 {
        let transmit = if self.is_transmitted_by(End::Device) {
            2
        } else {
            0
        };
        self.set.code() | transmit | self.sub_stream.code() << 4
    }

    /// Returns the name by which a root port knows this key of `stream`.
    #[must_use]
    pub const fn root_port_slot(self, stream: u8) -> KeySlot {
        KeySlot {
            stream,
            key_set: self.set.code(),
            sub_stream: self.sub_stream.code(),
            transmit: self.is_transmitted_by(End::RootPort),
        }
    }

    /// Returns the key's bit in a set of keys of one end.
    pub(crate) const fn bit(self) -> u16 {
        // Seen from the root port, the order in which key configuration units number their slots.
        let transmit = match self.flow {
            Flow::Upstream => 0b01,
            Flow::Downstream => 0b10,
        };
        let sub_stream = match self.sub_stream {
            SubStream::Posted => 0,
            SubStream::NonPosted => 2,
            SubStream::Completion => 4,
        };
        let set = match self.set {
            KeySet::K0 => 0,
            KeySet::K1 => 6,
        };
        (transmit << sub_stream) << set
    }
}

/// A 256-bit AES-GCM key in the byte order of the cipher, from its generation until both ends have
/// it. All zero at any other time.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial {
    bytes: [u8; 32],
}

impl KeyMaterial {
    pub(crate) const fn none() -> Self {
        Self { bytes: [0; 32] }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; 32] {
        &mut self.bytes
    }

    /// Returns the key.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Returns whether there is no key.
    pub(crate) fn is_none(&self) -> bool {
        self.bytes.iter().fold(0, |all, byte| all | byte) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Flow, Key, KeySet, SubStream};

    #[test]
    fn every_key_has_its_own_name_on_each_end() {
        let keys: Vec<Key> = KeySet::ALL.into_iter().flat_map(Key::of).collect();
        assert_eq!(keys.len(), 2 * Key::PER_SET);
        for (index, key) in keys.iter().enumerate() {
            for other in &keys[..index] {
                assert_ne!(key.bit(), other.bit());
                assert_ne!(key.device_byte(), other.device_byte());
                assert_ne!(key.root_port_slot(1), other.root_port_slot(1));
            }
            assert!(key.bit() < 1 << 12);
        }
    }

    #[test]
    fn what_the_root_port_transmits_with_the_device_receives_with() {
        let key = Key {
            set: KeySet::K1,
            sub_stream: SubStream::Completion,
            flow: Flow::Downstream,
        };
        assert!(key.root_port_slot(5).transmit);
        assert_eq!(key.device_byte(), 0x21);
        let key = Key {
            flow: Flow::Upstream,
            ..key
        };
        assert!(!key.root_port_slot(5).transmit);
        assert_eq!(key.device_byte(), 0x23);
        assert!(key.is_transmitted_by(End::Device) && !key.is_transmitted_by(End::RootPort));
    }
}
