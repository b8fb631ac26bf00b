// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What hardware must be set to, rebuilt from the table of granules and the realms' tables.

use std::collections::{BTreeMap, BTreeSet};

use tsm_core::State;
use tsm_iommu::{Entry, Ripas, Stage2Format};
use tsm_platform_fake::{Format, Host, START_LEVEL};

/// What the realms' tables point to.
#[derive(Default)]
pub struct Tables {
    /// Root tables.
    pub roots: BTreeSet<u64>,
    /// Private memory, and the root that leads to it.
    pub data: BTreeMap<u64, u64>,
    /// Device memory: the root that leads to it, and whether the guest reaches it.
    pub mapped: BTreeMap<u64, (u64, bool)>,
    /// Host memory, and how often it is mapped.
    shared: BTreeMap<u64, u32>,
    below: BTreeSet<u64>,
}

type Used = BTreeMap<u64, (State, u32)>;

fn in_state(used: &Used, wanted: State) -> BTreeSet<u64> {
    let found = used.iter().filter(|(_, (state, _))| *state == wanted);
    found.map(|(address, _)| *address).collect()
}

/// Checks that the table of granules, the realms' tables and the hardware agree (E04), and returns
/// what was found.
pub fn check(host: &Host) -> Tables {
    let table = host.tsm.granules();
    assert!(table.is_quiet(), "a lock outlived its call");
    let used: Used = table
        .in_use()
        .map(|(address, state, count)| (address, (state, count)))
        .collect();
    assert_eq!(in_state(&used, State::Moving), BTreeSet::new());
    let owned = used
        .iter()
        .filter(|(_, (state, _))| *state != State::Undelegated);
    let owned: BTreeSet<u64> = owned.map(|(address, _)| *address).collect();
    assert_eq!(owned, host.fake.realm_granules(), "granule protection");
    assert_eq!(owned, host.fake.hidden_from_dma(), "host streams");
    let stale = host.fake.stale_translations();
    assert!(stale.is_empty(), "stale translations of {stale:x?}");

    let mut tables = Tables::default();
    let all = in_state(&used, State::Rtt);
    tables.roots = roots(host, &all);
    assert_eq!(
        tables.roots.len(),
        in_state(&used, State::Rd).len(),
        "one root for each realm"
    );
    for root in tables.roots.clone() {
        visit(host, (root, root), START_LEVEL, &used, &mut tables);
    }
    let reached: BTreeSet<u64> = tables.below.union(&tables.roots).copied().collect();
    assert_eq!(reached, all, "a table that no realm has");
    let data: BTreeSet<u64> = tables.data.keys().copied().collect();
    assert_eq!(data, in_state(&used, State::Data));
    let mapped: BTreeSet<u64> = tables.mapped.keys().copied().collect();
    let masked = in_state(&used, State::Masked);
    let is_reached = |page: &u64| tables.mapped.get(page).is_none_or(|(_, reached)| *reached);
    assert!(!masked.iter().any(is_reached), "masked memory is reached");
    assert_eq!(mapped, &in_state(&used, State::Mapped) | &masked);
    let held = used.iter();
    let held = held.filter(|(_, (state, count))| *state == State::Undelegated && *count != 0);
    let held: BTreeMap<u64, u32> = held
        .map(|(address, (_, count))| (*address, *count))
        .collect();
    assert_eq!(tables.shared, held, "references of shared memory");
    tables
}

/// Returns the tables that no entry of another table points to.
fn roots(host: &Host, all: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut below = BTreeSet::new();
    for address in all {
        for raw in host.fake.table(*address).expect("a table") {
            // What points to a table looks the same at every level, and nothing else looks like it.
            if let Some(Entry::Table { pa }) = Format::decode(START_LEVEL, raw) {
                below.insert(pa.0);
            }
        }
    }
    all.difference(&below).copied().collect()
}

fn visit(host: &Host, (root, table): (u64, u64), level: u8, used: &Used, seen: &mut Tables) {
    let mut live = 0;
    for raw in host.fake.table(table).expect("a table") {
        let entry = Format::decode(level, raw).expect("an entry");
        let bytes = Format::entry_bytes(level).expect("a level");
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
                    let twice = seen.data.insert(page, root);
                    assert_eq!(twice, None, "{page:#x} is mapped twice");
                }
            }
            Entry::Table { pa } => {
                assert!(seen.below.insert(pa.0), "{:#x} is a table twice", pa.0);
                visit(host, (root, pa.0), level + 1, used, seen);
            }
            Entry::Device { pa, ripas } => {
                for page in (pa.0..pa.0 + bytes).step_by(4096) {
                    let is_reached = ripas == Ripas::Dev;
                    let twice = seen.mapped.insert(page, (root, is_reached));
                    assert_eq!(twice, None, "{page:#x} is mapped twice");
                }
            }
        }
        live += 1;
    }
    assert_eq!(used.get(&table), Some(&(State::Rtt, live)), "{table:#x}");
}
