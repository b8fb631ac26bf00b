// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entering a virtual CPU, and its exits.

use tsm_abi::RsiStatus;
use tsm_abi::rmi::{ExitReason, RecEnter, RecEnterFlags, RecExit, Response};
use tsm_iommu::Ripas;
use tsm_platform::{
    Access, FaultSyndrome, Granule, GuestEntry, GuestExit, HostPa, MemoryFault, Transfer,
};
use zerocopy::{FromZeros, IntoBytes};

use super::{Context, Error, Flow, Life, Machine, Pending, Rec, Reply, Result, lock_idle};
use crate::{device, rsi, rtt};

/// Where the exit structure begins in the run page.
const EXIT_OFFSET: u64 = 0x800;

/// Runs the virtual CPU `rec` until it exits; `run` is a page of the host.
pub(crate) fn enter<P: Machine>(context: &Context<'_, P>, rec: u64, run: u64) -> Result {
    let run = context.host_granule(run)?;
    let guard = lock_idle(context, rec)?;
    let entry: RecEnter = context.host_structure(run.address())?;
    let flags = RecEnterFlags::from_bits_truncate(entry.flags.get());
    let granule = guard.granule();
    // The reference keeps the virtual CPU alive and others out of it while its lock is free.
    context.tsm.granules.refer(rec, 1)?;
    drop(guard);
    let mut exit = RecExit::new_zeroed();
    let outcome = context.with(granule, |rec: &mut Rec<P::Context>| {
        enter_rec(context, rec, &entry, flags, &mut exit)
    });
    context.tsm.granules.release(rec, 1)?;
    outcome?;
    let at = run
        .address()
        .checked_add(EXIT_OFFSET)
        .ok_or(Error::Global)?;
    context.host_write(HostPa(at), exit.as_bytes())?;
    Ok(Reply::NONE)
}

fn enter_rec<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    entry: &RecEnter,
    flags: RecEnterFlags,
    exit: &mut RecExit,
) -> Result<()> {
    let realm = rec.realm.address();
    context.with_realm(realm, |realm| {
        if realm.life != Life::Active {
            return Err(Error::Realm);
        }
        if !rec.runnable || matches!(rec.pending, Pending::Power(_)) {
            return Err(Error::Rec);
        }
        check_flags(rec, flags, realm.protected_top())?;
        context.tsm.running.enter(rec.realm)
    })?;
    let flow = complete_pending(context, rec, entry, flags, exit);
    if flow == Flow::Resume {
        run_guest(context, rec, flags, exit);
    }
    context.tsm.running.leave(rec.realm);
    let timers = context.platform.timers(&rec.cpu);
    let [cntp_ctl, cntp_cval, cntv_ctl, cntv_cval] = timers.map(Into::into);
    exit.cntp_ctl = cntp_ctl;
    exit.cntp_cval = cntp_cval;
    exit.cntv_ctl = cntv_ctl;
    exit.cntv_cval = cntv_cval;
    Ok(())
}

/// Checks that the host answers only what was asked.
fn check_flags<C>(rec: &Rec<C>, flags: RecEnterFlags, protected_top: u64) -> Result<()> {
    let Pending::Fault(fault) = &rec.pending else {
        let answers = RecEnterFlags::INJECT_SEA.union(RecEnterFlags::EMULATED_MMIO);
        return if flags.intersects(answers) {
            Err(Error::Rec)
        } else {
            Ok(())
        };
    };
    let shared = fault.ipa.0 >= protected_top;
    let inject = flags.contains(RecEnterFlags::INJECT_SEA);
    let emulated = flags.contains(RecEnterFlags::EMULATED_MMIO) && !inject;
    if inject && !shared || emulated && (!shared || fault.transfer.is_none()) {
        return Err(Error::Rec);
    }
    Ok(())
}

/// Gives the guest what the host answered to the last exit.
fn complete_pending<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    entry: &RecEnter,
    flags: RecEnterFlags,
    exit: &mut RecExit,
) -> Flow {
    match core::mem::replace(&mut rec.pending, Pending::None) {
        Pending::None => Flow::Resume,
        Pending::Fault(fault) => {
            complete_fault(context, rec, &fault, entry, flags);
            Flow::Resume
        }
        Pending::Ripas(change) => {
            let rejected = flags.contains(RecEnterFlags::RIPAS_RESPONSE)
                && change.value == Ripas::Ram
                && change.next != change.top;
            let response = if rejected {
                Response::Reject
            } else {
                Response::Accept
            };
            rec.answer(
                context.platform,
                RsiStatus::Success,
                &[change.next, response.word()],
            );
            Flow::Resume
        }
        Pending::HostCall(ipa) => rsi::complete_host_call(context, rec, ipa, entry, exit),
        Pending::Device(request) => device::resume(context, rec, request, flags, exit),
        power @ Pending::Power(_) => {
            rec.pending = power;
            Flow::Exit
        }
    }
}

fn complete_fault<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    fault: &MemoryFault,
    entry: &RecEnter,
    flags: RecEnterFlags,
) {
    if flags.contains(RecEnterFlags::INJECT_SEA) {
        context.platform.inject_abort(&mut rec.cpu, fault);
    } else if flags.contains(RecEnterFlags::EMULATED_MMIO)
        && let Some(transfer) = fault.transfer
    {
        if fault.access == Access::Read {
            let value = entry.gprs.first().map_or(0, |gpr| gpr.get());
            let register = usize::from(transfer.register);
            context
                .platform
                .set_gpr(&mut rec.cpu, register, loaded(&transfer, value));
        }
        context.platform.skip_instruction(&mut rec.cpu);
    }
}

/// Returns what `transfer`, a load, leaves in its register when memory holds `value`.
fn loaded(transfer: &Transfer, value: u64) -> u64 {
    let mask = width_mask(transfer.bytes);
    // The highest bit of what was read is in the mask, and not in the next narrower one.
    let is_negative = value & mask & !(mask >> 1) != 0;
    let value = if transfer.sign_extend && is_negative {
        value | !mask
    } else {
        value & mask
    };
    if transfer.sixty_four {
        value
    } else {
        value & width_mask(4)
    }
}

fn width_mask(width: u8) -> u64 {
    let bits = u32::from(width).saturating_mul(8);
    u64::MAX
        .checked_shr(64_u32.saturating_sub(bits))
        .unwrap_or(0)
}

/// Runs the guest until the host has to know something. Each turn enters the guest, whose time the
/// host's interrupts bound.
fn run_guest<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    flags: RecEnterFlags,
    exit: &mut RecExit,
) {
    let entry = GuestEntry {
        trap_wfi: flags.contains(RecEnterFlags::TRAP_WFI),
        trap_wfe: flags.contains(RecEnterFlags::TRAP_WFE),
    };
    let handle = |rec: &mut Rec<P::Context>, event: GuestExit| {
        let flow = match event {
            GuestExit::Call => rsi::handle(context, rec, exit),
            GuestExit::Fault(fault) => handle_fault(context, rec, &fault, exit),
            GuestExit::HostInterrupt => leave(exit, ExitReason::Irq),
            GuestExit::HostFastInterrupt => leave(exit, ExitReason::Fiq),
            GuestExit::SystemError(syndrome) => {
                exit.esr = context.platform.conceal(&syndrome).esr.into();
                leave(exit, ExitReason::SError)
            }
            GuestExit::Idle(syndrome) => {
                exit.esr = context.platform.conceal(&syndrome).esr.into();
                leave(exit, ExitReason::Sync)
            }
        };
        flow == Flow::Resume
    };
    context
        .platform
        .run_while(rec, |rec| &mut rec.cpu, &entry, handle);
}

/// Sets the reason and leaves.
pub(crate) fn leave(exit: &mut RecExit, reason: ExitReason) -> Flow {
    exit.exit_reason = reason.word().into();
    Flow::Exit
}

/// Leaves because the host has to provide memory.
pub(crate) fn leave_for_memory(exit: &mut RecExit, syndrome: &FaultSyndrome, level: u8) -> Flow {
    exit.esr = syndrome.esr.into();
    exit.far = syndrome.far.into();
    exit.hpfar = syndrome.hpfar.into();
    exit.rtt_level = u64::from(level).into();
    leave(exit, ExitReason::Sync)
}

/// Who has to act on a refused access.
enum Cause {
    /// The guest: there is nothing at the address.
    Guest,
    /// The host: private memory is missing. It learns where, not what was accessed.
    Private,
    /// The host: the address is shared, and it may emulate the access.
    Shared,
    /// Another call has the realm; the access is tried again.
    Contended,
}

fn cause_of<P: Machine>(context: &Context<'_, P>, realm: Granule, fault: &MemoryFault) -> Cause {
    let page = Granule::containing(fault.ipa.0).address();
    let cause = context.with_realm(realm.address(), |realm| {
        if page >= realm.ipa_top() {
            return Ok(Cause::Guest);
        }
        if page >= realm.protected_top() {
            let execute = fault.access == Access::Execute;
            return Ok(if execute { Cause::Guest } else { Cause::Shared });
        }
        let (ripas, _) = rtt::ripas_at(context, realm, page, realm.protected_top())?;
        Ok(if ripas == Ripas::Empty {
            Cause::Guest
        } else {
            Cause::Private
        })
    });
    match cause {
        Ok(cause) => cause,
        Err(Error::Busy) => Cause::Contended,
        Err(_) => Cause::Guest,
    }
}

fn handle_fault<P: Machine>(
    context: &Context<'_, P>,
    rec: &mut Rec<P::Context>,
    fault: &MemoryFault,
    exit: &mut RecExit,
) -> Flow {
    match cause_of(context, rec.realm, fault) {
        Cause::Guest => {
            context.platform.inject_abort(&mut rec.cpu, fault);
            Flow::Resume
        }
        Cause::Contended => leave(exit, ExitReason::Irq),
        Cause::Private => {
            rec.pending = Pending::Fault(*fault);
            let syndrome = context.platform.conceal(&fault.syndrome);
            leave_for_memory(exit, &syndrome, 0)
        }
        Cause::Shared => {
            rec.pending = Pending::Fault(*fault);
            if let (Access::Write, Some(transfer)) = (fault.access, fault.transfer) {
                let value = context
                    .platform
                    .gpr(&rec.cpu, usize::from(transfer.register));
                if let Some(gpr) = exit.gprs.first_mut() {
                    *gpr = (value & width_mask(transfer.bytes)).into();
                }
            }
            let syndrome = context.platform.reveal(&fault.syndrome);
            leave_for_memory(exit, &syndrome, 0)
        }
    }
}
