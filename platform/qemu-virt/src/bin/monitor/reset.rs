// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! First instructions of every processor.
//!
//! All start here at once, at EL3, with everything off. Each turns its own MMU on and takes its own
//! block of SRAM: a stack, and above it what the monitor keeps of the processor. The first one makes the
//! rest of memory and boots the machine; the others park.

use core::arch::{asm, global_asm};
use core::mem::{align_of, size_of};

use tsm_monitor::{Cpu, MAX_PROCESSORS};

use crate::translation;

/// Bytes of SRAM for one processor, as the linker script has it. The first page is a guard: it is not
/// mapped, so that a stack that is too deep faults.
pub const BLOCK: usize = 0x1_0000;
/// Where in a block the [`Cpu`] lies; the stack is between the guard and it.
const CPU: usize = BLOCK - 0x1000;
const _: () = assert!(size_of::<Cpu>() <= BLOCK - CPU && CPU.is_multiple_of(align_of::<Cpu>()));

global_asm!(
    r#"
    .section .text.reset, "ax"
    .global monitor_reset
monitor_reset:
    // Affinity levels 2 and 3 are 0 on this machine; level 0 counts to 16.
    mrs     x1, mpidr_el1
    and     x2, x1, #0xff
    ubfx    x3, x1, #8, #8
    add     x20, x2, x3, lsl #4
    cmp     x20, #{processors}
    b.hs    3f

    adrp    x1, monitor_vectors
    add     x1, x1, :lo12:monitor_vectors
    msr     vbar_el3, x1
    ldr     x1, ={mair}
    msr     mair_el3, x1
    ldr     x1, ={tcr}
    msr     tcr_el3, x1
    adrp    x1, translation_root
    add     x1, x1, :lo12:translation_root
    msr     ttbr0_el3, x1
    tlbi    alle3
    dsb     sy
    isb
    ldr     x1, ={sctlr}
    msr     sctlr_el3, x1
    isb

    ldr     x21, =__processors_start
    add     x21, x21, x20, lsl #{shift}
    add     x21, x21, #{cpu}
    msr     tpidr_el3, x21
    mov     sp, x21
    cbnz    x20, 4f

    ldr     x1, =__data_start
    ldr     x2, =__data_end
    ldr     x3, =__data_load
1:  cmp     x1, x2
    b.hs    2f
    ldp     x4, x5, [x3], #16
    stp     x4, x5, [x1], #16
    b       1b
2:  ldr     x2, =__bss_end
    ldr     x1, =__bss_start
5:  cmp     x1, x2
    b.hs    6f
    stp     xzr, xzr, [x1], #16
    b       5b
6:  mov     x0, x21
    bl      monitor_boot

    // A processor that the monitor has no memory for.
3:  wfi
    b       3b

    .global monitor_park
monitor_park:
    mrs     x21, tpidr_el3
    mov     sp, x21
4:  mov     x0, x21
    mrs     x1, mpidr_el1
    and     x2, x1, #0xff
    ubfx    x3, x1, #8, #8
    add     x1, x2, x3, lsl #4
    bl      monitor_parked
    b       3b
"#,
    processors = const MAX_PROCESSORS,
    mair = const translation::MAIR,
    tcr = const translation::TCR,
    sctlr = const translation::SCTLR,
    shift = const BLOCK.trailing_zeros(),
    cpu = const CPU,
);

/// Leaves whatever this processor does, and parks it until it is woken.
pub fn park() -> ! {
    // SAFETY: the code there starts with an empty stack; nothing of this processor is still needed,
    // and no lock is held when the monitor gives a processor up.
    unsafe { asm!("b monitor_park", options(noreturn)) }
}
