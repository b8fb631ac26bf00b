// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The table of granules: who owns each, what it holds, and its lock.
//!
//! # Lock order
//!
//! The order is written here and nowhere else; [`State::rank`] is its only encoding and
//! [`Locks`] refuses a lock that breaks it.
//!
//! 0. The registry of devices, which is no granule: see [`crate::device`].
//! 1. `Rd`: also the lock of the realm's whole translation tree, whose tables have no own lock.
//! 2. `Pdev` and `Forming`, in address order.
//! 3. `Vdev`, in address order.
//! 4. `Rec`, in address order.
//! 5. Pages (every other state), in address order.
//!
//! A lock is taken by one compare-and-swap that names the state: a granule in another state is
//! refused at once and never waited for, so a host that names one granule in two roles cannot make
//! two calls wait for each other. Waiting is bounded; then the call answers BUSY.
//!
//! A page that only changes its state is claimed in one step instead of locked. What a table of a
//! realm or a page of its memory holds is protected by the realm's lock.

use core::cell::RefCell;

use heapless::Vec;
use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange};

use crate::error::{Error, Result};
use crate::sync::{AtomicU32, Ordering, spin_loop};

/// Bytes of a granule, as the length of a buffer.
pub(crate) const GRANULE_BYTES: usize = 0x1000;
const _: () = assert!(GRANULE_BYTES as u64 == GRANULE_SIZE);

const STATE_MASK: u32 = 0xff;
const LOCKED: u32 = 1 << 8;
const REFERENCE_SHIFT: u32 = 16;
const REFERENCE: u32 = 1 << REFERENCE_SHIFT;
/// Attempts to take a lock before the answer is BUSY. A holder does at most the work of one range
/// call, so a lock that is not free by then is contended by several.
const ATTEMPTS: u32 = if cfg!(loom) { 2 } else { 100_000 };
/// Most locks that one call holds at a time.
const MOST_LOCKS: usize = 8;

/// What a granule is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The host's.
    Undelegated = 0,
    /// The TSM's, holding nothing that matters. It is overwritten or zeroed before it is used.
    Delegated = 1,
    /// A realm descriptor.
    Rd = 2,
    /// A virtual CPU.
    Rec = 3,
    /// A stage 2 table of a realm.
    Rtt = 4,
    /// Private memory of a realm.
    Data = 5,
    /// A physical device.
    Pdev = 6,
    /// A device interface that is assigned to a realm.
    Vdev = 7,
    /// A device granule that is mapped into a realm.
    Mapped = 8,
    /// On its way between the host and the TSM, in the hands of one call.
    Moving = 9,
    /// A physical device whose creation waits for the host.
    Forming = 10,
    /// Memory that was donated to a physical device.
    PdevAux = 11,
    /// A device granule that is mapped into a realm and that nobody reaches: its interface was stopped
    /// before it was unmapped, which is all that can become of it.
    Masked = 12,
}

impl State {
    const fn of(word: u32) -> Self {
        match word & STATE_MASK {
            0 => Self::Undelegated,
            1 => Self::Delegated,
            2 => Self::Rd,
            3 => Self::Rec,
            4 => Self::Rtt,
            5 => Self::Data,
            6 => Self::Pdev,
            7 => Self::Vdev,
            8 => Self::Mapped,
            10 => Self::Forming,
            11 => Self::PdevAux,
            12 => Self::Masked,
            _ => Self::Moving,
        }
    }

    /// Returns the place of the state in the lock order.
    const fn rank(self) -> u8 {
        match self {
            Self::Rd => 1,
            Self::Pdev | Self::Forming => 2,
            Self::Vdev => 3,
            Self::Rec => 4,
            _ => 5,
        }
    }
}

/// What lies behind a region of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory.
    Memory,
    /// Registers and memory of devices, not coherent with CPU caches.
    Device,
}

/// A run of granules that can change owner.
pub struct Region {
    range: GranuleRange,
    kind: Kind,
    words: &'static [AtomicU32],
}

impl Region {
    /// Describes `range`, whose granules are tracked by `words`: one for each, all zero, used for
    /// nothing else. Returns `None` if there are not exactly as many words as granules.
    #[must_use]
    pub fn new(range: GranuleRange, kind: Kind, words: &'static [AtomicU32]) -> Option<Self> {
        let count = u64::try_from(words.len()).ok()?;
        (count == range.count()).then_some(Self { range, kind, words })
    }

    /// Returns the addresses.
    #[must_use]
    pub const fn range(&self) -> GranuleRange {
        self.range
    }

    /// Returns what is there.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    fn index(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.range.base())?;
        usize::try_from(offset.checked_div(GRANULE_SIZE)?).ok()
    }

    fn word(&self, granule: Granule) -> Option<&'static AtomicU32> {
        self.words.get(self.index(granule.address())?)
    }

    /// Returns the words of the granule at `address` and all after it.
    fn words_from(&self, address: u64) -> Result<&'static [AtomicU32]> {
        let words = self
            .index(address)
            .and_then(|first| self.words.get(first..));
        words.ok_or(Error::Input)
    }
}

/// Every granule that can change owner.
pub struct Table {
    regions: &'static [Region],
}

impl Table {
    /// Makes the table. Regions that overlap are a fault of the board; the first one counts.
    #[must_use]
    pub const fn new(regions: &'static [Region]) -> Self {
        Self { regions }
    }

    /// Returns the region that holds `address`.
    #[must_use]
    pub fn region(&self, address: u64) -> Option<&'static Region> {
        self.regions
            .iter()
            .find(|region| region.range.contains(address))
    }

    /// Returns the first region that ends above `address`.
    pub(crate) fn region_from(&self, address: u64) -> Option<&'static Region> {
        self.regions
            .iter()
            .filter(|region| region.range.top() > address)
            .min_by_key(|region| region.range.base())
    }

    fn find(&self, address: u64) -> Result<(Granule, &'static AtomicU32)> {
        let granule = Granule::new(address).ok_or(Error::Input)?;
        let region = self.region(address).ok_or(Error::Input)?;
        Ok((granule, region.word(granule).ok_or(Error::Input)?))
    }

    /// Returns the state of the granule at `address`, which another call may change at any time,
    /// or [`Error::Input`] if no granule that is tracked is there.
    pub fn state(&self, address: u64) -> Result<State> {
        self.find(address)
            .map(|(_, word)| State::of(word.load(Ordering::Acquire)))
    }

    /// Returns the references to the granule at `address`.
    pub(crate) fn references(&self, address: u64) -> Result<u32> {
        let (_, word) = self.find(address)?;
        Ok(word.load(Ordering::Acquire) >> REFERENCE_SHIFT)
    }

    /// Yields address, state and references of each granule that is not plainly the host's.
    pub fn in_use(&self) -> impl Iterator<Item = (u64, State, u32)> {
        let words = self.regions.iter().flat_map(|region| {
            let bases = (region.range.base()..).step_by(GRANULE_BYTES);
            bases.zip(region.words)
        });
        words.filter_map(|(address, word)| {
            let value = word.load(Ordering::Acquire);
            (value != 0).then(|| (address, State::of(value), value >> REFERENCE_SHIFT))
        })
    }

    /// Returns whether no call holds a granule's lock at this moment.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut words = self.regions.iter().flat_map(|region| region.words);
        words.all(|word| word.load(Ordering::Acquire) & LOCKED == 0)
    }

    /// Adds `count` references. The caller holds a lock that keeps the granule what it is.
    pub(crate) fn refer(&self, address: u64, count: u32) -> Result<()> {
        let (_, word) = self.find(address)?;
        let added = count.checked_mul(REFERENCE).ok_or(Error::Global)?;
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
            value.checked_add(added)
        })
        .map(|_| ())
        .map_err(|_| Error::Global)
    }

    /// Drops `count` references.
    pub(crate) fn release(&self, address: u64, count: u32) -> Result<()> {
        let (_, word) = self.find(address)?;
        let dropped = count.checked_mul(REFERENCE).ok_or(Error::Global)?;
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
            value.checked_sub(dropped)
        })
        .map(|_| ())
        .map_err(|_| Error::Global)
    }

    /// Adds a reference to a granule of the host, which stays the host's until it is dropped.
    pub(crate) fn refer_undelegated(&self, address: u64) -> Result<()> {
        let (_, word) = self.find(address)?;
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
            let free = State::of(value) == State::Undelegated && value & LOCKED == 0;
            if free {
                value.checked_add(REFERENCE)
            } else {
                None
            }
        })
        .map(|_| ())
        .map_err(|_| Error::Input)
    }

    /// Takes the granule at `address` from one state to another in one step, without its lock.
    ///
    /// Fails with [`Error::Input`] if it is not tracked, in another state or referred to, with
    /// [`Error::Busy`] if another call keeps its lock.
    pub(crate) fn claim(&self, address: u64, from: State, to: State) -> Result<()> {
        let (_, word) = self.find(address)?;
        claim_word(word, from, to)
    }

    /// Claims granules of `range` in address order, as [`Self::claim`] does each. Returns the part
    /// that was claimed, at least one granule, and why that is not all of `range`.
    pub(crate) fn claim_run(
        &self,
        range: GranuleRange,
        from: State,
        to: State,
    ) -> Result<(GranuleRange, Result<()>)> {
        let mut top = range.base();
        let region = self.region(top).ok_or(Error::Input)?;
        let mut outcome = Ok(());
        for word in region.words_from(top)? {
            if top >= range.top() {
                break;
            }
            outcome = claim_word(word, from, to);
            if outcome.is_err() {
                break;
            }
            top = top.saturating_add(GRANULE_SIZE);
        }
        let Some(claimed) = GranuleRange::new(range.base(), top) else {
            return outcome.and(Err(Error::Input));
        };
        if top < range.top() && outcome.is_ok() {
            // The region ends here.
            outcome = Err(Error::Input);
        }
        Ok((claimed, outcome))
    }

    /// Claims every granule of `range`, which must lie in one region, or none of them.
    pub(crate) fn claim_range(&self, range: GranuleRange, from: State, to: State) -> Result<()> {
        let words = self.words(range)?;
        for (claimed, word) in words.iter().enumerate() {
            if let Err(error) = claim_word(word, from, to) {
                let mut undo = words.iter().take(claimed);
                undo.try_for_each(|word| change_word(word, to, from))?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns the words of the granules of `range`, which must lie in one region.
    fn words(&self, range: GranuleRange) -> Result<&'static [AtomicU32]> {
        let region = self.region(range.base()).ok_or(Error::Input)?;
        let count = usize::try_from(range.count()).map_err(|_| Error::Input)?;
        let words = region.words_from(range.base())?.get(..count);
        words.ok_or(Error::Input)
    }

    /// Changes the state of a granule that only this call can reach: it claimed it, or holds the
    /// lock of the realm that owns it. The granule must be in `from`, unlocked, not referred to.
    pub(crate) fn change(&self, address: u64, from: State, to: State) -> Result<()> {
        let (_, word) = self.find(address)?;
        change_word(word, from, to)
    }

    /// Changes the state of every granule of `range`, which lies in one region, as [`Self::change`]
    /// does each.
    pub(crate) fn change_range(&self, range: GranuleRange, from: State, to: State) -> Result<()> {
        let mut words = self.words(range).map_err(|_| Error::Global)?.iter();
        words.try_for_each(|word| change_word(word, from, to))
    }
}

fn claim_word(word: &AtomicU32, from: State, to: State) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let value = word.load(Ordering::Relaxed);
        if value & !LOCKED != from as u32 {
            return Err(Error::Input);
        }
        if value & LOCKED == 0 && exchange(word, value, to as u32) {
            return Ok(());
        }
        spin_loop();
    }
    Err(Error::Busy)
}

fn change_word(word: &AtomicU32, from: State, to: State) -> Result<()> {
    if exchange(word, from as u32, to as u32) {
        Ok(())
    } else {
        Err(Error::Global)
    }
}

fn exchange(word: &AtomicU32, from: u32, to: u32) -> bool {
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

/// The locks that one call holds.
#[derive(Default)]
pub struct Locks {
    held: RefCell<Vec<(u8, u64), MOST_LOCKS>>,
}

impl Locks {
    /// Returns whether no lock is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.try_borrow().is_ok_and(|held| held.is_empty())
    }

    /// Locks the granule at `address`, which must be in `state`.
    ///
    /// Fails with [`Error::Input`] if the address is misaligned, not tracked, or in another state;
    /// with [`Error::Busy`] if another call keeps the lock, which `relax` is called while it does.
    pub(crate) fn lock<'a>(
        &'a self,
        table: &Table,
        address: u64,
        state: State,
        relax: impl Fn(),
    ) -> Result<Guard<'a>> {
        let (granule, word) = table.find(address)?;
        let key = (state.rank(), address);
        {
            let held = self.held.try_borrow().map_err(|_| Error::Global)?;
            if held.iter().any(|other| other.1 == address) {
                // The caller gave one granule two roles.
                return Err(Error::Input);
            }
            if held.is_full() || held.iter().any(|other| *other > key) {
                return Err(Error::Global);
            }
        }
        acquire(word, state, relax)?;
        let guard = Guard {
            locks: self,
            granule,
            word,
        };
        let mut held = self.held.try_borrow_mut().map_err(|_| Error::Global)?;
        held.push(key).map_err(|_| Error::Global)?;
        drop(held);
        Ok(guard)
    }

    /// Locks two granules in the lock order. The same granule twice is [`Error::Input`].
    pub(crate) fn lock_two<'a>(
        &'a self,
        table: &Table,
        first: (u64, State),
        second: (u64, State),
        relax: impl Fn(),
    ) -> Result<(Guard<'a>, Guard<'a>)> {
        if first.0 == second.0 {
            return Err(Error::Input);
        }
        if (first.1.rank(), first.0) < (second.1.rank(), second.0) {
            let a = self.lock(table, first.0, first.1, &relax)?;
            let b = self.lock(table, second.0, second.1, relax)?;
            Ok((a, b))
        } else {
            let b = self.lock(table, second.0, second.1, &relax)?;
            let a = self.lock(table, first.0, first.1, relax)?;
            Ok((a, b))
        }
    }
}

fn acquire(word: &AtomicU32, state: State, relax: impl Fn()) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let value = word.load(Ordering::Relaxed);
        if State::of(value) != state {
            return Err(Error::Input);
        }
        if value & LOCKED == 0 && exchange(word, value, value | LOCKED) {
            return Ok(());
        }
        relax();
    }
    Err(Error::Busy)
}

/// A locked granule. Dropping it unlocks.
#[must_use]
pub struct Guard<'a> {
    locks: &'a Locks,
    granule: Granule,
    word: &'static AtomicU32,
}

impl Guard<'_> {
    /// Returns the granule.
    pub const fn granule(&self) -> Granule {
        self.granule
    }

    /// Returns the references to it.
    pub fn references(&self) -> u32 {
        self.word.load(Ordering::Acquire) >> REFERENCE_SHIFT
    }

    /// Changes its state. References are kept.
    pub fn set_state(&self, state: State) {
        let update = |value: u32| Some((value & !STATE_MASK) | state as u32);
        // The closure always returns a value, so this cannot fail.
        let _ = self
            .word
            .fetch_update(Ordering::Release, Ordering::Relaxed, update);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.word.fetch_and(!LOCKED, Ordering::Release);
        if let Ok(mut held) = self.locks.held.try_borrow_mut() {
            held.retain(|other| other.1 != self.granule.address());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{AtomicU32, GRANULE_SIZE, GranuleRange, Kind, Locks, Region, State, Table};
    use crate::error::Error;

    const BASE: u64 = 0x8000_0000;
    const NEXT: u64 = BASE + GRANULE_SIZE;

    fn table() -> Table {
        let words = Box::leak(Box::new([const { AtomicU32::new(0) }; 4]));
        let range = GranuleRange::new(BASE, BASE + 4 * GRANULE_SIZE).unwrap();
        assert!(Region::new(range, Kind::Memory, &words[..3]).is_none());
        let region = Region::new(range, Kind::Memory, words).unwrap();
        Table::new(Box::leak(Box::new([region])))
    }

    #[test]
    fn every_state_comes_back_from_its_word() {
        for code in 0..=11 {
            assert_eq!(State::of(code) as u32, code);
        }
    }

    #[test]
    fn a_lock_out_of_order_is_refused() {
        let (table, locks) = (table(), Locks::default());
        let later = locks.lock(&table, NEXT, State::Undelegated, || ()).unwrap();
        let earlier = locks.lock(&table, BASE, State::Undelegated, || ());
        assert_eq!(earlier.err(), Some(Error::Global));
        drop(later);
        assert!(locks.is_empty() && table.is_quiet());
        let both = locks.lock_two(
            &table,
            (NEXT, State::Undelegated),
            (BASE, State::Undelegated),
            || (),
        );
        assert!(both.is_ok());
    }

    #[test]
    fn a_granule_that_is_locked_is_busy_for_others_and_an_error_for_oneself() {
        let (table, one, other) = (table(), Locks::default(), Locks::default());
        let guard = one.lock(&table, BASE, State::Undelegated, || ()).unwrap();
        let again = one.lock(&table, BASE, State::Undelegated, || ());
        assert_eq!(again.err(), Some(Error::Input));
        let contended = other.lock(&table, BASE, State::Undelegated, || ());
        assert_eq!(contended.err(), Some(Error::Busy));
        let claimed = table.claim(BASE, State::Undelegated, State::Moving);
        assert_eq!(claimed, Err(Error::Busy));
        drop(guard);
        assert!(other.lock(&table, BASE, State::Undelegated, || ()).is_ok());
    }

    #[test]
    fn a_range_is_claimed_as_a_whole_or_not_at_all() {
        let table = table();
        let [from, to] = [State::Undelegated, State::Data];
        let last = BASE + 3 * GRANULE_SIZE;
        table.claim(last, from, State::Delegated).unwrap();
        let free = GranuleRange::new(BASE, last).unwrap();
        for top in [last + GRANULE_SIZE, last + 2 * GRANULE_SIZE] {
            let range = GranuleRange::new(BASE, top).unwrap();
            assert_eq!(table.claim_range(range, from, to), Err(Error::Input));
            assert_eq!(table.in_use().count(), 1);
        }
        table.change(last, State::Delegated, from).unwrap();
        let beyond = GranuleRange::new(BASE, last + 2 * GRANULE_SIZE).unwrap();
        assert_eq!(table.claim_range(beyond, from, to), Err(Error::Input));
        assert_eq!(table.in_use().count(), 0);
        assert_eq!(table.claim_range(free, from, to), Ok(()));
        assert_eq!(table.in_use().count(), 3);
        assert_eq!(table.change_range(free, to, from), Ok(()));
        assert_eq!(table.change_range(beyond, from, to), Err(Error::Global));
        assert_eq!(table.in_use().count(), 0);
    }

    #[test]
    fn a_run_is_claimed_up_to_the_first_granule_that_is_not_free() {
        let table = table();
        let [from, to] = [State::Undelegated, State::Moving];
        let last = BASE + 3 * GRANULE_SIZE;
        table.claim(last, from, State::Delegated).unwrap();
        let range = GranuleRange::new(BASE, last + GRANULE_SIZE).unwrap();
        let free = GranuleRange::new(BASE, last).unwrap();
        let claimed = table.claim_run(range, from, to);
        assert_eq!(claimed, Ok((free, Err(Error::Input))));
        assert_eq!(table.claim_run(range, from, to), Err(Error::Input));
        assert_eq!(table.state(last), Ok(State::Delegated));
    }

    #[test]
    fn a_granule_in_another_state_is_not_waited_for() {
        let (table, one, other) = (table(), Locks::default(), Locks::default());
        let guard = one.lock(&table, BASE, State::Undelegated, || ()).unwrap();
        guard.set_state(State::Delegated);
        let refused = other.lock(&table, BASE, State::Undelegated, || ());
        assert_eq!(refused.err(), Some(Error::Input));
        drop(guard);
        assert_eq!(table.state(BASE), Ok(State::Delegated));
    }

    #[test]
    fn references_are_counted_to_the_end_and_keep_a_granule_where_it_is() {
        let table = table();
        assert_eq!(table.release(BASE, 1), Err(Error::Global));
        table.refer_undelegated(BASE).unwrap();
        let claimed = table.claim(BASE, State::Undelegated, State::Moving);
        assert_eq!(claimed, Err(Error::Input));
        table.refer(BASE, 0xfffe).unwrap();
        assert_eq!(table.refer(BASE, 1), Err(Error::Global));
        table.release(BASE, 0xffff).unwrap();
        table
            .claim(BASE, State::Undelegated, State::Moving)
            .unwrap();
        assert_eq!(table.refer_undelegated(BASE), Err(Error::Input));
    }
}
