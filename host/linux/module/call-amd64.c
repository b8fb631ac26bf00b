// SPDX-License-Identifier: GPL-2.0
// Copyright The Portcullis authors
/* Calls by VMMCALL. */

#include <asm/cpuid/api.h>

#include "call.h"

/* The leaf that says "Portcullis", beyond the one that Linux looks at. */
#define SIGNATURE_LEAF	0x40000100

bool portcullis_is_there(void)
{
	u32 highest, signature[3];

	/* Without a hypervisor, the leaf says what another one says. */
	cpuid(SIGNATURE_LEAF, &highest, &signature[0], &signature[1], &signature[2]);
	return highest >= SIGNATURE_LEAF && !memcmp(signature, "Portcullis\0", sizeof(signature));
}
