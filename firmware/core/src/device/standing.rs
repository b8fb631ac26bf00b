// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A second opinion on what an interface may be granted.
//!
//! What the exchanges about an interface have come to is written down apart from its object, in
//! memory that no host has donated, and both are asked before anything is granted. One bit that flips
//! in either, by a disturbance of the memory or of the load that decides, grants nothing.

use super::tdisp::{Grant, Request};

/// Far from each other and from zero: many bits make one of another.
const LOCKED: u32 = 0x3c96_a55a;
const STARTED: u32 = !LOCKED;

/// What has been completed under the present lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    progress: u32,
    /// Nonce of the lock.
    lock: u64,
}

impl Standing {
    /// Returns the standing after the exchange for `request` was completed; the nonce of the present
    /// lock is `lock`.
    pub fn after(self, request: Request, lock: u64) -> Self {
        match request {
            Request::Lock => Self {
                progress: LOCKED,
                lock,
            },
            Request::Start if self.progress == LOCKED && self.lock == lock => Self {
                progress: STARTED,
                lock,
            },
            Request::Measure | Request::Report => self,
            Request::Open | Request::Start | Request::Unlock => Self::default(),
        }
    }

    /// Returns whether `grant` may be given under the lock with the nonce `lock`.
    pub fn allows(self, grant: Grant, lock: u64) -> bool {
        let is_far_enough = match grant {
            Grant::Memory => self.progress == LOCKED || self.progress == STARTED,
            Grant::Dma => self.progress == STARTED,
        };
        is_far_enough && lock != 0 && self.lock == lock
    }
}

#[cfg(test)]
mod tests {
    use super::{Grant, LOCKED, Request, STARTED, Standing};

    fn locked() -> Standing {
        Standing::default().after(Request::Lock, 7)
    }

    #[test]
    fn each_grant_needs_its_exchange_under_the_present_lock() {
        let none = Standing::default();
        assert!(!none.allows(Grant::Memory, 0) && !none.allows(Grant::Dma, 0));
        assert!(locked().allows(Grant::Memory, 7) && !locked().allows(Grant::Dma, 7));
        assert!(!locked().allows(Grant::Memory, 8));
        let started = locked().after(Request::Report, 7).after(Request::Start, 7);
        assert!(started.allows(Grant::Memory, 7) && started.allows(Grant::Dma, 7));
        assert!(!locked().after(Request::Start, 8).allows(Grant::Memory, 8));
        assert!(!none.after(Request::Start, 0).allows(Grant::Dma, 0));
        let unlocked = started.after(Request::Unlock, 0);
        assert!(!unlocked.allows(Grant::Memory, 7) && !unlocked.allows(Grant::Memory, 0));
    }

    #[test]
    fn one_bit_does_not_make_one_standing_of_another() {
        assert_eq!((LOCKED ^ STARTED).count_ones(), 32);
        assert!(LOCKED.count_ones() >= 8 && STARTED.count_ones() >= 8);
        for bit in 0..32 {
            let mut standing = locked();
            standing.progress ^= 1 << bit;
            assert!(!standing.allows(Grant::Memory, 7) && !standing.allows(Grant::Dma, 7));
        }
    }
}
