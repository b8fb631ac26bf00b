// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The order in which entries, tables and caches are changed, whatever the unit.
//!
//! A stream's entry may be wider than the unit's atomic read, so it is never changed in place: first
//! the one word that blocks the stream, then, while the entry blocks whatever the rest says, the
//! other words, and last the word that lets the stream through (SMMUv3: IHI 0070, 3.21.3.1; VT-d:
//! chapter 6).

use tsm_platform::{GranuleRange, Ipa, Stage2, StreamId, Vmid};

use crate::Step;
use crate::host_map::{HOST_VMID, HostMap};
use crate::stage2::Stage2Format;

/// Two 64-bit words of a command, lower first.
pub type CommandWords = [u64; 2];

/// The way one kind of IOMMU writes entries and commands.
pub trait Unit: Copy {
    /// What its second-stage tables look like.
    type Format: Stage2Format + Copy;
    /// Number of 64-bit words of a stream's entry.
    const WORDS: usize;

    /// Returns word `index` of the entry that blocks a stream whatever its other words say, if they
    /// are words of an entry that this unit writes.
    fn blocked(&self, index: usize) -> Option<u64>;
    /// Returns word `index` of the entry that sends a stream through `stage2`; `None` when a walk
    /// cannot start so.
    fn through(&self, stage2: &Stage2, index: usize) -> Option<u64>;
    /// Returns the commands that make the unit forget all it knows of the entry of `stream`.
    fn forget_stream(&self, stream: StreamId) -> [Option<CommandWords>; 2];
    /// Returns the command that forgets the translations of `bytes` bytes at `base` that are tagged
    /// `vmid`. It may forget more.
    fn forget(&self, vmid: Vmid, base: Ipa, bytes: u64) -> CommandWords;
    /// Returns the command that forgets all translations tagged `vmid`.
    fn forget_tag(&self, vmid: Vmid) -> CommandWords;
    /// Returns the commands that forget everything.
    fn forget_all(&self) -> [CommandWords; 2];
    /// Returns the command after whose completion all earlier ones are complete.
    fn complete(&self) -> CommandWords;
    /// Returns whether the unit remembers that there was no translation, so that a new one must be
    /// announced.
    fn caches_faults(&self) -> bool;
}

/// Ends a plan: all commands before are complete.
fn done<U: Unit>(unit: &U) -> [Step; 2] {
    [Step::Command(unit.complete()), Step::Wait]
}

/// Makes the unit read the stream's entry again, and waits until nothing uses the old one.
fn reread<U: Unit>(unit: &U, stream: StreamId) -> impl Iterator<Item = Step> + use<U> {
    let commands = unit.forget_stream(stream).into_iter().flatten();
    commands.map(Step::Command).chain(done(unit))
}

/// Writes words `[first, last)` of an entry, as `value` says, and completes that.
fn write<U: Unit, F: Fn(usize) -> Option<u64>>(
    unit: &U,
    stream: StreamId,
    words: core::ops::Range<usize>,
    value: F,
) -> impl Iterator<Item = Step> + use<U, F> {
    let steps = words.filter_map(move |word| {
        let value = value(word)?;
        Some(Step::Stream {
            stream,
            word,
            value,
        })
    });
    steps.chain(reread(unit, stream))
}

/// Blocks `stream`. When the plan is done, no transaction of it is under way.
pub fn block<U: Unit>(unit: &U, stream: StreamId) -> impl Iterator<Item = Step> + use<U> {
    let of = *unit;
    let word = move |index| of.blocked(index);
    write(unit, stream, 0..1, word).chain(write(unit, stream, 1..U::WORDS, word))
}

/// Sends `stream` through `stage2`; it is blocked meanwhile, and stays blocked if the plan stops
/// half way. `None` when a walk cannot start as `stage2` says.
pub fn attach<U: Unit>(
    unit: &U,
    stream: StreamId,
    stage2: &Stage2,
) -> Option<impl Iterator<Item = Step> + use<U>> {
    let (of, stage2) = (*unit, *stage2);
    of.through(&stage2, 0)?;
    let word = move |index| of.through(&stage2, index);
    Some(
        write(unit, stream, 0..1, move |index| of.blocked(index))
            .chain(write(unit, stream, 1..U::WORDS, word))
            .chain(write(unit, stream, 0..1, word)),
    )
}

/// Sends `stream` through the host's identity map.
pub fn release<U: Unit>(
    unit: &U,
    stream: StreamId,
    map: &HostMap<U::Format>,
) -> Option<impl Iterator<Item = Step> + use<U>> {
    attach(unit, stream, &map.stage2())
}

/// Forgets the translations of `bytes` bytes from `base` up that are tagged `vmid`.
pub fn invalidate<U: Unit>(
    unit: &U,
    vmid: Vmid,
    base: Ipa,
    bytes: u64,
) -> impl Iterator<Item = Step> + use<U> {
    let forget = Step::Command(unit.forget(vmid, base, bytes));
    core::iter::once(forget).chain(done(unit))
}

/// Forgets all translations that are tagged `vmid`.
pub fn invalidate_all<U: Unit>(unit: &U, vmid: Vmid) -> impl Iterator<Item = Step> + use<U> {
    let forget = Step::Command(unit.forget_tag(vmid));
    core::iter::once(forget).chain(done(unit))
}

/// Forgets everything that the unit may have cached before the TSM took it.
pub fn reset<U: Unit>(unit: &U) -> impl Iterator<Item = Step> + use<U> {
    let commands = unit.forget_all().into_iter().map(Step::Command);
    commands.chain(done(unit))
}

/// Makes `range` reachable for host streams. There is nothing to forget unless the unit caches
/// faults.
pub fn host_map<U: Unit>(
    unit: &U,
    map: &HostMap<U::Format>,
    range: GranuleRange,
) -> impl Iterator<Item = Step> + use<U> {
    let announce = unit
        .caches_faults()
        .then(|| invalidate(unit, HOST_VMID, Ipa(range.base()), range.bytes()));
    map.map(range)
        .map(Step::Table)
        .chain(announce.into_iter().flatten())
}

/// Makes `range` unreachable for host streams. When the plan is done, no transaction to it is under
/// way.
pub fn host_unmap<U: Unit>(
    unit: &U,
    map: &HostMap<U::Format>,
    range: GranuleRange,
) -> impl Iterator<Item = Step> + use<U> {
    map.unmap(range).map(Step::Table).chain(invalidate(
        unit,
        HOST_VMID,
        Ipa(range.base()),
        range.bytes(),
    ))
}
