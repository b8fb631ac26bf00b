// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Random calls about memory, realms and virtual CPUs, and guests that do as they like.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tsm_abi::rmi::{BlockSize, Call, MapFlags, ROWS, RangeDescriptor, RecEnter, RecExit};
use tsm_abi::{Row, rsi};
use tsm_core::State;
use tsm_platform::{Access, FaultSyndrome, GuestExit};
use tsm_platform_fake::{Fake, Host, Realm, STATUS_SUCCESS, Vcpu, fault};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub const PAGE: u64 = 0x1000;
const POOL: u64 = 96;
/// Pages that ranges from the pool may reach.
const SPAN: u64 = 128;
/// The first pages of the pool are for root tables.
const ROOTS: u64 = 4;
/// Guest addresses that are used, in pages.
const WINDOW: u64 = 6;
/// What the host writes wherever it can.
const HOSTS: u64 = 0xaaaa_aaaa_aaaa_aaaa;
/// Guest address of a block.
const BLOCK_IPA: u64 = 0x40_0000;
const BLOCK: u64 = 0x20_0000;

/// Calls that are made more often than others: they lead on.
const OFTEN: [&str; 7] = [
    "RMI_REC_ENTER",
    "RMI_REC_ENTER",
    "RMI_PSCI_COMPLETE",
    "RMI_RTT_SET_RIPAS",
    "RMI_RTT_DATA_MAP",
    "RMI_RTT_DATA_MAP_INIT",
    "RMI_RTT_UNPROT_MAP",
];

/// Xorshift: the same calls in every run.
pub struct Random(pub u64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    /// Returns true once in `odds` times.
    pub fn once_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

/// How often a call of each name succeeded.
pub type Tally = BTreeMap<&'static str, u64>;

/// What the guests have done, which the test and the guests both know.
#[derive(Default)]
struct Guests {
    /// The call that a virtual CPU (root table and affinity) is in.
    calling: BTreeMap<(u64, u64), &'static str>,
    succeeded: Tally,
}

/// A few granules, and pages of parameters for them.
pub struct Playground {
    pool: u64,
    /// A run of granules that one entry of a table can map.
    block: u64,
    /// Realm parameters by root table.
    realm_params: BTreeMap<u64, u64>,
    rec_params: Vec<u64>,
    config: u64,
    run: u64,
    /// The virtual CPU that was entered last, and its exit.
    last: Mutex<Option<(u64, RecExit)>>,
    /// The realm of each virtual CPU that was made.
    owners: Mutex<BTreeMap<u64, u64>>,
    guests: Arc<Mutex<Guests>>,
}

impl Playground {
    pub fn new(host: &Host) -> Self {
        let block = host.pages(512);
        let pool = host.pages(SPAN);
        let mut params = host.realm_params();
        host.undelegate(params.rtt_base.get(), 1);
        let realm_params = (0..ROOTS).map(|root| {
            params.rtt_base = (pool + root * PAGE).into();
            (pool + root * PAGE, host.page_with(params.as_bytes()))
        });
        let realm_params = realm_params.collect();
        let rec_params = [0, 1].map(|mpidr| host.page_with(Host::rec_params(mpidr).as_bytes()));
        Self {
            realm_params,
            rec_params: rec_params.to_vec(),
            config: host.pages(1),
            run: host.pages(1),
            pool,
            block,
            last: Mutex::default(),
            owners: Mutex::default(),
            guests: Arc::default(),
        }
    }

    /// Makes guests whose root table is not `quiet` do random things.
    pub fn wake_guests(&self, host: &Host, seed: u64, quiet: u64) {
        let mut random = Random::seeded(seed ^ 0x6e57);
        let guests = self.guests.clone();
        let habit = move |fake: &Fake, vcpu: &mut Vcpu| {
            if vcpu.stage2.root.0 == quiet {
                return GuestExit::HostInterrupt;
            }
            live(&mut guests.lock().unwrap(), &mut random, fake, vcpu)
        };
        host.fake.script().otherwise(Some(Box::new(habit)));
    }

    /// Returns how often each call of the guests has succeeded.
    pub fn guest_calls(&self) -> Tally {
        self.guests.lock().unwrap().succeeded.clone()
    }

    /// Returns a page of the pool that is not set apart for root tables.
    fn page(&self, random: &mut Random) -> u64 {
        self.pool + (ROOTS + random.below(POOL - ROOTS)) * PAGE
    }

    /// Returns a page of the pool in `state`, or any page if there is none.
    fn page_in(&self, host: &Host, random: &mut Random, state: State) -> u64 {
        let pages = (ROOTS..POOL).map(|index| self.pool + index * PAGE);
        let found: Vec<u64> = pages
            .filter(|page| host.tsm.granules().state(*page) == Ok(state))
            .collect();
        if found.is_empty() {
            self.page(random)
        } else {
            random.pick(&found)
        }
    }

    fn argument(&self, host: &Host, random: &mut Random, row: &Row, at: usize, so_far: u64) -> u64 {
        let name = row.arguments[at];
        // A range call is bounded, but would take in what the host needs for itself.
        if name != "end" && random.once_in(64) {
            return random.next();
        }
        let mut page_in = |state| self.page_in(host, random, state);
        match name {
            "rd" if row.name == "RMI_REALM_CREATE" => page_in(State::Delegated),
            "rd" => page_in(State::Rd),
            "rec" | "calling_rec" | "target_rec" if row.name != "RMI_REC_CREATE" => {
                page_in(State::Rec)
            }
            "rtt" | "data" | "rec" => page_in(State::Delegated),
            "src" => page_in(State::Undelegated),
            "oaddr" if row.name == "RMI_RTT_UNPROT_MAP" => {
                Host::shared_range(page_in(State::Undelegated))
            }
            "params" if row.name == "RMI_REALM_CREATE" => {
                let pages: Vec<u64> = self.realm_params.values().copied().collect();
                random.pick(&pages)
            }
            "params" => random.pick(&self.rec_params),
            "config" => self.config,
            "requested" => tsm_abi::rmi::VERSION,
            "run" => self.run,
            "start" if random.once_in(8) => self.block,
            "start" => self.pool + random.below(POOL) * PAGE,
            "end" if so_far == self.block => self.block + BLOCK,
            "end" => so_far + (1 + random.below(16)) * PAGE,
            "top" if so_far == BLOCK_IPA => BLOCK_IPA + BLOCK,
            "top" => so_far + (1 + random.below(3)) * PAGE,
            "base" if row.name == "RMI_GRANULE_TRACKING_GET" => self.page(random),
            "base" if row.name.contains("UNPROT") => Realm::SHARED + random.below(WINDOW) * PAGE,
            "ipa" if row.arguments.contains(&"level") => {
                random.pick(&[0, 0, Realm::SHARED]) + random.below(3) * BLOCK
            }
            "base" if row.name.contains("DATA") && random.once_in(6) => BLOCK_IPA,
            "base" | "ipa" => random.below(WINDOW) * PAGE,
            "level" => random.pick(&[2, 3, 3]),
            "flags" if row.name == "RMI_RTT_UNPROT_MAP" => Host::shared_flags(),
            "flags" if row.name == "RMI_RTT_DATA_MAP_INIT" => random.below(2),
            "flags" => MapFlags::single().0,
            "oaddr" if row.name.ends_with("UNMAP") => 0,
            "oaddr" if random.once_in(6) => {
                RangeDescriptor::new(self.block, BlockSize::Block2M, 1).0
            }
            "oaddr" => {
                let page = self.page_in(host, random, State::Delegated);
                RangeDescriptor::new(page, BlockSize::Page, 1 + random.below(2)).0
            }
            _ => random.below(3),
        }
    }

    /// Answers what the virtual CPU that was entered last has asked for, most of the time.
    fn answer(&self, random: &mut Random, row: &Row, registers: &mut [u64; 7]) {
        let last = self.last.lock().unwrap();
        let Some((rec, exit)) = &*last else { return };
        if random.once_in(8) {
            return;
        }
        match row.name {
            "RMI_RTT_SET_RIPAS" => {
                let rd = self.owners.lock().unwrap().get(rec).copied();
                let (base, top) = (exit.ripas_base.get(), exit.ripas_top.get());
                *registers = [rd.unwrap_or(0), *rec, base, top, 0, 0, 0];
            }
            "RMI_PSCI_COMPLETE" => registers[0] = *rec,
            _ => {}
        }
    }

    /// Makes one random call of `rows`; returns its name if it succeeded.
    pub fn step(
        &self,
        host: &Host,
        random: &mut Random,
        rows: &[&'static Row],
    ) -> Option<&'static str> {
        let row = if random.once_in(3) {
            let often = random.pick(&OFTEN);
            rows.iter().find(|row| row.name == often).expect("a row")
        } else {
            random.pick(rows)
        };
        // What takes a realm apart is rarer than what builds it.
        let destroys = ["DESTROY", "UNDELEGATE", "FOLD"];
        let ends = ["RMI_REALM", "RMI_REC_DESTROY"];
        let is_one_of = |parts: &[&str]| parts.iter().any(|part| row.name.contains(part));
        let odds = if is_one_of(&ends) {
            100
        } else if is_one_of(&destroys) {
            6
        } else {
            1
        };
        let row = if !random.once_in(odds) {
            random.pick(rows)
        } else {
            row
        };
        let mut registers = [0; 7];
        for at in 0..row.arguments.len() {
            let so_far = registers[at.saturating_sub(1)];
            registers[at] = self.argument(host, random, row, at, so_far);
        }
        self.answer(random, row, &mut registers);
        let is_entry = row.name == "RMI_REC_ENTER";
        if is_entry {
            let mut entry = RecEnter::new_zeroed();
            if random.once_in(4) {
                entry.flags = random.below(128).into();
            }
            let _ = host.fake.host_store(self.run, entry.as_bytes());
        }
        let [status, ..] = host.raw(row.function, &registers);
        if status != STATUS_SUCCESS {
            return None;
        }
        self.note(host, row, &registers);
        Some(row.name)
    }

    fn note(&self, host: &Host, row: &Row, registers: &[u64; 7]) {
        match row.name {
            "RMI_REC_CREATE" => {
                let mut owners = self.owners.lock().unwrap();
                owners.insert(registers[1], registers[0]);
            }
            "RMI_REC_ENTER" => {
                let exit = host.fake.host_load(self.run + 0x800, size_of::<RecExit>());
                let exit = exit.and_then(|bytes| RecExit::read_from_bytes(&bytes).ok());
                *self.last.lock().unwrap() = exit.map(|exit| (registers[0], exit));
            }
            _ => {}
        }
    }

    /// Does what is unlikely to come about by chance: builds a realm, or takes one apart.
    pub fn tend(&self, host: &Host, random: &mut Random, tally: &mut Tally) {
        let realms = self.pages_in(host, State::Rd);
        if realms.is_empty() || (realms.len() < 4 && !random.once_in(4)) {
            self.build(host, random, tally);
        } else {
            let rd = random.pick(&realms);
            self.take_apart(host, rd, tally);
        }
    }

    fn make(host: &Host, tally: &mut Tally, call: Call) -> bool {
        let (function, registers) = call.encode();
        let works = host.raw(function, &registers)[0] == STATUS_SUCCESS;
        if works {
            *tally.entry(tsm_abi::rmi::name(function)).or_default() += 1;
        }
        works
    }

    fn build(&self, host: &Host, random: &mut Random, tally: &mut Tally) {
        for start in (0..48).map(|index| self.pool + index * PAGE) {
            let end = start + PAGE;
            Self::make(host, tally, Call::GranuleRangeDelegate { start, end });
        }
        let free = |random: &mut Random| self.page_in(host, random, State::Delegated);
        let rd = free(random);
        let mut all = self.realm_params.values();
        if !all.any(|params| {
            let params = *params;
            Self::make(host, tally, Call::RealmCreate { rd, params })
        }) {
            return;
        }
        for (ipa, level) in [(0, 2), (0, 3), (Realm::SHARED, 2), (Realm::SHARED, 3)] {
            let rtt = free(random);
            Self::make(
                host,
                tally,
                Call::RttCreate {
                    rd,
                    rtt,
                    ipa,
                    level,
                },
            );
        }
        let (base, top) = (0, (1 + random.below(WINDOW)) * PAGE);
        Self::make(host, tally, Call::RttInitRipas { rd, base, top });
        for params in &self.rec_params {
            let (rec, params) = (free(random), *params);
            if Self::make(host, tally, Call::RecCreate { rd, rec, params }) {
                self.owners.lock().unwrap().insert(rec, rd);
            }
        }
        if !random.once_in(4) {
            Self::make(host, tally, Call::RealmActivate { rd });
        }
    }

    fn take_apart(&self, host: &Host, rd: u64, tally: &mut Tally) {
        // A realm that was never activated, or is stopped already, refuses.
        Self::make(host, tally, Call::RealmTerminate { rd });
        let owners = self.owners.lock().unwrap().clone();
        for rec in self.pages_in(host, State::Rec) {
            if owners.get(&rec) == Some(&rd) {
                assert!(Self::make(host, tally, Call::RecDestroy { rec }));
            }
        }
        host.reclaim_tables(rd);
        assert!(Self::make(host, tally, Call::RealmDestroy { rd }));
    }

    /// Returns the pages of the pool that are in state `wanted`.
    fn pages_in(&self, host: &Host, wanted: State) -> Vec<u64> {
        let pages = (0..SPAN).map(|index| self.pool + index * PAGE);
        pages
            .filter(|page| host.tsm.granules().state(*page) == Ok(wanted))
            .collect()
    }

    /// Has the host's CPU write over a page and look at it: it reaches only what is its own.
    pub fn attack(&self, host: &Host, random: &mut Random) {
        let page = self.page(random);
        let is_own = host.tsm.granules().state(page) == Ok(State::Undelegated);
        let stored = host.fake.host_store(page, &HOSTS.to_le_bytes());
        assert_eq!(stored.is_some(), is_own, "{page:#x}");
        assert_eq!(host.fake.host_load(page + 8, 8).is_some(), is_own);
    }

    /// Takes every realm of the pool apart and every granule back.
    pub fn take_back(&self, host: &Host) {
        for rd in self.pages_in(host, State::Rd) {
            self.take_apart(host, rd, &mut Tally::new());
        }
        for page in self.pages_in(host, State::Delegated) {
            host.undelegate(page, 1);
        }
        host.delegate(self.block, 512);
        host.undelegate(self.block, 512);
    }
}

/// What a guest leaves in a page that is its own.
fn tag(vcpu: &Vcpu, ipa: u64) -> u64 {
    1 << 63 | vcpu.stage2.root.0 << 24 | ipa >> 12 | u64::from(vcpu.stage2.vmid.0) << 48
}

/// One stretch of a guest's life.
fn live(guests: &mut Guests, random: &mut Random, fake: &Fake, vcpu: &mut Vcpu) -> GuestExit {
    let me = (vcpu.stage2.root.0, vcpu.mpidr);
    if let Some(name) = guests.calling.remove(&me)
        && vcpu.gprs[0] == 0
    {
        *guests.succeeded.entry(name).or_default() += 1;
    }
    let ipa = random.below(WINDOW) * PAGE;
    if let Ok(word) = vcpu.load::<8>(fake, ipa) {
        let word = u64::from_le_bytes(word);
        // Its configuration starts with the width of its addresses.
        let width = u64::from(vcpu.stage2.ipa_bits);
        let is_mine = [0, tag(vcpu, ipa), HOSTS, width].contains(&word);
        assert!(is_mine, "{word:#x} is another's");
        let _ = vcpu.store(fake, ipa, &tag(vcpu, ipa).to_le_bytes());
    }
    match random.below(12) {
        0..4 => GuestExit::HostInterrupt,
        4 => GuestExit::Idle(FaultSyndrome::default()),
        5 => GuestExit::SystemError(FaultSyndrome::default()),
        6 => {
            let access = random.pick(&[Access::Read, Access::Write, Access::Execute]);
            let at = random.pick(&[ipa, Realm::SHARED + ipa, 3 << 37, BLOCK_IPA]);
            GuestExit::Fault(fault(at, access))
        }
        7 => {
            let second = random.below(2);
            let call = random.pick(&[
                [0x8400_0002, 0, 0],
                [0xc400_0003, second, 0x1000],
                [0xc400_0004, second, 0],
                [0xc400_0001, 0, 0],
                [0x8400_0008, 0, 0],
            ]);
            // Switching everything off is rarer.
            if call[0] == 0x8400_0008 && !random.once_in(20) {
                return GuestExit::HostInterrupt;
            }
            vcpu.gprs[..3].copy_from_slice(&call);
            GuestExit::Call
        }
        _ => {
            let row = random.pick(&rsi::ROWS.iter().collect::<Vec<_>>());
            vcpu.gprs[0] = row.function;
            for (gpr, name) in vcpu.gprs[1..].iter_mut().zip(row.arguments) {
                *gpr = guest_argument(random, name);
            }
            guests.calling.insert(me, row.name);
            GuestExit::Call
        }
    }
}

fn guest_argument(random: &mut Random, name: &str) -> u64 {
    if random.once_in(64) {
        return random.next();
    }
    match name {
        "requested" => random.pick(&[1 << 16, 1 << 16 | 1]),
        "ipa" | "base" | "ipa_base" => random.below(WINDOW) * PAGE,
        "top" | "ipa_top" => (1 + random.below(WINDOW)) * PAGE,
        "size" => random.below(65),
        "index" => random.below(5),
        _ => random.below(2),
    }
}

/// Returns the calls that are not about devices.
pub fn rows() -> Vec<&'static Row> {
    let is_device = |row: &&Row| {
        ["PDEV", "VDEV", "PSMMU", "_DEV_", "_OP_"]
            .iter()
            .any(|part| row.name.contains(part))
    };
    ROWS.iter()
        .filter(|row| row.implemented && !is_device(row))
        .collect()
}
