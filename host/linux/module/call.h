/* SPDX-License-Identifier: GPL-2.0 */
/* Copyright The Portcullis authors */
#ifndef PORTCULLIS_CALL_H
#define PORTCULLIS_CALL_H

#include <linux/types.h>

/* Returns whether there is something below this kernel that takes calls. */
bool portcullis_is_there(void);

/* Makes one call: PORTCULLIS_REGISTERS registers in and out. */
void portcullis_call(u64 *x);

#endif /* PORTCULLIS_CALL_H */
