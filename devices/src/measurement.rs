// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Measurements of the device.

use crate::crypto::{Digest, sha384};

/// DMTF measurement specification, in a block header.
const SPEC_DMTF: u8 = 1;
/// Value types (DSP0274, DMTF measurement format).
const MUTABLE_FIRMWARE: u8 = 1;
const FIRMWARE_CONFIGURATION: u8 = 3;
/// Set in the value type when the value is not a digest.
const RAW: u8 = 0x80;

/// The device's measurements: block 1 is its firmware, block 2 the configuration of it.
pub struct Measurements {
    firmware: Digest,
    configuration: Vec<u8>,
}

impl Measurements {
    /// Number of blocks; their indices start at 1.
    pub const COUNT: u8 = 2;

    /// Measures `firmware`, and `configuration` (at most 1024 bytes, the rest is not measured).
    #[must_use]
    pub fn new(firmware: &[u8], configuration: &[u8]) -> Self {
        let configuration = configuration[..configuration.len().min(1024)].to_vec();
        Self {
            firmware: sha384(&[firmware]),
            configuration,
        }
    }

    /// Returns the digest that block 1 reports.
    #[must_use]
    pub fn firmware_digest(&self) -> &[u8; 48] {
        &self.firmware
    }

    /// Returns block `index`, or `None` if there is none.
    ///
    /// `raw` asks for the value itself; firmware is reported as a digest in any case.
    pub(crate) fn block(&self, index: u8, raw: bool) -> Option<Vec<u8>> {
        let (kind, value) = match index {
            1 => (MUTABLE_FIRMWARE, self.firmware.to_vec()),
            2 if raw => (FIRMWARE_CONFIGURATION | RAW, self.configuration.clone()),
            2 => (
                FIRMWARE_CONFIGURATION,
                sha384(&[&self.configuration]).to_vec(),
            ),
            _ => return None,
        };
        let size = value.len() as u16;
        let mut block = vec![index, SPEC_DMTF];
        block.extend((size + 3).to_le_bytes());
        block.push(kind);
        block.extend(size.to_le_bytes());
        block.extend(value);
        Some(block)
    }

    /// Returns all blocks in order.
    pub(crate) fn all(&self, raw: bool) -> Vec<u8> {
        (1..=Self::COUNT)
            .filter_map(|index| self.block(index, raw))
            .flatten()
            .collect()
    }

    /// Returns the digest over all blocks that CHALLENGE and KEY_EXCHANGE can ask for.
    pub(crate) fn summary(&self) -> Digest {
        sha384(&[&self.all(false)])
    }
}

#[cfg(test)]
mod tests {
    use super::Measurements;

    #[test]
    fn a_block_says_whether_it_is_a_digest() {
        let measurements = Measurements::new(b"firmware", b"configuration");
        assert_eq!(
            measurements.block(1, true).unwrap()[..7],
            [1, 1, 51, 0, 0x01, 48, 0]
        );
        assert_eq!(
            measurements.block(2, false).unwrap()[..7],
            [2, 1, 51, 0, 0x03, 48, 0]
        );
        let raw = measurements.block(2, true).unwrap();
        assert_eq!(raw[..7], [2, 1, 16, 0, 0x83, 13, 0]);
        assert_eq!(raw[7..], *b"configuration");
        assert!(measurements.block(0, false).is_none());
        assert!(measurements.block(3, false).is_none());
    }
}
