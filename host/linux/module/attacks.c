// SPDX-License-Identifier: GPL-2.0
// Copyright The Portcullis authors
/*
 * /dev/portcullis-attacks, for tests only: does from the kernel what the TSM must not let it do, and
 * survives the exception. It lets root do anything to this machine: never load it elsewhere.
 */

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <asm/asm.h>
#include <asm/msr.h>

#include "portcullis_attacks.h"

/* Executes one instruction; evaluates to whether it faulted. */
#define faults(instruction, ...)					\
({									\
	int faulted = 1;						\
									\
	asm volatile("1: " instruction "\n\t"				\
		     "xorl %k[faulted], %k[faulted]\n"			\
		     "2:\n"						\
		     _ASM_EXTABLE(1b, 2b)				\
		     : [faulted] "+S" (faulted) : __VA_ARGS__ : "memory");	\
	faulted;							\
})

/* Each takes RAX as the physical address of a control block, or of what is like it. */
static long execute(struct portcullis_attempt *attempt)
{
	unsigned long page = get_zeroed_page(GFP_KERNEL);
	unsigned long rax = page ? virt_to_phys((void *)page) : 0;

	if (!page)
		return -ENOMEM;
	switch (attempt->place) {
	case PORTCULLIS_VMRUN:
		attempt->faulted = faults("vmrun %%rax", "a" (rax));
		break;
	case PORTCULLIS_VMLOAD:
		attempt->faulted = faults("vmload %%rax", "a" (rax));
		break;
	case PORTCULLIS_VMSAVE:
		attempt->faulted = faults("vmsave %%rax", "a" (rax));
		break;
	case PORTCULLIS_STGI:
		attempt->faulted = faults("stgi", "a" (rax));
		break;
	case PORTCULLIS_CLGI:
		attempt->faulted = faults("clgi", "a" (rax));
		break;
	case PORTCULLIS_SKINIT:
		attempt->faulted = faults("skinit %%eax", "a" (rax));
		break;
	case PORTCULLIS_INVLPGA:
		attempt->faulted = faults("invlpga %%rax, %%ecx", "a" (rax), "c" (0));
		break;
	default:
		free_page(page);
		return -EINVAL;
	}
	free_page(page);
	return 0;
}

static long touch(struct portcullis_attempt *attempt, bool write)
{
	void __iomem *word;
	u32 value = attempt->value;

	if (attempt->place % sizeof(value))
		return -EINVAL;
	word = ioremap(attempt->place, sizeof(value));
	if (!word)
		return -ENOMEM;
	/* By MOV, as a driver would. */
	if (write) {
		attempt->faulted = faults("movl %%eax, (%%rdi)", "a" (value), "D" (word));
	} else {
		asm volatile("1: movl (%[word]), %[value]\n\t"
			     "movl $0, %[faulted]\n"
			     "2:\n"
			     _ASM_EXTABLE(1b, 2b)
			     : [value] "+a" (value), [faulted] "+m" (attempt->faulted)
			     : [word] "D" (word) : "memory");
		attempt->value = value;
	}
	iounmap(word);
	return 0;
}

static long try(struct portcullis_attempt *attempt)
{
	attempt->faulted = 1;
	switch (attempt->kind) {
	case PORTCULLIS_READ_MSR:
		attempt->faulted = rdmsrq_safe(attempt->place, &attempt->value) != 0;
		return 0;
	case PORTCULLIS_WRITE_MSR:
		attempt->faulted = wrmsrq_safe(attempt->place, attempt->value) != 0;
		return 0;
	case PORTCULLIS_READ_MEMORY:
		return touch(attempt, false);
	case PORTCULLIS_WRITE_MEMORY:
		return touch(attempt, true);
	case PORTCULLIS_EXECUTE:
		return execute(attempt);
	default:
		return -EINVAL;
	}
}

static long attacks_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct portcullis_attempt __user *user = (void __user *)argument;
	struct portcullis_attempt attempt;
	long result;

	if (command != PORTCULLIS_TRY)
		return -ENOTTY;
	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	if (copy_from_user(&attempt, user, sizeof(attempt)))
		return -EFAULT;
	result = try(&attempt);
	if (result)
		return result;
	return copy_to_user(user, &attempt, sizeof(attempt)) ? -EFAULT : 0;
}

static const struct file_operations attacks_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = attacks_ioctl,
};

static struct miscdevice attacks_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "portcullis-attacks",
	.fops = &attacks_operations,
	.mode = 0600,
};
module_misc_device(attacks_device);

MODULE_DESCRIPTION("Attacks on the Portcullis TSM from the kernel, for tests");
MODULE_AUTHOR("The Portcullis authors");
MODULE_LICENSE("GPL");
