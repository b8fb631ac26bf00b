// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The SMMUv3 in terms of [`plan`](crate::plan).

use tsm_platform::{Ipa, Stage2, StreamId, Vmid};

use crate::arm::ArmStage2;
use crate::plan::{CommandWords, Unit};
use crate::smmuv3::command::Command;
use crate::smmuv3::stream::{STREAM_ENTRY_WORDS, StreamEntry};

/// An SMMUv3 that the TSM owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Smmuv3 {
    /// Whether it has range commands ([`IDR3_RIL`](super::registers::IDR3_RIL)).
    pub ranges: bool,
}

impl Unit for Smmuv3 {
    type Format = ArmStage2;
    const WORDS: usize = STREAM_ENTRY_WORDS;

    fn blocked(&self, index: usize) -> Option<u64> {
        StreamEntry::BLOCKED.words().get(index).copied()
    }

    fn through(&self, stage2: &Stage2, index: usize) -> Option<u64> {
        StreamEntry::through(stage2)?.words().get(index).copied()
    }

    fn forget_stream(&self, stream: StreamId) -> [Option<CommandWords>; 2] {
        [Some(Command::ForgetStream(stream).words()), None]
    }

    fn forget(&self, vmid: Vmid, base: Ipa, bytes: u64) -> CommandWords {
        let single = base.0.is_multiple_of(4096) && bytes == 4096;
        let command = if single {
            Command::TlbiStage2 { vmid, ipa: base }
        } else if self.ranges {
            Command::range(vmid, base, bytes)
        } else {
            Command::TlbiGuest(vmid)
        };
        command.words()
    }

    fn forget_tag(&self, vmid: Vmid) -> CommandWords {
        Command::TlbiGuest(vmid).words()
    }

    fn forget_all(&self) -> [CommandWords; 2] {
        [Command::ForgetAllStreams.words(), Command::TlbiAll.words()]
    }

    fn complete(&self) -> CommandWords {
        Command::Sync.words()
    }

    /// Faults are not cached (IHI 0070, 3.17).
    fn caches_faults(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use tsm_platform::{Granule, GranuleRange, Ipa, Pa, Stage2, StreamId, Vmid};

    use super::Smmuv3;
    use crate::host_map::{HOST_VMID, HostMap};
    use crate::plan::{attach, block, host_map, host_unmap, invalidate, release};
    use crate::smmuv3::command::Command;
    use crate::smmuv3::stream::StreamEntry;
    use crate::{ArmStage2, Step};

    const UNIT: Smmuv3 = Smmuv3 { ranges: true };
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
        unit.run(attach(&UNIT, STREAM, &STAGE2).unwrap());
        assert_eq!(unit.cached, [new.words()]);
        for words in unit.seen.iter().filter(|words| Unit::lets_through(words)) {
            assert!(*words == old.words() || *words == new.words(), "{words:x?}");
        }
    }

    #[test]
    fn a_plan_that_stops_after_its_first_wait_leaves_the_stream_blocked() {
        let old = StreamEntry::through(&STAGE2).unwrap();
        let steps: Vec<Step> = attach(&UNIT, STREAM, &STAGE2).unwrap().collect();
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
        unit.run(block(&UNIT, STREAM));
        assert_eq!(unit.cached, [StreamEntry::BLOCKED.words()]);
    }

    fn map() -> HostMap<ArmStage2> {
        let dram = GranuleRange::new(0x4000_0000, 0x8000_0000).unwrap();
        HostMap::new(dram, Granule::new(0x7f80_0000).unwrap()).unwrap()
    }

    #[test]
    fn a_released_stream_gets_the_identity_map() {
        let mut unit = Unit::holding(&StreamEntry::BLOCKED);
        unit.run(release(&UNIT, STREAM, &map()).unwrap());
        let identity = StreamEntry::through(&map().stage2()).unwrap();
        assert_eq!(unit.cached, [identity.words()]);
    }

    #[test]
    fn taking_memory_clears_the_entries_before_it_forgets_them() {
        let range = GranuleRange::new(0x4800_0000, 0x4800_3000).unwrap();
        let steps: Vec<Step> = host_unmap(&UNIT, &map(), range).collect();
        let [store, tlbi, sync, wait] = steps.as_slice() else {
            panic!("{steps:?}");
        };
        assert!(
            matches!(store, Step::Table(write) if (write.value, write.step, write.count) == (0, 0, 3))
        );
        let forget = Command::range(HOST_VMID, Ipa(0x4800_0000), 0x3000);
        assert_eq!(*tlbi, Step::Command(forget.words()));
        assert_eq!(*sync, Step::Command(Command::Sync.words()));
        assert_eq!(*wait, Step::Wait);
        let back: Vec<Step> = host_map(&UNIT, &map(), range).collect();
        assert_eq!(back.len(), 1);
    }

    #[test]
    fn a_unit_without_ranges_forgets_the_whole_tag() {
        let unit = Smmuv3 { ranges: false };
        let mut steps = invalidate(&unit, Vmid(3), Ipa(0), 0x2000);
        let tlbi = Command::TlbiGuest(Vmid(3));
        assert_eq!(steps.next(), Some(Step::Command(tlbi.words())));
        let mut steps = invalidate(&unit, Vmid(3), Ipa(0x5000), 0x1000);
        let ipa = Ipa(0x5000);
        let tlbi = Command::TlbiStage2 { vmid: Vmid(3), ipa };
        assert_eq!(steps.next(), Some(Step::Command(tlbi.words())));
    }
}
