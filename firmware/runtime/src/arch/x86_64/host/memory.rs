// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Host accesses to memory that nested paging keeps from it: those to configuration space are performed
//! for it, all others are refused.

use tsm_platform::{HostMemory, HostPa, Rid};

use super::super::boot;
use super::HostCpu;
use super::exits::{config_access, refuse};
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

fn perform(host: &mut HostCpu, code: u64, address: u64) -> Option<()> {
    let (machine, _) = boot::tsm()?;
    let window = machine.ecam.as_ref()?;
    let offset = address.checked_sub(window.physical())?;
    if offset >= crate::ecam::ECAM_BYTES || code & error::FETCH != 0 || code & error::FINAL == 0 {
        return None;
    }
    let rid = Rid((offset >> 12) as u16);
    let (bytes, count) = fetch(host, machine)?;
    let access = instruction::decode(bytes.get(..count)?, is_long(host)?)?;
    let is_store = access.direction == Direction::Store;
    if is_store != (code & error::WRITE != 0) || !offset.is_multiple_of(u64::from(access.bytes)) {
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
        let place = (offset & 0xfff) as u16 + u16::from(done);
        let piece = (value >> (8 * done)) as u32;
        let piece = config_access(rid, place, width, is_store.then_some(piece));
        read |= u64::from(piece) << (8 * done);
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
