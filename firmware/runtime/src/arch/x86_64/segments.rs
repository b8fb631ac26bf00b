// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Segments, the task state with the stacks of exceptions, and the table of exceptions.

use core::mem::offset_of;
use core::ptr;

use ::x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use ::x86_64::instructions::tables::{lgdt, lidt, load_tss};
use ::x86_64::structures::DescriptorTablePointer;
use ::x86_64::structures::gdt::{Descriptor, DescriptorFlags, SegmentSelector};
use ::x86_64::structures::tss::TaskStateSegment;
use ::x86_64::{PrivilegeLevel, VirtAddr};
use spin::Once;

/// Bytes of a stack of exceptions: enough for a report.
const EXCEPTION_STACK: usize = 8192;
/// Stacks of exceptions: page faults, which may be on a stack that is full; what may come at any
/// instruction, double faults and machine checks; NMI.
const STACKS: usize = 3;

/// The table of descriptors: null, code, data and the two halves of the task state.
const DESCRIPTORS: usize = 5;
const CODE: SegmentSelector = SegmentSelector::new(1, PrivilegeLevel::Ring0);
const DATA: SegmentSelector = SegmentSelector::new(2, PrivilegeLevel::Ring0);
const TASK: SegmentSelector = SegmentSelector::new(3, PrivilegeLevel::Ring0);
const NONE: SegmentSelector = SegmentSelector::NULL;

#[repr(C, align(16))]
struct Stack([u8; EXCEPTION_STACK]);

/// The segments of one CPU.
#[repr(C)]
pub struct Segments {
    stacks: [Stack; STACKS],
    descriptors: [u64; DESCRIPTORS],
    task: TaskStateSegment,
}

impl Segments {
    /// The state before [`Self::load`].
    pub const NEW: Self = Self {
        stacks: [const { Stack([0; EXCEPTION_STACK]) }; STACKS],
        descriptors: [0; DESCRIPTORS],
        task: TaskStateSegment::new(),
    };

    /// Fills the segments and makes this CPU use them, and the table of exceptions.
    ///
    /// # Safety
    ///
    /// They must stay where they are for ever, and no other CPU may use them.
    pub unsafe fn load(&mut self) {
        let stacks = (&raw const self.stacks).addr();
        let mut top = stacks;
        let mut table = self.task.interrupt_stack_table;
        for entry in &mut table[..STACKS] {
            top = top.wrapping_add(size_of::<Stack>());
            *entry = VirtAddr::new_truncate(top as u64);
        }
        self.task.interrupt_stack_table = table;
        // SAFETY: the caller promises that the task state stays.
        let (low, high) = match unsafe { Descriptor::tss_segment_unchecked(&raw const self.task) } {
            Descriptor::SystemSegment(low, high) => (low, high),
            Descriptor::UserSegment(low) => (low, 0),
        };
        self.descriptors = [
            0,
            DescriptorFlags::KERNEL_CODE64.bits(),
            DescriptorFlags::KERNEL_DATA.bits(),
            low,
            high,
        ];
        let exceptions = EXCEPTIONS.call_once(exceptions);
        // SAFETY: the descriptors are flat, those of long mode, and stay; every exception has a handler.
        unsafe {
            lgdt(&pointer(&self.descriptors));
            CS::set_reg(CODE);
            SS::set_reg(DATA);
            DS::set_reg(NONE);
            ES::set_reg(NONE);
            FS::set_reg(NONE);
            GS::set_reg(NONE);
            load_tss(TASK);
            lidt(&pointer(exceptions));
        }
    }
}

fn pointer<T, const N: usize>(table: &[T; N]) -> DescriptorTablePointer {
    DescriptorTablePointer {
        limit: (size_of_val(table) - 1) as u16,
        base: VirtAddr::new_truncate(ptr::from_ref(table).addr() as u64),
    }
}

/// Vectors that the processor uses itself.
const VECTORS: usize = 32;
/// Distance of two entries of `vectors.S`, in bytes.
pub const VECTOR_BYTES: usize = 16;

static EXCEPTIONS: Once<[[u64; 2]; VECTORS]> = Once::new();

unsafe extern "C" {
    static tsm_vectors: u8;
}

/// Returns the stack on which the handler of `vector` starts: 0 is the one that is in use.
const fn stack_of(vector: usize) -> u64 {
    match vector {
        14 => 1,
        8 | 18 => 2,
        2 => 3,
        _ => 0,
    }
}

/// Makes the table: interrupt gates, so that nothing interrupts a handler (AMD APM vol 2, 8.9).
fn exceptions() -> [[u64; 2]; VECTORS] {
    let first = (&raw const tsm_vectors) as u64;
    core::array::from_fn(|vector| {
        let handler = first.wrapping_add(vector.wrapping_mul(VECTOR_BYTES) as u64);
        let present_gate = 0x8e00 | stack_of(vector);
        [
            handler & 0xffff
                | u64::from(CODE.0) << 16
                | present_gate << 32
                | (handler >> 16 & 0xffff) << 48,
            handler >> 32,
        ]
    })
}

const _: () = assert!(offset_of!(Segments, stacks) == 0);
