// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Power calls of the guest (PSCI 1.1), of which the host schedules the effect.

use tsm_abi::rmi::{ExitReason, RecExit};
use tsm_platform::{Granule, Stage2, VcpuParams};

use super::run::leave;
use super::{Context, Error, Flow, Life, Machine, Pending, Rec, Reply, Result, State, mpidr_of};
use crate::granule::Guard;
use crate::realm::Realm;
use crate::rsi::Stop;

const VERSION: u64 = 0x8400_0000;
const CPU_SUSPEND_32: u64 = 0x8400_0001;
const CPU_SUSPEND: u64 = 0xc400_0001;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON_32: u64 = 0x8400_0003;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO_32: u64 = 0x8400_0004;
const AFFINITY_INFO: u64 = 0xc400_0004;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const FEATURES: u64 = 0x8400_000a;
const SMCCC_VERSION: u64 = 0x8000_0000;
const IMPLEMENTED: [u64; 12] = [
    VERSION,
    CPU_SUSPEND_32,
    CPU_SUSPEND,
    CPU_OFF,
    CPU_ON_32,
    CPU_ON,
    AFFINITY_INFO_32,
    AFFINITY_INFO,
    SYSTEM_OFF,
    SYSTEM_RESET,
    FEATURES,
    SMCCC_VERSION,
];

const PSCI_1_1: u64 = 0x1_0001;
const SMCCC_1_2: u64 = 0x1_0002;

const SUCCESS: u64 = 0;
const NOT_SUPPORTED: u64 = u64::MAX;
const INVALID_PARAMETERS: u64 = NOT_SUPPORTED - 1;
const DENIED: u64 = NOT_SUPPORTED - 2;
const ALREADY_ON: u64 = NOT_SUPPORTED - 3;
const INVALID_ADDRESS: u64 = NOT_SUPPORTED - 8;

const AFFINITY_ON: u64 = 0;
const AFFINITY_OFF: u64 = 1;

/// A power call about another virtual CPU, which the host must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PowerCall {
    /// Switch it on.
    On {
        /// Its affinity.
        target: u64,
        /// Its first instruction.
        entry: u64,
        /// Its first register.
        argument: u64,
    },
    /// Say whether it is on.
    Affinity {
        /// Its affinity.
        target: u64,
    },
}

/// Answers a power call of the guest, or `None` if `function` is none.
pub(crate) fn guest_call<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    function: u64,
    exit: &mut RecExit,
) -> Option<core::result::Result<Flow, Stop>> {
    let argument = |index| context.platform.gpr(&rec.cpu, index);
    let [first, second, third] = [argument(1), argument(2), argument(3)];
    let result = match function {
        SMCCC_VERSION => SMCCC_1_2,
        VERSION => PSCI_1_1,
        FEATURES if IMPLEMENTED.contains(&(first & 0xffff_ffff)) => SUCCESS,
        CPU_OFF => {
            rec.runnable = false;
            return Some(Ok(report(context, rec, exit)));
        }
        // Suspending is waiting: the guest goes on after the next interrupt.
        CPU_SUSPEND | CPU_SUSPEND_32 => {
            let flow = report(context, rec, exit);
            context.platform.set_gpr(&mut rec.cpu, 0, SUCCESS);
            return Some(Ok(flow));
        }
        SYSTEM_OFF | SYSTEM_RESET => return Some(switch_off(context, rec, exit)),
        CPU_ON | CPU_ON_32 => {
            let call = PowerCall::On {
                target: first,
                entry: second,
                argument: third,
            };
            return Some(ask(context, rec, call, exit));
        }
        AFFINITY_INFO | AFFINITY_INFO_32 if second != 0 => INVALID_PARAMETERS,
        AFFINITY_INFO | AFFINITY_INFO_32 => {
            return Some(ask(
                context,
                rec,
                PowerCall::Affinity { target: first },
                exit,
            ));
        }
        0x8400_0000..=0x8400_001f | 0xc400_0000..=0xc400_001f => NOT_SUPPORTED,
        _ => return None,
    };
    context.platform.set_gpr(&mut rec.cpu, 0, result);
    Some(Ok(Flow::Resume))
}

/// Shows the call to the host and leaves.
fn report<P: Machine>(context: &Context<'_, P>, rec: &Rec<P::Context>, exit: &mut RecExit) -> Flow {
    for (index, gpr) in exit.gprs.iter_mut().enumerate().take(4) {
        *gpr = context.platform.gpr(&rec.cpu, index).into();
    }
    leave(exit, ExitReason::Psci)
}

fn switch_off<P: Machine>(
    context: &Context<'_, P>,
    rec: &Rec<P::Context>,
    exit: &mut RecExit,
) -> core::result::Result<Flow, Stop> {
    context.with_realm(rec.realm.address(), |realm| {
        realm.life = Life::SystemOff;
        Ok(())
    })?;
    Ok(report(context, rec, exit))
}

/// Checks a call about another virtual CPU, and lets the host name that one.
fn ask<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    call: PowerCall,
    exit: &mut RecExit,
) -> core::result::Result<Flow, Stop> {
    let (PowerCall::On { target, .. } | PowerCall::Affinity { target }) = call;
    let (known, entry_ok) = context.with_realm(rec.realm.address(), |realm| {
        let known = (0..)
            .zip(&realm.recs)
            .any(|(index, _)| mpidr_of(index) == target);
        let entry_ok = match call {
            PowerCall::On { entry, .. } => entry < realm.protected_top(),
            PowerCall::Affinity { .. } => true,
        };
        Ok((known, entry_ok))
    })?;
    let early = match call {
        _ if !known => Some(INVALID_PARAMETERS),
        _ if !entry_ok => Some(INVALID_ADDRESS),
        PowerCall::On { .. } if target == rec.mpidr => Some(ALREADY_ON),
        PowerCall::Affinity { .. } if target == rec.mpidr => Some(AFFINITY_ON),
        _ => None,
    };
    if let Some(result) = early {
        context.platform.set_gpr(&mut rec.cpu, 0, result);
        return Ok(Flow::Resume);
    }
    rec.pending = Pending::Power(call);
    Ok(report(context, rec, exit))
}

/// Carries out the power call of `calling` about `target`; `status` (a PSCI code) lets the host deny
/// that a virtual CPU is switched on.
pub(crate) fn complete<P: Machine>(
    context: &Context<'_, P>,
    calling: u64,
    target: u64,
    status: u64,
) -> Result {
    let caller = context.lock(calling, State::Rec)?;
    let (call, realm) = pending_call(context, &caller)?;
    drop(caller);
    // The realm's lock comes first in the lock order; what was read is checked again under it.
    let realm_guard = context.lock(realm.address(), State::Rd)?;
    let (caller, other) = context.lock_two((calling, State::Rec), (target, State::Rec))?;
    if pending_call(context, &caller)? != (call, realm) {
        return Err(Error::Input);
    }
    let (PowerCall::On { target: named, .. } | PowerCall::Affinity { target: named }) = call;
    let denied = matches!(call, PowerCall::On { .. }) && status == DENIED;
    let result = context.with(realm_guard.granule(), |realm: &mut Realm| {
        let is_named = realm.recs.iter().zip(0..).any(|(address, index)| {
            *address == other.granule().address() && mpidr_of(index) == named
        });
        if !is_named || !denied && status != SUCCESS {
            return Err(Error::Input);
        }
        let own = (realm_guard.granule(), &realm.stage2);
        carry_out(context, &other, own, call, denied)
    })?;
    context.with(caller.granule(), |rec: &mut Rec<P::Context>| {
        rec.pending = Pending::None;
        context.platform.set_gpr(&mut rec.cpu, 0, result);
        Ok(Reply::NONE)
    })
}

/// Returns the call that an idle virtual CPU waits for, and its realm.
fn pending_call<P: Machine>(
    context: &Context<'_, P>,
    caller: &Guard<'_>,
) -> Result<(PowerCall, Granule)> {
    if caller.references() != 0 {
        return Err(Error::Input);
    }
    context.with(caller.granule(), |rec: &mut Rec<P::Context>| {
        match rec.pending {
            Pending::Power(call) => Ok((call, rec.realm)),
            _ => Err(Error::Input),
        }
    })
}

fn carry_out<P: Machine>(
    context: &Context<'_, P>,
    target: &Guard<'_>,
    (realm, stage2): (Granule, &Stage2),
    call: PowerCall,
    denied: bool,
) -> Result<u64> {
    let on = match call {
        PowerCall::On { .. } => ALREADY_ON,
        PowerCall::Affinity { .. } => AFFINITY_ON,
    };
    // One that runs is on, and nobody else may look into it.
    if target.references() != 0 {
        return Ok(on);
    }
    context.with(target.granule(), |rec: &mut Rec<P::Context>| {
        // The granule may have been destroyed and be another realm's by now.
        if rec.realm != realm {
            return Err(Error::Input);
        }
        if rec.runnable {
            return Ok(on);
        }
        let PowerCall::On {
            entry, argument, ..
        } = call
        else {
            return Ok(AFFINITY_OFF);
        };
        if denied {
            return Ok(DENIED);
        }
        let gprs = [argument, 0, 0, 0, 0, 0, 0, 0];
        let params = VcpuParams {
            pc: entry,
            gprs,
            mpidr: rec.mpidr,
        };
        rec.cpu = context.platform.new_context(&params, stage2);
        rec.pending = Pending::None;
        rec.runnable = true;
        Ok(SUCCESS)
    })
}
