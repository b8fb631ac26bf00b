// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the monitor keeps of a processor: one context for each world.

use crate::access::Mediation;

/// Calls the macro named first with the EL2 registers that a world switch moves, two by two, in the
/// order of [`El2`]: name of the field, name for the assembler.
///
/// HCR_EL2 leads: it says how others are read. Registers newer than Armv8.0 go by number, so that no
/// assembler feature is needed. Left out: timers and interrupt controller registers, which the
/// RMM-EL3 contract leaves to R-EL2; and ACTLR, AFSR, AMAIR and HACR, which are implementation
/// defined and RES0 on the processors this runs on.
macro_rules! el2_registers {
    ($with:ident) => {
        $with! {
            (hcr, "hcr_el2", sctlr, "sctlr_el2")
            (vbar, "vbar_el2", ttbr0, "ttbr0_el2")
            (tcr, "tcr_el2", mair, "mair_el2")
            (vttbr, "vttbr_el2", vtcr, "vtcr_el2")
            (sp, "sp_el2", sp_el0, "sp_el0")
            (esr, "esr_el2", elr, "elr_el2")
            (spsr, "spsr_el2", cptr, "cptr_el2")
            (mdcr, "mdcr_el2", tpidr, "tpidr_el2")
            (far, "far_el2", hpfar, "hpfar_el2")
            (cnthctl, "cnthctl_el2", hstr, "hstr_el2")
            (vpidr, "vpidr_el2", vmpidr, "vmpidr_el2")
            // FEAT_VHE: TTBR1_EL2, CONTEXTIDR_EL2.
            (ttbr1, "s3_4_c2_c0_1", contextidr, "s3_4_c13_c0_1")
            // FEAT_HCX: HCRX_EL2.
            (cntvoff, "cntvoff_el2", hcrx, "s3_4_c1_c2_2")
            // FEAT_FGT: HFGRTR_EL2, HFGWTR_EL2, HFGITR_EL2, HDFGRTR_EL2, HDFGWTR_EL2.
            (hfgrtr, "s3_4_c1_c1_4", hfgwtr, "s3_4_c1_c1_5")
            (hfgitr, "s3_4_c1_c1_6", hdfgrtr, "s3_4_c3_c1_4")
            // FEAT_RAS: VSESR_EL2, VDISR_EL2.
            (hdfgwtr, "s3_4_c3_c1_5", vsesr, "s3_4_c5_c2_3")
            (vdisr, "s3_4_c12_c1_1", scxtnum, "s3_4_c13_c0_7")
            // FEAT_PAuth: keys IA, IB, DA, DB, GA; the contract names them though they are EL1's.
            (apia_low, "s3_0_c2_c1_0", apia_high, "s3_0_c2_c1_1")
            (apib_low, "s3_0_c2_c1_2", apib_high, "s3_0_c2_c1_3")
            (apda_low, "s3_0_c2_c2_0", apda_high, "s3_0_c2_c2_1")
            (apdb_low, "s3_0_c2_c2_2", apdb_high, "s3_0_c2_c2_3")
            (apga_low, "s3_0_c2_c3_0", apga_high, "s3_0_c2_c3_1")
        }
    };
}

/// Calls the macro named first with the registers of two common extensions, FEAT_NV2 and
/// FEAT_ECV_POFF: bit of [`Cpu::extensions`] that says that both are there, then as above.
macro_rules! common_registers {
    ($with:ident) => {
        $with! {
            // VNCR_EL2, CNTPOFF_EL2.
            (0, vncr, "s3_4_c2_c2_0", cntpoff, "s3_4_c14_c0_6")
        }
    };
}

/// Calls the macro named first with the registers of extensions that are rare, which the switch passes
/// all at once if none is there: bit of [`Cpu::extensions`], name of the field, name for the assembler.
macro_rules! rare_registers {
    ($with:ident) => {
        $with! {
            // One of the common two without the other.
            (1, vncr_alone, "s3_4_c2_c2_0")
            (14, cntpoff_alone, "s3_4_c14_c0_6")
            // FEAT_TRF: TRFCR_EL2. FEAT_MPAM: MPAM2_EL2. FEAT_MTE2: TFSR_EL2.
            (2, trfcr, "s3_4_c1_c2_1")
            (3, mpam2, "s3_4_c10_c5_0")
            (4, tfsr, "s3_4_c5_c6_0")
            // FEAT_TCR2: TCR2_EL2. FEAT_SCTLR2: SCTLR2_EL2.
            (5, tcr2, "s3_4_c2_c0_3")
            (6, sctlr2, "s3_4_c1_c0_3")
            // FEAT_S1PIE: PIRE0_EL2, PIR_EL2. FEAT_S2PIE: S2PIR_EL2. FEAT_S1POE: POR_EL2.
            (7, pire0, "s3_4_c10_c2_2")
            (7, pir, "s3_4_c10_c2_3")
            (8, s2pir, "s3_4_c10_c2_5")
            (9, por, "s3_4_c10_c2_4")
            // FEAT_GCS: GCSCR_EL2, GCSPR_EL2.
            (10, gcscr, "s3_4_c2_c5_0")
            (10, gcspr, "s3_4_c2_c5_1")
            // FEAT_AIE: MAIR2_EL2, AMAIR2_EL2. FEAT_AMUv1: HAFGRTR_EL2.
            (11, mair2, "s3_4_c10_c1_1")
            (11, amair2, "s3_4_c10_c3_1")
            (12, hafgrtr, "s3_4_c3_c1_6")
            // FEAT_FGT2: HFGRTR2_EL2, HFGWTR2_EL2, HFGITR2_EL2, HDFGRTR2_EL2, HDFGWTR2_EL2.
            (13, hfgrtr2, "s3_4_c3_c1_2")
            (13, hfgwtr2, "s3_4_c3_c1_3")
            (13, hfgitr2, "s3_4_c3_c1_7")
            (13, hdfgrtr2, "s3_4_c3_c1_0")
            (13, hdfgwtr2, "s3_4_c3_c1_1")
        }
    };
}

macro_rules! el2_struct {
    ($(($a:ident, $a_name:literal, $b:ident, $b_name:literal))*) => {
        /// EL2 registers of a world that is not running.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct El2 { $(pub $a: u64, pub $b: u64,)* }
    };
}
macro_rules! common_struct {
    (($bit:literal, $a:ident, $a_name:literal, $b:ident, $b_name:literal)) => {
        /// EL2 registers of common extensions, of a world that is not running.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct Common {
            pub $a: u64,
            pub $b: u64,
        }
    };
}
macro_rules! rare_struct {
    ($(($bit:literal, $field:ident, $name:literal))*) => {
        /// EL2 registers of rare extensions, of a world that is not running.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct Rare { $(pub $field: u64,)* }
    };
}
el2_registers!(el2_struct);
common_registers!(common_struct);
rare_registers!(rare_struct);

/// Bits of [`Cpu::extensions`] below the rare ones.
#[cfg(target_arch = "aarch64")]
pub(crate) const COMMON_BITS: u32 = 1;

#[cfg(target_arch = "aarch64")]
pub(crate) use {common_registers, el2_registers, rare_registers};

/// A world that the monitor switches between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum World {
    /// The host.
    NonSecure = 0,
    /// The TSM and its guests.
    Realm = 1,
}

/// One world on one processor. The assembly knows this layout.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Context {
    /// General-purpose registers.
    pub x: [u64; 31],
    /// Address at which the world goes on.
    pub elr: u64,
    /// Processor state with which the world goes on.
    pub spsr: u64,
    /// `SCR_EL3` of the world.
    pub scr: u64,
    /// The other registers of EL2, valid while the world is not running.
    pub el2: El2,
    /// The same, of common extensions.
    pub common: Common,
    /// The same, of rare extensions.
    pub rare: Rare,
}

/// What the host waits for while R-EL2 runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing, and R-EL2 is not running.
    Idle,
    /// Nothing: R-EL2 boots on this processor.
    Boot,
    /// The result of an RMI call.
    Call,
    /// The configuration access in [`Cpu::access`].
    Access,
}

/// Everything that the monitor keeps of one processor. The assembly knows where the contexts are.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct Cpu {
    /// The host on this processor.
    pub host: Context,
    /// R-EL2 on this processor.
    pub realm: Context,
    /// Which optional registers exist: see [`Common`] and [`Rare`].
    pub extensions: u64,
    /// The world that was left for the monitor.
    pub current: World,
    /// Number of this processor.
    pub index: usize,
    /// What the host waits for.
    pub pending: Pending,
    /// A configuration access, while the host waits for one.
    pub access: Option<Mediation>,
    /// What R-EL2 wants to be told when this processor starts again.
    pub activation_token: u64,
}

impl Cpu {
    /// Makes the state of processor `index`, which has not started.
    #[must_use]
    pub fn new(index: usize) -> Self {
        Self {
            host: Context::default(),
            realm: Context::default(),
            extensions: 0,
            current: World::NonSecure,
            index,
            pending: Pending::Idle,
            access: None,
            activation_token: 0,
        }
    }

    /// Makes `world` the one to go on with, and returns its context.
    pub fn resume(&mut self, world: World) -> &mut Context {
        self.current = world;
        self.context()
    }

    /// Returns the context of the world that was left for the monitor.
    pub fn context(&mut self) -> &mut Context {
        match self.current {
            World::NonSecure => &mut self.host,
            World::Realm => &mut self.realm,
        }
    }
}
