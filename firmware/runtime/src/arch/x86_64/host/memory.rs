// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Host accesses to memory that nested paging keeps from it: those to configuration space and to
//! I/O APICs are performed for it, all others are refused.

use tsm_platform::{HostMemory, HostPa, Rid};

use super::super::boot;
use super::exits::{config_access, refuse};
use super::{HostCpu, io_apic};
use crate::arch::confine::instruction::{self, Direction, LONGEST, Operand};
use crate::arch::confine::walk;
use crate::arch::vmcb::control_register::CR0_PE;
use crate::machine::Machine;

/// Bits of the error code of a nested page fault (AMD64 APM volume 2, 15.25.6).
mod error {
    pub const WRITE: u64 = 1 << 1;
    pub const FETCH: u64 = 1 << 4;
    /// The access was to what the guest's own tables lead to, not to one of them.
    pub const FINAL: u64 = 1 << 32;
}

/// Performs or refuses the access that faulted.
pub fn fault(host: &mut HostCpu) {
    let (code, address) = (host.vmcb.control.exit_info_1, host.vmcb.control.exit_info_2);
    if perform(host, code, address).is_none() {
        refuse(host);
    }
}

/// Registers whose accesses the TSM performs.
#[derive(Clone, Copy)]
enum Registers {
    /// Configuration space of a function.
    Function(Rid),
    /// An I/O APIC by its number: writes only.
    IoApic(usize),
}

impl Registers {
    /// Returns what is at an address, and the offset there.
    fn at(address: u64) -> Option<(Self, u16)> {
        let offset = (address & 0xfff) as u16;
        let page = address & !0xfff;
        let mut apics = boot::findings()?.tables.io_apics.iter();
        if let Some(number) = apics.position(|apic| *apic == page) {
            return Some((Self::IoApic(number), offset));
        }
        let (machine, _) = boot::tsm()?;
        let window = page.checked_sub(machine.ecam.as_ref()?.physical())?;
        let rid = Rid(u16::try_from(window >> 12).ok()?);
        Some((Self::Function(rid), offset))
    }

    /// Performs or drops an access of 1, 2 or 4 bytes; returns what a load brings.
    fn access(self, offset: u16, bytes: u8, write: Option<u32>) -> u32 {
        match self {
            Self::Function(rid) => config_access(rid, offset, bytes, write),
            Self::IoApic(number) => {
                if let Some(value) = write.filter(|_| bytes == 4) {
                    io_apic::write(number, offset, value);
                }
                u32::MAX
            }
        }
    }
}

fn perform(host: &mut HostCpu, code: u64, address: u64) -> Option<()> {
    let (registers, offset) = Registers::at(address)?;
    if code & error::FETCH != 0 || code & error::FINAL == 0 {
        return None;
    }
    let (machine, _) = boot::tsm()?;
    let (bytes, count) = fetch(host, machine)?;
    let access = instruction::decode(bytes.get(..count)?, is_long(host)?)?;
    let is_store = access.direction == Direction::Store;
    if is_store != (code & error::WRITE != 0) || !offset.is_multiple_of(u16::from(access.bytes)) {
        return None;
    }
    let register = match access.operand {
        Operand::Register(number) | Operand::HighByte(number) => number,
        Operand::Constant(_) => 0,
    };
    let held = *host.gprs.by_encoding(&mut host.vmcb.save, register);
    let value = instruction::stored(access.operand, held, access.bytes);
    // Eight bytes are two accesses: PCI has none that wide.
    let width = access.bytes.min(4);
    let mut read = 0;
    for done in (0..access.bytes).step_by(usize::from(width)) {
        let place = offset.wrapping_add(done.into());
        let shift = u32::from(done).saturating_mul(8);
        let piece = value.checked_shr(shift).unwrap_or(0) as u32;
        let piece = registers.access(place, width, is_store.then_some(piece));
        read |= u64::from(piece).checked_shl(shift).unwrap_or(0);
    }
    if let Direction::Load(extend) = access.direction {
        let place = host.gprs.by_encoding(&mut host.vmcb.save, register);
        *place = instruction::loaded(&access, extend, held, read);
    }
    host.vmcb.skip(u64::from(access.length));
    Some(())
}

/// Returns whether the host runs 64-bit code, or none if it runs 16-bit code.
fn is_long(host: &HostCpu) -> Option<bool> {
    /// D bit of a code segment.
    const WIDE: u16 = 1 << 10;
    if host.vmcb.is_64_bit() {
        return Some(true);
    }
    let save = &host.vmcb.save;
    (save.cr0 & CR0_PE != 0 && save.cs.attributes & WIDE != 0).then_some(false)
}

/// Reads the bytes of the present instruction, as many of the longest as are there.
fn fetch(host: &HostCpu, machine: &Machine) -> Option<([u8; LONGEST], usize)> {
    const PAGE: u64 = 4096;
    let save = &host.vmcb.save;
    let first = if host.vmcb.is_64_bit() {
        save.rip
    } else {
        save.cs.base.wrapping_add(save.rip) & 0xffff_ffff
    };
    let read = |address| {
        let mut word = [0; 8];
        let found = machine.host_read(HostPa(address), &mut word);
        found.ok().map(|()| u64::from_le_bytes(word))
    };
    let mut bytes = [0; LONGEST];
    let in_page = (PAGE - first % PAGE).min(LONGEST as u64) as usize;
    let (here, next) = bytes.split_at_mut_checked(in_page)?;
    let place = walk::translate(save, first, read)?;
    machine.host_read(HostPa(place), here).ok()?;
    let after = first.wrapping_add(in_page as u64);
    let rest = walk::translate(save, after, read).filter(|_| !next.is_empty());
    let has_rest = rest.is_some_and(|place| machine.host_read(HostPa(place), next).is_ok());
    Some((bytes, if has_rest { LONGEST } else { in_page }))
}
