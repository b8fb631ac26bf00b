// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Key with which R-EL2 signs realm tokens: made at boot, lost at power off.

use zeroize::Zeroize;

/// A private key on the curve P-384: its scalar, most significant byte first.
pub struct AttestationKey([u8; Self::SIZE]);

/// Order of the group of P-384 (FIPS 186-5), in 64-bit words, most significant first.
const ORDER: [u64; 6] = [
    u64::MAX,
    u64::MAX,
    u64::MAX,
    0xc763_4d81_f437_2ddf,
    0x581a_0db2_48b0_a77a,
    0xecec_196a_ccc5_2973,
];

impl AttestationKey {
    /// Size of the scalar in bytes.
    pub const SIZE: usize = 48;
    /// Words drawn before the generator counts as broken. A draw is outside the group once in 2^194.
    const ATTEMPTS: usize = 8;

    /// Draws a key from `random`; none if that fails.
    pub fn generate(mut random: impl FnMut() -> Option<u64>) -> Option<Self> {
        for _ in 0..Self::ATTEMPTS {
            let mut words = [0_u64; 6];
            for word in &mut words {
                *word = random()?;
            }
            let mut key = [0; Self::SIZE];
            // Words compare as numbers do, most significant first.
            let in_group = words < ORDER && words != [0; 6];
            if in_group {
                for (bytes, word) in key.chunks_exact_mut(8).zip(&words) {
                    bytes.copy_from_slice(&word.to_be_bytes());
                }
            }
            words.zeroize();
            if in_group {
                return Some(Self(key));
            }
        }
        None
    }

    /// Returns the scalar.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; Self::SIZE] {
        &self.0
    }
}

impl Drop for AttestationKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::{AttestationKey, ORDER};

    #[test]
    fn a_scalar_is_the_words_most_significant_first() {
        let mut next = 0;
        let key = AttestationKey::generate(|| {
            next += 1;
            Some(next)
        });
        let key = key.unwrap();
        assert_eq!(
            key.bytes()[..16],
            [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
        );
    }

    #[test]
    fn a_draw_outside_the_group_is_repeated() {
        for outside in [ORDER, [u64::MAX; 6], [0; 6]] {
            let mut words = outside.into_iter().chain([7; 6]);
            let key = AttestationKey::generate(|| words.next());
            assert_eq!(key.unwrap().bytes()[..8], [0, 0, 0, 0, 0, 0, 0, 7]);
        }
        let mut last = ORDER;
        last[5] -= 1;
        let mut words = last.into_iter();
        assert!(AttestationKey::generate(|| words.next()).is_some());
    }

    #[test]
    fn a_broken_generator_makes_no_key() {
        assert!(AttestationKey::generate(|| None).is_none());
        assert!(AttestationKey::generate(|| Some(u64::MAX)).is_none());
    }
}
