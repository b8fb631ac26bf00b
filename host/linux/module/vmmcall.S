/* SPDX-License-Identifier: GPL-2.0 */
/* Copyright The Portcullis authors */
/*
 * The registers of a call in their order: rax, rdi, rsi, rdx, rcx, r8 to r15, rbx, rbp. All of them
 * come back changed, so that where they are kept waits on the stack.
 */

#include <linux/linkage.h>
#include <asm/asm.h>

SYM_FUNC_START(portcullis_call)
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdi

	mov	%rdi, %rax
	mov	0x08(%rax), %rdi
	mov	0x10(%rax), %rsi
	mov	0x18(%rax), %rdx
	mov	0x20(%rax), %rcx
	mov	0x28(%rax), %r8
	mov	0x30(%rax), %r9
	mov	0x38(%rax), %r10
	mov	0x40(%rax), %r11
	mov	0x48(%rax), %r12
	mov	0x50(%rax), %r13
	mov	0x58(%rax), %r14
	mov	0x60(%rax), %r15
	mov	0x68(%rax), %rbx
	mov	0x70(%rax), %rbp
	mov	0x00(%rax), %rax
	vmmcall

	push	%rax
	mov	0x08(%rsp), %rax
	mov	%rdi, 0x08(%rax)
	mov	%rsi, 0x10(%rax)
	mov	%rdx, 0x18(%rax)
	mov	%rcx, 0x20(%rax)
	mov	%r8, 0x28(%rax)
	mov	%r9, 0x30(%rax)
	mov	%r10, 0x38(%rax)
	mov	%r11, 0x40(%rax)
	mov	%r12, 0x48(%rax)
	mov	%r13, 0x50(%rax)
	mov	%r14, 0x58(%rax)
	mov	%r15, 0x60(%rax)
	mov	%rbx, 0x68(%rax)
	mov	%rbp, 0x70(%rax)
	pop	(%rax)

	pop	%rdi
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	RET
SYM_FUNC_END(portcullis_call)
