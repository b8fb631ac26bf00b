// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A host that calls the TSM.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Mutex;

use tsm_abi::rmi::{
    BlockSize, Call, MapFlags, PdevParams, RangeDescriptor, RealmFlags0, RealmParams, RecEnter,
    RecExit, RecParams, RecParamsFlags, VERSION,
};
use tsm_abi::{RmiCode, RmiStatus};
use tsm_core::Tsm;
use tsm_platform::GRANULE_SIZE;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::tracked::Tracked;
use crate::{DRAM_BASE, DRAM_TOP, Fake, IPA_BITS, START_LEVEL, Stream, lock};

/// The status word of success.
pub const STATUS_SUCCESS: u64 = RmiStatus::SUCCESS.word();

/// Returns the values of a reply that must be a success.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn success(reply: [u64; 8]) -> [u64; 7] {
    let [status, values @ ..] = reply;
    assert_eq!(RmiStatus::from_word(status), Some(RmiStatus::SUCCESS));
    values
}

/// The TSM on a [`Fake`], and what a host keeps in mind.
pub struct Host {
    /// The machine.
    pub fake: Fake,
    /// The firmware.
    pub tsm: Tsm,
    /// What the firmware tracks granules by: goes after it.
    _tracked: Tracked,
    next: Mutex<u64>,
    /// Replies to calls, while somebody wants them.
    replies: Mutex<Option<Vec<[u64; 8]>>>,
    watcher: Mutex<Option<Watcher>>,
}

/// Is shown every call of the host before it is made, and again with its reply. It may unwind: then
/// the host stops there.
pub type Watcher = Box<dyn FnMut(&Host, Call, Option<&[u64; 8]>) + Send>;

/// A realm with one virtual CPU, and every granule it was given.
#[derive(Debug)]
pub struct Realm {
    /// Its descriptor.
    pub rd: u64,
    /// Its root table.
    pub root: u64,
    /// Its virtual CPU.
    pub rec: u64,
    /// The host's page for entering it.
    pub run: u64,
}

impl Realm {
    /// First address of the half that is shared with the host.
    pub const SHARED: u64 = 1 << (IPA_BITS - 1);
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Granules of a physical device: its object, and what an endpoint is given besides.
    pub const PDEV_GRANULES: u64 = 5;

    /// Boots: nothing is activated.
    #[must_use]
    pub fn new() -> Self {
        let next = Mutex::new(DRAM_BASE + 0x20_0000);
        let tracked = Tracked::new();
        Self {
            fake: Fake::new(),
            tsm: Tsm::new(tracked.regions()),
            _tracked: tracked,
            next,
            replies: Mutex::default(),
            watcher: Mutex::default(),
        }
    }

    /// Boots and activates.
    #[must_use]
    pub fn activated() -> Self {
        let host = Self::new();
        success(host.call(Call::Version { requested: VERSION }));
        success(host.call(Call::RmmActivate {}));
        host
    }

    /// Calls the TSM.
    pub fn call(&self, call: Call) -> [u64; 8] {
        let (function, registers) = call.encode();
        self.raw(function, &registers)
    }

    /// Calls the TSM with registers as they are.
    pub fn raw(&self, function: u64, registers: &[u64; 7]) -> [u64; 8] {
        self.show(function, registers, None);
        let reply = self.tsm.host_call(&self.fake, function, registers);
        if let Some(replies) = &mut *lock(&self.replies) {
            replies.push(reply);
        }
        self.show(function, registers, Some(&reply));
        reply
    }

    /// Keeps the replies to all calls from now on.
    pub fn keep_replies(&self) {
        *lock(&self.replies) = Some(Vec::new());
    }

    /// Returns the replies that were kept, and keeps no more.
    pub fn take_replies(&self) -> Vec<[u64; 8]> {
        lock(&self.replies).take().unwrap_or_default()
    }

    /// Shows every call from now on to `watcher`, or to nobody.
    pub fn set_watcher(&self, watcher: Option<Watcher>) {
        *lock(&self.watcher) = watcher;
    }

    fn show(&self, function: u64, registers: &[u64; 7], reply: Option<&[u64; 8]>) {
        if let (Some(watcher), Ok(call)) =
            (&mut *lock(&self.watcher), Call::decode(function, registers))
        {
            watcher(self, call, reply);
        }
    }

    /// Calls the TSM and returns the status.
    ///
    /// # Panics
    /// If the word is no status.
    #[track_caller]
    pub fn status(&self, call: Call) -> RmiStatus {
        RmiStatus::from_word(self.call(call)[0]).expect("a status word")
    }

    /// Returns `count` granules of the host in a row that nobody uses, aligned to `count` granules.
    pub fn pages(&self, count: u64) -> u64 {
        let mut next = lock(&self.next);
        let base = next.next_multiple_of(count * GRANULE_SIZE);
        *next = base + count * GRANULE_SIZE;
        assert!(*next <= DRAM_TOP, "a test's machine is small");
        base
    }

    /// Returns a granule of the host that starts with `content`.
    ///
    /// # Panics
    /// If the content does not fit.
    pub fn page_with(&self, content: &[u8]) -> u64 {
        assert!(content.len() <= 4096);
        let page = self.pages(1);
        self.fake
            .host_store(page, content)
            .expect("the host's memory");
        page
    }

    /// Delegates `[base, base + count granules)`.
    #[track_caller]
    pub fn delegate(&self, base: u64, count: u64) {
        let end = base + count * GRANULE_SIZE;
        let mut start = base;
        while start < end {
            start = success(self.call(Call::GranuleRangeDelegate { start, end }))[0];
        }
    }

    /// Undelegates `[base, base + count granules)`.
    #[track_caller]
    pub fn undelegate(&self, base: u64, count: u64) {
        let end = base + count * GRANULE_SIZE;
        let mut start = base;
        while start < end {
            start = success(self.call(Call::GranuleRangeUndelegate { start, end }))[0];
        }
    }

    /// Returns a new delegated granule.
    #[track_caller]
    pub fn delegated(&self) -> u64 {
        let page = self.pages(1);
        self.delegate(page, 1);
        page
    }

    /// Creates the object of a device and gives it the memory that it asks for, all in
    /// [`Self::PDEV_GRANULES`] granules in a row, of which the first is the object's.
    ///
    /// # Errors
    /// The status of the call that failed; then the host has everything back.
    pub fn create_pdev(&self, params: &PdevParams) -> Result<u64, RmiStatus> {
        let pdev = self.pages(Self::PDEV_GRANULES);
        self.delegate(pdev, Self::PDEV_GRANULES);
        let params = self.page_with(params.as_bytes());
        let created = self.status(Call::PdevCreate { pdev, params });
        let finished = match created.code {
            RmiCode::Incomplete => self.finish_pdev(pdev),
            _ => created,
        };
        if finished == RmiStatus::SUCCESS {
            return Ok(pdev);
        }
        // Refused where nothing was begun.
        let _ = self.call(Call::OpCancel { handle: pdev });
        self.release_pdev(pdev);
        Err(finished)
    }

    /// Gives the granules behind `pdev`, whose creation waits, to it.
    fn finish_pdev(&self, pdev: u64) -> RmiStatus {
        let memory = RangeDescriptor::new(
            pdev + GRANULE_SIZE,
            BlockSize::Page,
            Self::PDEV_GRANULES - 1,
        );
        let list = self.page_with(&memory.0.to_le_bytes());
        let given = self.status(Call::OpMemDonate {
            handle: pdev,
            list,
            count: 1,
        });
        if given.code != RmiCode::Incomplete {
            return given;
        }
        self.status(Call::OpContinue {
            handle: pdev,
            flags: 0,
        })
    }

    /// Takes the granules of [`Self::create_pdev`] back when the object is gone.
    #[track_caller]
    pub fn release_pdev(&self, pdev: u64) {
        self.undelegate(pdev, Self::PDEV_GRANULES);
    }

    /// Returns parameters that make a realm, with a delegated root table.
    #[must_use]
    pub fn realm_params(&self) -> RealmParams {
        let mut params = RealmParams::new_zeroed();
        params.flags0 = RealmFlags0::DA.bits().into();
        params.s2sz = u32::from(IPA_BITS).into();
        params.hash_algo = 2;
        params.rpv = [0x5a; 64];
        params.rtt_base = self.delegated().into();
        params.rtt_level_start = u64::from(START_LEVEL).into();
        params.rtt_num_start = 1.into();
        params
    }

    /// Returns parameters that make a runnable virtual CPU.
    #[must_use]
    pub fn rec_params(mpidr: u64) -> RecParams {
        let mut params = RecParams::new_zeroed();
        params.flags = RecParamsFlags::RUNNABLE.bits().into();
        params.mpidr = mpidr.into();
        params.pc = 0x1000.into();
        params
    }

    /// Builds a realm that may get devices, with a runnable virtual CPU, and does not activate it.
    /// Tables exist for the first 2 MiB of both halves.
    #[track_caller]
    pub fn new_realm(&self) -> Realm {
        self.new_realm_with(&self.realm_params())
    }

    /// Builds a realm as [`Self::new_realm`] does, from `params`.
    #[track_caller]
    pub fn new_realm_with(&self, params: &RealmParams) -> Realm {
        let rd = self.delegated();
        let page = self.page_with(params.as_bytes());
        success(self.call(Call::RealmCreate { rd, params: page }));
        let rec = self.delegated();
        let params = self.page_with(Self::rec_params(0).as_bytes());
        success(self.call(Call::RecCreate { rd, rec, params }));
        let realm = Realm {
            rd,
            root: self.root_of(page),
            rec,
            run: self.pages(1),
        };
        for half in [0, Realm::SHARED] {
            for level in START_LEVEL + 1..=3 {
                self.add_table(&realm, half, level.into());
            }
        }
        realm
    }

    fn root_of(&self, params: u64) -> u64 {
        let bytes = self
            .fake
            .host_load(params, size_of::<RealmParams>())
            .expect("host memory");
        RealmParams::read_from_bytes(&bytes)
            .expect("the size of it")
            .rtt_base
            .get()
    }

    /// Builds and activates a realm.
    #[track_caller]
    pub fn realm(&self) -> Realm {
        let realm = self.new_realm();
        success(self.call(Call::RealmActivate { rd: realm.rd }));
        realm
    }

    /// Gives a realm the table of `level` for `ipa` and returns its granule.
    #[track_caller]
    pub fn add_table(&self, realm: &Realm, ipa: u64, level: u64) -> u64 {
        let rtt = self.delegated();
        success(self.call(Call::RttCreate {
            rd: realm.rd,
            rtt,
            ipa,
            level,
        }));
        rtt
    }

    /// Marks `[base, top)` of a new realm as private memory.
    #[track_caller]
    pub fn init_ripas(&self, realm: &Realm, base: u64, top: u64) {
        let mut base = base;
        while base < top {
            base = success(self.call(Call::RttInitRipas {
                rd: realm.rd,
                base,
                top,
            }))[0];
        }
    }

    /// Gives a realm a page of private memory and returns its granule.
    #[track_caller]
    pub fn map_private(&self, realm: &Realm, ipa: u64) -> u64 {
        let page = self.delegated();
        let oaddr = RangeDescriptor::new(page, BlockSize::Page, 1).0;
        let (base, top) = (ipa, ipa + GRANULE_SIZE);
        let flags = MapFlags::single().0;
        success(self.call(Call::RttDataMap {
            rd: realm.rd,
            base,
            top,
            flags,
            oaddr,
        }));
        page
    }

    /// Maps a new page of the host at `ipa` and returns its address.
    #[track_caller]
    pub fn map_shared(&self, realm: &Realm, ipa: u64) -> u64 {
        let page = self.pages(1);
        let (base, top) = (ipa, ipa + GRANULE_SIZE);
        let (flags, oaddr) = (Self::shared_flags(), Self::shared_range(page));
        success(self.call(Call::RttUnprotMap {
            rd: realm.rd,
            base,
            top,
            flags,
            oaddr,
        }));
        page
    }

    /// Returns flags for ordinary shared memory that is named by one descriptor.
    #[must_use]
    pub fn shared_flags() -> u64 {
        MapFlags::single()
            .with_access(0b110, MapFlags::READ | MapFlags::WRITE)
            .0
    }

    /// Returns the descriptor of one page of the host.
    #[must_use]
    pub const fn shared_range(page: u64) -> u64 {
        RangeDescriptor::new(page, BlockSize::Page, 1).0 | 1 << 63
    }

    /// Takes a page of private memory from a realm and returns its granule.
    #[track_caller]
    pub fn unmap_private(&self, realm: &Realm, ipa: u64) -> u64 {
        let (base, top) = (ipa, ipa + GRANULE_SIZE);
        let flags = MapFlags::single().0;
        let call = Call::RttDataUnmap {
            rd: realm.rd,
            base,
            top,
            flags,
            oaddr: 0,
        };
        RangeDescriptor(success(self.call(call))[1]).address()
    }

    /// Enters the realm's virtual CPU with `entry` and returns how it left.
    ///
    /// # Errors
    /// The status, if that is not success.
    ///
    /// # Panics
    /// If the run page is not the host's.
    pub fn enter_with(&self, realm: &Realm, entry: &RecEnter) -> Result<RecExit, RmiStatus> {
        self.fake
            .host_store(realm.run, entry.as_bytes())
            .expect("the host's memory");
        let status = self.status(Call::RecEnter {
            rec: realm.rec,
            run: realm.run,
        });
        if status != RmiStatus::SUCCESS {
            return Err(status);
        }
        let exit = self.fake.host_load(realm.run + 0x800, size_of::<RecExit>());
        Ok(RecExit::read_from_bytes(&exit.expect("the host's memory")).expect("the size of it"))
    }

    /// Enters the realm's virtual CPU and returns how it left.
    #[track_caller]
    pub fn enter(&self, realm: &Realm) -> RecExit {
        self.enter_with(realm, &RecEnter::new_zeroed())
            .expect("a REC that can run")
    }

    /// Takes the realm apart and every granule back, whatever state it is in.
    #[track_caller]
    pub fn reclaim(&self, realm: &Realm) {
        let rd = realm.rd;
        // A realm that was never activated, or is stopped already, refuses: that is fine.
        let _ = self.call(Call::RealmTerminate { rd });
        self.reclaim_tables(rd);
        success(self.call(Call::RecDestroy { rec: realm.rec }));
        success(self.call(Call::RealmDestroy { rd }));
        for page in [rd, realm.rec, realm.root] {
            self.undelegate(page, 1);
        }
    }

    /// Takes the memory and the tables of the realm `rd` back, all but the root table.
    #[track_caller]
    pub fn reclaim_tables(&self, rd: u64) {
        for base in [0, Realm::SHARED] {
            self.reclaim_half(rd, base, base + Realm::SHARED);
        }
    }

    fn reclaim_half(&self, rd: u64, base: u64, end: u64) {
        let mut ipa = base;
        while ipa < end {
            let entry = success(self.call(Call::RttReadEntry { rd, ipa, level: 3 }));
            let [level, state, ..] = entry;
            let bytes = 1_u64 << (12 + 9 * (3 - level));
            let is_shared = base != 0;
            match state {
                0 => {}
                1 => self.unmap(rd, ipa, bytes, is_shared),
                state => panic!("entry {state} at {ipa:#x} must be unmapped by the test"),
            }
            ipa += bytes;
            for level in (u64::from(START_LEVEL) + 1..=3).rev() {
                let covered = 1_u64 << (12 + 9 * (4 - level));
                let table = ipa - covered.min(ipa);
                if ipa.is_multiple_of(covered) && table >= base {
                    let reply = self.call(Call::RttDestroy {
                        rd,
                        ipa: table,
                        level,
                    });
                    if reply[0] == STATUS_SUCCESS {
                        self.undelegate(reply[1], 1);
                    }
                }
            }
        }
    }

    fn unmap(&self, rd: u64, base: u64, bytes: u64, is_shared: bool) {
        let (top, flags, oaddr) = (base + bytes, MapFlags::single().0, 0);
        if is_shared {
            success(self.call(Call::RttUnprotUnmap {
                rd,
                base,
                top,
                flags,
                oaddr,
            }));
        } else {
            let call = Call::RttDataUnmap {
                rd,
                base,
                top,
                flags,
                oaddr,
            };
            let range = RangeDescriptor(success(self.call(call))[1]);
            self.undelegate(range.address(), bytes / GRANULE_SIZE);
        }
    }

    /// Returns everything that a test can see, to compare before and after.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let used = self.tsm.granules().in_use();
        let states = used.map(|(address, state, references)| (address, (state as u8, references)));
        let mut globals = DefaultHasher::new();
        self.tsm.observe(&mut globals);
        Snapshot {
            states: states.collect(),
            contents: self.fake.contents(),
            realm_granules: self.fake.granules_of_realms(),
            hidden_from_dma: self.fake.granules_hidden_from_dma(),
            streams: self.fake.changed_streams(),
            functions: self.fake.registers(),
            keys: self.fake.keys(),
            globals: globals.finish(),
        }
    }

    /// Returns whether every granule is the host's, for CPUs and for devices.
    #[must_use]
    pub fn has_everything_back(&self) -> bool {
        let seen = self.snapshot();
        let streams_back = seen.streams.values().all(|stream| *stream == Stream::Host);
        seen.states.is_empty()
            && seen.realm_granules == 0
            && seen.hidden_from_dma == 0
            && streams_back
    }
}

/// What a test can see of the TSM and the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// State and references of each granule that is not plainly the host's.
    pub states: BTreeMap<u64, (u8, u32)>,
    /// Bytes of granules that are not zero; of an object, a hash.
    pub contents: BTreeMap<u64, Vec<u8>>,
    /// Granules in the Realm world.
    pub realm_granules: usize,
    /// Granules that host streams cannot reach.
    pub hidden_from_dma: usize,
    /// Streams that were ever changed.
    pub streams: BTreeMap<u32, Stream>,
    /// Configuration space.
    pub functions: BTreeMap<u16, Vec<u8>>,
    /// Keys of root ports that are programmed.
    pub keys: usize,
    /// A hash of the TSM's state outside granules.
    pub globals: u64,
}
