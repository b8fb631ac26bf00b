// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

// Entry by the PVH protocol (Xen, docs/misc/pvh.pandoc): 32-bit protected mode, paging off, flat segments,
// EBX = physical address of the start info.

    .section .note.pvh, "a", @note
    .balign 4
    .long   4
    .long   4
    .long   18                      // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz  "Xen"
    .long   tsm_entry

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .global boot_pml4
boot_pml4:
    .skip   4096
boot_pdpt:
    .skip   4096

    .section .rodata.boot, "a"
    .balign 8
    .global boot_descriptors
    .global boot_descriptors_end
boot_descriptors:
    .quad   0
    .quad   0x00af9a000000ffff      // 64-bit code
    .quad   0x00cf92000000ffff      // data
boot_descriptors_end:
boot_descriptors_pointer:
    .word   boot_descriptors_end - boot_descriptors - 1
    .long   boot_descriptors

    .section .text.entry, "ax"
    .code32
    .global tsm_entry
tsm_entry:
    cli
    cld
    movl    $__bss_start, %edi
    movl    $__bss_end, %ecx
    subl    %edi, %ecx
    shrl    $2, %ecx
    xorl    %eax, %eax
    rep stosl

    // The first 4 GiB at their physical addresses, in pages of 1 GiB, until there are better tables.
    movl    $boot_pdpt + 3, boot_pml4
    movl    $0x00000083, boot_pdpt
    movl    $0x40000083, boot_pdpt + 8
    movl    $0x80000083, boot_pdpt + 16
    movl    $0xc0000083, boot_pdpt + 24
    movl    $boot_pml4, %eax
    movl    %eax, %cr3
    movl    $0x20, %eax             // PAE
    movl    %eax, %cr4
    movl    $0xc0000080, %ecx       // EFER: long mode, no execute
    rdmsr
    orl     $0x900, %eax
    wrmsr
    movl    $0x80010033, %eax       // Paging, write protection, protected mode
    movl    %eax, %cr0
    lgdt    boot_descriptors_pointer
    ljmp    $8, $1f

    .code64
1:  movl    $16, %eax
    movl    %eax, %ss
    // The stack by its physical address.
    leaq    __stacks_start + {stack_size}(%rip), %rsp
    movl    %ebx, %edi
    xorl    %ebp, %ebp
    call    tsm_early_map
    testq   %rax, %rax
    jz      2f
    movq    %rax, %cr3
    movabsq ${stack_window} + {stack_size}, %rsp
    call    tsm_cold_main
2:  cli
    hlt
    jmp     2b
