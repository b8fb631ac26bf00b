// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entry from EL3 and exception vectors: the assembly, and the numbers that it shares with Rust.

use core::arch::global_asm;
use core::mem::offset_of;

use super::cpu::Cpu;
use super::exception::Frame;
use super::guest::Context;
use crate::arch::vmsa::{MAIR, TCR};
use crate::layout::{
    ISOLATED_GUARD, ISOLATED_GUARD_SIZE, MAX_CPUS, STACK_SIZE, STACK_STRIDE, STACK_WINDOW,
};

/// SCTLR_EL2: RES1 bits, MMU, caches, stack alignment check, writable implies execute never.
const SCTLR: u64 = 0x30c5_0830 | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

/// Fault status codes that the guarded copy survives: translation faults (4 to 7), external aborts
/// (0x10), also on a walk (0x14 to 0x17), and granule protection faults (0x23 to 0x28).
const RECOVERABLE: u64 = 0xf << 4 | 1 << 0x10 | 0xf << 0x14 | 0x3f << 0x23;

global_asm!(
    include_str!("entry.S"),
    max_cpus = const MAX_CPUS,
    stack_size = const STACK_SIZE,
    stack_stride = const STACK_STRIDE,
    stack_window = const STACK_WINDOW,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
    cpu_size = const size_of::<Cpu>(),
);

global_asm!(
    include_str!("vectors.S"),
    fatal_size = const size_of::<Frame>(),
    stack_bit = const STACK_SIZE.trailing_zeros(),
    recoverable = const RECOVERABLE,
    guard = const ISOLATED_GUARD,
    guard_size = const ISOLATED_GUARD_SIZE,
    emergency_top = const offset_of!(Cpu, emergency) + size_of::<[u64; 256]>(),
    running = const offset_of!(Cpu, running),
    pc = const offset_of!(Context, pc),
);

const _: () = assert!(offset_of!(Context, gprs) == 0 && offset_of!(Cpu, emergency) % 16 == 0);
