// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The few AArch64 instructions that say who calls whom and how much stack is used (Arm ARM C4.1).

use super::decode::Meaning;

/// The number that stands for the stack pointer in a base register field.
const SP: u32 = 31;

const fn bits(word: u32, low: u32, count: u32) -> u32 {
    word >> low & ((1 << count) - 1)
}

/// Returns the signed field of `count` bits at `low`, times `scale`.
const fn signed(word: u32, low: u32, count: u32, scale: i64) -> i64 {
    let unused = 32 - count;
    ((bits(word, low, count) << unused) as i32 >> unused) as i64 * scale
}

const fn immediate(word: u32) -> u64 {
    (bits(word, 10, 12) as u64) << (12 * bits(word, 22, 1))
}

/// Decodes the instruction `word` at `address`.
pub fn decode(word: u32, address: u64) -> Meaning {
    let near = |low, count| address.wrapping_add_signed(signed(word, low, count, 4));
    let maybe = |to| Meaning::Jump { to, always: false };
    let (rd, rn) = (bits(word, 0, 5), bits(word, 5, 5));
    match word {
        _ if word >> 26 == 0b100101 => Meaning::Call(near(0, 26)),
        _ if word >> 26 == 0b000101 => Meaning::Jump {
            to: near(0, 26),
            always: true,
        },
        // B.cond and BC.cond; CBZ and CBNZ; TBZ and TBNZ.
        _ if word >> 24 == 0x54 => maybe(near(5, 19)),
        _ if word >> 25 & 0x3f == 0b011010 => maybe(near(5, 19)),
        _ if word >> 25 & 0x3f == 0b011011 => maybe(near(5, 14)),
        _ if word & 0xffff_fc1f == 0xd63f_0000 => Meaning::CallRegister(None),
        _ if word & 0xffff_fc1f == 0xd61f_0000 => Meaning::JumpRegister,
        _ if word & 0xffff_fc1f == 0xd65f_0000 || word == 0xd69f_03e0 => Meaning::End,
        // BRK, and UDF, which fills the space between functions.
        _ if word & 0xffe0_001f == 0xd420_0000 || word >> 16 == 0 => Meaning::End,
        // ADR, which a switch begins with; ADRP names a page only.
        _ if word & 0x9f00_0000 == 0x1000_0000 => {
            let offset = signed(word, 5, 19, 4) | i64::from(bits(word, 29, 2));
            Meaning::Address(address.wrapping_add_signed(offset))
        }
        _ if word & 0xff80_0000 == 0xd100_0000 && rn == SP => match rd {
            SP => Meaning::Grow(immediate(word)),
            register => Meaning::BelowStack {
                register,
                bytes: immediate(word),
            },
        },
        // STP and STR of 64-bit registers, pre-indexed by the stack pointer.
        _ if word & 0xffc0_0000 == 0xa980_0000 && rn == SP => {
            Meaning::Grow(signed(word, 15, 7, -8).max(0) as u64)
        }
        _ if word & 0xffe0_0c00 == 0xf800_0c00 && rn == SP => {
            Meaning::Grow(signed(word, 12, 9, -1).max(0) as u64)
        }
        // CMP of the stack pointer with a register, and ADD or SUB of a register to it.
        _ if word & 0xffe0_ffff == 0xeb20_63ff => Meaning::Probe(bits(word, 16, 5)),
        _ if word & 0xbfe0_001f == 0x8b20_001f => Meaning::Dynamic,
        _ => Meaning::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{Meaning, decode};

    #[test]
    fn instructions_mean_what_the_assembler_wrote() {
        let at = 0x7f00_1000;
        let jump = |to, always| Meaning::Jump { to, always };
        for (word, meaning) in [
            (0x9400_0004, Meaning::Call(at + 16)),
            (0x97ff_ffff, Meaning::Call(at - 4)),
            (0x1400_0002, jump(at + 8, true)),
            (0x54ff_ffe0, jump(at - 4, false)),
            (0xb400_0055, jump(at + 8, false)),
            (0x3780_0040, jump(at + 8, false)),
            (0xd63f_0120, Meaning::CallRegister(None)),
            (0xd61f_0140, Meaning::JumpRegister),
            (0xd65f_03c0, Meaning::End),
            (0xd420_0020, Meaning::End),
            // adr x9, #8; adrp x0, #1.
            (0x1000_0049, Meaning::Address(at + 8)),
            (0xb000_0000, Meaning::Other),
            // sub sp, sp, #0x20; sub sp, sp, #1, lsl #12; stp x29, x30, [sp, #-112]!;
            // str x30, [sp, #-16]!.
            (0xd100_83ff, Meaning::Grow(0x20)),
            (0xd140_07ff, Meaning::Grow(0x1000)),
            (0xa9b9_7bfd, Meaning::Grow(112)),
            (0xf81f_0ffe, Meaning::Grow(16)),
            // stp x29, x30, [sp, #16]; add sp, sp, #0x20.
            (0xa901_7bfd, Meaning::Other),
            (0xd503_201f, Meaning::Other),
            // sub x9, sp, #2, lsl #12; cmp sp, x9; sub sp, sp, x0.
            (
                0xd140_0be9,
                Meaning::BelowStack {
                    register: 9,
                    bytes: 0x2000,
                },
            ),
            (0xeb29_63ff, Meaning::Probe(9)),
            (0xcb20_63ff, Meaning::Dynamic),
        ] {
            assert_eq!(decode(word, at), meaning, "{word:#x}");
        }
    }
}
