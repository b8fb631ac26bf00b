// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the TSM does when a CPU of the host leaves.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use ::x86_64::registers::model_specific::Msr;
use spin::Mutex;
use tsm_platform::Rid;

#[cfg(feature = "isolation-tests")]
use super::super::bare_loop;
use super::super::{boot, exception, svm};
use super::{HostCpu, memory, signal};
use crate::arch::confine::icr::{Action, Command};
use crate::arch::confine::msr::{self, State};
use crate::arch::confine::ports::{Answer, PortAccess, Ports};
use crate::arch::confine::{config, cpuid};
use crate::arch::vmcb::control_register::CR0_PG;
use crate::arch::vmcb::{event, exit};
use crate::board::board;
#[cfg(feature = "isolation-tests")]
use crate::isolation_tests;
use crate::log::warning;

/// Bytes of the instructions that leave. The processor need not tell.
mod length {
    pub const CPUID: u64 = 2;
    pub const MSR: u64 = 2;
    pub const INVD: u64 = 2;
    pub const VMMCALL: u64 = 3;
}

static PORTS: Mutex<Ports> = Mutex::new(Ports::new());

/// Handles an exit. The next entry continues the host, or delivers an exception to it.
pub fn handle(host: &mut HostCpu) {
    let control = &mut host.vmcb.control;
    // What was being delivered when the guest left is delivered again, unless something else is.
    control.event_inj = match control.exit_int_info {
        event if event & event::VALID != 0 => event,
        _ => 0,
    };
    match control.exit_code {
        exit::CPUID => identify(host),
        exit::MSR => register(host),
        exit::IOIO => port(host),
        exit::VMMCALL => call(host),
        exit::NPF => memory::fault(host),
        exit::NMI => svm::take_nmi(),
        // Caches are coherent and hold nothing that could be lost.
        exit::INVD => host.vmcb.skip(length::INVD),
        exit::VMRUN..=exit::SKINIT | exit::INVLPGA => {
            host.vmcb.control.event_inj = event::INVALID_OPCODE;
        }
        exit::SHUTDOWN => {
            warning!("host: shut down by a triple fault");
            power_off()
        }
        exit::SMI => {
            warning!("host: a management interrupt on a machine that has none");
            power_off()
        }
        code => {
            warning!(
                "host: exit {=u64:#x} at {=u64:#x} is not one of a host",
                code,
                host.vmcb.save.rip
            );
            exception::stop()
        }
    }
}

/// Delivers a general protection fault.
pub fn refuse(host: &mut HostCpu) {
    host.vmcb.control.event_inj = event::general_protection();
}

fn power_off() -> ! {
    board().power_off();
    exception::stop()
}

fn identify(host: &mut HostCpu) {
    let (leaf, subleaf) = (host.vmcb.save.rax as u32, host.gprs.rcx as u32);
    let raw = __cpuid_count(leaf, subleaf);
    let raw = [raw.eax, raw.ebx, raw.ecx, raw.edx];
    let [eax, ebx, ecx, edx] = cpuid::answer(leaf, subleaf, raw, host.vmcb.save.cr4);
    host.vmcb.save.rax = u64::from(eax);
    host.gprs.rbx = u64::from(ebx);
    host.gprs.rcx = u64::from(ecx);
    host.gprs.rdx = u64::from(edx);
    host.vmcb.skip(length::CPUID);
}

fn register(host: &mut HostCpu) {
    const EXTENDED_FEATURES: u32 = 0x8000_0001;
    let number = host.gprs.rcx as u32;
    let features = __cpuid_count(EXTENDED_FEATURES, 0);
    let state = State {
        efer: host.vmcb.save.efer,
        efer_bits: msr::efer_bits(features.ecx, features.edx),
        paging: host.vmcb.save.cr0 & CR0_PG != 0,
        // SAFETY: reading the register changes nothing.
        apic_base: unsafe { Msr::new(msr::APIC_BASE).read() },
    };
    let is_write = host.vmcb.control.exit_info_1 & 1 != 0;
    let answer = if is_write {
        let value = host.vmcb.save.rax & 0xffff_ffff | host.gprs.rdx << 32;
        msr::write(number, value, &state)
    } else {
        msr::read(number, &state)
    };
    match answer {
        msr::Answer::Done(value) if !is_write => {
            host.vmcb.save.rax = value & 0xffff_ffff;
            host.gprs.rdx = value >> 32;
        }
        msr::Answer::Done(_) => {}
        msr::Answer::Efer(value) => host.vmcb.save.efer = value,
        // SAFETY: the filter lets no value pass that the register does not take, or that would have
        // an effect on memory.
        msr::Answer::Forward(value) => unsafe { Msr::new(number).write(value) },
        msr::Answer::Command(value) => {
            if !command(Command(value)) {
                return refuse(host);
            }
        }
        msr::Answer::Refuse => return refuse(host),
    }
    host.vmcb.skip(length::MSR);
}

/// Performs an interrupt command; returns false if there is no such command.
fn command(command: Command) -> bool {
    match command.action() {
        // SAFETY: an interrupt with a vector stays pending until its target is the host's again.
        Action::Forward => unsafe { Msr::new(msr::X2APIC_ICR).write(command.0) },
        Action::Nothing => {}
        Action::Refuse => return false,
        action => signal::send(command, action),
    }
    true
}

fn port(host: &mut HostCpu) {
    let control = &host.vmcb.control;
    let next = control.exit_info_2;
    let Some(access) = PortAccess::decode(control.exit_info_1, host.vmcb.save.rax) else {
        return refuse(host);
    };
    let mut ports = PORTS.lock();
    let answer = ports.answer(&access, board().port_rules());
    let passes = answer == Answer::Pass;
    // SAFETY: the board's rules name only registers here that reach no memory.
    let passed = passes.then(|| unsafe { perform(&access) });
    drop(ports);
    let value = match answer {
        Answer::Done(value) => value,
        Answer::Pass => passed.unwrap_or(u32::MAX),
        Answer::Config { rid, offset } => {
            let whole = offset.is_multiple_of(u16::from(access.bytes));
            if whole {
                config_access(Rid(rid), offset, access.bytes, access.write)
            } else {
                u32::MAX
            }
        }
        Answer::PowerOff => power_off(),
    };
    if access.write.is_none() {
        host.vmcb.save.rax = access.merge(host.vmcb.save.rax, value);
    }
    host.vmcb.save.rip = next;
    host.vmcb.skip(0);
}

/// Performs an access to ports.
///
/// # Safety
///
/// The registers there must have no effect on memory that is not the host's.
unsafe fn perform(access: &PortAccess) -> u32 {
    let PortAccess { port, bytes, write } = *access;
    let mut value = write.unwrap_or(0);
    // SAFETY: the caller promises it.
    unsafe {
        match (bytes, write.is_some()) {
            (1, true) => asm!("out dx, al", in("dx") port, in("eax") value, options(nostack)),
            (2, true) => asm!("out dx, ax", in("dx") port, in("eax") value, options(nostack)),
            (_, true) => asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)),
            (1, false) => asm!("in al, dx", in("dx") port, inout("eax") value, options(nostack)),
            (2, false) => asm!("in ax, dx", in("dx") port, inout("eax") value, options(nostack)),
            (_, false) => asm!("in eax, dx", in("dx") port, inout("eax") value, options(nostack)),
        }
    }
    value
}

/// Performs or refuses an access to configuration space; returns what a read gives.
pub fn config_access(rid: Rid, offset: u16, bytes: u8, write: Option<u32>) -> u32 {
    let Some((machine, tsm)) = boot::tsm() else {
        return u32::MAX;
    };
    if write.is_some() && !config::may_write(board().config_rules(), rid, offset, bytes) {
        return 0;
    }
    tsm.host_config_access(machine, rid, offset, bytes, write)
}

/// Answers a call of the host. A program of the host's has none to make.
fn call(host: &mut HostCpu) {
    if host.vmcb.save.cpl != 0 {
        host.vmcb.control.event_inj = event::INVALID_OPCODE;
        return;
    }
    let save = &mut host.vmcb.save;
    let mut arguments = [0; tsm_abi::rmi::REGISTERS];
    for (number, argument) in (1..).zip(&mut arguments) {
        *argument = host.gprs.by_call(save, number).map_or(0, |gpr| *gpr);
    }
    if let Some((machine, tsm)) = boot::tsm() {
        let results = match save.rax {
            #[cfg(feature = "isolation-tests")]
            isolation_tests::FUNCTION => isolation_tests::run(machine, arguments[0]),
            #[cfg(feature = "isolation-tests")]
            bare_loop::FUNCTION => bare_loop::run(arguments[0]),
            function => tsm.host_call(machine, function, &arguments),
        };
        for (number, result) in results.into_iter().enumerate() {
            if let Some(gpr) = host.gprs.by_call(save, number) {
                *gpr = result;
            }
        }
    }
    host.vmcb.skip(length::VMMCALL);
}
