// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A processor at EL3.

use core::arch::asm;

use super::registers::{dsb, isb, wait_for_interrupt};
use super::vectors::guarded_read;
use crate::abort::{self, Delivery, Level, State};
use crate::context::{El2, World};
use crate::gpt::GPCCR;
use crate::machine::{FaultAddress, Processor};
use crate::{read_register, write_register};

/// `SCR_EL3` of both worlds. Everything that the host could want is given to it, so that it never
/// traps: HCE, RW, APK, API, EEL2, EnSCXT, ATA, FGTEn, ECVEn, HXEn, GCSEn, EnTP2, TCR2En, SCTLR2En,
/// PIEn, EnFPM. Bits of absent extensions are ignored. Interrupts and external aborts are not
/// routed to EL3.
const SCR: u64 = bits(&[
    0, 4, 5, 8, 10, 16, 17, 18, 25, 26, 27, 28, 38, 39, 41, 43, 44, 45, 50,
]);
/// NSE: with NS, the Realm world.
const SCR_NSE: u64 = 1 << 62;
/// GPF: granule protection faults go to EL3. Not for R-EL2, which recovers from its own.
const SCR_GPF: u64 = 1 << 48;
/// SCTLR_EL2 with everything off and its RES1 bits.
const SCTLR_EL2_OFF: u64 = 0x30c5_0830;
const HCR_RW: u64 = 1 << 31;
const HCR_TGE: u64 = 1 << 27;
/// CPTR_EL2 (E2H = 0) without traps: RES1 but TZ, TFP and TSM.
const CPTR_EL2_OPEN: u64 = 0x33ff & !bits(&[8, 10, 12]);
/// EL1 may use the physical counter and timer.
const CNTHCTL_OPEN: u64 = 3;
/// Draws from the random number generator before it counts as broken.
const RANDOM_ATTEMPTS: usize = 16;

const fn bits(numbers: &[u32]) -> u64 {
    let mut value = 0;
    let mut index = 0;
    while index < numbers.len() {
        value |= 1 << numbers[index];
        index += 1;
    }
    value
}

/// Returns a 4-bit field of an identification register.
const fn field(register: u64, low: u32) -> u64 {
    register.wrapping_shr(low) & 0xf
}

/// The processor that runs this code.
pub struct El3 {
    /// Where the monitor sees the host's memory: the address of physical address 0.
    pub host_window: u64,
    /// Width of the physical addresses that can be seen there, in bits.
    pub host_bits: u32,
}

/// Extensions of the processor that matter to a world switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions(u64);

impl Extensions {
    /// Reads what this processor has; none if it lacks something that every processor with RME has.
    #[must_use]
    pub fn read() -> Option<Self> {
        let pfr0 = read_register!("id_aa64pfr0_el1");
        let pfr1 = read_register!("id_aa64pfr1_el1");
        let mmfr0 = read_register!("id_aa64mmfr0_el1");
        let mmfr1 = read_register!("id_aa64mmfr1_el1");
        let mmfr2 = read_register!("id_aa64mmfr2_el1");
        // ID_AA64MMFR3_EL1.
        let mmfr3 = read_register!("s3_0_c0_c7_3");
        let dfr0 = read_register!("id_aa64dfr0_el1");
        // RME, RAS, CSV2_2 (SCXTNUM), VHE, HCX, FGT: their registers are switched unconditionally.
        let base = [
            (pfr0, 52, 1),
            (pfr0, 28, 1),
            (pfr0, 56, 2),
            (mmfr1, 8, 1),
            (mmfr1, 40, 1),
            (mmfr0, 56, 1),
        ];
        if base
            .iter()
            .any(|(register, low, least)| field(*register, *low) < *least)
        {
            return None;
        }
        let has = |(register, low, least): &(u64, u32, u64)| field(*register, *low) >= *least;
        let (nested, offset) = (has(&(mmfr2, 24, 2)), has(&(mmfr0, 60, 2)));
        let optional = [
            (2, dfr0, 40, 1),
            (3, pfr0, 40, 1),
            (4, pfr1, 8, 2),
            (5, mmfr3, 0, 1),
            (6, mmfr3, 4, 1),
            (7, mmfr3, 8, 1),
            (8, mmfr3, 12, 1),
            (9, mmfr3, 16, 1),
            (10, pfr1, 44, 1),
            (11, mmfr3, 24, 1),
            (12, pfr0, 44, 1),
            (13, mmfr0, 56, 2),
        ];
        let common = [
            (0, nested && offset),
            (1, nested && !offset),
            (14, offset && !nested),
        ];
        let rare = optional
            .iter()
            .map(|(bit, register, low, least)| (*bit, has(&(*register, *low, *least))));
        let present = common.into_iter().chain(rare);
        Some(Self(present.fold(0, |word, (bit, present)| {
            word | u64::from(present).wrapping_shl(bit)
        })))
    }

    /// Returns the value for [`crate::Cpu::extensions`].
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }
}

impl El3 {
    /// Prepares this processor for lower exception levels: no traps to EL3, granule protection by the
    /// tables at `gpt_base` (as in GPTBR_EL3).
    pub fn prepare(&self, gpt_base: u64) {
        let pfr0 = read_register!("id_aa64pfr0_el1");
        let pfr1 = read_register!("id_aa64pfr1_el1");
        let (sve, sme) = (field(pfr0, 32) != 0, field(pfr1, 24) != 0);
        // CPTR_EL3: EZ, ESM.
        write_register!("cptr_el3", u64::from(sve) << 8 | u64::from(sme) << 12);
        write_register!("mdcr_el3", 0);
        isb();
        if sve {
            // ZCR_EL3: all lengths.
            write_register!("s3_6_c1_c2_0", 0xf);
        }
        if sme {
            // SMCR_EL3: all lengths, FA64, EZT0.
            write_register!("s3_6_c1_c2_6", 0xf | 1 << 31 | 1 << 30);
        }
        if field(pfr0, 40) != 0 {
            // MPAM3_EL3: MPAMEN, and TRAPLOWER off.
            write_register!("s3_6_c10_c5_0", 1 << 63);
        }
        write_register!("scr_el3", self.security_configuration(World::NonSecure));
        // GPTBR_EL3, then GPCCR_EL3: from here on granules are checked.
        write_register!("s3_6_c2_c1_4", gpt_base);
        isb();
        write_register!("s3_6_c2_c1_6", GPCCR);
        isb();
        self.granules_changed();
    }

    /// Opens the interrupt controller's system registers, here and to lower exception levels.
    pub fn prepare_interrupts(&self) {
        // ICC_SRE_EL3, ICC_SRE_EL2.
        write_register!("s3_6_c12_c12_5", 0xf);
        isb();
        write_register!("s3_4_c12_c9_5", 0xf);
        // ICC_PMR_EL1.
        write_register!("s3_0_c4_c6_0", 0xff);
        isb();
    }

    /// Lets this processor take the interrupts of group 0 only, for waking it from its park, or those
    /// of group 1 only, for the host.
    pub fn set_parked(&self, parked: bool) {
        // ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL3 (both security states).
        write_register!("s3_0_c12_c12_6", u64::from(parked));
        write_register!("s3_6_c12_c12_7", if parked { 0 } else { 3 });
        isb();
    }

    /// Takes the interrupt that ended a wait, if it was one of group 0.
    pub fn acknowledge_wake(&self) {
        const SPECIAL: u64 = 1020;
        // ICC_IAR0_EL1, ICC_EOIR0_EL1.
        let interrupt = read_register!("s3_0_c12_c8_0");
        if interrupt & 0xff_ffff < SPECIAL {
            write_register!("s3_0_c12_c8_1", interrupt);
            isb();
        }
    }

    /// Sends a software interrupt of group 0 to the processor with affinity `affinity`.
    pub fn send_wake(&self, affinity: u64, interrupt: u64) {
        let [level0, level1, level2, level3] =
            [0, 8, 16, 32].map(|low| affinity.wrapping_shr(low) & 0xff);
        let target =
            1 << (level0 & 0xf) | level1 << 16 | level2 << 32 | level3 << 48 | (level0 >> 4) << 44;
        dsb();
        // ICC_SGI0R_EL1.
        write_register!("s3_0_c12_c11_7", target | interrupt << 24);
        isb();
    }

    /// Translates an address as a lower exception level does; none if that fails.
    fn translate(&self, spsr: u64, address: u64) -> Option<u64> {
        const FAILED: u64 = 1;
        const PAGE: u64 = 0xfff;
        const ADDRESS: u64 = (1 << 52) - 1;
        let host_user = self.hcr() & HCR_TGE != 0;
        // The result register is the host's too.
        let saved = read_register!("par_el1");
        // SAFETY: address translation instructions touch no memory that Rust knows; a failure is a
        // bit of the result.
        unsafe {
            match abort::source_level(spsr) {
                2 => asm!("at s1e2r, {}", in(reg) address, options(nostack, preserves_flags)),
                1 => asm!("at s12e1r, {}", in(reg) address, options(nostack, preserves_flags)),
                _ if host_user => {
                    asm!("at s1e0r, {}", in(reg) address, options(nostack, preserves_flags))
                }
                _ => asm!("at s12e0r, {}", in(reg) address, options(nostack, preserves_flags)),
            }
        }
        isb();
        let result = read_register!("par_el1");
        write_register!("par_el1", saved);
        if result & FAILED != 0 {
            return None;
        }
        Some(result & ADDRESS & !PAGE | address & PAGE)
    }
}

impl Processor for El3 {
    fn initial_el2(&self) -> El2 {
        El2 {
            hcr: HCR_RW,
            sctlr: SCTLR_EL2_OFF,
            cptr: CPTR_EL2_OPEN,
            // HPMN: all performance counters, as after reset.
            mdcr: read_register!("pmcr_el0") >> 11 & 0x1f,
            cnthctl: CNTHCTL_OPEN,
            vpidr: read_register!("midr_el1"),
            vmpidr: read_register!("mpidr_el1"),
            ..El2::default()
        }
    }

    fn security_configuration(&self, world: World) -> u64 {
        match world {
            World::NonSecure => SCR | SCR_GPF,
            World::Realm => SCR | SCR_NSE,
        }
    }

    fn hcr(&self) -> u64 {
        read_register!("hcr_el2")
    }

    fn fault_address(&self) -> FaultAddress {
        // MFAR_EL3.
        FaultAddress {
            virtual_address: read_register!("far_el3"),
            physical: read_register!("s3_6_c6_c0_5"),
        }
    }

    fn instruction(&self, spsr: u64, address: u64) -> Option<u32> {
        let physical = self.translate(spsr, address)?;
        if physical.wrapping_shr(self.host_bits) != 0 || physical & 3 != 0 {
            return None;
        }
        guarded_read(self.host_window.checked_add(physical)?)
    }

    fn exception_state(&self, level: Level, spsr: u64) -> State {
        let pfr1 = read_register!("id_aa64pfr1_el1");
        let (sctlr, vbar) = match level {
            Level::El1 => (read_register!("sctlr_el1"), read_register!("vbar_el1")),
            Level::El2 => (read_register!("sctlr_el2"), read_register!("vbar_el2")),
        };
        State {
            spsr,
            hcr: self.hcr(),
            sctlr,
            vbar,
            tagging: field(pfr1, 8) != 0,
            all_interrupts: field(pfr1, 36) != 0,
        }
    }

    fn set_exception(
        &self,
        level: Level,
        delivery: &Delivery,
        fault: Option<u64>,
        elr: u64,
        spsr: u64,
    ) {
        match level {
            Level::El1 => {
                write_register!("esr_el1", delivery.esr);
                write_register!("elr_el1", elr);
                write_register!("spsr_el1", spsr);
                if let Some(address) = fault {
                    write_register!("far_el1", address);
                }
            }
            Level::El2 => {
                write_register!("esr_el2", delivery.esr);
                write_register!("elr_el2", elr);
                write_register!("spsr_el2", spsr);
                if let Some(address) = fault {
                    write_register!("far_el2", address);
                }
            }
        }
    }

    fn granules_changed(&self) {
        // TLBI PAALLOS: only this form reaches all processors. QEMU has no caches; where there are some,
        // the granules' lines must go to the point of physical aliasing as well (DC CIPAPA).
        // SAFETY: invalidating translations changes no mapping.
        unsafe {
            asm!(
                "dsb sy",
                "sys #6, c8, c1, #4",
                "dsb sy",
                "isb",
                options(nostack, preserves_flags)
            )
        }
    }

    fn random(&self) -> Option<u64> {
        if field(read_register!("id_aa64isar0_el1"), 60) == 0 {
            return None;
        }
        for _ in 0..RANDOM_ATTEMPTS {
            let (value, ok): (u64, u64);
            // RNDRRS, reseeded for each read; the zero flag says that it failed.
            // SAFETY: reads a register and the flags that it sets.
            unsafe {
                asm!("mrs {}, s3_3_c2_c4_1", "cset {}, ne", out(reg) value, out(reg) ok, options(nomem, nostack))
            }
            if ok != 0 {
                return Some(value);
            }
        }
        None
    }

    fn wait(&self) {
        wait_for_interrupt();
    }
}
