// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

// Where the other CPUs start: in real mode, at a page of low memory to which this is copied.

    .section .rodata.start, "a"
    .global start_code
    .code16
start_code:
    cli
    cld
    movw    %cs, %ax
    movw    %ax, %ds
    lgdtl   boot_descriptors_pointer_copy - start_code
    movl    $0x20, %eax             // PAE
    movl    %eax, %cr4
    movl    $boot_pml4, %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx       // EFER: long mode, no execute
    rdmsr
    orl     $0x900, %eax
    wrmsr
    movl    $0x80010033, %eax       // Paging, write protection, protected mode
    movl    %eax, %cr0
    ljmpl   $8, $start_long
boot_descriptors_pointer_copy:
    .word   boot_descriptors_end - boot_descriptors - 1
    .long   boot_descriptors
    // The rest of the page. The assembler refuses code that is longer.
    .org    start_code + 4096

    .section .text.entry, "ax"
    .code64
start_long:
    movl    $16, %eax
    movl    %eax, %ss
    movq    tsm_start_index(%rip), %rdi
    movabsq ${stack_window} + {stack_size}, %rsp
    imulq   ${stack_stride}, %rdi, %rax
    addq    %rax, %rsp
    movq    tsm_start_root(%rip), %rax
    movq    %rax, %cr3
    xorl    %ebp, %ebp
    call    tsm_warm_main
