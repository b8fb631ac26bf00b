// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls of the guest.

use tsm_abi::rmi::{ExitReason, RecEnter, RecExit};
use tsm_abi::rsi::{
    CHANGE_DESTROYED, Call, FEATURES_DA, HostCall, REGISTERS, RealmConfig, VERSION_HIGHEST,
    VERSION_LOWEST,
};
use tsm_abi::{RSI_NOT_SUPPORTED, RsiStatus};
use tsm_iommu::Ripas;
use tsm_platform::{GRANULE_SIZE, Ipa};
use zerocopy::{FromZeros, IntoBytes};

use crate::context::{Context, Machine};
use crate::device;
use crate::error::Error;
use crate::granule::GRANULE_BYTES;
use crate::measurement::REGISTER_BYTES;
use crate::realm::Realm;
use crate::rec::{Flow, Pending, Rec, RipasChange, leave, leave_for_memory, psci_call};
use crate::rtt::{self, GuestFault};

/// Why a call of the guest ends without its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The guest gets this status.
    Status(RsiStatus),
    /// The host has to provide private memory; the guest calls again.
    Missing {
        /// The page.
        ipa: u64,
        /// Level at which the walk ended.
        level: u8,
    },
    /// Another call has the realm; the guest calls again.
    Retry,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Busy => Self::Retry,
            Error::Device => Self::Status(RsiStatus::Device),
            Error::Input => Self::Status(RsiStatus::Input),
            _ => Self::Status(RsiStatus::Unknown),
        }
    }
}

/// What a call of the guest comes to.
pub(crate) type Answer = Result<Flow, Stop>;

const INPUT: Stop = Stop::Status(RsiStatus::Input);

/// Answers the call in the guest's registers.
pub(crate) fn handle<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    exit: &mut RecExit,
) -> Flow {
    // Only the lower half of the function id counts; bit 16 is a hint about vector state (SMCCC).
    let function = context.platform.gpr(&rec.cpu, 0) & 0xfffe_ffff;
    let outcome = match psci_call(context, rec, function, exit) {
        Some(outcome) => outcome,
        None => {
            let arguments: [u64; REGISTERS] = core::array::from_fn(|index| {
                context.platform.gpr(&rec.cpu, index.saturating_add(1))
            });
            match Call::decode(function, &arguments) {
                Ok(call) => dispatch(context, rec, call, exit),
                Err(_) => {
                    context.platform.set_gpr(&mut rec.cpu, 0, RSI_NOT_SUPPORTED);
                    Ok(Flow::Resume)
                }
            }
        }
    };
    finish(context, rec, outcome, exit)
}

fn finish<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    outcome: Answer,
    exit: &mut RecExit,
) -> Flow {
    let flow = match outcome {
        Ok(flow) => flow,
        Err(Stop::Status(status)) => {
            rec.answer(context.platform, status, &[]);
            Flow::Resume
        }
        Err(Stop::Missing { ipa, level }) => {
            let syndrome = context.platform.missing_memory(Ipa(ipa), level);
            return leave_for_memory(exit, &syndrome, level);
        }
        Err(Stop::Retry) => return leave(exit, ExitReason::Irq),
    };
    context.platform.skip_instruction(&mut rec.cpu);
    flow
}

fn dispatch<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    call: Call,
    exit: &mut RecExit,
) -> Answer {
    match call {
        Call::Version { requested } => version(context, rec, requested),
        Call::Features { index } => features(context, rec, index),
        Call::MeasurementRead { index } => measurement_read(context, rec, index),
        Call::MeasurementExtend { index, size, .. } => {
            measurement_extend(context, rec, index, size)
        }
        Call::RealmConfig { ipa } => realm_config(context, rec, ipa),
        Call::IpaStateSet {
            base,
            top,
            ripas,
            flags,
        } => {
            let change_destroyed = flags & CHANGE_DESTROYED != 0;
            ipa_state_set(context, rec, (base, top), ripas, change_destroyed, exit)
        }
        Call::IpaStateGet { base, top } => ipa_state_get(context, rec, base, top),
        Call::HostCall { ipa } => host_call(context, rec, ipa, exit),
        Call::VdevDmaEnable { .. }
        | Call::VdevGetInfo { .. }
        | Call::VdevValidateMapping { .. }
        | Call::VdevDmaDisable { .. } => device::guest_call(context, rec, call, exit),
    }
}

/// Answers success with `values` and goes on.
fn succeed<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    values: &[u64],
) -> Answer {
    rec.answer(context.platform, RsiStatus::Success, values);
    Ok(Flow::Resume)
}

fn version<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    requested: u64,
) -> Answer {
    // Versions are numbers that grow. What is asked for, if implemented, is the lower end.
    let supported = (VERSION_LOWEST..=VERSION_HIGHEST).contains(&requested);
    let lower = requested.clamp(VERSION_LOWEST, VERSION_HIGHEST);
    let status = if supported {
        RsiStatus::Success
    } else {
        RsiStatus::Input
    };
    rec.answer(context.platform, status, &[lower, VERSION_HIGHEST]);
    Ok(Flow::Resume)
}

fn features<P: Machine>(context: &Context<'_, P>, rec: &mut Rec<P::Context>, index: u64) -> Answer {
    let realm = rec.realm.address();
    let devices = context.with_realm(realm, |realm| Ok(realm.devices_allowed))?;
    let value = if index == 0 {
        FEATURES_DA.place(u64::from(devices))
    } else {
        0
    };
    succeed(context, rec, &[value])
}

fn measurement_read<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    index: u64,
) -> Answer {
    let register = context.with_realm(rec.realm.address(), |realm| {
        realm
            .measurement
            .register(index)
            .copied()
            .ok_or(Error::Input)
    })?;
    let mut values = [0; REGISTER_BYTES / 8];
    for (value, bytes) in values.iter_mut().zip(register.as_chunks::<8>().0) {
        *value = u64::from_le_bytes(*bytes);
    }
    succeed(context, rec, &values)
}

fn measurement_extend<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    index: u64,
    size: u64,
) -> Answer {
    const FIRST_VALUE: usize = 3;
    let mut value = [0; REGISTER_BYTES];
    for (bytes, register) in value.as_chunks_mut::<8>().0.iter_mut().zip(FIRST_VALUE..) {
        *bytes = context.platform.gpr(&rec.cpu, register).to_le_bytes();
    }
    let size = usize::try_from(size).map_err(|_| INPUT)?;
    let value = value.get(..size).ok_or(INPUT)?;
    let extended = context.with_realm(rec.realm.address(), |realm| {
        Ok(realm.measurement.extend(context.platform, index, value))
    })?;
    if extended {
        succeed(context, rec, &[])
    } else {
        Err(INPUT)
    }
}

fn realm_config<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    ipa: u64,
) -> Answer {
    if !ipa.is_multiple_of(GRANULE_SIZE) {
        return Err(INPUT);
    }
    in_realm(context, rec, |realm| {
        let mut config = RealmConfig::new_zeroed();
        config.ipa_width = u64::from(realm.stage2.ipa_bits).into();
        config.hash_algo = realm.measurement.algorithm() as u8;
        config.rpv = realm.personalization;
        guest_write(context, realm, ipa, config.as_bytes())
    })?;
    succeed(context, rec, &[])
}

fn ipa_state_set<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    (base, top): (u64, u64),
    ripas: u64,
    change_destroyed: bool,
    exit: &mut RecExit,
) -> Answer {
    let value = match ripas {
        0 => Ripas::Empty,
        1 => Ripas::Ram,
        _ => return Err(INPUT),
    };
    in_realm(
        context,
        rec,
        |realm| Ok(realm.check_range(base, top, true)?),
    )?;
    exit.ripas_base = base.into();
    exit.ripas_top = top.into();
    exit.ripas_value = value.code();
    rec.pending = Pending::Ripas(RipasChange {
        next: base,
        top,
        value,
        change_destroyed,
    });
    Ok(leave(exit, ExitReason::RipasChange))
}

fn ipa_state_get<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    base: u64,
    top: u64,
) -> Answer {
    let (ripas, end) = in_realm(context, rec, |realm| {
        realm.check_range(base, top, true)?;
        Ok(rtt::ripas_at(context, realm, base, top)?)
    })?;
    succeed(context, rec, &[end, u64::from(ripas.code())])
}

fn host_call<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    ipa: u64,
    exit: &mut RecExit,
) -> Answer {
    if !ipa.is_multiple_of(size_of::<HostCall>() as u64) {
        return Err(INPUT);
    }
    let mut call = HostCall::new_zeroed();
    in_realm(context, rec, |realm| {
        guest_read(context, realm, ipa, call.as_mut_bytes())
    })?;
    exit.imm = u32::from(call.imm.get()).into();
    exit.gprs = call.gprs;
    rec.pending = Pending::HostCall(ipa);
    Ok(leave(exit, ExitReason::HostCall))
}

/// Copies the host's answer to the guest's call into the structure at `ipa`.
pub(crate) fn complete_host_call<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    ipa: u64,
    entry: &RecEnter,
    exit: &mut RecExit,
) -> Flow {
    let at = ipa.saturating_add(core::mem::offset_of!(HostCall, gprs) as u64);
    let outcome = in_realm(context, rec, |realm| {
        guest_write(context, realm, at, entry.gprs.as_bytes())
    });
    let status = match outcome {
        Ok(()) => RsiStatus::Success,
        Err(Stop::Status(status)) => status,
        Err(stop) => {
            // The answer is lost with this entry; the host gives it again with the next.
            rec.pending = Pending::HostCall(ipa);
            return match stop {
                Stop::Missing { ipa, level } => {
                    let syndrome = context.platform.missing_memory(Ipa(ipa), level);
                    leave_for_memory(exit, &syndrome, level)
                }
                _ => leave(exit, ExitReason::Irq),
            };
        }
    };
    rec.answer(context.platform, status, &[]);
    Flow::Resume
}

/// Runs `work` on the realm of `rec` under its lock.
pub(crate) fn in_realm<P: Machine, R>(
    context: &Context<'_, P>,
    rec: &Rec<P::Context>,
    work: impl FnOnce(&mut Realm) -> Result<R, Stop>,
) -> Result<R, Stop> {
    context.with_realm(rec.realm.address(), |realm| Ok(work(realm)))?
}

fn guest_page<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    ipa: u64,
    length: usize,
) -> Result<(tsm_platform::Granule, usize), Stop> {
    let offset = usize::try_from(ipa % GRANULE_SIZE).map_err(|_| INPUT)?;
    let fits = offset
        .checked_add(length)
        .is_some_and(|end| end <= GRANULE_BYTES);
    if !fits {
        return Err(INPUT);
    }
    match rtt::guest_page(context, realm, ipa)? {
        Ok(granule) => Ok((granule, offset)),
        Err(GuestFault::NotPrivate) => Err(INPUT),
        Err(GuestFault::Missing { level }) => Err(Stop::Missing { ipa, level }),
    }
}

/// Copies `out.len()` bytes of the guest's private memory at `ipa`, all in one page.
pub(crate) fn guest_read<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    ipa: u64,
    out: &mut [u8],
) -> Result<(), Stop> {
    let (granule, offset) = guest_page(context, realm, ipa, out.len())?;
    context
        .platform
        .read(granule, offset, out)
        .map_err(|error| Error::from(error).into())
}

/// Copies `data` into the guest's private memory at `ipa`, all in one page.
pub(crate) fn guest_write<P: Machine>(
    context: &Context<'_, P>,
    realm: &Realm,
    ipa: u64,
    data: &[u8],
) -> Result<(), Stop> {
    let (granule, offset) = guest_page(context, realm, ipa, data.len())?;
    context
        .platform
        .write(granule, offset, data)
        .map_err(|error| Error::from(error).into())
}
