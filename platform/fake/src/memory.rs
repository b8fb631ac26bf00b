// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory, and who owns each granule of it.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use tsm_platform::{
    GRANULE_SIZE, Granule, GranuleMemory, GranuleRange, HostFault, HostMemory, HostPa, MemoryError,
    Object, PlatformError,
};
use zerocopy::IntoBytes;

use crate::{DRAM_BASE, DRAM_TOP, Fake, FaultPoint, Guard, MMIO_BASE, MMIO_TOP, granule, lock};

const BYTES: usize = 4096;
const ENTRIES: usize = 512;
const ZEROS: [u8; BYTES] = [0; BYTES];

/// A world that a granule belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The host's.
    Host,
    /// The TSM's and its guests'.
    Realm,
}

enum Content {
    Raw(Box<[u8; BYTES]>),
    Table(Box<[u64; ENTRIES]>),
    /// An object, how to look at it, and how to flip a bit of it.
    Object(Box<dyn Any + Send>, Handles),
    Borrowed,
}

/// What can be done to an object without knowing what it is.
#[derive(Clone, Copy)]
struct Handles {
    look: fn(&dyn Any) -> u64,
    upset: fn(&mut dyn Any, u32),
}

/// Granules that were ever touched; the others are raw and zero.
#[derive(Default)]
pub(crate) struct Memory {
    granules: BTreeMap<Granule, Content>,
    realm: BTreeSet<Granule>,
    /// Address and length of each copy from host memory since they were last taken.
    copies_in: Vec<(u64, usize)>,
    /// Operations on the TSM's granules since they were last taken.
    steps: u64,
}

impl Handles {
    /// Returns how objects of type `T` are handled.
    fn of<T: Object>() -> Self {
        Self {
            look: |value| {
                let mut hasher = DefaultHasher::new();
                if let Some(value) = value.downcast_ref::<T>() {
                    value.observe(&mut hasher);
                }
                hasher.finish()
            },
            upset: |value, bit| {
                if let Some(value) = value.downcast_mut::<T>() {
                    value.upset(bit);
                }
            },
        }
    }
}

const fn is_memory(address: u64) -> bool {
    DRAM_BASE <= address && address < DRAM_TOP
}

impl Memory {
    pub(crate) fn give(&mut self, range: GranuleRange, owner: Owner) -> Result<(), PlatformError> {
        let inside = |base, top| base <= range.base() && range.top() <= top;
        if !inside(DRAM_BASE, DRAM_TOP) && !inside(MMIO_BASE, MMIO_TOP) {
            return Err(PlatformError::Refused);
        }
        for granule in range.granules() {
            match owner {
                Owner::Realm => self.realm.insert(granule),
                Owner::Host => self.realm.remove(&granule),
            };
        }
        Ok(())
    }

    fn owner(&self, granule: Granule) -> Owner {
        if self.realm.contains(&granule) {
            Owner::Realm
        } else {
            Owner::Host
        }
    }

    fn content(&mut self, granule: Granule) -> Result<&mut Content, MemoryError> {
        self.steps += 1;
        if !is_memory(granule.address()) || self.owner(granule) != Owner::Realm {
            return Err(MemoryError::NotOwned);
        }
        let content = self.touch(granule);
        if matches!(content, Content::Borrowed) {
            Err(MemoryError::InUse)
        } else {
            Ok(content)
        }
    }

    fn touch(&mut self, granule: Granule) -> &mut Content {
        self.granules
            .entry(granule)
            .or_insert_with(|| Content::Raw(Box::new([0; BYTES])))
    }

    fn raw(&mut self, granule: Granule) -> Result<&mut [u8; BYTES], MemoryError> {
        match self.content(granule)? {
            Content::Raw(bytes) => Ok(bytes),
            _ => Err(MemoryError::WrongKind),
        }
    }

    fn table(&mut self, granule: Granule) -> Result<&mut [u64; ENTRIES], MemoryError> {
        match self.content(granule)? {
            Content::Table(entries) => Ok(entries),
            _ => Err(MemoryError::WrongKind),
        }
    }

    fn host_bytes(&mut self, at: u64, protected: bool) -> Result<&mut u8, HostFault> {
        let granule = Granule::containing(at);
        if !is_memory(at) || (protected && self.owner(granule) != Owner::Host) {
            return Err(HostFault);
        }
        match self.touch(granule) {
            Content::Raw(bytes) => Ok(&mut bytes[(at % GRANULE_SIZE) as usize]),
            _ => Err(HostFault),
        }
    }
}

impl Fake {
    /// Returns who owns the granule that holds `address`.
    #[must_use]
    pub fn owner(&self, address: u64) -> Owner {
        lock(&self.memory).owner(Granule::containing(address))
    }

    /// Returns how many granules the host has not got back.
    #[must_use]
    pub fn granules_of_realms(&self) -> usize {
        lock(&self.memory).realm.len()
    }

    /// Returns the granules that the host has not got back.
    #[must_use]
    pub fn realm_granules(&self) -> BTreeSet<u64> {
        let memory = lock(&self.memory);
        memory
            .realm
            .iter()
            .map(|granule| granule.address())
            .collect()
    }

    /// Stores as the host's CPU does: `None` if the store faults.
    pub fn host_store(&self, at: u64, data: &[u8]) -> Option<()> {
        let protected = self.has(Guard::GranuleProtection);
        let mut memory = lock(&self.memory);
        for (at, byte) in (at..).zip(data) {
            *memory.host_bytes(at, protected).ok()? = *byte;
        }
        Some(())
    }

    /// Loads `length` bytes as the host's CPU does: `None` if the load faults.
    #[must_use]
    pub fn host_load(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        let protected = self.has(Guard::GranuleProtection);
        let mut memory = lock(&self.memory);
        (at..)
            .take(length)
            .map(|at| memory.host_bytes(at, protected).ok().copied())
            .collect()
    }

    /// Returns the bytes of a raw granule, whoever owns it; `None` if it holds something else.
    #[must_use]
    pub fn peek(&self, address: u64) -> Option<[u8; BYTES]> {
        match lock(&self.memory).touch(granule(address)) {
            Content::Raw(bytes) => Some(**bytes),
            _ => None,
        }
    }

    /// Returns every raw granule and table that is not all zero, and a hash of every object, to
    /// compare states.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<u64, Vec<u8>> {
        let memory = lock(&self.memory);
        let bytes = memory.granules.iter().filter_map(|(granule, content)| {
            let bytes: &[u8] = match content {
                Content::Raw(bytes) => &**bytes,
                Content::Table(entries) => entries.as_bytes(),
                Content::Object(value, handles) => &(handles.look)(&**value).to_le_bytes(),
                Content::Borrowed => &[2],
            };
            let is_zero = *bytes == ZEROS[..bytes.len()];
            (!is_zero).then(|| (granule.address(), bytes.to_vec()))
        });
        bytes.collect()
    }

    /// Flips bit `bit` of what the object at `address` decides by, if the result is a value of it.
    pub fn upset(&self, address: u64, bit: u32) {
        if let Content::Object(value, handles) = lock(&self.memory).touch(granule(address)) {
            (handles.upset)(&mut **value, bit);
        }
    }

    /// Returns the entries of the table at `address`; `None` if none is there.
    #[must_use]
    pub fn table(&self, address: u64) -> Option<Vec<u64>> {
        match lock(&self.memory).touch(granule(address)) {
            Content::Table(entries) => Some(entries.to_vec()),
            _ => None,
        }
    }

    /// Takes the number of operations on the TSM's granules: what bounds the time of a call.
    pub fn take_steps(&self) -> u64 {
        std::mem::take(&mut lock(&self.memory).steps)
    }

    /// Takes the list of copies from host memory: address and length of each.
    pub fn take_copies_in(&self) -> Vec<(u64, usize)> {
        std::mem::take(&mut lock(&self.memory).copies_in)
    }

    /// Reads an entry as a table walker does, whatever the granule is.
    pub(crate) fn walker_read(&self, table: u64, index: usize) -> Option<u64> {
        match lock(&self.memory).touch(granule(table)) {
            Content::Table(entries) => entries.get(index).copied(),
            _ => None,
        }
    }

    /// Copies within one granule of the TSM as a guest does through its translations.
    pub(crate) fn guest_copy(
        &self,
        at: u64,
        length: usize,
        copy: impl FnOnce(&mut [u8]),
    ) -> Option<()> {
        let mut memory = lock(&self.memory);
        let offset = (at % GRANULE_SIZE) as usize;
        match memory.touch(Granule::containing(at)) {
            Content::Raw(bytes) => {
                copy(bytes.get_mut(offset..offset.checked_add(length)?)?);
                Some(())
            }
            _ => None,
        }
    }
}

impl HostMemory for Fake {
    fn host_read(&self, from: HostPa, out: &mut [u8]) -> Result<(), HostFault> {
        self.reach(FaultPoint::HostRead).map_err(|()| HostFault)?;
        lock(&self.memory).copies_in.push((from.0, out.len()));
        let bytes = self.host_load(from.0, out.len()).ok_or(HostFault)?;
        out.copy_from_slice(&bytes);
        // It may make calls of its own, at which it does not meddle.
        let meddler = lock(&self.meddler).take();
        if let Some(mut meddler) = meddler {
            meddler(self, from.0, out.len());
            *lock(&self.meddler) = Some(meddler);
        }
        Ok(())
    }

    fn host_write(&self, to: HostPa, data: &[u8]) -> Result<(), HostFault> {
        self.reach(FaultPoint::HostWrite).map_err(|()| HostFault)?;
        self.host_store(to.0, data).ok_or(HostFault)
    }
}

fn part(offset: usize, length: usize) -> Result<std::ops::Range<usize>, MemoryError> {
    let end = offset.checked_add(length).filter(|end| *end <= BYTES);
    end.map(|end| offset..end).ok_or(MemoryError::TooLarge)
}

fn run(
    entries: &mut [u64; ENTRIES],
    index: usize,
    count: usize,
) -> Result<&mut [u64], MemoryError> {
    let end = index.checked_add(count).ok_or(MemoryError::TooLarge)?;
    entries.get_mut(index..end).ok_or(MemoryError::TooLarge)
}

impl GranuleMemory for Fake {
    fn zero(&self, granule: Granule) -> Result<(), MemoryError> {
        self.pause();
        lock(&self.memory).raw(granule)?.fill(0);
        Ok(())
    }

    fn zero_range(&self, range: GranuleRange) -> Result<(), MemoryError> {
        range.granules().try_for_each(|granule| self.zero(granule))
    }

    fn read(&self, granule: Granule, offset: usize, out: &mut [u8]) -> Result<(), MemoryError> {
        self.pause();
        let part = part(offset, out.len())?;
        out.copy_from_slice(&lock(&self.memory).raw(granule)?[part]);
        Ok(())
    }

    fn write(&self, granule: Granule, offset: usize, data: &[u8]) -> Result<(), MemoryError> {
        self.pause();
        let part = part(offset, data.len())?;
        lock(&self.memory).raw(granule)?[part].copy_from_slice(data);
        Ok(())
    }

    fn place<T: Object>(&self, granule: Granule, value: T) -> Result<(), MemoryError> {
        self.pause();
        if size_of::<T>() > BYTES {
            return Err(MemoryError::TooLarge);
        }
        let mut memory = lock(&self.memory);
        memory.raw(granule)?;
        *memory.content(granule)? = Content::Object(Box::new(value), Handles::of::<T>());
        Ok(())
    }

    fn with<T: Object, R>(
        &self,
        granule: Granule,
        work: impl FnOnce(&mut T) -> R,
    ) -> Result<R, MemoryError> {
        self.pause();
        let (mut boxed, handles) = {
            let mut memory = lock(&self.memory);
            let content = memory.content(granule)?;
            match std::mem::replace(content, Content::Borrowed) {
                Content::Object(value, handles) if value.is::<T>() => (value, handles),
                other => {
                    *content = other;
                    return Err(MemoryError::WrongKind);
                }
            }
        };
        let result = boxed
            .downcast_mut::<T>()
            .map(work)
            .ok_or(MemoryError::WrongKind);
        lock(&self.memory)
            .granules
            .insert(granule, Content::Object(boxed, handles));
        result
    }

    fn discard<T: Object>(&self, granule: Granule) -> Result<(), MemoryError> {
        self.pause();
        let mut memory = lock(&self.memory);
        match memory.content(granule)? {
            content @ Content::Object(..) => {
                let holds = matches!(&*content, Content::Object(value, _) if value.is::<T>());
                if !holds {
                    return Err(MemoryError::WrongKind);
                }
                *content = Content::Raw(Box::new([0; BYTES]));
                Ok(())
            }
            _ => Err(MemoryError::WrongKind),
        }
    }

    fn table_create(&self, granule: Granule, first: u64, step: u64) -> Result<(), MemoryError> {
        self.pause();
        let mut memory = lock(&self.memory);
        memory.raw(granule)?;
        let entry = |index| first.wrapping_add(step.wrapping_mul(index as u64));
        let entries = Box::new(std::array::from_fn(entry));
        *memory.content(granule)? = Content::Table(entries);
        Ok(())
    }

    fn table_read(&self, granule: Granule, index: usize) -> Result<u64, MemoryError> {
        self.pause();
        let mut memory = lock(&self.memory);
        memory
            .table(granule)?
            .get(index)
            .copied()
            .ok_or(MemoryError::TooLarge)
    }

    fn table_read_run(
        &self,
        granule: Granule,
        index: usize,
        out: &mut [u64],
    ) -> Result<(), MemoryError> {
        self.pause();
        let mut memory = lock(&self.memory);
        let entries = run(memory.table(granule)?, index, out.len())?;
        out.copy_from_slice(entries);
        Ok(())
    }

    fn table_write(&self, granule: Granule, index: usize, entry: u64) -> Result<(), MemoryError> {
        self.pause();
        let mut memory = lock(&self.memory);
        let slot = memory
            .table(granule)?
            .get_mut(index)
            .ok_or(MemoryError::TooLarge)?;
        *slot = entry;
        Ok(())
    }

    fn table_write_run(
        &self,
        granule: Granule,
        index: usize,
        entries: impl ExactSizeIterator<Item = u64>,
    ) -> Result<(), MemoryError> {
        self.pause();
        let mut memory = lock(&self.memory);
        let slots = run(memory.table(granule)?, index, entries.len())?;
        for (slot, entry) in slots.iter_mut().zip(entries) {
            *slot = entry;
        }
        Ok(())
    }

    fn table_discard(&self, granule: Granule) -> Result<(), MemoryError> {
        self.pause();
        let mut memory = lock(&self.memory);
        memory.table(granule)?;
        *memory.content(granule)? = Content::Raw(Box::new([0; BYTES]));
        Ok(())
    }
}
