// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! SHA-2 (FIPS 180-4) with the processor's own instructions, where it has some.
//!
//! Building a realm is mostly hashing its memory; nothing else here hashes enough to matter.

use sha2::block_api::{compress256, compress512};
use tsm_platform::Processor;

/// Bytes of the largest block.
const LARGEST: usize = 128;

const PADDING: [u8; LARGEST] = {
    let mut padding = [0; LARGEST];
    padding[0] = 0x80;
    padding
};

/// Cuts bytes into blocks.
struct Blocks<const BLOCK: usize, F> {
    compress: F,
    block: [u8; BLOCK],
    filled: usize,
    bytes: u64,
}

impl<const BLOCK: usize, F: FnMut(&[[u8; BLOCK]])> Blocks<BLOCK, F> {
    fn update(&mut self, data: &[u8]) {
        self.bytes = self.bytes.wrapping_add(data.len() as u64);
        let mut rest = data;
        if self.filled != 0 {
            let room = BLOCK.saturating_sub(self.filled);
            let (head, tail) = data.split_at(room.min(data.len()));
            self.keep(head);
            if self.filled < BLOCK {
                return;
            }
            (self.compress)(&[self.block]);
            self.filled = 0;
            rest = tail;
        }
        let (blocks, tail) = rest.as_chunks();
        if !blocks.is_empty() {
            (self.compress)(blocks);
        }
        self.keep(tail);
    }

    fn keep(&mut self, data: &[u8]) {
        for (to, from) in self.block.iter_mut().skip(self.filled).zip(data) {
            *to = *from;
        }
        self.filled = self.filled.saturating_add(data.len());
    }

    /// Ends the message with its length in bits, in an eighth of a block.
    fn finish(mut self) {
        let bits = self.bytes.wrapping_mul(8).to_be_bytes();
        // A message has less than 2^61 bytes, so eight bytes of the length are enough.
        let reserved = const { BLOCK / 8 };
        let end = if self.filled < BLOCK.saturating_sub(reserved) {
            BLOCK
        } else {
            BLOCK.saturating_mul(2)
        };
        let mut left = end.saturating_sub(self.filled).saturating_sub(bits.len());
        let mut padding = &PADDING[..];
        while left > 0 {
            let piece = padding.get(..left).unwrap_or(padding);
            self.update(piece);
            left = left.saturating_sub(piece.len());
            padding = PADDING.get(1..).unwrap_or(&[0]);
        }
        self.update(&bits);
    }
}

fn cut<const BLOCK: usize>(parts: &[&[u8]], compress: impl FnMut(&[[u8; BLOCK]])) {
    let mut blocks = Blocks {
        compress,
        block: [0; BLOCK],
        filled: 0,
        bytes: 0,
    };
    for part in parts {
        blocks.update(part);
    }
    blocks.finish();
}

/// Returns the SHA-256 hash of `parts`, one after another.
pub(crate) fn sha256(platform: &impl Processor, parts: &[&[u8]]) -> [u8; 32] {
    let mut state = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    cut(parts, |blocks| {
        if !platform.sha256(&mut state, blocks) {
            compress256(&mut state, blocks);
        }
    });
    let mut digest = [0; 32];
    for (to, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *to = word.to_be_bytes();
    }
    digest
}

/// Returns the SHA-384 hash of `parts`, one after another.
pub(crate) fn sha384(platform: &impl Processor, parts: &[&[u8]]) -> [u8; 48] {
    wide(
        platform,
        parts,
        [
            0xcbbb_9d5d_c105_9ed8,
            0x629a_292a_367c_d507,
            0x9159_015a_3070_dd17,
            0x152f_ecd8_f70e_5939,
            0x6733_2667_ffc0_0b31,
            0x8eb4_4a87_6858_1511,
            0xdb0c_2e0d_64f9_8fa7,
            0x47b5_481d_befa_4fa4,
        ],
    )
}

/// Returns the SHA-512 hash of `parts`, one after another.
pub(crate) fn sha512(platform: &impl Processor, parts: &[&[u8]]) -> [u8; 64] {
    wide(
        platform,
        parts,
        [
            0x6a09_e667_f3bc_c908,
            0xbb67_ae85_84ca_a73b,
            0x3c6e_f372_fe94_f82b,
            0xa54f_f53a_5f1d_36f1,
            0x510e_527f_ade6_82d1,
            0x9b05_688c_2b3e_6c1f,
            0x1f83_d9ab_fb41_bd6b,
            0x5be0_cd19_137e_2179,
        ],
    )
}

fn wide<const N: usize>(
    platform: &impl Processor,
    parts: &[&[u8]],
    mut state: [u64; 8],
) -> [u8; N] {
    cut(parts, |blocks| {
        if !platform.sha512(&mut state, blocks) {
            compress512(&mut state, blocks);
        }
    });
    let mut digest = [0; N];
    for (to, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *to = word.to_be_bytes();
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::{sha256, sha384, sha512};
    use sha2::{Digest, Sha256, Sha384, Sha512};
    use tsm_platform::{Ipa, Processor, Stage2};

    struct Plain;

    impl Processor for Plain {
        fn invalidate_stage2(&self, _: &Stage2, _: Ipa, _: u64) {}
        fn invalidate_stage2_all(&self, _: &Stage2) {}
        fn cpu_index(&self) -> usize {
            0
        }
    }

    #[test]
    fn every_length_and_cut_gives_the_hash_of_the_whole() {
        let data: Vec<u8> = (0..400_u32).map(|at| (at * 7) as u8).collect();
        for length in 0..data.len() {
            let whole = &data[..length];
            for cut in [0, 1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 256] {
                let (head, tail) = whole.split_at(cut.min(length));
                let parts = [head, tail];
                assert_eq!(sha256(&Plain, &parts), *Sha256::digest(whole));
                assert_eq!(sha384(&Plain, &parts), *Sha384::digest(whole));
                assert_eq!(sha512(&Plain, &parts), *Sha512::digest(whole));
            }
        }
    }
}
