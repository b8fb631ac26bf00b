// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The order in which entries, tables and caches are changed.
//!
//! A stream's entry is wider than the unit's atomic read, so it is never changed in place: first the
//! one word that blocks the stream, then, while the entry blocks whatever the rest says, the other
//! words, and last the word that lets the stream through (IHI 0070, 3.21.3.1).

use tsm_platform::{GranuleRange, Ipa, Stage2, StreamId, Vmid};

use crate::Step;
use crate::host_map::{HOST_VMID, HostMap};
use crate::smmuv3::command::Command;
use crate::smmuv3::stream::{STREAM_ENTRY_WORDS, StreamEntry};

const fn command(command: Command) -> Step {
    Step::Command(command.words())
}

/// Makes the unit read the stream's entry again, and waits until nothing uses the old one.
fn reread(stream: StreamId) -> [Step; 3] {
    [
        command(Command::ForgetStream(stream)),
        command(Command::Sync),
        Step::Wait,
    ]
}

fn word(stream: StreamId, entry: &StreamEntry, word: usize) -> Option<Step> {
    let value = *entry.words().get(word)?;
    Some(Step::Stream {
        stream,
        word,
        value,
    })
}

fn first_word(stream: StreamId, entry: &StreamEntry) -> impl Iterator<Item = Step> + use<> {
    word(stream, entry, 0).into_iter().chain(reread(stream))
}

fn other_words(stream: StreamId, entry: &StreamEntry) -> impl Iterator<Item = Step> + use<> {
    let entry = *entry;
    (1..STREAM_ENTRY_WORDS)
        .filter_map(move |index| word(stream, &entry, index))
        .chain(reread(stream))
}

/// Blocks `stream`. When the plan is done, no transaction of it is under way.
pub fn block(stream: StreamId) -> impl Iterator<Item = Step> {
    let entry = StreamEntry::BLOCKED;
    first_word(stream, &entry).chain(other_words(stream, &entry))
}

/// Sends `stream` through `stage2`; it is blocked meanwhile, and stays blocked if the plan stops
/// half way. `None` when a walk cannot start as `stage2` says.
#[must_use]
pub fn attach(stream: StreamId, stage2: &Stage2) -> Option<impl Iterator<Item = Step> + use<>> {
    let entry = StreamEntry::through(stage2)?;
    Some(
        first_word(stream, &StreamEntry::BLOCKED)
            .chain(other_words(stream, &entry))
            .chain(first_word(stream, &entry)),
    )
}

/// Sends `stream` through the host's identity map.
#[must_use]
pub fn release(stream: StreamId, map: &HostMap) -> Option<impl Iterator<Item = Step> + use<>> {
    attach(stream, &map.stage2())
}

/// Forgets the translations of `bytes` bytes from `base` up that are tagged `vmid`. `ranges` says
/// whether the unit has range commands ([`IDR3_RIL`](super::registers::IDR3_RIL)).
pub fn invalidate(vmid: Vmid, base: Ipa, bytes: u64, ranges: bool) -> impl Iterator<Item = Step> {
    let single = base.0.is_multiple_of(4096) && bytes == 4096;
    let tlbi = if single {
        Command::TlbiStage2 { vmid, ipa: base }
    } else if ranges {
        Command::range(vmid, base, bytes)
    } else {
        Command::TlbiGuest(vmid)
    };
    [command(tlbi), command(Command::Sync), Step::Wait].into_iter()
}

/// Forgets all translations that are tagged `vmid`.
pub fn invalidate_all(vmid: Vmid) -> impl Iterator<Item = Step> {
    let tlbi = Command::TlbiGuest(vmid);
    [command(tlbi), command(Command::Sync), Step::Wait].into_iter()
}

/// Forgets everything that the unit may have cached before the TSM took it.
pub fn reset() -> impl Iterator<Item = Step> {
    [
        command(Command::ForgetAllStreams),
        command(Command::TlbiAll),
        command(Command::Sync),
        Step::Wait,
    ]
    .into_iter()
}

/// Makes `range` reachable for host streams. Faults are not cached, so there is nothing to forget.
pub fn host_map(map: &HostMap, range: GranuleRange) -> impl Iterator<Item = Step> + use<> {
    map.map(range).map(Step::Table)
}

/// Makes `range` unreachable for host streams. When the plan is done, no transaction to it is under
/// way.
pub fn host_unmap(
    map: &HostMap,
    range: GranuleRange,
    ranges: bool,
) -> impl Iterator<Item = Step> + use<> {
    let bytes = range.top().saturating_sub(range.base());
    map.unmap(range)
        .map(Step::Table)
        .chain(invalidate(HOST_VMID, Ipa(range.base()), bytes, ranges))
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Granule, GranuleRange, Ipa, Pa, Stage2, StreamId, Vmid};

    use super::{attach, block, host_map, host_unmap, invalidate, release};
    use crate::Step;
    use crate::host_map::{HOST_VMID, HostMap};
    use crate::smmuv3::command::Command;
    use crate::smmuv3::stream::StreamEntry;

    const STREAM: StreamId = StreamId(0x100);
    const STAGE2: Stage2 = Stage2 {
        root: Pa(0x7f20_0000),
        start_level: 1,
        ipa_bits: 39,
        vmid: Vmid(7),
    };

    /// A unit that caches an entry as early as it may and drops it as late as it may.
    struct Unit {
        memory: [u64; 8],
        cached: Vec<[u64; 8]>,
        pending: Vec<[u64; 2]>,
        seen: Vec<[u64; 8]>,
    }

    impl Unit {
        fn holding(entry: &StreamEntry) -> Self {
            Self {
                memory: entry.words(),
                cached: vec![entry.words()],
                pending: Vec::new(),
                seen: Vec::new(),
            }
        }

        /// Carries out `steps`; `seen` collects every mix of words that the unit could use.
        fn run(&mut self, steps: impl Iterator<Item = Step>) {
            for step in steps {
                let before = self.memory;
                match step {
                    Step::Stream { word, value, .. } => {
                        self.memory[word] = value;
                        // The unit may have read any of the words before this store.
                        for split in 0..=8 {
                            let mut torn = self.memory;
                            torn[..split].copy_from_slice(&before[..split]);
                            self.cached.push(torn);
                            let mut torn = before;
                            torn[..split].copy_from_slice(&self.memory[..split]);
                            self.cached.push(torn);
                        }
                    }
                    Step::Command(words) => self.pending.push(words),
                    Step::Wait => {
                        assert_eq!(self.pending.last(), Some(&Command::Sync.words()));
                        let forget = Command::ForgetStream(STREAM).words();
                        if self.pending.contains(&forget) {
                            self.cached = vec![self.memory];
                        }
                        self.pending.clear();
                    }
                    Step::Table(_) => unreachable!(),
                }
                self.seen.extend(&self.cached);
            }
            assert!(self.pending.is_empty(), "a plan ends complete");
        }

        fn lets_through(words: &[u64; 8]) -> bool {
            words[0] & 0xf == 0xd
        }
    }

    #[test]
    fn an_attached_stream_never_meets_half_an_entry() {
        let old = StreamEntry::through(&Stage2 {
            root: Pa(0x7f30_0000),
            vmid: HOST_VMID,
            ..STAGE2
        })
        .unwrap();
        let new = StreamEntry::through(&STAGE2).unwrap();
        let mut unit = Unit::holding(&old);
        unit.run(attach(STREAM, &STAGE2).unwrap());
        assert_eq!(unit.cached, [new.words()]);
        for words in unit.seen.iter().filter(|words| Unit::lets_through(words)) {
            assert!(*words == old.words() || *words == new.words(), "{words:x?}");
        }
    }

    #[test]
    fn a_plan_that_stops_after_its_first_wait_leaves_the_stream_blocked() {
        let old = StreamEntry::through(&STAGE2).unwrap();
        let steps: Vec<Step> = attach(STREAM, &STAGE2).unwrap().collect();
        let first_wait = steps.iter().position(|step| *step == Step::Wait).unwrap();
        for stop in first_wait + 1..steps.len() - 4 {
            let mut unit = Unit::holding(&old);
            for step in &steps[..=first_wait] {
                unit.run_one(*step);
            }
            for step in &steps[first_wait + 1..stop] {
                unit.run_one(*step);
                assert!(!unit.cached.iter().any(Unit::lets_through));
            }
        }
    }

    impl Unit {
        fn run_one(&mut self, step: Step) {
            match step {
                Step::Stream { word, value, .. } => {
                    self.memory[word] = value;
                    self.cached.push(self.memory);
                }
                Step::Wait => self.cached = vec![self.memory],
                Step::Command(_) | Step::Table(_) => {}
            }
        }
    }

    #[test]
    fn a_blocked_stream_stays_out() {
        let mut unit = Unit::holding(&StreamEntry::through(&STAGE2).unwrap());
        unit.run(block(STREAM));
        assert_eq!(unit.cached, [StreamEntry::BLOCKED.words()]);
    }

    fn map() -> HostMap {
        let dram = GranuleRange::new(0x4000_0000, 0x8000_0000).unwrap();
        HostMap::new(dram, Granule::new(0x7f80_0000).unwrap()).unwrap()
    }

    #[test]
    fn a_released_stream_gets_the_identity_map() {
        let mut unit = Unit::holding(&StreamEntry::BLOCKED);
        unit.run(release(STREAM, &map()).unwrap());
        let identity = StreamEntry::through(&map().stage2()).unwrap();
        assert_eq!(unit.cached, [identity.words()]);
    }

    #[test]
    fn taking_memory_clears_the_entries_before_it_forgets_them() {
        let range = GranuleRange::new(0x4800_0000, 0x4800_3000).unwrap();
        let steps: Vec<Step> = host_unmap(&map(), range, true).collect();
        let [stores @ .., tlbi, sync, wait] = steps.as_slice() else {
            panic!("{steps:?}");
        };
        assert_eq!(stores.len(), 3);
        assert!(
            stores
                .iter()
                .all(|step| matches!(step, Step::Table(write) if write.value == 0))
        );
        let forget = Command::range(HOST_VMID, Ipa(0x4800_0000), 0x3000);
        assert_eq!(*tlbi, Step::Command(forget.words()));
        assert_eq!(*sync, Step::Command(Command::Sync.words()));
        assert_eq!(*wait, Step::Wait);
        let back: Vec<Step> = host_map(&map(), range).collect();
        assert_eq!(back.len(), 3);
    }

    #[test]
    fn a_unit_without_ranges_forgets_the_whole_tag() {
        let mut steps = invalidate(Vmid(3), Ipa(0), 0x2000, false);
        let tlbi = Command::TlbiGuest(Vmid(3));
        assert_eq!(steps.next(), Some(Step::Command(tlbi.words())));
        let mut steps = invalidate(Vmid(3), Ipa(0x5000), 0x1000, false);
        let ipa = Ipa(0x5000);
        let tlbi = Command::TlbiStage2 { vmid: Vmid(3), ipa };
        assert_eq!(steps.next(), Some(Step::Command(tlbi.words())));
    }
}
