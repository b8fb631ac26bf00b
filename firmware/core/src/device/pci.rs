// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Configuration space as the TSM reads it: headers, capabilities, and what a function decodes.
//!
//! Nothing read here is trusted further than the hardware that answered: the host may have written
//! any register. Walks are bounded, addresses are checked.

use core::ops::Range;

use tsm_platform::{ConfigSpace, Rid};

use super::sizes::{BarSizes, KnownSizes};

/// Registers of a header.
pub(crate) mod register {
    /// Command (low half) and status.
    pub const COMMAND: u16 = 0x04;
    /// Cache line, latency, header type, self test.
    pub const HEADER: u16 = 0x0c;
    /// First base address register.
    pub const BAR: u16 = 0x10;
    /// Bus numbers of a bridge.
    pub const BUSES: u16 = 0x18;
    /// Expansion ROM of an endpoint.
    pub const ROM: u16 = 0x30;
    /// Expansion ROM of a bridge.
    pub const BRIDGE_ROM: u16 = 0x38;
    /// Memory window of a bridge.
    pub const WINDOW: u16 = 0x20;
    /// Prefetchable window of a bridge, then the upper halves of its base and limit.
    pub const PREFETCHABLE: u16 = 0x24;
    /// Upper half of the prefetchable limit.
    pub const PREFETCHABLE_LIMIT_HIGH: u16 = 0x2c;
    /// Interrupt line and pin, and control of a bridge.
    pub const BRIDGE_CONTROL: u16 = 0x3c;
}

/// Command register: memory decoding.
pub(crate) const MEMORY_ENABLE: u32 = 1 << 1;
/// Command register: bus mastering.
pub(crate) const BUS_MASTER: u32 = 1 << 2;

/// Address bits of a memory base address register.
const BAR_ADDRESS: u32 = 0xffff_fff0;
/// Address bits of an expansion ROM's register.
const ROM_ADDRESS: u32 = 0xffff_f800;

/// Extended capability: single-root I/O virtualization.
pub(crate) const SINGLE_ROOT_IOV: u16 = 0x10;

/// Capability: PCI Express.
const EXPRESS: u8 = 0x10;
/// Port type of a root port.
const ROOT_PORT: u32 = 4;

const CAPABILITIES: u16 = 0x34;
/// Status register: there is a capability list.
const HAS_CAPABILITIES: u32 = 1 << 20;
/// Most capabilities that fit into configuration space: the list may loop, the walk may not.
const MOST_CAPABILITIES: usize = 48;
const MOST_EXTENDED: usize = 240;

/// A byte range `[base, top)` of the memory address space.
pub(crate) type Span = (u64, u64);

fn overlap(a: Span, b: Span) -> bool {
    a.0 < b.1 && b.0 < a.1
}

/// Where an endpoint's memory is, as far as its registers tell: the sizes are hardware's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    bars: [u32; 6],
    decodes: bool,
}

/// Virtual functions of a function: requester ids and memory that its own registers do not show.
pub(crate) struct VirtualFunctions {
    first: u16,
    stride: u16,
    count: u16,
    /// Base address registers; zero while they do not decode memory.
    bars: [u32; 6],
    /// Where those registers are; nowhere while they do not decode memory.
    pub registers: Range<u16>,
}

impl VirtualFunctions {
    /// Returns whether one of them has the requester id `rid`.
    pub fn include(&self, rid: Rid) -> bool {
        let distance = rid.0.wrapping_sub(self.first);
        let index = match distance.checked_rem(self.stride) {
            Some(0) => distance.checked_div(self.stride),
            Some(_) => None,
            None => (distance == 0).then_some(0),
        };
        index.is_some_and(|index| index < self.count)
    }

    /// Returns whether one of them may answer in `span`. A region is taken to be as large as its
    /// address allows: probing it would disturb all of them.
    pub fn may_answer_in(&self, span: Span) -> bool {
        let mut registers = self.bars.iter();
        while let Some(low) = registers.next() {
            let mut base = u64::from(low & 0xffff_fff0);
            if is_wide(*low) {
                base |= registers.next().map_or(0, |high| u64::from(*high)) << 32;
            }
            let largest = base & base.wrapping_neg();
            let bytes = largest.saturating_mul(u64::from(self.count));
            if base != 0 && low & 1 == 0 && overlap((base, base.saturating_add(bytes)), span) {
                return true;
            }
        }
        false
    }
}

/// One function, as it is or as it would be after a write.
pub(crate) struct Function<'a, P> {
    platform: &'a P,
    rid: Rid,
    /// A register that is to be taken as written.
    supposed: Option<(u16, u32)>,
}

impl<'a, P: ConfigSpace> Function<'a, P> {
    /// Looks at the function `rid`.
    pub const fn new(platform: &'a P, rid: Rid) -> Self {
        Self {
            platform,
            rid,
            supposed: None,
        }
    }

    /// Looks at the function as if the 4-byte register at `offset` read as `value`.
    pub const fn supposing(&self, offset: u16, value: u32) -> Self {
        Self {
            platform: self.platform,
            rid: self.rid,
            supposed: Some((offset, value)),
        }
    }

    /// Reads the 4-byte register at `offset`.
    pub fn read(&self, offset: u16) -> u32 {
        match self.supposed {
            Some((at, value)) if at == offset => value,
            _ => self.platform.config_read(self.rid, offset, 4),
        }
    }

    /// Returns the vendor's and the device's id, which tell what hardware is there.
    pub fn id(&self) -> u32 {
        self.read(0)
    }

    /// Returns whether a function is there.
    pub fn is_present(&self) -> bool {
        self.read(0) & 0xffff != 0xffff
    }

    fn header(&self) -> u32 {
        self.read(register::HEADER) >> 16 & 0xff
    }

    /// Returns whether the function is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.header() & 0x7f == 1
    }

    fn is_one_of_several(&self) -> bool {
        self.header() & 0x80 != 0
    }

    /// Returns whether the function answers memory accesses.
    pub fn decodes_memory(&self) -> bool {
        self.read(register::COMMAND) & MEMORY_ENABLE != 0
    }

    /// Returns first and last bus behind a bridge.
    pub fn buses(&self) -> Option<(u8, u8)> {
        let [_, secondary, subordinate, _] = self.read(register::BUSES).to_le_bytes();
        let sound = self.is_bridge() && secondary != 0 && secondary <= subordinate;
        sound.then_some((secondary, subordinate))
    }

    /// Returns whether this is a bridge between the host and `rid`.
    pub fn is_above(&self, rid: Rid) -> bool {
        let [_, bus] = rid.0.to_le_bytes();
        self.buses()
            .is_some_and(|(first, last)| (first..=last).contains(&bus))
    }

    /// Returns whether this is a bridge between the host and `rid`, and no other is between the two.
    pub fn is_right_above(&self, rid: Rid) -> bool {
        let [_, bus] = rid.0.to_le_bytes();
        self.buses().is_some_and(|(first, _)| first == bus)
    }

    /// Returns whether the function is a root port.
    pub fn is_root_port(&self) -> bool {
        let express = self.capability(EXPRESS);
        let port_type = express.map(|at| self.read(at) >> 20 & 0xf);
        self.is_bridge() && port_type == Some(ROOT_PORT)
    }

    /// Returns the number of base address registers.
    pub fn bar_count(&self) -> u16 {
        if self.is_bridge() { 2 } else { 6 }
    }

    /// Reads the registers that place an endpoint's memory, without disturbing it.
    pub fn placement(&self) -> Placement {
        let mut offset = register::BAR;
        Placement {
            bars: core::array::from_fn(|_| {
                let bar = self.read(offset);
                offset = offset.saturating_add(4);
                bar
            }),
            decodes: self.decodes_memory(),
        }
    }

    /// Returns the bits of the register at `offset` that tell what kind of region is behind it: those
    /// of a base address register, but not of its upper half.
    pub fn kind_bits(&self, offset: u16) -> u32 {
        let mut found = 0;
        if !(register::BAR..register::ROM).contains(&offset) {
            return found;
        }
        self.any_bar(|at, _| {
            if at == offset {
                found = 0xf;
            }
            at >= offset
        });
        found
    }

    /// Returns the offset of the expansion ROM's register.
    pub fn rom(&self) -> u16 {
        if self.is_bridge() {
            register::BRIDGE_ROM
        } else {
            register::ROM
        }
    }

    /// Returns the offset of capability `id`.
    pub fn capability(&self, id: u8) -> Option<u16> {
        if self.read(register::COMMAND) & HAS_CAPABILITIES == 0 {
            return None;
        }
        let [first, ..] = self.read(CAPABILITIES).to_le_bytes();
        let mut at = u16::from(first & 0xfc);
        for _ in 0..MOST_CAPABILITIES {
            if at < 0x40 {
                return None;
            }
            let [found, next, ..] = self.read(at).to_le_bytes();
            if found == id {
                return Some(at);
            }
            at = u16::from(next & 0xfc);
        }
        None
    }

    /// Calls `visit` with offset and id of each extended capability.
    fn each_extended(&self, mut visit: impl FnMut(u16, u16)) {
        let mut at: u16 = 0x100;
        for _ in 0..MOST_EXTENDED {
            let header = self.read(at);
            if header == 0 || header == u32::MAX {
                return;
            }
            let [low, high, a, b] = header.to_le_bytes();
            visit(at, u16::from_le_bytes([low, high]));
            at = u16::from_le_bytes([a, b]) >> 4 & 0xffc;
            if at < 0x100 {
                return;
            }
        }
    }

    /// Returns the id of the extended capability whose registers hold `offset`: the one that starts
    /// last at or before it.
    pub fn extended_at(&self, offset: u16) -> Option<u16> {
        let mut best: Option<(u16, u16)> = None;
        self.each_extended(|at, id| {
            if at <= offset && best.is_none_or(|(start, _)| start < at) {
                best = Some((at, id));
            }
        });
        best.map(|(_, id)| id)
    }

    /// Returns the virtual functions that are enabled, if any are.
    pub fn virtual_functions(&self) -> Option<VirtualFunctions> {
        let mut found = None;
        self.each_extended(|at, id| {
            if id == SINGLE_ROOT_IOV {
                found = Some(at);
            }
        });
        let at = found?;
        let register = |offset: u16| self.read(at.saturating_add(offset));
        let control = register(8);
        let [first_low, first_high, stride_low, stride_high] = register(0x14).to_le_bytes();
        let [count_low, count_high, ..] = register(0x10).to_le_bytes();
        let first_bar = at.saturating_add(0x24);
        let decodes = control & 8 != 0;
        (control & 1 != 0).then(|| VirtualFunctions {
            first: self
                .rid
                .0
                .wrapping_add(u16::from_le_bytes([first_low, first_high])),
            stride: u16::from_le_bytes([stride_low, stride_high]),
            count: u16::from_le_bytes([count_low, count_high]),
            bars: if decodes {
                core::array::from_fn(|index| {
                    let offset = u16::try_from(index).unwrap_or(0).saturating_mul(4);
                    register(offset.saturating_add(0x24))
                })
            } else {
                [0; 6]
            },
            registers: if decodes {
                first_bar..first_bar.saturating_add(24)
            } else {
                0..0
            },
        })
    }

    /// Returns the size of the region behind the register at `offset`, which the probe disturbs:
    /// decoding is off meanwhile.
    fn probe(&self, offset: u16, wide: bool, address_bits: u32) -> u64 {
        let (platform, rid) = (self.platform, self.rid);
        let command = platform.config_read(rid, register::COMMAND, 2);
        let high = offset.saturating_add(4);
        let old = platform.config_read(rid, offset, 4);
        let old_high = platform.config_read(rid, high, 4);
        platform.config_write(rid, register::COMMAND, 2, command & !MEMORY_ENABLE);
        platform.config_write(rid, offset, 4, address_bits | 0xf);
        let mut mask = u64::from(platform.config_read(rid, offset, 4) & address_bits);
        if wide {
            platform.config_write(rid, high, 4, u32::MAX);
            mask |= u64::from(platform.config_read(rid, high, 4)) << 32;
            platform.config_write(rid, high, 4, old_high);
        } else if mask != 0 {
            mask |= 0xffff_ffff_0000_0000;
        }
        platform.config_write(rid, offset, 4, old);
        platform.config_write(rid, register::COMMAND, 2, command);
        // Zero if nothing is there: then the complement wraps to zero as well.
        (!mask).wrapping_add(1)
    }

    /// Calls `visit` with offset and content of each base address register, upper halves left out,
    /// until it returns true. Returns whether it did.
    fn any_bar(&self, mut visit: impl FnMut(u16, u32) -> bool) -> bool {
        let mut index: u16 = 0;
        while index < self.bar_count() {
            let offset = register::BAR.saturating_add(index.saturating_mul(4));
            let low = self.read(offset);
            if visit(offset, low) {
                return true;
            }
            index = index.saturating_add(if is_wide(low) { 2 } else { 1 });
        }
        false
    }

    /// Calls `visit` with offset, base address, width and address bits of each memory region that is
    /// programmed, until it returns true. Returns whether it did.
    fn any_region(&self, mut visit: impl FnMut(u16, u64, bool, u32) -> bool) -> bool {
        let found = self.any_bar(|offset, low| {
            if low & 1 != 0 {
                return false;
            }
            let mut base = u64::from(low & BAR_ADDRESS);
            if is_wide(low) {
                base |= u64::from(self.read(offset.saturating_add(4))) << 32;
            }
            visit(offset, base, is_wide(low), BAR_ADDRESS)
        });
        let rom = self.read(self.rom());
        let rom_base = u64::from(rom & ROM_ADDRESS);
        found || (rom & 1 != 0 && visit(self.rom(), rom_base, false, ROM_ADDRESS))
    }

    /// Returns the size of the region behind the register at `offset`, or nothing if only a probe
    /// could tell and a bound interface needs the function.
    fn size(&self, known: &mut KnownSizes, offset: u16, wide: bool, bits: u32) -> Option<u64> {
        let function = (self.rid, self.id());
        if let Some(size) = known.find(function, offset) {
            return Some(size);
        }
        if self.is_needed(known) {
            return None;
        }
        let size = self.probe(offset, wide, bits);
        known.learn(function, offset, size, |known, rid| {
            Function::new(self.platform, rid).is_needed(known)
        });
        Some(size)
    }

    /// Returns whether the function has a bound interface or is above one.
    fn is_needed(&self, known: &KnownSizes) -> bool {
        // As it is: what a write would make of it is not yet needed by anyone.
        let own = Function::new(self.platform, self.rid);
        known.is_needed(self.rid, own.buses())
    }

    /// Learns the sizes of all its memory while it may still be probed.
    pub fn measure(&self, known: &mut KnownSizes) {
        self.any_memory(|offset, wide, bits| {
            self.size(known, offset, wide, bits);
        });
    }

    /// Calls `visit` with offset, width and address bits of each register that places memory,
    /// programmed or not.
    fn any_memory(&self, mut visit: impl FnMut(u16, bool, u32)) {
        self.any_bar(|offset, low| {
            if low & 1 == 0 {
                visit(offset, is_wide(low), BAR_ADDRESS);
            }
            false
        });
        visit(self.rom(), false, ROM_ADDRESS);
    }

    /// Returns whether the function, if it decodes memory, answers anywhere in `span`.
    ///
    /// A region starts at a multiple of its size, which settles most cases without its size. One
    /// whose size would matter and cannot be had is taken to answer.
    pub fn answers_in(&self, span: Span, known: &mut KnownSizes) -> bool {
        self.decodes_memory()
            && self.any_region(|offset, base, wide, bits| {
                let largest = if base == 0 {
                    u64::MAX
                } else {
                    base & base.wrapping_neg()
                };
                let is_near = base < span.1 && base.saturating_add(largest) > span.0;
                if !is_near && !self.moves(offset, wide) {
                    return false;
                }
                let Some(size) = self.size(known, offset, wide, bits) else {
                    return true;
                };
                let base = base & size.wrapping_neg();
                size != 0 && overlap((base, base.saturating_add(size)), span)
            })
    }

    /// Returns whether the region behind the register at `offset` is supposed to move. Then its
    /// address is what the host writes; hardware will drop the bits below the region's size.
    fn moves(&self, offset: u16, wide: bool) -> bool {
        self.supposed.is_some_and(|(at, value)| {
            let is_its_own = at == offset || wide && at == offset.saturating_add(4);
            is_its_own && value != self.platform.config_read(self.rid, at, 4)
        })
    }

    /// Probes the size of each region of an endpoint. A device that is locked falls to ERROR when
    /// its BARs change (PCIe 6.1, 11.2.6), so this is done once, before any lock. Returns nothing if
    /// a bound interface needs the function.
    pub fn bar_sizes(&self, known: &KnownSizes) -> Option<BarSizes> {
        if self.is_bridge() || self.is_needed(known) {
            return None;
        }
        let mut sizes = BarSizes::default();
        self.any_memory(|offset, wide, bits| {
            if let Some(size) = sizes.place(offset) {
                *size = self.probe(offset, wide, bits);
            }
        });
        Some(sizes)
    }

    /// Returns whether one region behind a base address register, of the sizes given, holds all of
    /// `span`. Nothing is probed.
    pub fn owns(&self, span: Span, sizes: &BarSizes) -> bool {
        self.any_region(|offset, base, _, _| {
            let size = sizes.get(offset).unwrap_or(0);
            offset != self.rom()
                && base != 0
                && base <= span.0
                && span.1 <= base.saturating_add(size)
        })
    }

    /// Returns whether a bridge that forwards memory accesses forwards any of `span`.
    pub fn forwards(&self, span: Span) -> bool {
        if !self.is_bridge() || !self.decodes_memory() {
            return false;
        }
        let (base, limit) = halves(self.read(register::WINDOW));
        let window = (base << 16, (limit << 16).saturating_add(1 << 20));
        let (low_base, low_limit) = halves(self.read(register::PREFETCHABLE));
        let high = register::PREFETCHABLE_LIMIT_HIGH;
        let high_base = u64::from(self.read(high.saturating_sub(4)));
        let high_limit = u64::from(self.read(high));
        let prefetchable = (
            high_base << 32 | low_base << 16,
            (high_limit << 32 | low_limit << 16).saturating_add(1 << 20),
        );
        [window, prefetchable]
            .into_iter()
            .any(|window| window.0 < window.1 && overlap(window, span))
    }
}

/// Returns whether a base address register describes 64-bit memory.
const fn is_wide(low: u32) -> bool {
    low & 7 == 4
}

/// Returns base and limit of a window register, their low four bits cleared.
fn halves(register: u32) -> (u64, u64) {
    let base = u64::from(register & 0xfff0);
    let limit = u64::from(register >> 16 & 0xfff0);
    (base, limit)
}

/// Calls `visit` with each function that is present and not hidden, until it returns true. Returns
/// whether it did.
///
/// Buses other than the first are looked at if a bridge of the first forwards to them.
pub(crate) fn any_function<P: ConfigSpace>(
    platform: &P,
    mut visit: impl FnMut(Rid, &Function<'_, P>) -> bool,
) -> bool {
    let mut forwarded = [0_u64; 4];
    let last = platform.buses().min(256);
    for bus in 0..last {
        let word = usize::from(bus / 64);
        let bit = 1_u64 << (bus % 64);
        if bus != 0 && forwarded.get(word).is_none_or(|bits| bits & bit == 0) {
            continue;
        }
        for device in 0..32_u16 {
            let first = Rid(bus << 8 | device << 3);
            let several = Function::new(platform, first).is_one_of_several();
            let count = if several { 8 } else { 1 };
            for number in 0..count {
                let rid = Rid(first.0 | number);
                let function = Function::new(platform, rid);
                if platform.is_hidden(rid) || !function.is_present() {
                    continue;
                }
                if bus == 0 {
                    mark(&mut forwarded, function.buses());
                }
                if visit(rid, &function) {
                    return true;
                }
            }
        }
    }
    false
}

fn mark(forwarded: &mut [u64; 4], buses: Option<(u8, u8)>) {
    let Some((first, last)) = buses else {
        return;
    };
    for bus in first..=last {
        if let Some(word) = forwarded.get_mut(usize::from(bus / 64)) {
            *word |= 1 << (bus % 64);
        }
    }
}
