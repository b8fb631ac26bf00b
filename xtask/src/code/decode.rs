// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an instruction says of who calls whom and how much stack is used.

use anyhow::{Result, bail};
use elf::abi::{EM_AARCH64, EM_X86_64};

use super::{a64, x86};

/// What one instruction means for calls and the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A call of a function at this address.
    Call(u64),
    /// A jump to this address, taken always or sometimes.
    Jump { to: u64, always: bool },
    /// A call through a register; none if it is through memory.
    CallRegister(Option<u32>),
    /// A jump through a register, or through memory.
    JumpRegister,
    /// A call through the address that stands there.
    CallThrough(u64),
    /// A jump through the address that stands there.
    JumpThrough(u64),
    /// A register becomes what stands there.
    Load { register: u32, from: u64 },
    /// A register becomes this number, which may be an address.
    Constant { register: u32, value: u64 },
    /// A register becomes what another one is.
    Copy { register: u32, from: u32 },
    /// A jump to one of the addresses in the table that is there.
    JumpTable(u64),
    /// A return, also from an exception, or an instruction that traps.
    End,
    /// What fills the space between functions.
    Padding,
    /// A register becomes this address.
    Address(u64),
    /// The stack grows by this many bytes.
    Grow(u64),
    /// A register becomes the stack pointer less so many bytes.
    BelowStack { register: u32, bytes: u64 },
    /// A register that may be below the stack pointer becomes so much less.
    Lower { register: u32, bytes: u64 },
    /// The stack pointer is compared with a register, at the end of a loop that probes the stack.
    Probe(u32),
    /// The stack pointer moves by a register.
    Dynamic,
    /// A return from an exception; its frame was on the stack of this many bytes.
    ExceptionReturn(u64),
    /// Anything else.
    Other,
}

/// One instruction.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    pub meaning: Meaning,
    /// In bytes; at least 1.
    pub length: usize,
    /// Registers that do not keep what they hold, a bit each, where what they hold is followed.
    pub written: u32,
}

/// The instructions of one kind of processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    A64,
    X86,
}

impl Instructions {
    /// Returns those that an image for `machine`, as its file says, is made of.
    pub fn of(machine: u16) -> Result<Self> {
        match machine {
            EM_AARCH64 => Ok(Self::A64),
            EM_X86_64 => Ok(Self::X86),
            other => bail!("an image for an unknown processor ({other})"),
        }
    }

    /// Decodes the first instruction of `bytes`, which is at `address`.
    pub fn decode(self, bytes: &[u8], address: u64) -> Decoded {
        match self {
            Self::A64 => Decoded {
                meaning: bytes.first_chunk().map_or(Meaning::Other, |word| {
                    a64::decode(u32::from_le_bytes(*word), address)
                }),
                length: 4,
                written: 0,
            },
            Self::X86 => x86::decode(bytes, address),
        }
    }

    /// Returns how many bytes a call itself takes of the stack.
    pub fn call_bytes(self) -> u64 {
        match self {
            Self::A64 => 0,
            Self::X86 => 8,
        }
    }
}
