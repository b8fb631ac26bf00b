// SPDX-License-Identifier: GPL-2.0
// Copyright The Portcullis authors
/* Calls by SMC, as SMCCC 1.2 and RMI have it. */

#include <linux/arm-smccc.h>
#include <linux/build_bug.h>
#include <linux/string.h>

#include "call.h"
#include "portcullis.h"
#include "portcullis_abi.h"

#define MAJOR(version)	((version) >> 16)
#define VERSION		(2UL << 16)

bool portcullis_is_there(void)
{
	u64 x[PORTCULLIS_REGISTERS] = { RMI_VERSION, VERSION };

	/* The conduit of PSCI tells whether EL3 takes calls at all. */
	if (arm_smccc_1_1_get_conduit() != SMCCC_CONDUIT_SMC)
		return false;
	portcullis_call(x);
	return x[0] == RMI_STATUS_SUCCESS && MAJOR(x[1]) == MAJOR(VERSION);
}

void portcullis_call(u64 *x)
{
	struct arm_smccc_1_2_regs registers = { 0 };

	static_assert(sizeof(registers) >= PORTCULLIS_REGISTERS * sizeof(u64));
	memcpy(&registers, x, PORTCULLIS_REGISTERS * sizeof(u64));
	arm_smccc_1_2_smc(&registers, &registers);
	memcpy(x, &registers, PORTCULLIS_REGISTERS * sizeof(u64));
}
