// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

// Entry from EL3 (RMM-EL3 interface 2.0). Cold: x0 = CPU index, x1 = interface version, x2 = CPU
// count, x3 = shared page, x4 = token. Warm: x0 = CPU index, x1 = token. The MMU is off, interrupts
// are masked, and the memory of the image is clean to the point of coherency.

    .section .text.entry, "ax"
    .global tsm_entry
tsm_entry:
    b       1f
    // Whoever measures the image finds its size, as it is loaded, eight bytes in.
    .balign 8
    .quad   __load_size
1:  msr     daifset, #0xf
    mov     x19, x0
    mov     x20, x1
    mov     x21, x2
    mov     x22, x3
    cmp     x19, #{max_cpus}
    b.hs    refuse_cpu
    adrp    x9, tsm_translation_root
    add     x9, x9, :lo12:tsm_translation_root
    ldr     x24, [x9]
    cbnz    x24, warm

    adrp    x9, __bss_start
    add     x9, x9, :lo12:__bss_start
    adrp    x10, __bss_end
    add     x10, x10, :lo12:__bss_end
1:  cmp     x9, x10
    b.hs    2f
    stp     xzr, xzr, [x9], #16
    b       1b
2:  // The stack by its physical address, until the MMU is on.
    adrp    x9, __stacks_start
    add     x9, x9, :lo12:__stacks_start
    add     x10, x19, #1
    mov     x11, #{stack_size}
    madd    x9, x10, x11, x9
    sub     sp, x9, #16
    mov     x0, x22
    bl      tsm_early_map
    mov     x24, x0
    cbz     x24, refuse_memory
    bl      mmu_on
    mov     x0, x19
    mov     x1, x20
    mov     x2, x21
    mov     x3, x22
    bl      tsm_cold_main
    b       tsm_serve

warm:
    bl      mmu_on
    mov     x0, x19
    bl      tsm_warm_main
    b       tsm_serve

refuse_cpu:
    mov     x1, #-4
    b       refuse
refuse_memory:
    mov     x1, #-8
refuse:
    movz    x0, #0x01cf
    movk    x0, #0xc400, lsl #16
    smc     #0
    b       refuse

// Turns the MMU on with the tables at x24, and gives CPU x19 its stack and its data.
mmu_on:
    tlbi    alle2
    movz    x9, #{mair}
    msr     mair_el2, x9
    ldr     x9, ={tcr}
    msr     tcr_el2, x9
    msr     ttbr0_el2, x24
    ldr     x9, =tsm_vectors
    msr     vbar_el2, x9
    dsb     ish
    isb
    ldr     x9, ={sctlr}
    msr     sctlr_el2, x9
    isb
    ldr     x9, ={stack_window}
    mov     x10, #{stack_stride}
    madd    x9, x19, x10, x9
    mov     x10, #{stack_size}
    add     x9, x9, x10
    sub     sp, x9, #16
    ldr     x9, =tsm_cpus
    mov     x10, #{cpu_size}
    madd    x9, x19, x10, x9
    msr     tpidr_el2, x9
    mov     x29, xzr
    ret

// Ends the boot of this CPU with status x0, and then handles what EL3 brings, for ever.
    .global tsm_serve
tsm_serve:
    sub     sp, sp, #80
    mov     x1, x0
    movz    x0, #0x01cf
    movk    x0, #0xc400, lsl #16
    mov     x2, #0
1:  smc     #0
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    mov     x0, sp
    bl      tsm_handle_call
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldr     x8, [sp, #64]
    b       1b

    .ltorg
