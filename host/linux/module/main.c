// SPDX-License-Identifier: GPL-2.0
// Copyright The Portcullis authors
/*
 * /dev/portcullis: calls to the TSM that runs below this kernel, for root.
 *
 * The driver knows the convention and which functions are the host's, and nothing of their meaning,
 * but for one: memory that was given to the TSM and not taken back must not be used again.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/log2.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "call.h"
#include "portcullis.h"
#include "portcullis_abi.h"

#define LARGEST_MEMORY	(4UL << 20)

/* Functions of the host: RMI has two ranges, with those of guests and of the firmware between. */
#define RMI_FIRST		0xc4000150ULL
#define RMI_BEFORE_GUESTS	0xc400018eULL
#define RMI_AFTER_GUESTS	0xc40001d0ULL
#define RMI_LAST		0xc40002cfULL

/**
 * struct holder - what an open file holds
 * @lock: of all fields
 * @pages: memory, or NULL
 * @size: of the memory, in bytes
 * @given: pages of it that the TSM has
 */
struct holder {
	struct mutex lock;
	struct page *pages;
	size_t size;
	DECLARE_BITMAP(given, LARGEST_MEMORY / PAGE_SIZE);
};

static bool is_the_hosts(u64 function)
{
	return (function >= RMI_FIRST && function <= RMI_BEFORE_GUESTS) ||
	       (function >= RMI_AFTER_GUESTS && function <= RMI_LAST);
}

/* Remembers which pages a call has moved between the kernel and the TSM. */
static void remember(struct holder *holder, u64 function, u64 start, const u64 *result)
{
	phys_addr_t base = holder->pages ? page_to_phys(holder->pages) : 0;
	unsigned long first, count;

	if (result[0] != RMI_STATUS_SUCCESS || !holder->pages || start < base ||
	    result[1] <= start || result[1] > base + holder->size)
		return;
	first = (start - base) >> PAGE_SHIFT;
	count = (result[1] - start) >> PAGE_SHIFT;
	if (function == RMI_GRANULE_RANGE_DELEGATE)
		bitmap_set(holder->given, first, count);
	else if (function == RMI_GRANULE_RANGE_UNDELEGATE)
		bitmap_clear(holder->given, first, count);
}

static long call(struct holder *holder, struct portcullis_call __user *user)
{
	struct portcullis_call call;
	u64 function, start;

	if (copy_from_user(&call, user, sizeof(call)))
		return -EFAULT;
	function = call.x[0];
	start = call.x[1];
	if (!is_the_hosts(function))
		return -EPERM;
	portcullis_call(call.x);
	remember(holder, function, start, call.x);
	return copy_to_user(user, &call, sizeof(call)) ? -EFAULT : 0;
}

static long allocate(struct holder *holder, struct portcullis_memory __user *user)
{
	struct portcullis_memory memory;

	if (copy_from_user(&memory, user, sizeof(memory)))
		return -EFAULT;
	if (memory.size < PAGE_SIZE || memory.size > LARGEST_MEMORY || !is_power_of_2(memory.size))
		return -EINVAL;
	if (holder->pages)
		return -EBUSY;
	holder->pages = alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_COMP,
				    get_order(memory.size));
	if (!holder->pages)
		return -ENOMEM;
	holder->size = memory.size;
	memory.address = page_to_phys(holder->pages);
	return copy_to_user(user, &memory, sizeof(memory)) ? -EFAULT : 0;
}

static long portcullis_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct holder *holder = file->private_data;
	long result;

	if (mutex_lock_interruptible(&holder->lock))
		return -ERESTARTSYS;
	switch (command) {
	case PORTCULLIS_CALL:
		result = call(holder, (void __user *)argument);
		break;
	case PORTCULLIS_ALLOCATE:
		result = allocate(holder, (void __user *)argument);
		break;
	default:
		result = -ENOTTY;
	}
	mutex_unlock(&holder->lock);
	return result;
}

static int portcullis_mmap(struct file *file, struct vm_area_struct *area)
{
	struct holder *holder = file->private_data;
	size_t size = area->vm_end - area->vm_start;
	int result = -EINVAL;

	mutex_lock(&holder->lock);
	if (holder->pages && !area->vm_pgoff && size <= holder->size)
		result = remap_pfn_range(area, area->vm_start, page_to_pfn(holder->pages), size,
					 area->vm_page_prot);
	mutex_unlock(&holder->lock);
	return result;
}

static int portcullis_open(struct inode *inode, struct file *file)
{
	struct holder *holder;

	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	holder = kzalloc(sizeof(*holder), GFP_KERNEL);
	if (!holder)
		return -ENOMEM;
	mutex_init(&holder->lock);
	file->private_data = holder;
	return 0;
}

static int portcullis_release(struct inode *inode, struct file *file)
{
	struct holder *holder = file->private_data;
	unsigned int given = bitmap_weight(holder->given, LARGEST_MEMORY / PAGE_SIZE);

	if (given)
		pr_warn("%u pages stay with the TSM: all of this memory is lost\n", given);
	else if (holder->pages)
		__free_pages(holder->pages, get_order(holder->size));
	kfree(holder);
	return 0;
}

static const struct file_operations portcullis_operations = {
	.owner = THIS_MODULE,
	.open = portcullis_open,
	.release = portcullis_release,
	.unlocked_ioctl = portcullis_ioctl,
	.mmap = portcullis_mmap,
};

static struct miscdevice portcullis_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "portcullis",
	.fops = &portcullis_operations,
	.mode = 0600,
};

static int __init portcullis_init(void)
{
	if (!portcullis_is_there())
		return -ENODEV;
	return misc_register(&portcullis_device);
}
module_init(portcullis_init);

static void __exit portcullis_exit(void)
{
	misc_deregister(&portcullis_device);
}
module_exit(portcullis_exit);

MODULE_DESCRIPTION("Calls to the Portcullis TSM");
MODULE_AUTHOR("The Portcullis authors");
MODULE_LICENSE("GPL");
