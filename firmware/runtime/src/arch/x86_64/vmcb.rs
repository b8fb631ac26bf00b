// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The virtual machine control block (AMD64 APM volume 2, appendix B). No hardware is touched here.

mod gprs;

use core::mem::offset_of;

use bitflags::bitflags;

pub use gprs::Gprs;

bitflags! {
    /// First word of miscellaneous intercepts, at offset 0x00c.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intercept1: u32 {
        /// Physical interrupt.
        const INTR = 1 << 0;
        /// Non-maskable interrupt.
        const NMI = 1 << 1;
        /// System management interrupt.
        const SMI = 1 << 2;
        /// INIT.
        const INIT = 1 << 3;
        /// Virtual interrupt window.
        const VINTR = 1 << 4;
        /// RDPMC.
        const RDPMC = 1 << 15;
        /// CPUID.
        const CPUID = 1 << 18;
        /// INVD.
        const INVD = 1 << 22;
        /// HLT.
        const HLT = 1 << 24;
        /// INVLPGA.
        const INVLPGA = 1 << 26;
        /// Ports, as the I/O permission map says.
        const IOIO = 1 << 27;
        /// MSRs, as the MSR permission map says.
        const MSR = 1 << 28;
        /// Task switch.
        const TASK_SWITCH = 1 << 29;
        /// Shutdown, after a triple fault.
        const SHUTDOWN = 1 << 31;
    }
}

bitflags! {
    /// Second word of miscellaneous intercepts, at offset 0x010.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intercept2: u32 {
        /// VMRUN. A processor refuses to run a guest without it.
        const VMRUN = 1 << 0;
        /// VMMCALL.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
        /// RDTSCP.
        const RDTSCP = 1 << 7;
        /// ICEBP.
        const ICEBP = 1 << 8;
        /// WBINVD.
        const WBINVD = 1 << 9;
        /// MONITOR.
        const MONITOR = 1 << 10;
        /// MWAIT, with the address armed or not.
        const MWAIT = 0b11 << 11;
        /// XSETBV.
        const XSETBV = 1 << 13;
    }
}

/// Exit codes (APM volume 2, appendix C).
pub mod exit {
    /// First of 32 codes for exceptions, by vector.
    pub const EXCEPTION: u64 = 0x40;
    /// Physical interrupt.
    pub const INTR: u64 = 0x60;
    /// Non-maskable interrupt.
    pub const NMI: u64 = 0x61;
    /// System management interrupt.
    pub const SMI: u64 = 0x62;
    /// INIT.
    pub const INIT: u64 = 0x63;
    /// RDPMC.
    pub const RDPMC: u64 = 0x6f;
    /// CPUID.
    pub const CPUID: u64 = 0x72;
    /// INVD.
    pub const INVD: u64 = 0x76;
    /// HLT.
    pub const HLT: u64 = 0x78;
    /// INVLPGA.
    pub const INVLPGA: u64 = 0x7a;
    /// IN or OUT.
    pub const IOIO: u64 = 0x7b;
    /// RDMSR (information 1 is 0) or WRMSR (1).
    pub const MSR: u64 = 0x7c;
    /// Shutdown.
    pub const SHUTDOWN: u64 = 0x7f;
    /// VMRUN, the first of the instructions that [`super::Intercept2`] lists in this order.
    pub const VMRUN: u64 = 0x80;
    /// VMMCALL.
    pub const VMMCALL: u64 = 0x81;
    /// SKINIT.
    pub const SKINIT: u64 = 0x86;
    /// XSETBV.
    pub const XSETBV: u64 = 0x8d;
    /// A nested page fault.
    pub const NPF: u64 = 0x400;
    /// The processor refused the control block.
    pub const INVALID: u64 = u64::MAX;
}

/// Interrupt control (offset 0x060): RFLAGS.IF of the one who ran the guest masks physical interrupts.
pub const V_INTR_MASKING: u64 = 1 << 24;
/// Interrupt control: the guest's task priority.
pub const V_TPR: u64 = 0xff;
/// `nested_ctl`: nested paging.
pub const NP_ENABLE: u64 = 1;
/// `tlb_ctl`: drop all translations on entry.
pub const FLUSH_ALL: u8 = 1;
/// `int_shadow`: interrupts are held for one instruction.
pub const INTERRUPT_SHADOW: u64 = 1;

/// Values of `event_inj` and `exit_int_info` (APM volume 2, 15.20).
pub mod event {
    /// The field holds an event.
    pub const VALID: u64 = 1 << 31;
    /// The error code in the upper half is pushed.
    pub const HAS_ERROR: u64 = 1 << 11;
    /// Non-maskable interrupt.
    pub const NMI: u64 = VALID | 2 << 8 | 2;
    /// Invalid opcode.
    pub const INVALID_OPCODE: u64 = VALID | 3 << 8 | 6;

    /// Returns general protection with error code 0.
    pub const fn general_protection() -> u64 {
        VALID | HAS_ERROR | 3 << 8 | 13
    }
}

/// A segment register as the control block holds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes: bits 55:52 and 47:40 of the descriptor.
    pub attributes: u16,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

impl Segment {
    /// Returns a flat segment with these attributes.
    pub const fn flat(selector: u16, attributes: u16) -> Self {
        Self {
            selector,
            attributes,
            limit: u32::MAX,
            base: 0,
        }
    }

    /// Returns a segment of real mode.
    pub const fn real(selector: u16, attributes: u16) -> Self {
        Self {
            selector,
            attributes,
            limit: 0xffff,
            base: (selector as u64) << 4,
        }
    }
}

/// The control area: the first 1 KiB.
#[repr(C)]
pub struct Control {
    /// Reads of control registers in the low half, writes in the high half.
    pub intercept_cr: u32,
    /// Reads of debug registers in the low half, writes in the high half.
    pub intercept_dr: u32,
    /// Exceptions, by vector.
    pub intercept_exceptions: u32,
    /// [`Intercept1`].
    pub intercept_1: u32,
    /// [`Intercept2`].
    pub intercept_2: u32,
    /// Further intercepts.
    pub intercept_3: u32,
    _18: [u8; 0x28],
    /// Physical address of the I/O permission map: 12 KiB.
    pub iopm: u64,
    /// Physical address of the MSR permission map: 8 KiB.
    pub msrpm: u64,
    /// Added to what the guest reads of the time stamp counter.
    pub tsc_offset: u64,
    /// Address space id, not 0.
    pub asid: u32,
    /// What of the TLB an entry drops.
    pub tlb_ctl: u8,
    _5d: [u8; 3],
    /// Virtual interrupts.
    pub int_ctl: u64,
    /// Interrupt shadow (bit 0).
    pub int_shadow: u64,
    /// Why the guest left: [`exit`].
    pub exit_code: u64,
    /// First word about it.
    pub exit_info_1: u64,
    /// Second word about it.
    pub exit_info_2: u64,
    /// The event whose delivery the exit interrupted.
    pub exit_int_info: u64,
    /// [`NP_ENABLE`].
    pub nested_ctl: u64,
    _98: [u8; 0x10],
    /// The event that the next entry delivers.
    pub event_inj: u64,
    /// Root of the nested page table.
    pub n_cr3: u64,
    /// Last branch records and virtual VMLOAD.
    pub lbr_ctl: u64,
    /// Clean bits: what the processor may have cached. Zero is always right.
    pub clean: u64,
    /// Address of the next instruction, where the processor saves it.
    pub next_rip: u64,
    _d0: [u8; 0x330],
}

/// The state save area, from offset 0x400 on, as far as it is used.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Save {
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS. VMLOAD and VMSAVE move it.
    pub fs: Segment,
    /// GS. VMLOAD and VMSAVE move it.
    pub gs: Segment,
    /// GDTR.
    pub gdtr: Segment,
    /// LDTR. VMLOAD and VMSAVE move it.
    pub ldtr: Segment,
    /// IDTR.
    pub idtr: Segment,
    /// TR. VMLOAD and VMSAVE move it.
    pub tr: Segment,
    _a0: [u8; 0x2b],
    /// Privilege level.
    pub cpl: u8,
    _cc: [u8; 4],
    /// EFER; SVME must be set.
    pub efer: u64,
    _d8: [u8; 0x70],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    _180: [u8; 0x58],
    /// RSP.
    pub rsp: u64,
    _1e0: [u8; 0x18],
    /// RAX.
    pub rax: u64,
    /// STAR and what follows, to SYSENTER_EIP: VMLOAD and VMSAVE move them.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// Kernel GS base.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// CR2.
    pub cr2: u64,
    _248: [u8; 0x20],
    /// The guest's PAT, with nested paging.
    pub g_pat: u64,
    /// DebugCtl.
    pub dbgctl: u64,
}

/// One virtual CPU for the processor.
///
/// It is all integers: zero bytes are a value.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What the processor does with the guest.
    pub control: Control,
    /// State of the guest that VMRUN, VMLOAD and VMSAVE move.
    pub save: Save,
    _678: [u8; 0x988],
}

const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Control, iopm) == 0x40);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, int_ctl) == 0x60);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, nested_ctl) == 0x90);
    assert!(offset_of!(Control, event_inj) == 0xa8);
    assert!(offset_of!(Control, n_cr3) == 0xb0);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Save, tr) == 0x90);
    assert!(offset_of!(Save, cpl) == 0xcb);
    assert!(offset_of!(Save, efer) == 0xd0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, sysenter_eip) == 0x238);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, g_pat) == 0x268);
};

impl Vmcb {
    /// A control block of zero bytes, which a processor refuses to run.
    pub const ZERO: Self = Self {
        control: Control {
            intercept_cr: 0,
            intercept_dr: 0,
            intercept_exceptions: 0,
            intercept_1: 0,
            intercept_2: 0,
            intercept_3: 0,
            _18: [0; 0x28],
            iopm: 0,
            msrpm: 0,
            tsc_offset: 0,
            asid: 0,
            tlb_ctl: 0,
            _5d: [0; 3],
            int_ctl: 0,
            int_shadow: 0,
            exit_code: 0,
            exit_info_1: 0,
            exit_info_2: 0,
            exit_int_info: 0,
            nested_ctl: 0,
            _98: [0; 0x10],
            event_inj: 0,
            n_cr3: 0,
            lbr_ctl: 0,
            clean: 0,
            next_rip: 0,
            _d0: [0; 0x330],
        },
        save: Save::ZERO,
        _678: [0; 0x988],
    };

    /// Moves past an instruction of `length` bytes. The interrupt shadow ends with it.
    pub const fn skip(&mut self, length: u64) {
        self.save.rip = self.save.rip_after(length);
        self.control.int_shadow &= !INTERRUPT_SHADOW;
    }

    /// Returns whether the guest runs 64-bit code.
    pub const fn is_64_bit(&self) -> bool {
        self.save.is_64_bit()
    }
}

impl Save {
    /// Returns whether the guest runs 64-bit code.
    pub const fn is_64_bit(&self) -> bool {
        /// L bit of a code segment.
        const LONG: u16 = 1 << 9;
        self.efer & efer::LMA != 0 && self.cs.attributes & LONG != 0
    }

    /// Returns the address `length` bytes after the present instruction. Outside 64-bit code it has 32
    /// bits.
    pub const fn rip_after(&self, length: u64) -> u64 {
        let next = self.rip.wrapping_add(length);
        if self.is_64_bit() {
            next
        } else {
            next & 0xffff_ffff
        }
    }

    /// All zero.
    pub const ZERO: Self = {
        const NONE: Segment = Segment {
            selector: 0,
            attributes: 0,
            limit: 0,
            base: 0,
        };
        Self {
            es: NONE,
            cs: NONE,
            ss: NONE,
            ds: NONE,
            fs: NONE,
            gs: NONE,
            gdtr: NONE,
            ldtr: NONE,
            idtr: NONE,
            tr: NONE,
            _a0: [0; 0x2b],
            cpl: 0,
            _cc: [0; 4],
            efer: 0,
            _d8: [0; 0x70],
            cr4: 0,
            cr3: 0,
            cr0: 0,
            dr7: 0,
            dr6: 0,
            rflags: 0,
            rip: 0,
            _180: [0; 0x58],
            rsp: 0,
            _1e0: [0; 0x18],
            rax: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            cr2: 0,
            _248: [0; 0x20],
            g_pat: 0,
            dbgctl: 0,
        }
    };
}

/// Bits of EFER.
pub mod efer {
    /// System calls.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute pages.
    pub const NXE: u64 = 1 << 11;
    /// Secure virtual machines.
    pub const SVME: u64 = 1 << 12;
}

/// Bits of CR0 and CR4 that the TSM looks at.
pub mod control_register {
    /// CR0: protection.
    pub const CR0_PE: u64 = 1 << 0;
    /// CR0: extension type, always set.
    pub const CR0_ET: u64 = 1 << 4;
    /// CR0: native errors of the FPU.
    pub const CR0_NE: u64 = 1 << 5;
    /// CR0: supervisor writes honor read-only pages.
    pub const CR0_WP: u64 = 1 << 16;
    /// CR0: paging.
    pub const CR0_PG: u64 = 1 << 31;
    /// CR4: physical address extension.
    pub const CR4_PAE: u64 = 1 << 5;
    /// CR4: 57-bit linear addresses.
    pub const CR4_LA57: u64 = 1 << 12;
    /// CR4: XSAVE is on.
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    /// CR4: protection keys are on.
    pub const CR4_PKE: u64 = 1 << 22;
}

#[cfg(test)]
mod tests {
    use super::{Segment, Vmcb, efer, event};

    #[test]
    fn an_instruction_pointer_wraps_at_its_width() {
        let mut vmcb = Vmcb::ZERO;
        vmcb.control.int_shadow = 3;
        vmcb.save.rip = 0xffff_fffe;
        vmcb.save.efer = efer::LMA;
        // Compatibility mode.
        vmcb.save.cs = Segment::flat(0x10, 0xc9b);
        vmcb.skip(3);
        assert_eq!((vmcb.save.rip, vmcb.control.int_shadow), (1, 2));
        vmcb.save.rip = 0xffff_fffe;
        vmcb.save.cs = Segment::flat(0x10, 0xa9b);
        vmcb.skip(3);
        assert_eq!(vmcb.save.rip, 0x1_0000_0001);
    }

    #[test]
    fn events_are_encoded_as_the_manual_says() {
        assert_eq!(event::NMI, 0x8000_0202);
        assert_eq!(event::INVALID_OPCODE, 0x8000_0306);
        assert_eq!(event::general_protection(), 0x8000_0b0d);
    }
}
