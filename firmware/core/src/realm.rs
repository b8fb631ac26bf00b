// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Realms.

use core::hash::{Hash, Hasher};
use core::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec;
use tsm_abi::rmi::{HashAlgorithm, RealmFlags0, RealmParams, TeardownOrder};
use tsm_iommu::stage2::Stage2Format;
use tsm_platform::{GRANULE_SIZE, Granule, Object, Pa, Stage2, Vmid};

use crate::context::{Context, Machine};
use crate::error::{Error, Reply, Result};
use crate::granule::State;
use crate::measurement::Measurement;
use crate::rtt;

/// Widest guest address space, in bits.
pub(crate) const MAX_IPA_BITS: u8 = 48;
/// Most virtual CPUs of a realm.
pub(crate) const MAX_RECS: usize = 1 << MAX_RECS_ORDER;
/// Order of [`MAX_RECS`].
pub(crate) const MAX_RECS_ORDER: u64 = 6;

/// Life of a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Being built; nothing runs.
    New,
    /// May run.
    Active,
    /// Switched off by the guest.
    SystemOff,
    /// Stopped by the host for good.
    Terminated,
}

/// A realm descriptor.
pub(crate) struct Realm {
    /// Life of the realm.
    pub life: Life,
    /// The stage 2 tables of CPUs and devices.
    pub stage2: Stage2,
    /// Root tables, which lie one after another.
    pub roots: u8,
    /// Whether device interfaces may be assigned.
    pub devices_allowed: bool,
    /// In which order the host takes device interfaces away.
    pub order: TeardownOrder,
    /// Device interfaces assigned at present.
    pub vdevs: u16,
    /// Granules of the virtual CPUs that were created, by index.
    pub recs: Vec<u64, MAX_RECS>,
    /// Value that the host chose and the guest can read.
    pub personalization: [u8; 64],
    /// Measurements.
    pub measurement: Measurement,
}

impl Object for Realm {
    fn observe(&self, hasher: &mut impl Hasher) {
        (self.life as u8, self.vdevs, self.devices_allowed).hash(hasher);
        self.order.word().hash(hasher);
        (&self.recs[..], self.stage2.root.0, self.stage2.vmid.0).hash(hasher);
        for index in 0.. {
            let Some(register) = self.measurement.register(index) else {
                break;
            };
            register.hash(hasher);
        }
    }
}

impl Realm {
    /// Returns the end of the guest's addresses.
    #[must_use]
    pub const fn ipa_top(&self) -> u64 {
        1_u64.wrapping_shl(self.stage2.ipa_bits as u32)
    }

    /// Returns the end of the protected half of the guest's addresses, which begins at 0.
    #[must_use]
    pub const fn protected_top(&self) -> u64 {
        self.ipa_top() >> 1
    }

    /// Checks that `[base, top)` is granule-aligned, not empty, and in the protected half or
    /// outside it.
    pub fn check_range(&self, base: u64, top: u64, protected: bool) -> Result<()> {
        let aligned = base.is_multiple_of(GRANULE_SIZE) && top.is_multiple_of(GRANULE_SIZE);
        let half = if protected {
            0..=self.protected_top()
        } else {
            self.protected_top()..=self.ipa_top()
        };
        if !aligned || base >= top || !half.contains(&base) || !half.contains(&top) {
            return Err(Error::Input);
        }
        Ok(())
    }
}

/// Tags of translations that realms use. Tag 0 is the host's.
pub(crate) struct Vmids([AtomicU64; 4]);

impl Vmids {
    /// Makes the set: only the host's tag is taken.
    pub const fn new() -> Self {
        Self([
            AtomicU64::new(1),
            AtomicU64::new(0),
            AtomicU64::new(0),
            AtomicU64::new(0),
        ])
    }

    /// Feeds which tags are taken to `hasher`.
    pub fn observe(&self, hasher: &mut impl Hasher) {
        for word in &self.0 {
            word.load(Ordering::Acquire).hash(hasher);
        }
    }

    fn reserve(&self) -> Result<Vmid> {
        for (base, word) in (0_u16..).step_by(64).zip(&self.0) {
            let taken = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| {
                (bits != u64::MAX).then(|| bits | lowest_clear(bits))
            });
            if let Ok(bits) = taken {
                let bit = u16::try_from(bits.trailing_ones()).map_err(|_| Error::Global)?;
                return Ok(Vmid(base.saturating_add(bit)));
            }
        }
        Err(Error::Busy)
    }

    fn free(&self, vmid: Vmid) {
        if let Some(word) = self.0.get(usize::from(vmid.0 / 64)) {
            let bit = 1_u64.wrapping_shl(u32::from(vmid.0 % 64));
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }
}

/// Returns the lowest clear bit of a word that has one.
const fn lowest_clear(bits: u64) -> u64 {
    !bits & bits.wrapping_add(1)
}

/// The realms whose guests run at this moment, one slot for each running virtual CPU.
///
/// A slot is taken under the realm's lock and given back without it: leaving a guest must not fail.
pub(crate) struct Running([AtomicU64; MAX_RUNNING]);

/// Most virtual CPUs that run at a time, that is, most processors.
const MAX_RUNNING: usize = 64;

impl Running {
    /// Makes the set: no guest runs.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MAX_RUNNING])
    }

    /// Notes that a virtual CPU of `realm` begins to run.
    pub fn enter(&self, realm: Granule) -> Result<()> {
        if self.exchange(0, realm.address()) {
            Ok(())
        } else {
            Err(Error::Busy)
        }
    }

    /// Notes that a virtual CPU of `realm` stopped running.
    pub fn leave(&self, realm: Granule) {
        self.exchange(realm.address(), 0);
    }

    /// Returns whether a virtual CPU of `realm` runs.
    pub fn has(&self, realm: Granule) -> bool {
        self.0
            .iter()
            .any(|slot| slot.load(Ordering::Acquire) == realm.address())
    }

    /// Feeds who runs to `hasher`.
    pub fn observe(&self, hasher: &mut impl Hasher) {
        for slot in &self.0 {
            slot.load(Ordering::Acquire).hash(hasher);
        }
    }

    fn exchange(&self, from: u64, to: u64) -> bool {
        let order = Ordering::AcqRel;
        self.0.iter().any(|slot| {
            slot.compare_exchange(from, to, order, Ordering::Relaxed)
                .is_ok()
        })
    }
}

/// What REALM_CREATE checked.
struct Checked {
    start_level: u8,
    ipa_bits: u8,
    roots: u8,
    algorithm: HashAlgorithm,
    flags: RealmFlags0,
    order: TeardownOrder,
}

fn check<P: Machine>(params: &RealmParams) -> Result<Checked> {
    let flags = RealmFlags0::from_bits(params.flags0.get()).ok_or(Error::Input)?;
    let extras = [
        params.sve_vl,
        params.num_bps,
        params.num_wps,
        params.pmu_num_ctrs,
    ];
    if !RealmFlags0::DA.contains(flags)
        || extras.iter().any(|extra| extra.get() != 0)
        || params.num_aux_planes.get() != 0
        || params.flags1.get() != 0
    {
        return Err(Error::Input);
    }
    let algorithm = u64::from(params.hash_algo);
    let algorithm = HashAlgorithm::from_word(algorithm).ok_or(Error::Input)?;
    let order = TeardownOrder::from_word(params.teardown_order.get()).ok_or(Error::Input)?;
    let ipa_bits = u8::try_from(params.s2sz.get()).map_err(|_| Error::Input)?;
    let start_level = u8::try_from(params.rtt_level_start.get()).map_err(|_| Error::Input)?;
    let roots = P::Stage2::root_tables(ipa_bits, start_level).ok_or(Error::Input)?;
    let roots = u8::try_from(roots).map_err(|_| Error::Input)?;
    let bytes = u64::from(roots)
        .checked_mul(GRANULE_SIZE)
        .ok_or(Error::Input)?;
    let aligned = params.rtt_base.get().is_multiple_of(bytes);
    if ipa_bits > MAX_IPA_BITS || u32::from(roots) != params.rtt_num_start.get() || !aligned {
        return Err(Error::Input);
    }
    Ok(Checked {
        start_level,
        ipa_bits,
        roots,
        algorithm,
        flags,
        order,
    })
}

/// Creates a realm in the delegated granule `rd`, with root tables from delegated granules.
pub(crate) fn create<P: Machine>(context: &Context<'_, P>, rd: u64, params: u64) -> Result {
    let params: RealmParams = context.host_structure(params)?;
    let checked = check::<P>(&params)?;
    let guard = context.lock(rd, State::Delegated)?;
    if !context.is_memory(rd) {
        return Err(Error::Input);
    }
    let base = params.rtt_base.get();
    let bytes = u64::from(checked.roots).saturating_mul(GRANULE_SIZE);
    if rd.checked_sub(base).is_some_and(|offset| offset < bytes) {
        return Err(Error::Input);
    }
    let vmid = context.tsm.vmids.reserve()?;
    let outcome = rtt::create_roots(context, base, u64::from(checked.roots)).and_then(|()| {
        let realm = Realm {
            life: Life::New,
            stage2: Stage2 {
                root: Pa(base),
                start_level: checked.start_level,
                ipa_bits: checked.ipa_bits,
                vmid,
            },
            roots: checked.roots,
            devices_allowed: checked.flags.contains(RealmFlags0::DA),
            order: checked.order,
            vdevs: 0,
            recs: Vec::new(),
            personalization: params.rpv,
            measurement: Measurement::new(context.platform, checked.algorithm, &params),
        };
        context.place(&guard, State::Rd, realm)
    });
    if let Err(error) = outcome {
        context.tsm.vmids.free(vmid);
        return Err(error);
    }
    Ok(Reply::NONE)
}

/// Ends the building of a realm.
pub(crate) fn activate<P: Machine>(context: &Context<'_, P>, rd: u64) -> Result {
    context.with_realm(rd, |realm| {
        if realm.life != Life::New {
            return Err(Error::Realm);
        }
        realm.life = Life::Active;
        Ok(Reply::NONE)
    })
}

/// Stops a realm for good. No virtual CPU may be running.
pub(crate) fn terminate<P: Machine>(context: &Context<'_, P>, rd: u64) -> Result {
    let guard = context.lock(rd, State::Rd)?;
    context.with(guard.granule(), |realm: &mut Realm| {
        if realm.life == Life::Terminated {
            return Err(Error::Realm);
        }
        if context.tsm.running.has(guard.granule()) {
            return Err(Error::Rec);
        }
        realm.life = Life::Terminated;
        Ok(Reply::NONE)
    })
}

/// Destroys a realm that never ran or was terminated, and that holds nothing any more.
pub(crate) fn destroy<P: Machine>(context: &Context<'_, P>, rd: u64) -> Result {
    let guard = context.lock(rd, State::Rd)?;
    // Virtual CPUs and device interfaces refer to their realm.
    if guard.references() != 0 {
        return Err(Error::Realm);
    }
    let vmid = context.with(guard.granule(), |realm: &mut Realm| {
        if !matches!(realm.life, Life::New | Life::Terminated) || realm.vdevs != 0 {
            return Err(Error::Realm);
        }
        let roots = u64::from(realm.roots).saturating_mul(GRANULE_SIZE);
        for root in rtt::granules(realm.stage2.root.0, roots) {
            if context.tsm.granules.references(root)? != 0 {
                return Err(Error::Realm);
            }
        }
        // Shared memory may still be mapped in a root: it dies with the tag, before the tables do.
        context.platform.invalidate_stage2_all(&realm.stage2);
        if realm.devices_allowed {
            context.platform.invalidate_all(realm.stage2.vmid)?;
        }
        for (index, root) in (0..).zip(rtt::granules(realm.stage2.root.0, roots)) {
            let root = Granule::new(root).ok_or(Error::Global)?;
            rtt::release_root(context, realm, root, index)?;
            rtt::retire(context, root)?;
        }
        Ok(realm.stage2.vmid)
    })?;
    context.discard::<Realm>(&guard)?;
    context.tsm.vmids.free(vmid);
    Ok(Reply::NONE)
}
