// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! VT-d in terms of [`plan`](crate::plan).

use tsm_platform::{Ipa, Pa, Stage2, StreamId, Vmid};

use super::command::Command;
use super::entry::{CONTEXT_WORDS, ContextEntry, Domain};
use crate::plan::{CommandWords, Unit};
use crate::x86::X86Stage2;

/// A VT-d unit that the TSM owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vtd {
    /// Most pages that one command forgets, as a power of two.
    pub most_pages: u8,
    /// Whether what is not present may be cached.
    pub caches_faults: bool,
    /// The 32-bit word that becomes [`Vtd::DONE`] when a plan's commands are complete.
    pub status: Pa,
}

impl Vtd {
    /// What completion writes to the status word.
    pub const DONE: u32 = 1;
}

impl Unit for Vtd {
    type Format = X86Stage2;
    const WORDS: usize = CONTEXT_WORDS;

    fn blocked(&self, index: usize) -> Option<u64> {
        ContextEntry::BLOCKED.words().get(index).copied()
    }

    fn through(&self, stage2: &Stage2, index: usize) -> Option<u64> {
        ContextEntry::through(stage2)?.words().get(index).copied()
    }

    /// Everything, for all functions: the tag that the unit knows the old entry by is not known
    /// here, and functions change hands rarely. Translations go after the entries that lead to them
    /// (VT-d 6.5).
    fn forget_stream(&self, _: StreamId) -> [Option<CommandWords>; 2] {
        self.forget_all().map(Some)
    }

    fn forget(&self, vmid: Vmid, base: Ipa, bytes: u64) -> CommandWords {
        let command = Domain::of(vmid).map_or(Command::ForgetAll, |domain| {
            Command::range(domain, base, bytes, self.most_pages)
        });
        command.words()
    }

    fn forget_tag(&self, vmid: Vmid) -> CommandWords {
        let command = Domain::of(vmid).map_or(Command::ForgetAll, Command::ForgetDomain);
        command.words()
    }

    fn forget_all(&self) -> [CommandWords; 2] {
        [Command::ForgetContexts, Command::ForgetAll].map(Command::words)
    }

    fn complete(&self) -> CommandWords {
        let command = Command::Wait {
            status: self.status,
            value: Self::DONE,
        };
        command.words()
    }

    fn caches_faults(&self) -> bool {
        self.caches_faults
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tsm_platform::{Granule, GranuleRange, Ipa, Pa, Stage2, StreamId, Vmid};

    use super::Vtd;
    use crate::host_map::{HOST_VMID, HostMap};
    use crate::plan::{Unit, attach, block, host_map, host_unmap, invalidate, release, reset};
    use crate::stage2::{Entry, Stage2Format};
    use crate::vtd::{Command, ContextEntry, Domain};
    use crate::{Step, X86Stage2};

    const UNIT: Vtd = Vtd {
        most_pages: 18,
        caches_faults: true,
        status: Pa(0x1200_0000),
    };
    const STREAM: StreamId = StreamId(0x20);
    const GUEST: Stage2 = Stage2 {
        root: Pa(0x2000_0000),
        start_level: 0,
        ipa_bits: 48,
        vmid: Vmid(7),
    };
    const TABLES: u64 = 0x1300_0000;

    fn map() -> HostMap<X86Stage2> {
        let dram = GranuleRange::new(0x1_0000, 0x4000_0000).unwrap();
        HostMap::new(dram, Granule::new(TABLES).unwrap()).unwrap()
    }

    fn range(base: u64, top: u64) -> GranuleRange {
        GranuleRange::new(base, top).unwrap()
    }

    /// A unit that caches whatever it sees, faults too, and forgets only what it is told to.
    struct Model {
        map: HostMap<X86Stage2>,
        tables: Vec<[u64; 512]>,
        context: [u64; 2],
        cached_context: Option<[u64; 2]>,
        /// By domain and page; a fault is kept as `None`.
        iotlb: BTreeMap<(u16, u64), Option<u64>>,
        queue: Vec<[u64; 2]>,
    }

    impl Model {
        fn new(context: ContextEntry) -> Self {
            let map = map();
            let table = |index| core::array::from_fn(|entry| map.initial(index, entry));
            Self {
                map,
                tables: (0..map.tables()).map(table).collect(),
                context: context.words(),
                cached_context: None,
                iotlb: BTreeMap::new(),
                queue: Vec::new(),
            }
        }

        fn of_host() -> Self {
            Self::new(ContextEntry::through(&map().stage2()).unwrap())
        }

        /// One access of the function; returns the physical address, or `None` if it is refused.
        fn access(&mut self, address: u64) -> Option<u64> {
            let [low, high] = *self.cached_context.get_or_insert(self.context);
            // What is not present is cached with domain 0.
            let domain = if low & 1 == 0 { 0 } else { (high >> 8) as u16 };
            let page = address >> 12;
            if let Some(known) = self.iotlb.get(&(domain, page)) {
                return *known;
            }
            let found = (low & 1 == 1).then(|| self.walk(low & !0xfff, high & 7, address))?;
            self.iotlb.insert((domain, page), found);
            found
        }

        fn walk(&self, root: u64, width: u64, address: u64) -> Option<u64> {
            if root != TABLES {
                // A guest's tables: all of it is mapped somewhere else.
                return Some(address | 1 << 40);
            }
            let mut table = 0;
            for level in if width == 1 { 1..4 } else { 0..4 } {
                let raw = self.tables[table][X86Stage2::index(Ipa(address), level).unwrap()];
                match X86Stage2::decode(level, raw).unwrap() {
                    Entry::Table { pa } => table = ((pa.0 - TABLES) / 4096) as usize,
                    Entry::Assigned { pa, .. } => return Some(pa.0 | address & 0xfff),
                    _ => return None,
                }
            }
            None
        }

        fn run(&mut self, plan: impl Iterator<Item = Step>) {
            for step in plan {
                self.step(step);
            }
            assert!(self.queue.is_empty(), "a plan ends complete");
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Stream { word, value, .. } => self.context[word] = value,
                Step::Table(write) => {
                    let mut value = write.value;
                    for entry in &mut self.tables[write.table][write.entry..][..write.count] {
                        *entry = value;
                        value += write.step;
                    }
                }
                Step::Command(words) => self.queue.push(words),
                Step::Wait => {
                    assert_eq!(self.queue.last(), Some(&UNIT.complete()));
                    for words in std::mem::take(&mut self.queue) {
                        self.forget(words);
                    }
                }
            }
        }

        fn forget(&mut self, [low, high]: [u64; 2]) {
            let domain = (low >> 16) as u16;
            match low & 0x3f {
                0x11 => self.cached_context = None,
                0x12 => self.iotlb.clear(),
                0x22 => self.iotlb.retain(|(tag, _), _| *tag != domain),
                0x32 => {
                    let (first, count) = (high >> 12, 1 << (high & 0x3f));
                    assert!(first.is_multiple_of(count));
                    let gone = first..first + count;
                    self.iotlb
                        .retain(|(tag, page), _| *tag != domain || !gone.contains(page));
                }
                0x25 => {}
                other => panic!("descriptor {other:#x}"),
            }
        }
    }

    #[test]
    fn memory_that_was_taken_is_out_of_reach_at_once() {
        for (base, top) in [
            (0x50_0000, 0x50_1000),
            (0x40_0000, 0x60_0000),
            (0x3f_f000, 0x40_1000),
        ] {
            let taken = range(base, top);
            let mut model = Model::of_host();
            for page in range(base - 0x1000, top + 0x1000).granules() {
                assert_eq!(model.access(page.address()), Some(page.address()));
            }
            model.run(host_unmap(&UNIT, &map(), taken));
            for page in taken.granules() {
                assert_eq!(model.access(page.address()), None);
            }
            assert!(model.access(base - 0x1000).is_some());
            assert!(model.access(top).is_some());
            model.run(host_map(&UNIT, &map(), taken));
            for page in taken.granules() {
                assert_eq!(model.access(page.address()), Some(page.address()));
            }
        }
    }

    #[test]
    fn a_missing_invalidation_is_noticed() {
        let taken = range(0x50_0000, 0x50_2000);
        let steps: Vec<Step> = host_unmap(&UNIT, &map(), taken).collect();
        let [.., forget, wait, Step::Wait] = steps.as_slice() else {
            panic!("{steps:?}");
        };
        assert_eq!(*wait, Step::Command(UNIT.complete()));
        let neighbor = Command::range(Domain(1), Ipa(0x50_2000), 0x2000, 18);
        for instead in [None, Some(neighbor)] {
            let mut model = Model::of_host();
            model.access(0x50_0000);
            model.access(0x50_1000);
            for step in &steps {
                if step != forget {
                    model.step(*step);
                } else if let Some(other) = instead {
                    model.step(Step::Command(other.words()));
                }
            }
            assert!(model.access(0x50_0000).is_some(), "the model is too kind");
        }
    }

    #[test]
    fn entries_change_before_they_are_forgotten() {
        let taken = range(0x50_0000, 0x50_3000);
        let steps: Vec<Step> = host_unmap(&UNIT, &map(), taken).collect();
        let last_store = steps
            .iter()
            .rposition(|step| matches!(step, Step::Table(_)));
        let first_command = steps
            .iter()
            .position(|step| matches!(step, Step::Command(_)));
        assert_eq!(last_store, Some(0));
        assert_eq!(first_command, Some(1));
        assert_eq!(steps.len(), 4);
    }

    #[test]
    fn a_unit_that_caches_no_faults_is_told_of_none() {
        let unit = Vtd {
            caches_faults: false,
            ..UNIT
        };
        let given = range(0x50_0000, 0x50_3000);
        assert_eq!(host_map(&unit, &map(), given).count(), 1);
        assert_eq!(host_map(&UNIT, &map(), given).count(), 4);
    }

    #[test]
    fn a_function_that_changes_hands_never_meets_a_mix_of_entries() {
        let host = ContextEntry::through(&map().stage2()).unwrap().words();
        let guest = ContextEntry::through(&GUEST).unwrap().words();
        let plans: [(Vec<Step>, _); 2] = [
            (attach(&UNIT, STREAM, &GUEST).unwrap().collect(), guest),
            (release(&UNIT, STREAM, &map()).unwrap().collect(), host),
        ];
        let mut model = Model::of_host();
        for (plan, expected) in plans {
            for step in plan {
                model.step(step);
                // Both what is in memory now and what was cached may be used.
                for words in [Some(model.context), model.cached_context]
                    .into_iter()
                    .flatten()
                {
                    let blocked = words[0] & 1 == 0;
                    assert!(blocked || words == host || words == guest, "{words:x?}");
                }
                model.access(0x50_0000);
            }
            assert_eq!(model.cached_context, Some(expected));
        }
    }

    #[test]
    fn a_blocked_function_stays_out() {
        let mut model = Model::of_host();
        assert!(model.access(0x50_0000).is_some());
        model.run(block(&UNIT, STREAM));
        assert_eq!(model.access(0x50_0000), None);
        assert_eq!(model.context, ContextEntry::BLOCKED.words());
    }

    #[test]
    fn after_a_function_came_back_nothing_of_the_guest_is_left() {
        let mut model = Model::new(ContextEntry::through(&GUEST).unwrap());
        assert_eq!(model.access(0x50_0000), Some(0x50_0000 | 1 << 40));
        model.run(release(&UNIT, STREAM, &map()).unwrap());
        assert_eq!(model.access(0x50_0000), Some(0x50_0000));
        assert!(model.iotlb.keys().all(|(domain, _)| *domain == 1));
    }

    #[test]
    fn only_the_domain_and_pages_that_are_meant_are_forgotten() {
        let mut model = Model::of_host();
        model.access(0x50_0000);
        model.access(0x60_0000);
        model.iotlb.insert((8, 0x500), Some(0));
        model.run(invalidate(&UNIT, HOST_VMID, Ipa(0x50_0000), 0x1000));
        let left: Vec<_> = model.iotlb.keys().copied().collect();
        assert_eq!(left, [(1, 0x600), (8, 0x500)]);
        model.run(invalidate(&UNIT, Vmid(7), Ipa(0), u64::MAX));
        assert_eq!(model.iotlb.len(), 1);
        model.run(reset(&UNIT));
        assert!(model.iotlb.is_empty() && model.map == map());
    }
}
