// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The IDE extended capability (PCIe 6.0, 7.9.26), as `QUERY_RESP` shows it: from its capability
//! register on.

/// State of a stream that is protected, in a status register.
const SECURE: u32 = 2;

/// What a port can do: the IDE Capability register, the first that `QUERY_RESP` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Selective streams are supported.
    pub selective: bool,
    /// Keys can be programmed by IDE_KM messages.
    pub key_management: bool,
    /// AES-GCM with 256-bit keys and 96-bit MAC is supported.
    pub aes_gcm_256: bool,
    /// TEE-limited streams are supported.
    pub tee_limited: bool,
    /// Registers that describe link streams.
    link_registers: usize,
    /// Selective streams that there are registers for.
    streams: usize,
}

impl Capability {
    /// Decodes the register.
    #[must_use]
    pub const fn decode(register: u32) -> Self {
        let [flags, algorithm, streams, high] = register.to_le_bytes();
        // Control and status for each traffic class, whose number less one is in bits 15:13.
        let classes = (algorithm >> 5) as usize;
        let link_registers = if flags & 1 == 0 {
            0
        } else {
            classes.saturating_add(1).saturating_mul(2)
        };
        Self {
            selective: flags & 1 << 1 != 0,
            key_management: flags & 1 << 6 != 0,
            aes_gcm_256: algorithm & 0x1f == 0,
            tee_limited: high & 1 != 0,
            link_registers,
            streams: (streams as usize).saturating_add(1),
        }
    }

    /// Returns whether the port takes keys of selective streams as this crate hands them out.
    #[must_use]
    pub const fn takes_keys(&self) -> bool {
        self.selective && self.key_management && self.aes_gcm_256
    }
}

/// What a device's registers say about one stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// No stream that is enabled has the id.
    Nothing,
    /// One stream has it; whether it is protected.
    Stream {
        /// Both ends use its keys, as far as the device can tell.
        secure: bool,
    },
    /// Several have it, or the registers end before they should.
    Contradiction,
}

/// Looks for the selective stream `id` in the registers of a port, of which `register` returns the
/// one with an index if it is there.
pub fn find_stream(register: impl Fn(usize) -> Option<u32>, id: u8) -> Shown {
    let Some(capability) = register(0).map(Capability::decode) else {
        return Shown::Contradiction;
    };
    let mut found = Shown::Nothing;
    // The capability and the control register come first.
    let mut at = capability.link_registers.saturating_add(2);
    for _ in 0..capability.streams {
        let block = |offset: usize| register(at.saturating_add(offset));
        let (Some(own), Some(control), Some(status)) = (block(0), block(1), block(2)) else {
            return Shown::Contradiction;
        };
        let [enable, _, _, stream] = control.to_le_bytes();
        if enable & 1 != 0 && stream == id {
            if found != Shown::Nothing {
                return Shown::Contradiction;
            }
            found = Shown::Stream {
                secure: status & 0xf == SECURE,
            };
        }
        // Three registers, two of requester ids, three for each address range.
        let ranges = (own.to_le_bytes()[0] & 0xf) as usize;
        at = at
            .saturating_add(5)
            .saturating_add(ranges.saturating_mul(3));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Capability, Shown, find_stream};

    fn shown(registers: &[u32], id: u8) -> Shown {
        find_stream(|index| registers.get(index).copied(), id)
    }

    const SECURE: Shown = Shown::Stream { secure: true };
    const ENABLED: u32 = 1;

    #[test]
    fn keys_go_to_ports_with_key_management_and_a_known_cipher_only() {
        assert!(Capability::decode(0x0000_0042).takes_keys());
        assert!(!Capability::decode(0x0000_0002).takes_keys());
        assert!(!Capability::decode(0x0000_0040).takes_keys());
        assert!(!Capability::decode(0x0000_0142).takes_keys());
    }

    #[test]
    fn each_bit_is_where_the_register_has_it() {
        let capability = Capability::decode(0x0100_0002);
        assert!(capability.selective && capability.tee_limited);
        assert!(!capability.key_management && capability.aes_gcm_256);
    }

    #[test]
    fn a_stream_is_found_behind_link_streams_and_address_ranges() {
        // Link streams of two classes, three selective streams, the first with two ranges.
        let mut registers = vec![0x0002_2043, 0, 9, 9, 9, 9];
        registers.extend([2, ENABLED | 7 << 24, 2, 0, 0, 1, 1, 1, 2, 2, 2]);
        registers.extend([0, 5 << 24, 2, 0, 0]);
        registers.extend([0, ENABLED | 6 << 24, 0, 0, 0]);
        assert_eq!(shown(&registers, 7), SECURE);
        assert_eq!(shown(&registers, 6), Shown::Stream { secure: false });
        assert_eq!(shown(&registers, 5), Shown::Nothing, "it is not enabled");
        assert_eq!(shown(&registers, 9), Shown::Nothing);
    }

    #[test]
    fn registers_that_contradict_themselves_are_no_answer() {
        let twice = [
            0x0001_0042,
            0,
            0,
            1 | 7 << 24,
            2,
            0,
            0,
            0,
            1 | 7 << 24,
            2,
            0,
            0,
        ];
        assert_eq!(shown(&twice, 7), Shown::Contradiction);
        assert_eq!(shown(&twice[..9], 7), Shown::Contradiction);
        assert_eq!(shown(&[], 7), Shown::Contradiction);
        // All 256 streams promised, none shown.
        assert_eq!(shown(&[0xffff_ffff], 7), Shown::Contradiction);
    }
}
