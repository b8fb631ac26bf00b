/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Copyright The Portcullis authors */
#ifndef _UAPI_PORTCULLIS_H
#define _UAPI_PORTCULLIS_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Registers of a call, in the order of the convention. */
#define PORTCULLIS_REGISTERS	15

/**
 * struct portcullis_call - one call to the TSM
 * @x: registers; in: the function and its arguments; out: the status and the results
 */
struct portcullis_call {
	__u64 x[PORTCULLIS_REGISTERS];
};

/**
 * struct portcullis_memory - memory that an open file holds
 * @size: in: bytes, a power of two from one page to 4 MiB
 * @address: out: physical address, a multiple of @size
 */
struct portcullis_memory {
	__u64 size;
	__u64 address;
};

/* Makes one call. EPERM if the function is not one of the host's. */
#define PORTCULLIS_CALL		_IOWR('P', 0x01, struct portcullis_call)
/* Allocates the memory of this file, once. mmap() maps it, from offset 0. */
#define PORTCULLIS_ALLOCATE	_IOWR('P', 0x02, struct portcullis_memory)

#endif /* _UAPI_PORTCULLIS_H */
