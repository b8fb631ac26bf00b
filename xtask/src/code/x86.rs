// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The x86_64 instructions that say who calls whom and how much stack is used (AMD APM vol 3).

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use super::decode::{Decoded, Meaning};

/// What the processor itself puts on the stack for an exception: SS, RSP, RFLAGS, CS, RIP and an error
/// code, below an address that it has aligned to 16 bytes (APM vol 2, 8.9.3).
const EXCEPTION_FRAME: u64 = 6 * 8 + 15;

/// Registers that a call does not keep (System V ABI, 3.2.1): RAX, RCX, RDX, RSI, RDI, R8 to R11.
const VOLATILE: u32 = 0x0fc7;

/// Decodes the first instruction of `bytes`, which is at `address`, in 64-bit mode.
pub fn decode(bytes: &[u8], address: u64) -> Decoded {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::AMD);
    let instruction = decoder.decode();
    match instruction.is_invalid() {
        true => Decoded {
            meaning: Meaning::Other,
            length: 1,
            written: 0,
        },
        false => Decoded {
            meaning: meaning(&instruction),
            length: instruction.len(),
            written: written(&instruction),
        },
    }
}

/// Returns the general registers that an instruction changes, a bit each by their numbers.
fn written(instruction: &Instruction) -> u32 {
    let is_call = instruction.is_call_near() || instruction.is_call_near_indirect();
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(instruction).used_registers();
    let changed = used.iter().filter(|used| {
        let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        used.register().is_gpr() && !reads
    });
    let bits = changed.map(|used| 1 << used.register().full_register().number());
    bits.fold(if is_call { VOLATILE } else { 0 }, |all, bit: u32| {
        all | bit
    })
}

/// Returns the register's number if it is a general one of 64 bits.
fn general(register: Register) -> Option<u32> {
    let number = u32::try_from(register.number()).ok();
    number.filter(|_| register.is_gpr64())
}

fn meaning(instruction: &Instruction) -> Meaning {
    if instruction.is_call_near() {
        return Meaning::Call(instruction.near_branch_target());
    }
    let place = instruction.is_ip_rel_memory_operand();
    let place = place.then(|| instruction.ip_rel_memory_address());
    if instruction.is_call_near_indirect() {
        let register = general(instruction.op0_register());
        return place.map_or(Meaning::CallRegister(register), Meaning::CallThrough);
    }
    if instruction.is_jmp_short_or_near() {
        return Meaning::Jump {
            to: instruction.near_branch_target(),
            always: true,
        };
    }
    if instruction.is_jcc_short_or_near() || instruction.is_jcx_short() || instruction.is_loop() {
        return Meaning::Jump {
            to: instruction.near_branch_target(),
            always: false,
        };
    }
    if instruction.is_jmp_near_indirect() {
        let is_table = instruction.op0_kind() == OpKind::Memory
            && instruction.memory_base() == Register::None
            && instruction.memory_index_scale() == 8;
        return match (is_table, place) {
            (true, _) => Meaning::JumpTable(instruction.memory_displacement64()),
            (false, Some(place)) => Meaning::JumpThrough(place),
            (false, None) => Meaning::JumpRegister,
        };
    }
    match instruction.mnemonic() {
        Mnemonic::Ret | Mnemonic::Retf | Mnemonic::Ud2 | Mnemonic::Jmp => Meaning::End,
        Mnemonic::Iretq => Meaning::ExceptionReturn(EXCEPTION_FRAME),
        Mnemonic::Nop | Mnemonic::Int3 => Meaning::Padding,
        Mnemonic::Enter => Meaning::Dynamic,
        Mnemonic::Lea if place.is_some() => Meaning::Address(place.unwrap_or_default()),
        Mnemonic::Mov => moved(instruction, place).unwrap_or_else(|| stack(instruction)),
        _ => stack(instruction),
    }
}

/// Says what a general register other than the stack pointer becomes; none if that tells nothing.
fn moved(instruction: &Instruction, place: Option<u64>) -> Option<Meaning> {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let register = general(to).filter(|_| to != Register::RSP)?;
    match instruction.op1_kind() {
        OpKind::Memory => Some(Meaning::Load {
            register,
            from: place?,
        }),
        OpKind::Register if from != Register::RSP => Some(Meaning::Copy {
            register,
            from: general(from)?,
        }),
        OpKind::Register => None,
        _ => Some(Meaning::Constant {
            register,
            value: instruction.immediate(1),
        }),
    }
}

/// Says what an instruction that goes on to the next one does to the stack pointer.
fn stack(instruction: &Instruction) -> Meaning {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let displacement = instruction.memory_displacement64() as i64;
    let constant = match instruction.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(instruction.immediate(1) as i64),
        _ => None,
    };
    let on_stack =
        instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None;
    match (instruction.mnemonic(), constant) {
        (Mnemonic::Sub, Some(bytes)) if to == Register::RSP => Meaning::Grow(bytes.max(0) as u64),
        (Mnemonic::Add, Some(bytes)) if to == Register::RSP => {
            Meaning::Grow((-bytes).max(0) as u64)
        }
        // Aligns it: at most so much is left unused.
        (Mnemonic::And, Some(mask)) if to == Register::RSP => Meaning::Grow((-mask).max(0) as u64),
        (Mnemonic::Sub, Some(bytes)) => Meaning::Lower {
            register: to.number() as u32,
            bytes: bytes.max(0) as u64,
        },
        (Mnemonic::Lea, _) if to == Register::RSP && on_stack => {
            Meaning::Grow((-displacement).max(0) as u64)
        }
        // The end of a function with a frame pointer.
        (Mnemonic::Lea, _) if to == Register::RSP && instruction.memory_base() == Register::RBP => {
            Meaning::Other
        }
        (Mnemonic::Mov, _) if (to, from) == (Register::RSP, Register::RBP) => Meaning::Other,
        (Mnemonic::Lea, _) if on_stack && displacement < 0 => Meaning::BelowStack {
            register: to.number() as u32,
            bytes: displacement.unsigned_abs(),
        },
        (Mnemonic::Mov, _) if from == Register::RSP && to != Register::None => {
            Meaning::BelowStack {
                register: to.number() as u32,
                bytes: 0,
            }
        }
        (Mnemonic::Cmp, _) if to == Register::RSP && from != Register::None => {
            Meaning::Probe(from.number() as u32)
        }
        (Mnemonic::Cmp, _) if from == Register::RSP && to != Register::None => {
            Meaning::Probe(to.number() as u32)
        }
        (Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push, _) if to == Register::RSP => {
            Meaning::Grow((-instruction.stack_pointer_increment()).max(0) as u64)
        }
        _ if to == Register::RSP && instruction.op0_kind() == OpKind::Register => Meaning::Dynamic,
        (Mnemonic::Xchg, _) if from == Register::RSP => Meaning::Dynamic,
        _ => Meaning::Grow((-instruction.stack_pointer_increment()).max(0) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::{EXCEPTION_FRAME, Meaning, VOLATILE, decode};

    #[test]
    fn instructions_mean_what_the_assembler_wrote() {
        let at = 0x1000_1000;
        let jump = |to, always| Meaning::Jump { to, always };
        let below = |bytes| Meaning::BelowStack {
            register: 11,
            bytes,
        };
        let cases: &[(&[u8], Meaning)] = &[
            (&[0xe8, 0x0b, 0, 0, 0], Meaning::Call(at + 16)),
            // A call that the linker made shorter: addr32 call.
            (&[0x67, 0xe8, 0x0a, 0, 0, 0], Meaning::Call(at + 16)),
            (&[0xeb, 0x06], jump(at + 8, true)),
            (&[0x74, 0xfa], jump(at - 4, false)),
            (&[0xff, 0xd0], Meaning::CallRegister(Some(0))),
            (&[0xff, 0x53, 0x18], Meaning::CallRegister(None)),
            // call [rip + 0x10]; jmp [rip + 0x10]; mov r15, [rip + 0x10].
            (
                &[0xff, 0x15, 0x10, 0, 0, 0],
                Meaning::CallThrough(at + 0x16),
            ),
            (
                &[0xff, 0x25, 0x10, 0, 0, 0],
                Meaning::JumpThrough(at + 0x16),
            ),
            (
                &[0x4c, 0x8b, 0x3d, 0x10, 0, 0, 0],
                Meaning::Load {
                    register: 15,
                    from: at + 0x17,
                },
            ),
            (&[0xff, 0xe0], Meaning::JumpRegister),
            // jmp qword ptr [8*rax + 0x10002000].
            (
                &[0xff, 0x24, 0xc5, 0, 0x20, 0, 0x10],
                Meaning::JumpTable(0x1000_2000),
            ),
            (&[0xc3], Meaning::End),
            (&[0x0f, 0x0b], Meaning::End),
            (&[0x48, 0xcf], Meaning::ExceptionReturn(EXCEPTION_FRAME)),
            (&[0xcc], Meaning::Padding),
            (&[0x66, 0x90], Meaning::Padding),
            // mov r15, 0x10002000; mov r15, rbx.
            (
                &[0x49, 0xc7, 0xc7, 0, 0x20, 0, 0x10],
                Meaning::Constant {
                    register: 15,
                    value: 0x1000_2000,
                },
            ),
            (
                &[0x49, 0x89, 0xdf],
                Meaning::Copy {
                    register: 15,
                    from: 3,
                },
            ),
            // lea rax, [rip + 0x10].
            (
                &[0x48, 0x8d, 0x05, 0x10, 0, 0, 0],
                Meaning::Address(at + 0x17),
            ),
            // sub rsp, 0x20; sub rsp, 0x1000; add rsp, -128; push rbx; pushfq; and rsp, -32.
            (&[0x48, 0x83, 0xec, 0x20], Meaning::Grow(0x20)),
            (&[0x48, 0x81, 0xec, 0, 0x10, 0, 0], Meaning::Grow(0x1000)),
            (&[0x48, 0x83, 0xc4, 0x80], Meaning::Grow(128)),
            (&[0x53], Meaning::Grow(8)),
            (&[0x9c], Meaning::Grow(8)),
            (&[0x48, 0x83, 0xe4, 0xe0], Meaning::Grow(32)),
            // add rsp, 0x20; pop rbx; mov rsp, rbp; vmmcall; vmrun rax.
            (&[0x48, 0x83, 0xc4, 0x20], Meaning::Grow(0)),
            (&[0x5b], Meaning::Grow(0)),
            (&[0x48, 0x89, 0xec], Meaning::Other),
            (&[0x0f, 0x01, 0xd9], Meaning::Grow(0)),
            (&[0x0f, 0x01, 0xd8], Meaning::Grow(0)),
            // lea r11, [rsp - 0x2000]; mov r11, rsp; sub r11, 0x2000; cmp rsp, r11.
            (
                &[0x4c, 0x8d, 0x9c, 0x24, 0, 0xe0, 0xff, 0xff],
                below(0x2000),
            ),
            (&[0x49, 0x89, 0xe3], below(0)),
            (
                &[0x49, 0x81, 0xeb, 0, 0x20, 0, 0],
                Meaning::Lower {
                    register: 11,
                    bytes: 0x2000,
                },
            ),
            (&[0x4c, 0x39, 0xdc], Meaning::Probe(11)),
            // sub rsp, rax; mov rsp, rax; mov rsp, [rax]; pop rsp.
            (&[0x48, 0x29, 0xc4], Meaning::Dynamic),
            (&[0x48, 0x89, 0xc4], Meaning::Dynamic),
            (&[0x48, 0x8b, 0x20], Meaning::Dynamic),
            (&[0x5c], Meaning::Dynamic),
        ];
        for (bytes, meaning) in cases {
            let decoded = decode(bytes, at);
            assert_eq!(decoded.meaning, *meaning, "{bytes:x?}");
            assert_eq!(decoded.length, bytes.len(), "{bytes:x?}");
        }
    }

    #[test]
    fn a_register_that_changes_is_told() {
        for (bytes, written) in [
            // mov r15, rax; cmp r15, rax; xor r15d, r15d; pop r15; mul rcx; mov [r15], rax.
            (&[0x49, 0x89, 0xc7][..], 1 << 15),
            (&[0x49, 0x39, 0xc7], 0),
            (&[0x45, 0x31, 0xff], 1 << 15),
            (&[0x41, 0x5f], 1 << 15 | 1 << 4),
            (&[0x48, 0xf7, 0xe1], 1 << 0 | 1 << 2),
            (&[0x49, 0x89, 0x07], 0),
            (&[0xff, 0xd3], VOLATILE | 1 << 4),
        ] {
            assert_eq!(decode(bytes, 0).written, written, "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_no_instruction_is_stepped_over() {
        let decoded = decode(&[0x06, 0x90], 0);
        assert_eq!((decoded.meaning, decoded.length), (Meaning::Other, 1));
        assert_eq!(decode(&[], 0).length, 1);
    }
}
