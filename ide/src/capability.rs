// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The IDE extended capability (PCIe 6.0, 7.9.26).

use tsm_platform::Rid;

/// What a port can do: the IDE Capability register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Link streams are supported; their registers stand before the selective streams'.
    pub link: bool,
    /// Selective streams are supported.
    pub selective: bool,
    /// Keys can be programmed by IDE_KM messages.
    pub key_management: bool,
    /// TEE-limited streams are supported.
    pub tee_limited: bool,
    /// AES-GCM with 256-bit keys and 96-bit MAC is supported.
    pub aes_gcm_256: bool,
    /// Number of link stream register blocks.
    pub link_blocks: u8,
    /// Number of selective stream register blocks, 1 to 256; 0 without selective streams.
    pub selective_blocks: u16,
}

impl Capability {
    /// Id of the extended capability.
    pub const ID: u16 = 0x0030;
    /// Offset of the register from the start of the capability, in bytes. The IDE Control register
    /// follows it, then the link blocks, then the selective blocks.
    pub const OFFSET: u16 = 4;

    /// Decodes the register.
    #[must_use]
    pub const fn decode(register: u32) -> Self {
        let [flags, algorithm, selective_less_one, high] = register.to_le_bytes();
        let link = flags & 1 != 0;
        let selective = flags & 2 != 0;
        Self {
            link,
            selective,
            key_management: flags & 0x40 != 0,
            tee_limited: high & 1 != 0,
            aes_gcm_256: algorithm & 0x1f == 0,
            link_blocks: if link {
                (algorithm >> 5).saturating_add(1)
            } else {
                0
            },
            selective_blocks: if selective {
                (selective_less_one as u16).saturating_add(1)
            } else {
                0
            },
        }
    }

    /// Returns whether the port can carry a TDI's traffic under keys that the TSM programs.
    #[must_use]
    pub const fn can_protect_tdis(&self) -> bool {
        self.selective && self.key_management && self.aes_gcm_256
    }

    /// Yields the selective streams in `registers`, the double words from [`Self::OFFSET`] on.
    /// Ends early where `registers` does.
    pub fn selective_streams(
        self,
        registers: &[u32],
    ) -> impl Iterator<Item = SelectiveStream> + use<'_> {
        // Capability and control, then two registers for each link block.
        let first = usize::from(self.link_blocks)
            .saturating_mul(2)
            .saturating_add(2);
        let mut rest = registers.get(first..).unwrap_or_default();
        (0..self.selective_blocks).map_while(move |_| {
            let (stream, after) = SelectiveStream::decode(rest)?;
            rest = after;
            Some(stream)
        })
    }
}

/// Whether a stream protects packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStatus {
    /// It does not.
    Insecure,
    /// It does.
    Secure,
    /// The register holds a value that has no meaning.
    Reserved(u8),
}

/// The register block of one selective stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectiveStream {
    /// The stream is enabled.
    pub enabled: bool,
    /// The stream takes what no other stream is for.
    pub default_stream: bool,
    /// Stream id.
    pub id: u8,
    /// Whether it protects packets now.
    pub status: StreamStatus,
    /// A packet failed its integrity check.
    pub integrity_failed: bool,
    /// Requester ids of the other end, first and last, if they are set.
    pub requesters: Option<(Rid, Rid)>,
}

impl SelectiveStream {
    /// Decodes the block at the start of `registers`; returns it with what follows.
    fn decode(registers: &[u32]) -> Option<(Self, &[u32])> {
        let [capability, control, status, limit, base, rest @ ..] = registers else {
            return None;
        };
        // Each address association block has three registers.
        let associations = usize::try_from(capability & 0xf).ok()?.checked_mul(3)?;
        let rest = rest.get(associations..)?;
        let [_, _, default_stream, id] = control.to_le_bytes();
        let [state, ..] = status.to_le_bytes();
        let [valid, base_low, base_high, _] = base.to_le_bytes();
        let [_, limit_low, limit_high, _] = limit.to_le_bytes();
        let stream = Self {
            enabled: control & 1 != 0,
            default_stream: default_stream & 0x40 != 0,
            id,
            status: match state & 0xf {
                0 => StreamStatus::Insecure,
                2 => StreamStatus::Secure,
                other => StreamStatus::Reserved(other),
            },
            integrity_failed: status >> 31 != 0,
            requesters: (valid & 1 != 0).then_some((
                Rid(u16::from_le_bytes([base_low, base_high])),
                Rid(u16::from_le_bytes([limit_low, limit_high])),
            )),
        };
        Some((stream, rest))
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::Rid;

    use super::{Capability, StreamStatus};

    #[test]
    fn a_port_without_key_management_cannot_protect() {
        assert!(Capability::decode(0x0000_0042).can_protect_tdis());
        assert!(!Capability::decode(0x0000_0002).can_protect_tdis());
        assert!(!Capability::decode(0x0000_0041).can_protect_tdis());
        assert!(!Capability::decode(0x0000_0142).can_protect_tdis());
    }

    #[test]
    fn selective_blocks_are_found_behind_link_blocks_and_address_associations() {
        let head = 1 << 16 | 1 << 13 | 0x43;
        let capability = Capability::decode(head);
        assert_eq!(capability.link_blocks, 2);
        assert_eq!(capability.selective_blocks, 2);
        let mut registers = vec![head, 0, 0, 0, 0, 0];
        registers.extend([1, 0x0700_0001, 2, 0x1_ff00, 0x1_0001, 0xa, 0xb, 0xc]);
        registers.extend([0, 0x0840_0000, 1 << 31, 0, 0]);
        let streams: Vec<_> = capability.selective_streams(&registers).collect();
        let [first, second] = streams.as_slice() else {
            panic!("{streams:?}");
        };
        assert!(first.enabled && first.id == 7 && first.status == StreamStatus::Secure);
        assert_eq!(first.requesters, Some((Rid(0x0100), Rid(0x01ff))));
        assert!(!second.enabled && second.default_stream && second.integrity_failed);
        assert_eq!((second.id, second.requesters), (8, None));
        for end in 0..registers.len() {
            let _ = capability.selective_streams(&registers[..end]).count();
        }
    }
}
