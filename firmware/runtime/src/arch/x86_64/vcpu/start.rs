// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How a virtual CPU starts: 32-bit protected mode, flat segments, no paging, interrupts off.
//!
//! Tables of the processor are empty: until a realm has made its own, an exception ends it.

use tsm_platform::VcpuParams;

use crate::arch::vmcb::control_register::{CR0_ET, CR0_PE};
use crate::arch::vmcb::{Gprs, Save, Segment, efer};

/// Attributes: 32-bit code, execute and read, accessed; 32-bit data, read and write, accessed.
const CODE: u16 = 0xc9b;
const DATA: u16 = 0xc93;
/// A busy 32-bit task, and a local descriptor table.
const TASK: u16 = 0x08b;
const LOCAL_TABLE: u16 = 0x082;
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

/// RFLAGS, DR6, DR7 and PAT after reset (AMD64 APM volume 2, 14.1.3).
const RFLAGS: u64 = 2;
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;
const PAT: u64 = 0x0007_0406_0007_0406;

/// Returns the registers of a virtual CPU that starts with `params`, or `None` if 32-bit code cannot
/// start there.
pub fn start(params: &VcpuParams) -> Option<(Save, Gprs)> {
    if params.pc > u32::MAX.into() {
        return None;
    }
    let data = Segment::flat(DATA_SELECTOR, DATA);
    let mut save = Save::ZERO;
    save.es = data;
    save.cs = Segment::flat(CODE_SELECTOR, CODE);
    save.ss = data;
    save.ds = data;
    save.fs = data;
    save.gs = data;
    save.ldtr = Segment {
        attributes: LOCAL_TABLE,
        ..Segment::default()
    };
    save.tr = Segment {
        attributes: TASK,
        limit: 0x67,
        ..Segment::default()
    };
    save.efer = efer::SVME;
    save.cr0 = CR0_PE | CR0_ET;
    save.dr7 = DR7;
    save.dr6 = DR6;
    save.rflags = RFLAGS;
    save.rip = params.pc;
    save.g_pat = PAT;
    let mut gprs = Gprs::ZERO;
    for (index, value) in params.gprs.iter().enumerate() {
        if let Some(register) = gprs.by_call(&mut save, index) {
            *register = *value;
        }
    }
    Some((save, gprs))
}

/// Returns the number of the virtual CPU with affinity `mpidr`: four bits at level 0, eight at each
/// other level.
pub const fn index(mpidr: u64) -> u32 {
    let level_0 = mpidr as u32 & 0xf;
    let level_1 = mpidr as u32 >> 8 & 0xff;
    let level_2 = mpidr as u32 >> 16 & 0xff;
    level_0 | level_1 << 4 | level_2 << 12
}

#[cfg(test)]
mod tests {
    use super::{index, start};
    use crate::arch::vmcb::{Gprs, Save};
    use tsm_platform::VcpuParams;

    fn started(pc: u64) -> Option<(Save, Gprs)> {
        start(&VcpuParams {
            pc,
            gprs: [10, 11, 12, 13, 14, 15, 16, 17],
            mpidr: 0,
        })
    }

    #[test]
    fn a_virtual_cpu_starts_in_flat_32_bit_code_without_paging() {
        let (save, _) = started(0x20_0000).expect("below 4 GiB");
        assert_eq!((save.rip, save.rflags), (0x20_0000, 2));
        assert_eq!(
            (save.cr0, save.cr3, save.cr4, save.efer),
            (0x11, 0, 0, 1 << 12)
        );
        assert_eq!(
            (save.cs.attributes, save.cs.base, save.cs.limit),
            (0xc9b, 0, u32::MAX)
        );
        assert_eq!(
            (save.gdtr.limit, save.idtr.limit),
            (0, 0),
            "an exception is the end"
        );
        assert_eq!(save.cpl, 0);
    }

    #[test]
    fn what_is_measured_of_its_registers_is_what_it_has_and_the_rest_is_zero() {
        let (save, gprs) = started(0).expect("below 4 GiB");
        assert_eq!((save.rax, save.rsp), (10, 0));
        assert_eq!([gprs.rdi, gprs.rsi, gprs.rdx, gprs.rcx], [11, 12, 13, 14]);
        assert_eq!(gprs.r8_15, [15, 16, 17, 0, 0, 0, 0, 0]);
        assert_eq!((gprs.rbx, gprs.rbp), (0, 0));
    }

    #[test]
    fn a_start_that_32_bit_code_cannot_reach_is_not_cut_to_another() {
        assert!(started(u32::MAX.into()).is_some());
        assert!(started(1 << 32).is_none());
    }

    #[test]
    fn virtual_cpus_are_numbered_in_the_order_of_their_affinities() {
        assert_eq!(
            [0, 1, 15, 0x100, 0x101, 0x30f].map(index),
            [0, 1, 15, 16, 17, 63]
        );
    }
}
