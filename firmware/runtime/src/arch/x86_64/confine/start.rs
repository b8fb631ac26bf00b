// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! States in which a virtual CPU of the host starts.

use crate::arch::vmcb::control_register::{CR0_ET, CR0_NE, CR0_PE, CR0_PG, CR0_WP, CR4_PAE};
use crate::arch::vmcb::{Control, Intercept1, Intercept2, NP_ENABLE, Save, Segment, Vmcb, efer};

/// The page attribute table after a reset.
const PAT: u64 = 0x0007_0406_0007_0406;
/// DR6 and DR7 after a reset.
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;
/// Bit of RFLAGS that is always set.
const RFLAGS: u64 = 2;

/// Attributes of a writable data segment, a readable code segment, a local descriptor table and a
/// busy task state segment.
const DATA: u16 = 0x093;
const CODE: u16 = 0x09b;
const LOCAL: u16 = 0x082;
const TASK: u16 = 0x08b;
/// Granularity of pages, and operands of 32 or code of 64 bits.
const FLAT_32: u16 = 0xc00;
const FLAT_64: u16 = 0xa00;

/// Selectors that the 64-bit boot protocol of Linux wants (Documentation/arch/x86/boot.rst).
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the flat data segment.
pub const DATA_SELECTOR: u16 = 0x18;

/// Physical addresses that confine the host.
#[derive(Clone, Copy, Debug)]
pub struct Confinement {
    /// The I/O permission map.
    pub ports: u64,
    /// The MSR permission map.
    pub registers: u64,
    /// Root of the nested page table.
    pub root: u64,
}

/// Where the first CPU of the host starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First instruction.
    pub rip: u64,
    /// Address of the boot parameters.
    pub rsi: u64,
    /// Root of identity page tables.
    pub cr3: u64,
    /// Address of the descriptor table.
    pub gdt: u64,
    /// Its last byte.
    pub gdt_limit: u32,
}

/// Sets what leaves the guest. Interrupts do not: they are the host's.
///
/// INIT is not among what leaves: on some machines an intercept does not take it off the list of
/// what the processor has to do. None is ever sent.
pub fn confine(control: &mut Control, by: &Confinement) {
    let first = Intercept1::NMI
        | Intercept1::SMI
        | Intercept1::CPUID
        | Intercept1::INVD
        | Intercept1::INVLPGA
        | Intercept1::IOIO
        | Intercept1::MSR
        | Intercept1::SHUTDOWN;
    let second = Intercept2::VMRUN
        | Intercept2::VMMCALL
        | Intercept2::VMLOAD
        | Intercept2::VMSAVE
        | Intercept2::STGI
        | Intercept2::CLGI
        | Intercept2::SKINIT;
    control.intercept_1 = first.bits();
    control.intercept_2 = second.bits();
    control.iopm = by.ports;
    control.msrpm = by.registers;
    control.n_cr3 = by.root;
    control.nested_ctl = NP_ENABLE;
    control.asid = 1;
}

/// Forgets what was left of an earlier run.
fn reset(vmcb: &mut Vmcb) {
    vmcb.control.event_inj = 0;
    vmcb.control.exit_int_info = 0;
    vmcb.control.int_shadow = 0;
    let save = &mut vmcb.save;
    *save = Save::ZERO;
    save.gdtr = Segment::real(0, 0);
    save.idtr = Segment::real(0, 0);
    save.ldtr = Segment::real(0, LOCAL);
    save.tr = Segment::real(0, TASK);
    save.dr6 = DR6;
    save.dr7 = DR7;
    save.rflags = RFLAGS;
    save.g_pat = PAT;
}

/// Starts 64-bit code with flat segments and identity page tables.
pub fn first(vmcb: &mut Vmcb, entry: &Entry) {
    reset(vmcb);
    let save = &mut vmcb.save;
    let data = Segment::flat(DATA_SELECTOR, FLAT_32 | DATA);
    for segment in [
        &mut save.es,
        &mut save.ss,
        &mut save.ds,
        &mut save.fs,
        &mut save.gs,
    ] {
        *segment = data;
    }
    save.cs = Segment::flat(CODE_SELECTOR, FLAT_64 | CODE);
    save.gdtr = Segment {
        limit: entry.gdt_limit,
        base: entry.gdt,
        ..Segment::default()
    };
    save.efer = efer::SVME | efer::LME | efer::LMA | efer::NXE;
    save.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    save.cr3 = entry.cr3;
    save.cr4 = CR4_PAE;
    save.rip = entry.rip;
}

/// Starts real mode code at page `vector`, as after a SIPI (AMD64 APM volume 2, 14.7 and 14.9).
pub fn other(vmcb: &mut Vmcb, vector: u8) {
    reset(vmcb);
    let save = &mut vmcb.save;
    let data = Segment::real(0, DATA);
    for segment in [
        &mut save.es,
        &mut save.ss,
        &mut save.ds,
        &mut save.fs,
        &mut save.gs,
    ] {
        *segment = data;
    }
    save.cs = Segment::real(u16::from(vector) << 8, CODE);
    save.cr0 = CR0_ET;
    save.efer = efer::SVME;
}

/// Bytes of the descriptor table.
pub const GDT_BYTES: usize = 32;

/// Returns the descriptor table for [`first`].
pub const fn gdt() -> [u64; GDT_BYTES / 8] {
    let code = (FLAT_64 as u64) << 44 | 0xf << 48 | (CODE as u64) << 40 | 0xffff;
    let data = (FLAT_32 as u64) << 44 | 0xf << 48 | (DATA as u64) << 40 | 0xffff;
    [0, 0, code, data]
}

#[cfg(test)]
mod tests {
    use super::{CODE_SELECTOR, Confinement, Entry, confine, first, gdt, other};
    use crate::arch::vmcb::{Segment, Vmcb};

    #[test]
    fn the_first_processor_starts_as_the_boot_protocol_says() {
        let mut vmcb = Vmcb::ZERO;
        let entry = Entry {
            rip: 0x100_0200,
            rsi: 0x1_0000,
            cr3: 0x1_2000,
            gdt: 0x1_1000,
            gdt_limit: 31,
        };
        first(&mut vmcb, &entry);
        let save = &vmcb.save;
        assert_eq!(save.cs, Segment::flat(CODE_SELECTOR, 0xa9b));
        assert_eq!(save.ds, Segment::flat(0x18, 0xc93));
        assert_eq!((save.efer, save.cr0, save.cr4), (0x1d00, 0x8001_0031, 0x20));
        assert_eq!(
            (save.rip, save.cr3, save.gdtr.base),
            (0x100_0200, 0x1_2000, 0x1_1000)
        );
        assert_eq!(save.rflags & 1 << 9, 0, "interrupts are off");
        assert!(vmcb.is_64_bit());
    }

    #[test]
    fn the_descriptor_table_holds_the_segments_of_the_start() {
        assert_eq!(gdt(), [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
    }

    #[test]
    fn another_processor_starts_in_real_mode_and_remembers_nothing() {
        let mut vmcb = Vmcb::ZERO;
        vmcb.control.event_inj = 1 << 31;
        vmcb.save.cr3 = 5;
        other(&mut vmcb, 0x99);
        let save = &vmcb.save;
        assert_eq!((save.cs.selector, save.cs.base), (0x9900, 0x9_9000));
        assert_eq!((save.cs.limit, save.cs.attributes), (0xffff, 0x9b));
        assert_eq!(
            (save.rip, save.cr0, save.cr3, save.efer),
            (0, 0x10, 0, 0x1000)
        );
        assert_eq!(vmcb.control.event_inj, 0);
    }

    #[test]
    fn the_hosts_interrupts_stay_its_own_and_svm_does_not() {
        let mut vmcb = Vmcb::ZERO;
        let by = Confinement {
            ports: 0x1000,
            registers: 0x4000,
            root: 0x6000,
        };
        confine(&mut vmcb.control, &by);
        assert_eq!(vmcb.control.intercept_1, 0x9c44_0006);
        assert_eq!(vmcb.control.intercept_2, 0x7f);
        assert_eq!((vmcb.control.nested_ctl, vmcb.control.int_ctl), (1, 0));
        assert_eq!(
            (vmcb.control.iopm, vmcb.control.msrpm, vmcb.control.n_cr3),
            (0x1000, 0x4000, 0x6000)
        );
    }
}
