// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Exceptions, and instructions that may raise one.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt;

/// Selectors: code and data of level 0, where loaders of Linux have them, then those of level 3.
pub const KERNEL_CODE: u16 = 0x10;
/// Data of level 0.
pub const KERNEL_DATA: u16 = 0x18;
/// Data of level 3, with the requested level.
pub const USER_DATA: u16 = 0x23;
/// Code of level 3, with the requested level.
pub const USER_CODE: u16 = 0x2b;
const TASK: u16 = 0x30;
const VECTORS: usize = 32;
/// Bytes of one stub below.
const STUB: usize = 16;

/// What the handler and [`crate::attempt!`] share. The assembly knows the offsets.
#[repr(C)]
struct Attempt {
    /// Where to go on after an exception, or zero.
    recovery: u64,
    vector: u64,
    code: u64,
    /// Stack of level 0 to go on with after an exception at level 3.
    stack: u64,
}

/// A task state: only the stack of level 0 is used.
#[repr(C, align(16))]
struct TaskState([u32; 26]);

#[repr(C, align(16))]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: One CPU; the handler runs only between `arm` and `outcome`.
unsafe impl<T> Sync for Shared<T> {}

static ATTEMPT: Shared<Attempt> = Shared(UnsafeCell::new(Attempt {
    recovery: 0,
    vector: 0,
    code: 0,
    stack: 0,
}));
static STACK: Shared<[u8; 0x1000]> = Shared(UnsafeCell::new([0; 0x1000]));
static TASK_STATE: Shared<TaskState> = Shared(UnsafeCell::new(TaskState([0; 26])));
static GATES: Shared<[[u64; 2]; VECTORS]> = Shared(UnsafeCell::new([[0; 2]; VECTORS]));
static SEGMENTS: Shared<[u64; 8]> = Shared(UnsafeCell::new([
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0,
]));

global_asm!(
    ".section .text.exceptions, \"ax\"",
    ".balign 16",
    "exception_stubs:",
    ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    ".balign 16",
    // Vectors 8, 10 to 14, 17, 21, 29 and 30 come with a code (AMD APM volume 2, 8.2).
    ".if ((0x60227d00 >> \\number) & 1) == 0",
    "push 0",
    ".endif",
    "push \\number",
    "jmp exception_common",
    ".endr",
    "exception_common:",
    "push rax",
    "push rcx",
    "lea rax, [rip + {attempt}]",
    "mov rcx, [rax]",
    "test rcx, rcx",
    "jz 2f",
    "mov [rsp + 32], rcx",
    "mov qword ptr [rax], 0",
    "mov rcx, [rsp + 16]",
    "mov [rax + 8], rcx",
    "mov rcx, [rsp + 24]",
    "mov [rax + 16], rcx",
    "test byte ptr [rsp + 40], 3",
    "jz 3f",
    "mov rcx, [rax + 24]",
    "mov [rsp + 56], rcx",
    "mov qword ptr [rsp + 40], {code}",
    "mov qword ptr [rsp + 64], {data}",
    "3:",
    "pop rcx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    "2:",
    "mov rdi, [rsp + 16]",
    "mov rsi, [rsp + 24]",
    "mov rdx, [rsp + 32]",
    "and rsp, -16",
    "call {unexpected}",
    "ud2",
    ".text",
    attempt = sym ATTEMPT,
    unexpected = sym unexpected,
    code = const KERNEL_CODE,
    data = const KERNEL_DATA,
);

unsafe extern "C" {
    static exception_stubs: u8;
}

extern "C" fn unexpected(vector: u64, code: u64, address: u64) -> ! {
    let fault: u64;
    // SAFETY: Reads the address of the last page fault.
    unsafe { asm!("mov {}, cr2", out(reg) fault, options(nostack, nomem)) }
    panic!("exception {vector} with {code:#x} at {address:#x}, last page fault at {fault:#x}");
}

/// An exception that an attempt raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// Its error code, zero if it has none.
    pub code: u32,
}

impl Exception {
    /// An instruction that is not there.
    pub const INVALID_OPCODE: u8 = 6;
    /// General protection.
    pub const GENERAL_PROTECTION: u8 = 13;
}

impl fmt::Display for Exception {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vector {
            Self::INVALID_OPCODE => write!(out, "#UD"),
            Self::GENERAL_PROTECTION => write!(out, "#GP({:#x})", self.code),
            14 => write!(out, "#PF({:#x})", self.code),
            vector => write!(out, "exception {vector}({:#x})", self.code),
        }
    }
}

/// Returns what an attempt stores its way out to. Used by [`crate::attempt!`].
#[must_use]
pub fn arm() -> *mut u64 {
    ATTEMPT.0.get().cast()
}

/// Returns what the last attempt raised, and expects no more. Used by [`crate::attempt!`].
pub fn outcome() -> Result<(), Exception> {
    // SAFETY: One CPU; no reference to the cell is kept, and the handler does not run here.
    let attempt = unsafe { &mut *ATTEMPT.0.get() };
    let raised = attempt.recovery == 0;
    attempt.recovery = 0;
    if raised {
        Err(Exception {
            vector: attempt.vector as u8,
            code: attempt.code as u32,
        })
    } else {
        Ok(())
    }
}

/// Runs instructions that may raise an exception, with operands as `asm!` takes them; the value is a
/// `Result<(), Exception>`. What follows an instruction that raises one is left out.
///
/// # Safety
/// As of `asm!`.
#[macro_export]
macro_rules! attempt {
    ([$($instruction:literal),+] $(, $($operands:tt)*)?) => {{
        ::core::arch::asm!(
            "lea {recovery}, [rip + 77f]",
            "mov [{attempt}], {recovery}",
            $($instruction,)+
            "77:",
            recovery = out(reg) _,
            attempt = in(reg) $crate::x86_64::exception::arm(),
            $($($operands)*)?
        );
        $crate::x86_64::exception::outcome()
    }};
}

/// Runs `code` at level 3 until it raises an exception, which it must. It has no stack.
///
/// # Errors
/// The exception.
///
/// # Safety
/// The code is sound, and changes no register but RAX.
pub unsafe fn at_level_3(code: unsafe extern "C" fn()) -> Result<(), Exception> {
    // SAFETY: The frame goes to flat segments of level 3; the handler comes back to the recovery
    // with the stack that is kept here.
    unsafe {
        asm!(
            "lea rax, [rip + 77f]",
            "mov [{attempt}], rax",
            "mov [{attempt} + 24], rsp",
            "push {data}",
            "push 0",
            "push 2",
            "push {segment}",
            "push {code}",
            "iretq",
            "77:",
            attempt = in(reg) arm(),
            data = const USER_DATA,
            segment = const USER_CODE,
            code = in(reg) code,
            out("rax") _,
        );
    }
    outcome()
}

/// Sets up segments and the handler of every exception.
pub fn install() {
    let stubs = &raw const exception_stubs as u64;
    // SAFETY: One CPU (see `Sync`), and nothing uses the tables before they are loaded below.
    let (gates, task, segments) = unsafe {
        (
            &mut *GATES.0.get(),
            &mut (*TASK_STATE.0.get()).0,
            &mut *SEGMENTS.0.get(),
        )
    };
    for (gate, stub) in gates.iter_mut().zip((stubs..).step_by(STUB)) {
        // Present, interrupt gate.
        let low = stub & 0xffff | u64::from(KERNEL_CODE) << 16 | 0x8e00 << 32;
        *gate = [low | (stub >> 16 & 0xffff) << 48, stub >> 32];
    }
    let stack = STACK.0.get() as u64 + size_of_val(&STACK) as u64;
    (task[1], task[2]) = (stack as u32, (stack >> 32) as u32);
    let (base, limit) = (TASK_STATE.0.get() as u64, size_of::<TaskState>() as u64 - 1);
    segments[6] = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    segments[7] = base >> 32;
    let segments = descriptor(SEGMENTS.0.get() as u64, size_of_val(&SEGMENTS));
    let gates = descriptor(GATES.0.get() as u64, size_of_val(&GATES));
    // SAFETY: The tables are complete and stay. The code segment is the same as before or flat, and
    // every gate leads to a stub.
    unsafe {
        asm!(
            "lgdt [{segments}]",
            "lidt [{gates}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {task:x}",
            segments = in(reg) &raw const segments,
            gates = in(reg) &raw const gates,
            code = const KERNEL_CODE,
            data = in(reg) u32::from(KERNEL_DATA),
            task = in(reg) TASK,
            scratch = out(reg) _,
        );
    }
}

/// Returns the operand of LGDT and LIDT.
fn descriptor(base: u64, bytes: usize) -> [u16; 5] {
    let [b0, b1, b2, b3, ..] = [
        base as u16,
        (base >> 16) as u16,
        (base >> 32) as u16,
        (base >> 48) as u16,
    ];
    [bytes as u16 - 1, b0, b1, b2, b3]
}
