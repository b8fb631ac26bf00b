// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sizes of functions' memory.
//!
//! Only a probe tells a size, and it turns the function's decoding off for a moment, which a device
//! that is in use, or the path to one, must not notice. So sizes are kept, and those of a function
//! that has an interface for as long as it has it.

use heapless::Vec;
use tsm_platform::Rid;

use super::pci::register;
use super::registry::MOST_INTERFACES;

/// Most sizes of functions without an interface.
const MOST_SIZES: usize = 256;

/// Sizes of the regions of an endpoint, in bytes: behind its six base address registers, and of its
/// expansion ROM. Zero if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BarSizes([u64; 7]);

impl BarSizes {
    fn index(offset: u16) -> Option<usize> {
        if offset == register::ROM {
            return Some(6);
        }
        let index = offset.checked_sub(register::BAR)?.checked_div(4)?;
        (index < 6).then_some(usize::from(index))
    }

    /// Returns the place for the size of the region behind the register at `offset`.
    pub fn place(&mut self, offset: u16) -> Option<&mut u64> {
        Self::index(offset).and_then(|index| self.0.get_mut(index))
    }

    /// Returns the size of the region behind the register at `offset`.
    pub fn get(&self, offset: u16) -> Option<u64> {
        let size = Self::index(offset).and_then(|index| self.0.get(index));
        size.copied()
    }
}

/// A function by address and by the id of what is there.
pub(crate) type Identity = (Rid, u32);

/// A function that has an interface.
struct Kept {
    function: Identity,
    sizes: BarSizes,
    /// Whether the interface is bound, or about to be.
    bound: bool,
}

/// Sizes that were probed, and which functions must not be probed again.
pub(crate) struct KnownSizes {
    /// Of functions that have an interface. None is ever dropped for another.
    kept: Vec<Kept, MOST_INTERFACES>,
    /// Of other functions: function, offset of the register, bytes.
    others: Vec<(Identity, u16, u64), MOST_SIZES>,
    next: usize,
}

impl KnownSizes {
    /// Knows nothing yet.
    pub const fn new() -> Self {
        Self {
            kept: Vec::new(),
            others: Vec::new(),
            next: 0,
        }
    }

    /// Keeps the sizes of a function that gets an interface. Returns false if there is no room.
    pub fn keep(&mut self, function: Identity, sizes: BarSizes) -> bool {
        let kept = Kept {
            function,
            sizes,
            bound: false,
        };
        self.kept.push(kept).is_ok()
    }

    /// Takes note whether the interface of `rid` is bound, or about to be.
    pub fn set_bound(&mut self, rid: Rid, bound: bool) {
        for kept in self.kept.iter_mut().filter(|kept| kept.function.0 == rid) {
            kept.bound = bound;
        }
    }

    /// Forgets the sizes of a function that has an interface no more.
    pub fn release(&mut self, rid: Rid) {
        self.kept.retain(|kept| kept.function.0 != rid);
    }

    /// Forgets the sizes of a function without an interface, which the host is about to change.
    pub fn forget(&mut self, rid: Rid) {
        self.others.retain(|(function, _, _)| function.0 != rid);
    }

    /// Returns whether the function `rid`, a bridge to the buses `behind` or none, has a bound
    /// interface or is above one.
    pub fn is_needed(&self, rid: Rid, behind: Option<(u8, u8)>) -> bool {
        self.kept.iter().filter(|kept| kept.bound).any(|kept| {
            let kept = kept.function.0;
            let [_, bus] = kept.0.to_le_bytes();
            kept == rid || behind.is_some_and(|(first, last)| (first..=last).contains(&bus))
        })
    }

    /// Returns the size of the region behind the register at `offset`.
    pub fn find(&self, function: Identity, offset: u16) -> Option<u64> {
        if let Some(kept) = self.kept.iter().find(|kept| kept.function == function) {
            return kept.sizes.get(offset);
        }
        let mut others = self.others.iter();
        let (_, _, size) = others.find(|(other, at, _)| (*other, *at) == (function, offset))?;
        Some(*size)
    }

    /// Remembers a size. If there is no room, it takes the place of the oldest one of a function
    /// that is not on the path of a bound interface; `keeps` tells whether one is.
    pub fn learn(
        &mut self,
        function: Identity,
        offset: u16,
        size: u64,
        keeps: impl Fn(&Self, Rid) -> bool,
    ) {
        let Err(known) = self.others.push((function, offset, size)) else {
            return;
        };
        for _ in 0..self.others.len() {
            let index = self.next.checked_rem(self.others.len()).unwrap_or(0);
            self.next = index.saturating_add(1);
            let oldest = self.others.get(index).map(|((rid, _), _, _)| *rid);
            if oldest.is_some_and(|rid| keeps(self, rid)) {
                continue;
            }
            if let Some(oldest) = self.others.get_mut(index) {
                *oldest = known;
            }
            return;
        }
    }
}
