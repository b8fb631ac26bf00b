// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Output addresses of range calls: one range descriptor, or a list of them in host memory.

use heapless::Vec;
use tsm_abi::rmi::{AddressType, BlockSize, MapFlags, RangeDescriptor};
use tsm_iommu::stage2::{LEAF_LEVEL, TABLE_ENTRIES};
use tsm_platform::{GRANULE_SIZE, HostPa};

use crate::context::{Context, Machine};
use crate::error::{Error, Result};
use crate::granule::GRANULE_BYTES;

/// Bit of a descriptor: the memory is the host's, not delegated.
const UNDELEGATED: u64 = 1 << 63;
/// What one more block adds to a descriptor.
const ONE_BLOCK: u64 = 1 << 2;
/// Bytes of one descriptor.
const WORD: usize = size_of::<u64>();

/// Which output addresses a range call names: its raw `flags` and `oaddr` arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// How addresses are given, see [`MapFlags`].
    pub flags: u64,
    /// A descriptor, or the host address of a list of them.
    pub address: u64,
}

impl Output {
    fn kind(self) -> Result<AddressType> {
        MapFlags(self.flags).address_type().ok_or(Error::Input)
    }

    /// Returns the number of descriptors that the list has: it must not leave its granule.
    fn list_count(self) -> Result<usize> {
        let offset = usize::try_from(self.address % GRANULE_SIZE).map_err(|_| Error::Input)?;
        let room = GRANULE_BYTES
            .saturating_sub(offset)
            .checked_div(WORD)
            .unwrap_or(0);
        let count = usize::try_from(MapFlags(self.flags).list_count()).map_err(|_| Error::Input)?;
        if count == 0 || !offset.is_multiple_of(WORD) {
            return Err(Error::Input);
        }
        Ok(count.min(room))
    }
}

/// One block to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub address: u64,
    pub level: u8,
    pub undelegated: bool,
}

impl Block {
    fn size(self) -> BlockSize {
        match LEAF_LEVEL.saturating_sub(self.level) {
            0 => BlockSize::Page,
            1 => BlockSize::Block2M,
            2 => BlockSize::Block1G,
            _ => BlockSize::Block512G,
        }
    }

    fn descriptor(self) -> RangeDescriptor {
        let state = if self.undelegated { UNDELEGATED } else { 0 };
        RangeDescriptor(RangeDescriptor::new(self.address, self.size(), 1).0 | state)
    }
}

/// The blocks that the host names for a map call, copied in once.
pub(super) struct Blocks {
    words: Vec<u64, TABLE_ENTRIES>,
    next_word: usize,
    next_block: u64,
}

impl Blocks {
    /// Copies the descriptors in.
    pub fn read<P: Machine>(context: &Context<'_, P>, output: Output) -> Result<Self> {
        let mut words = Vec::new();
        match output.kind()? {
            AddressType::None => return Err(Error::Input),
            AddressType::Single => words.push(output.address).map_err(|_| Error::Input)?,
            AddressType::List => {
                let mut bytes = [0_u8; GRANULE_BYTES];
                let length = output.list_count()?.checked_mul(WORD).ok_or(Error::Input)?;
                let bytes = bytes.get_mut(..length).ok_or(Error::Input)?;
                context.host_read(HostPa(output.address), bytes)?;
                let read = bytes.as_chunks::<WORD>().0.iter();
                words.extend(read.map(|word| u64::from_le_bytes(*word)));
            }
        }
        Ok(Self {
            words,
            next_word: 0,
            next_block: 0,
        })
    }

    /// Returns the block that [`Self::next`] will return.
    pub fn peek(&self) -> Option<Block> {
        let range = RangeDescriptor(*self.words.get(self.next_word)?);
        let bytes = range.size().bytes();
        let level = LEAF_LEVEL.checked_sub(u8::try_from(range.size().word()).ok()?)?;
        let address = range
            .address()
            .checked_add(self.next_block.checked_mul(bytes)?)?;
        let well_formed = self.next_block < range.count()
            && address.is_multiple_of(bytes)
            && !range.has_reserved_bits();
        let undelegated = range.is_undelegated();
        well_formed.then_some(Block {
            address,
            level,
            undelegated,
        })
    }

    /// Takes the next block; `None` when there is none or its descriptor is malformed.
    pub fn next(&mut self) -> Option<Block> {
        let block = self.peek()?;
        let count = RangeDescriptor(*self.words.get(self.next_word)?).count();
        self.next_block = self.next_block.checked_add(1)?;
        if self.next_block >= count {
            self.next_block = 0;
            self.next_word = self.next_word.checked_add(1)?;
        }
        Some(block)
    }
}

/// The addresses that an unmap call reports.
pub(super) struct Report {
    kind: AddressType,
    address: u64,
    capacity: usize,
    words: Vec<u64, TABLE_ENTRIES>,
}

impl Report {
    /// Checks the arguments of the host.
    pub fn new(output: Output) -> Result<Self> {
        let kind = output.kind()?;
        let capacity = match kind {
            AddressType::None | AddressType::Single => {
                // Other hosts' drivers follow the reference, which refuses stray values here.
                if MapFlags(output.flags).list_count() != 0 || output.address != 0 {
                    return Err(Error::Input);
                }
                1
            }
            AddressType::List => output.list_count()?,
        };
        Ok(Self {
            kind,
            address: output.address,
            capacity,
            words: Vec::new(),
        })
    }

    /// Adds a block; returns false, unchanged, if it cannot be described any more.
    pub fn add(&mut self, block: Block) -> bool {
        if self.kind == AddressType::None {
            return true;
        }
        if let Some(last) = self.words.last_mut()
            && let Some(extended) = extend(*last, block)
        {
            *last = extended;
            return true;
        }
        self.words.len() < self.capacity && self.words.push(block.descriptor().0).is_ok()
    }

    /// Writes the list, if the host wants one, before anything changes.
    pub fn publish<P: Machine>(&self, context: &Context<'_, P>) -> Result<()> {
        if self.kind != AddressType::List || self.words.is_empty() {
            return Ok(());
        }
        let mut bytes = [0_u8; GRANULE_BYTES];
        for (slot, word) in bytes.as_chunks_mut::<WORD>().0.iter_mut().zip(&self.words) {
            *slot = word.to_le_bytes();
        }
        let length = self.words.len().checked_mul(WORD).ok_or(Error::Global)?;
        let bytes = bytes.get(..length).ok_or(Error::Global)?;
        context.host_write(HostPa(self.address), bytes)
    }

    /// Returns the descriptor and the list length that the call answers with.
    pub fn registers(&self) -> (u64, u64) {
        match self.kind {
            AddressType::None => (0, 0),
            AddressType::Single => (self.words.first().copied().unwrap_or(0), 0),
            AddressType::List => (0, u64::try_from(self.words.len()).unwrap_or(0)),
        }
    }
}

/// Returns the descriptor `word` with `block` at its end, if it continues there.
fn extend(word: u64, block: Block) -> Option<u64> {
    let range = RangeDescriptor(word);
    let single = block.descriptor();
    let follows = range.address().checked_add(range.bytes()?)? == block.address;
    let alike = range.size() == single.size() && range.is_undelegated() == single.is_undelegated();
    let room = range.count() < RangeDescriptor::MAX_COUNT;
    (follows && alike && room).then(|| word.wrapping_add(ONE_BLOCK))
}
