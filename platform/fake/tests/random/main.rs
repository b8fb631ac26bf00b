// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Random calls, alone and from several processors: what the tables say stays true.

use std::collections::{BTreeMap, BTreeSet};

use tsm_abi::rmi::{BlockSize, Call, MapFlags, ROWS, RangeDescriptor};
use tsm_abi::{RmiStatus, Row};
use tsm_core::State;
use tsm_iommu::{ArmStage2, Entry, Stage2Format};
use tsm_platform::StreamId;
use tsm_platform_fake::{Host, Owner, Realm, STATUS_SUCCESS};
use zerocopy::IntoBytes;

const PAGE: u64 = 0x1000;
const POOL: u64 = 96;
const START_LEVEL: u8 = 1;
/// Most operations on granules that one call may need: one for each entry of two tables, or each
/// granule of one block, and a few.
const MOST_STEPS: u64 = 1100;
/// A stream that is the host's.
const HOST_STREAM: StreamId = StreamId(0x18);

/// Xorshift: the same calls in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// A host with a few granules, and pages of parameters for them.
struct Playground {
    host: Host,
    pool: u64,
    /// Realm parameters by root table.
    realm_params: BTreeMap<u64, u64>,
    rec_params: Vec<u64>,
    run: u64,
}

impl Playground {
    fn new() -> Self {
        let host = Host::activated();
        let pool = host.pages(128);
        let mut params = host.realm_params();
        host.undelegate(params.rtt_base.get(), 1);
        let realm_params = (0..4).map(|root| {
            params.rtt_base = (pool + root * PAGE).into();
            (pool + root * PAGE, host.page_with(params.as_bytes()))
        });
        let realm_params = realm_params.collect();
        let rec_params = [0, 1].map(|mpidr| host.page_with(Host::rec_params(mpidr).as_bytes()));
        let run = host.pages(1);
        Self {
            realm_params,
            rec_params: rec_params.to_vec(),
            run,
            pool,
            host,
        }
    }

    fn page(&self, random: &mut Random) -> u64 {
        self.pool + random.below(POOL) * PAGE
    }

    /// Returns a page of the pool in `state`, if a look at a few finds one.
    fn page_in(&self, random: &mut Random, state: State) -> u64 {
        let mut page = self.page(random);
        for _ in 0..64 {
            if self.host.tsm.granules().state(page) == Ok(state) {
                break;
            }
            page = self.page(random);
        }
        page
    }

    fn argument(&self, random: &mut Random, row: &Row, name: &str, previous: u64) -> u64 {
        if random.below(64) == 0 {
            return random.next();
        }
        match name {
            "rd" if row.name == "RMI_REALM_CREATE" => self.page_in(random, State::Delegated),
            "rd" => self.page_in(random, State::Rd),
            "rec" | "calling_rec" | "target_rec" if row.name != "RMI_REC_CREATE" => {
                self.page_in(random, State::Rec)
            }
            "rtt" | "data" | "rec" => self.page_in(random, State::Delegated),
            "params" if row.name == "RMI_REALM_CREATE" => {
                let pages: Vec<u64> = self.realm_params.values().copied().collect();
                random.pick(&pages)
            }
            "params" => random.pick(&self.rec_params),
            "run" => self.run,
            "src" => self.page_in(random, State::Undelegated),
            "start" => self.page(random),
            "end" => previous + (1 + random.below(16)) * PAGE,
            "top" => previous + (1 + random.below(3)) * PAGE,
            "base" if row.name == "RMI_GRANULE_TRACKING_GET" => self.page(random),
            "base" if row.name.contains("UNPROT") => Realm::SHARED + random.below(6) * PAGE,
            "ipa" if row.arguments.contains(&"level") => {
                random.pick(&[0, Realm::SHARED]) + random.below(2) * 0x20_0000
            }
            "base" | "ipa" => random.below(6) * PAGE,
            "level" => random.pick(&[2, 3, 3]),
            "flags" if row.name == "RMI_RTT_UNPROT_MAP" => Host::shared_flags(),
            "flags" if row.name == "RMI_RTT_DATA_MAP_INIT" => random.below(2),
            "flags" => MapFlags::single().0,
            "oaddr" if row.name.ends_with("UNMAP") => 0,
            "oaddr" if row.name == "RMI_RTT_UNPROT_MAP" => {
                Host::shared_range(self.page_in(random, State::Undelegated))
            }
            "oaddr" => {
                let page = self.page_in(random, State::Delegated);
                RangeDescriptor::new(page, BlockSize::Page, 1 + random.below(2)).0
            }
            _ => random.below(2),
        }
    }

    /// Makes one random call; returns its name if it succeeded.
    fn step(&self, random: &mut Random, rows: &[&'static Row]) -> Option<&'static str> {
        let row = random.pick(rows);
        // What takes a realm apart is rarer than what builds it.
        let destroys = ["ACTIVATE", "TERMINATE", "DESTROY", "UNDELEGATE", "FOLD"];
        if destroys.iter().any(|part| row.name.contains(part)) && random.below(6) != 0 {
            return None;
        }
        let mut registers = [0; 7];
        let mut previous = 0;
        for (register, name) in registers.iter_mut().zip(row.arguments) {
            previous = self.argument(random, row, name, previous);
            *register = previous;
        }
        let [status, ..] = self.host.raw(row.function, &registers);
        (status == STATUS_SUCCESS).then_some(row.name)
    }

    /// Checks that the table of granules, the realms' tables and the hardware agree.
    fn check(&self) {
        let table = self.host.tsm.granules();
        assert!(table.is_quiet(), "no lock outlives its call");
        let used: BTreeMap<u64, (State, u32)> = table
            .in_use()
            .map(|(address, state, count)| (address, (state, count)))
            .collect();
        for page in (0..POOL).map(|index| self.pool + index * PAGE) {
            let state = used
                .get(&page)
                .map_or(State::Undelegated, |(state, _)| *state);
            let is_hosts = state == State::Undelegated;
            let owner = if is_hosts { Owner::Host } else { Owner::Realm };
            assert_eq!(self.host.fake.owner(page), owner, "{page:#x} {state:?}");
            assert_eq!(
                self.host.fake.dma(HOST_STREAM, page).is_some(),
                is_hosts,
                "{page:#x}"
            );
        }
        let mut seen = Seen::default();
        for root in self.realm_params.keys() {
            if self.host.fake.table(*root).is_some() && !seen.tables.contains(root) {
                seen.roots.insert(*root);
            }
        }
        // A page that is a root of one realm may be a lower table of another: those come first.
        for root in seen.roots.clone() {
            self.visit(root, START_LEVEL, 0, &used, &mut seen);
        }
        let expected = |wanted: State| {
            let found = used.iter().filter(move |(_, (state, _))| *state == wanted);
            found.map(|(address, _)| *address).collect::<BTreeSet<_>>()
        };
        assert_eq!(seen.data, expected(State::Data));
        let tables: BTreeSet<u64> = seen.tables.union(&seen.roots).copied().collect();
        assert_eq!(tables, expected(State::Rtt));
        let held: BTreeMap<u64, u32> = used
            .iter()
            .filter(|(_, (state, count))| *state == State::Undelegated && *count != 0)
            .map(|(address, (_, count))| (*address, *count))
            .collect();
        assert_eq!(seen.shared, held, "references of shared memory");
    }

    fn visit(
        &self,
        table: u64,
        level: u8,
        _base: u64,
        used: &BTreeMap<u64, (State, u32)>,
        seen: &mut Seen,
    ) {
        let mut live = 0;
        for raw in self.host.fake.table(table).expect("a table") {
            let entry = ArmStage2::decode(level, raw).expect("an entry");
            let bytes = ArmStage2::entry_bytes(level).expect("a level");
            match entry {
                Entry::Unassigned { .. } => continue,
                Entry::Shared { pa, .. } => {
                    for page in (pa.0..pa.0 + bytes).step_by(4096) {
                        *seen.shared.entry(page).or_default() += 1;
                    }
                    continue;
                }
                Entry::Assigned { pa, .. } => {
                    for page in (pa.0..pa.0 + bytes).step_by(4096) {
                        assert!(seen.data.insert(page), "{page:#x} is mapped twice");
                    }
                }
                Entry::Table { pa } => {
                    assert!(seen.tables.insert(pa.0), "{:#x} is a table twice", pa.0);
                    seen.roots.remove(&pa.0);
                    self.visit(pa.0, level + 1, 0, used, seen);
                }
                Entry::Device { .. } => panic!("no device here"),
            }
            live += 1;
        }
        assert_eq!(used.get(&table), Some(&(State::Rtt, live)), "{table:#x}");
    }
}

/// What the realms' tables point to.
#[derive(Default)]
struct Seen {
    roots: BTreeSet<u64>,
    tables: BTreeSet<u64>,
    data: BTreeSet<u64>,
    shared: BTreeMap<u64, u32>,
}

/// Calls that are not about devices.
fn rows() -> Vec<&'static Row> {
    let is_device = |row: &&Row| {
        ["PDEV", "VDEV", "PSMMU", "_DEV_", "_OP_"]
            .iter()
            .any(|part| row.name.contains(part))
    };
    ROWS.iter()
        .filter(|row| row.implemented && !is_device(row))
        .collect()
}

#[test]
fn any_sequence_of_calls_keeps_the_tables_true() {
    let rows = rows();
    let mut succeeded: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 1..=4 {
        let playground = Playground::new();
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        for step in 0..6000 {
            playground.host.fake.take_steps();
            let name = playground.step(&mut random, &rows);
            let steps = playground.host.fake.take_steps();
            assert!(steps <= MOST_STEPS, "{name:?} took {steps} steps");
            if let Some(name) = name {
                *succeeded.entry(name).or_default() += 1;
            }
            if step % 50 == 0 {
                playground.check();
            }
        }
        playground.check();
    }
    // A random walk that gets nowhere shows nothing.
    let rare = [
        "RMI_RMM_ACTIVATE",
        "RMI_PSCI_COMPLETE",
        "RMI_RTT_SET_RIPAS",
        "RMI_RMM_CONFIG_SET",
        "RMI_RMM_CONFIG_GET",
        "RMI_VERSION",
    ];
    for row in rows.iter().filter(|row| !rare.contains(&row.name)) {
        assert!(
            succeeded.contains_key(row.name),
            "{} never succeeded: {succeeded:?}",
            row.name
        );
    }
}

#[test]
fn calls_from_several_processors_leave_no_lock_and_no_contradiction() {
    let rows = rows();
    let playground = Playground::new();
    for round in 1..=3_u64 {
        std::thread::scope(|scope| {
            for thread in 1..=3_u64 {
                let (playground, rows) = (&playground, &rows);
                scope.spawn(move || {
                    let mut random = Random(round * 1000 + thread);
                    for _ in 0..2500 {
                        playground.step(&mut random, rows);
                    }
                });
            }
        });
        playground.check();
    }
}

#[test]
fn of_several_activations_at_once_exactly_one_succeeds() {
    for _ in 0..20 {
        let host = Host::new();
        let activated = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    if host.status(Call::RmmActivate {}) == RmiStatus::SUCCESS {
                        activated.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(activated.into_inner(), 1);
    }
}
