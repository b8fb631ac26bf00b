// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Virtual CPUs.

mod psci;
mod run;

use core::hash::{Hash, Hasher};
use core::mem::discriminant;

use tsm_abi::RsiStatus;
use tsm_abi::rmi::{RecParams, RecParamsFlags};
use tsm_iommu::Ripas;
use tsm_platform::{GRANULE_SIZE, Granule, GuestCpu, MemoryFault, Object, VcpuParams};

use crate::context::{Context, Machine};
use crate::device::Request;
use crate::error::{Error, Reply, Result};
use crate::granule::{Guard, State};
use crate::realm::{Life, Realm};
use crate::rtt;

pub(crate) use psci::{PowerCall, complete as psci_complete, guest_call as psci_call};
pub(crate) use run::{enter, leave, leave_for_memory};

/// What the host must answer before the virtual CPU goes on.
pub(crate) enum Pending {
    /// Nothing.
    None,
    /// An access that stage 2 refused, which the host may emulate.
    Fault(MemoryFault),
    /// A change of RIPAS.
    Ripas(RipasChange),
    /// A host call, whose structure is at this address in the guest.
    HostCall(u64),
    /// A power call about another virtual CPU.
    Power(PowerCall),
    /// A device request of the guest.
    Device(Request),
}

/// A change of RIPAS that the guest asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RipasChange {
    /// First address that is not done.
    pub next: u64,
    /// Address after the last.
    pub top: u64,
    /// The new value.
    pub value: Ripas,
    /// Whether what the host destroyed may change too.
    pub change_destroyed: bool,
}

/// Whether a virtual CPU goes on after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Back to the guest.
    Resume,
    /// Out to the host.
    Exit,
}

/// A virtual CPU. A running one has a reference; its lock is not held while the guest runs.
///
/// `C` is the platform's [`GuestCpu::Context`].
pub(crate) struct Rec<C> {
    /// The realm that it belongs to.
    pub realm: Granule,
    /// Its affinity.
    pub mpidr: u64,
    /// Whether it is switched on.
    pub runnable: bool,
    /// What the host must answer first.
    pub pending: Pending,
    /// Registers.
    pub cpu: C,
}

impl<C: Object> Object for Rec<C> {
    fn observe(&self, hasher: &mut impl Hasher) {
        (self.realm.address(), self.mpidr, self.runnable).hash(hasher);
        discriminant(&self.pending).hash(hasher);
        match &self.pending {
            Pending::Ripas(change) => change.next.hash(hasher),
            Pending::Device(Request::Map(mapping)) => mapping.next.hash(hasher),
            Pending::Device(request) => discriminant(request).hash(hasher),
            _ => {}
        }
        self.cpu.observe(hasher);
    }
}

impl<C: Object> Rec<C> {
    /// Answers a call of the guest: the status in x0, `values` from x1 on. Of x1 to x3 what is not
    /// in `values` is zero (SMCCC).
    pub fn answer<P: GuestCpu<Context = C>>(
        &mut self,
        platform: &P,
        status: RsiStatus,
        values: &[u64],
    ) {
        platform.set_gpr(&mut self.cpu, 0, status.word());
        let count = values.len().max(3);
        let values = values.iter().copied().chain(core::iter::repeat(0));
        for (index, value) in (1..).zip(values).take(count) {
            platform.set_gpr(&mut self.cpu, index, value);
        }
    }
}

/// Returns the affinity of the virtual CPU that is created as number `index` of its realm: four
/// bits at level 0, eight at each other level.
pub(crate) const fn mpidr_of(index: u64) -> u64 {
    (index & 0xf) | ((index >> 4) & 0xff) << 8 | ((index >> 12) & 0xff) << 16
}

/// Creates a virtual CPU of a realm that is being built, in the delegated granule `rec`.
pub(crate) fn create<P: Machine>(
    context: &Context<'_, P>,
    rd: u64,
    rec: u64,
    params: u64,
) -> Result {
    const {
        assert!(size_of::<Rec<P::Context>>() as u64 <= GRANULE_SIZE);
    }
    let params: RecParams = context.host_structure(params)?;
    let flags = RecParamsFlags::from_bits(params.flags.get()).ok_or(Error::Input)?;
    let (realm_guard, guard) = context.lock_two((rd, State::Rd), (rec, State::Delegated))?;
    if !context.is_memory(rec) {
        return Err(Error::Input);
    }
    context.with(realm_guard.granule(), |realm: &mut Realm| {
        if realm.life != Life::New {
            return Err(Error::Realm);
        }
        let mpidr = params.mpidr.get();
        let index = u64::try_from(realm.recs.len()).map_err(|_| Error::Global)?;
        if mpidr != mpidr_of(index) || realm.recs.is_full() {
            return Err(Error::Input);
        }
        let runnable = flags.contains(RecParamsFlags::RUNNABLE);
        let vcpu = VcpuParams {
            pc: params.pc.get(),
            gprs: params.gprs.map(|gpr| gpr.get()),
            mpidr,
        };
        let value = Rec {
            realm: realm_guard.granule(),
            mpidr,
            runnable,
            pending: Pending::None,
            cpu: context.platform.new_context(&vcpu, &realm.stage2),
        };
        context.place(&guard, State::Rec, value)?;
        context.tsm.granules.refer(rd, 1)?;
        realm.recs.push(rec).map_err(|_| Error::Global)?;
        if runnable {
            realm.measurement.extend_rec(context.platform, &params);
        }
        Ok(Reply::NONE)
    })
}

/// Locks a virtual CPU that is not running.
pub(crate) fn lock_idle<'a, P: Machine>(context: &Context<'a, P>, rec: u64) -> Result<Guard<'a>> {
    let guard = context.lock(rec, State::Rec)?;
    if guard.references() == 0 {
        Ok(guard)
    } else {
        Err(Error::Rec)
    }
}

/// Destroys a virtual CPU that is not running.
pub(crate) fn destroy<P: Machine>(context: &Context<'_, P>, rec: u64) -> Result {
    let guard = lock_idle(context, rec)?;
    let realm = context.with(guard.granule(), |rec: &mut Rec<P::Context>| {
        Ok(rec.realm.address())
    })?;
    context.discard::<Rec<P::Context>>(&guard)?;
    context.tsm.granules.release(realm, 1)?;
    Ok(Reply::NONE)
}

/// Carries out the next part of the change of RIPAS that the guest asked for.
pub(crate) fn set_ripas<P: Machine>(
    context: &Context<'_, P>,
    rd: u64,
    rec: u64,
    base: u64,
    top: u64,
) -> Result {
    let (realm_guard, guard) = context.lock_two((rd, State::Rd), (rec, State::Rec))?;
    if guard.references() != 0 {
        return Err(Error::Rec);
    }
    context.with(guard.granule(), |rec: &mut Rec<P::Context>| {
        if rec.realm != realm_guard.granule() {
            return Err(Error::Rec);
        }
        let Pending::Ripas(change) = &mut rec.pending else {
            return Err(Error::Input);
        };
        if base != change.next || top <= base || top > change.top {
            return Err(Error::Input);
        }
        if !top.is_multiple_of(GRANULE_SIZE) {
            return Err(Error::Input);
        }
        change.next = context.with(realm_guard.granule(), |realm| {
            let RipasChange {
                value,
                change_destroyed,
                ..
            } = *change;
            rtt::set_ripas(context, realm, (base, top), value, change_destroyed)
        })?;
        Ok(Reply::one(change.next))
    })
}
