/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Copyright The Portcullis authors */
#ifndef _UAPI_PORTCULLIS_ATTACKS_H
#define _UAPI_PORTCULLIS_ATTACKS_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* What to try. */
#define PORTCULLIS_READ_MSR	0
#define PORTCULLIS_WRITE_MSR	1
#define PORTCULLIS_READ_MEMORY	2
#define PORTCULLIS_WRITE_MEMORY	3
#define PORTCULLIS_EXECUTE	4

/* Instructions of PORTCULLIS_EXECUTE. */
#define PORTCULLIS_VMRUN	0
#define PORTCULLIS_VMLOAD	1
#define PORTCULLIS_VMSAVE	2
#define PORTCULLIS_STGI		3
#define PORTCULLIS_CLGI		4
#define PORTCULLIS_SKINIT	5
#define PORTCULLIS_INVLPGA	6

/**
 * struct portcullis_attempt - one thing that the kernel tries
 * @kind: what
 * @faulted: out: whether it ended in an exception
 * @place: number of the register, physical address of the word of four bytes, or the instruction
 * @value: what is written, in; what was read, out
 */
struct portcullis_attempt {
	__u32 kind;
	__u32 faulted;
	__u64 place;
	__u64 value;
};

#define PORTCULLIS_TRY		_IOWR('P', 0x10, struct portcullis_attempt)

#endif /* _UAPI_PORTCULLIS_ATTACKS_H */
