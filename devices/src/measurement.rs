// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Measurements of the device.

use crate::crypto::Hash;

/// DMTF measurement specification, in a block header.
const SPEC_DMTF: u8 = 1;
/// Value types (DSP0274, DMTF measurement format).
const MUTABLE_FIRMWARE: u8 = 1;
const FIRMWARE_CONFIGURATION: u8 = 3;
/// Set in the value type when the value is not a digest.
const RAW: u8 = 0x80;

/// One measured thing.
struct Measured {
    index: u8,
    kind: u8,
    /// Whether the trusted computing base consists of it, among others.
    trusted: bool,
    digest: [u8; 48],
    /// What the digest is of, if that may be told.
    value: Option<Vec<u8>>,
}

impl Measured {
    fn block(&self, raw: bool) -> Vec<u8> {
        let (kind, value) = match &self.value {
            Some(value) if raw => (self.kind | RAW, &value[..]),
            _ => (self.kind, &self.digest[..]),
        };
        let size = value.len() as u16;
        let mut block = vec![self.index, SPEC_DMTF];
        block.extend((size + 3).to_le_bytes());
        block.push(kind);
        block.extend(size.to_le_bytes());
        block.extend(value);
        block
    }
}

/// The device's measurements: block 1 is its firmware, block 2 the configuration of it.
///
/// Digests are SHA-384, whatever hash a connection agrees on.
pub struct Measurements {
    blocks: Vec<Measured>,
    /// Firmware that runs after the next reset, if it is another one.
    pending: Option<[u8; 48]>,
}

fn digest(value: &[u8]) -> [u8; 48] {
    let mut digest = [0; 48];
    digest.copy_from_slice(&Hash::Sha384.digest(&[value]));
    digest
}

impl Measurements {
    /// Measures `firmware`, and `configuration` (at most 1024 bytes, the rest is not measured).
    #[must_use]
    pub fn new(firmware: &[u8], configuration: &[u8]) -> Self {
        let mut measurements = Self {
            blocks: vec![Measured {
                index: 1,
                kind: MUTABLE_FIRMWARE,
                trusted: true,
                digest: digest(firmware),
                value: None,
            }],
            pending: None,
        };
        measurements.add(2, FIRMWARE_CONFIGURATION, configuration);
        measurements.blocks[1].trusted = true;
        measurements
    }

    /// Adds block `index` (above those there are, below 0xf0) of DMTF value type `kind` that is not
    /// of the trusted computing base. At most 1024 bytes of `value` are measured.
    pub fn add(&mut self, index: u8, kind: u8, value: &[u8]) {
        let value = value[..value.len().min(1024)].to_vec();
        self.blocks.push(Measured {
            index,
            kind,
            trusted: false,
            digest: digest(&value),
            value: Some(value),
        });
    }

    /// Sets the firmware that a request for new measurements is told.
    pub fn set_pending(&mut self, firmware: &[u8]) {
        self.pending = Some(digest(firmware));
    }

    /// Returns the digest that block 1 reports.
    #[must_use]
    pub fn firmware_digest(&self) -> &[u8; 48] {
        &self.blocks[0].digest
    }

    /// Returns the number of blocks.
    pub(crate) fn count(&self) -> u8 {
        self.blocks.len() as u8
    }

    /// Returns block `index`, or `None` if there is none.
    ///
    /// `raw` asks for the value itself; firmware is reported as a digest in any case. `new` asks
    /// for what will be measured after the next reset.
    pub(crate) fn block(&self, index: u8, raw: bool, new: bool) -> Option<Vec<u8>> {
        let measured = self.blocks.iter().find(|block| block.index == index)?;
        let mut block = measured.block(raw);
        if let Some(pending) = self.pending.filter(|_| new && index == 1) {
            let at = block.len() - pending.len();
            block[at..].copy_from_slice(&pending);
        }
        Some(block)
    }

    /// Returns all blocks in order.
    pub(crate) fn all(&self, raw: bool, new: bool) -> Vec<u8> {
        self.blocks
            .iter()
            .filter_map(|block| self.block(block.index, raw, new))
            .flatten()
            .collect()
    }

    /// Returns the digest that CHALLENGE and KEY_EXCHANGE can ask for: over all blocks, or over
    /// those of the trusted computing base.
    pub(crate) fn summary(&self, hash: Hash, all: bool) -> Vec<u8> {
        let blocks: Vec<u8> = self
            .blocks
            .iter()
            .filter(|block| all || block.trusted)
            .flat_map(|block| block.block(false))
            .collect();
        hash.digest(&[&blocks])
    }
}

#[cfg(test)]
mod tests {
    use super::Measurements;
    use crate::crypto::Hash;

    #[test]
    fn a_block_says_whether_it_is_a_digest() {
        let measurements = Measurements::new(b"firmware", b"configuration");
        assert_eq!(
            measurements.block(1, true, false).unwrap()[..7],
            [1, 1, 51, 0, 0x01, 48, 0]
        );
        assert_eq!(
            measurements.block(2, false, false).unwrap()[..7],
            [2, 1, 51, 0, 0x03, 48, 0]
        );
        let raw = measurements.block(2, true, false).unwrap();
        assert_eq!(raw[..7], [2, 1, 16, 0, 0x83, 13, 0]);
        assert_eq!(raw[7..], *b"configuration");
        assert!(measurements.block(0, false, false).is_none());
        assert!(measurements.block(3, false, false).is_none());
    }

    #[test]
    fn the_summary_of_the_trusted_base_leaves_out_what_is_not_of_it() {
        let mut measurements = Measurements::new(b"firmware", b"configuration");
        let base = measurements.summary(Hash::Sha256, false);
        assert_eq!(base, measurements.summary(Hash::Sha256, true));
        measurements.add(3, 2, b"wiring");
        assert_eq!(base, measurements.summary(Hash::Sha256, false));
        assert_ne!(base, measurements.summary(Hash::Sha256, true));
        assert_eq!(measurements.all(false, false).len(), 3 * 55);
    }

    #[test]
    fn firmware_that_waits_for_a_reset_is_told_to_who_asks_for_it() {
        let mut measurements = Measurements::new(b"firmware", b"configuration");
        assert_eq!(
            measurements.all(false, true),
            measurements.all(false, false)
        );
        measurements.set_pending(b"next");
        assert_eq!(
            measurements.block(1, false, true).unwrap()[7..],
            Hash::Sha384.digest(&[b"next"])
        );
        assert_eq!(
            measurements.block(1, false, false).unwrap()[7..],
            measurements.firmware_digest()[..]
        );
    }
}
