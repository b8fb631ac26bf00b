// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which stream ids of a port are taken.

/// The 256 stream ids of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamIds {
    taken: [u64; 4],
}

impl Default for StreamIds {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamIds {
    /// Makes a set of which nothing is taken.
    #[must_use]
    pub const fn new() -> Self {
        Self { taken: [0; 4] }
    }

    fn bit(&mut self, id: u8) -> Option<(&mut u64, u64)> {
        let word = self.taken.get_mut(usize::from(id >> 6))?;
        Some((word, 1 << (id & 63)))
    }

    /// Takes `id`; returns false if it was taken.
    #[must_use]
    pub fn claim(&mut self, id: u8) -> bool {
        let Some((word, bit)) = self.bit(id) else {
            return false;
        };
        let free = *word & bit == 0;
        *word |= bit;
        free
    }

    /// Takes the lowest free id; `None` when all are taken.
    #[must_use]
    pub fn claim_any(&mut self) -> Option<u8> {
        (0..=u8::MAX).find(|id| self.claim(*id))
    }

    /// Gives `id` back; returns false if it was free.
    pub fn release(&mut self, id: u8) -> bool {
        let Some((word, bit)) = self.bit(id) else {
            return false;
        };
        let taken = *word & bit != 0;
        *word &= !bit;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::StreamIds;

    #[test]
    fn each_id_has_one_owner() {
        let mut ids = StreamIds::new();
        assert!(ids.claim(200));
        assert!(!ids.claim(200));
        assert!(ids.claim(201) && ids.claim(136) && ids.claim(8));
        assert!(ids.release(200));
        assert!(!ids.release(200));
        assert!(ids.claim(200));
    }

    #[test]
    fn there_are_256_ids() {
        let mut ids = StreamIds::new();
        for id in 0..=u8::MAX {
            assert_eq!(ids.claim_any(), Some(id));
        }
        assert_eq!(ids.claim_any(), None);
        ids.release(77);
        assert_eq!(ids.claim_any(), Some(77));
    }
}
