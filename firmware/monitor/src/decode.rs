// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Decoder of the A64 loads and stores that a host uses on configuration space.
//!
//! Only what moves one general-purpose register is decoded. Anything else, and anything whose
//! outcome the architecture leaves open, is not: the host then takes the fault itself.

/// What becomes of the bytes that a load brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// Zero-extended to 64 bits.
    Zero,
    /// Sign-extended to 32 bits, the upper half is zero.
    Sign32,
    /// Sign-extended to 64 bits.
    Sign64,
}

/// Direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Memory to register.
    Load(Extend),
    /// Register to memory.
    Store,
}

/// Update of the base register by a pre-indexed or post-indexed access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteBack {
    /// Base register, 0 to 30.
    pub register: u8,
    /// What is added to it, in bytes.
    pub offset: i64,
}

/// One decoded load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Register moved, 0 to 30; 31 is the zero register.
    pub register: u8,
    /// Bytes moved: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Which way.
    pub direction: Direction,
    /// Update of the base register, if any.
    pub write_back: Option<WriteBack>,
}

/// Decodes one instruction word.
#[must_use]
pub const fn decode(word: u32) -> Option<Transfer> {
    // Load-acquire and store-release (also the limited-ordering ones), and LDAPR.
    if word & 0x3fbf_7c00 == 0x089f_7c00 {
        return transfer(word, (word >> 22) & 1, None);
    }
    if word & 0x3fff_fc00 == 0x38bf_c000 {
        return transfer(word, 1, None);
    }
    // Load/store register; bit 26 set would be a SIMD register.
    if word & 0x3e00_0000 != 0x3800_0000 {
        return None;
    }
    let opc = (word >> 22) & 3;
    let unsigned_offset = word & 1 << 24 != 0;
    if unsigned_offset {
        return transfer(word, opc, None);
    }
    let form = (word >> 10) & 3;
    if word & 1 << 21 != 0 {
        // Register offset; options without bit 14 are unallocated, other forms are atomics.
        return if form == 2 && word & 1 << 14 != 0 {
            transfer(word, opc, None)
        } else {
            None
        };
    }
    match form {
        // Unscaled offset, and the unprivileged form.
        0 | 2 => transfer(word, opc, None),
        // Post-index and pre-index.
        _ => {
            // Sign-extend the 9-bit offset in bits 20:12.
            let offset = ((word << 11) as i32 >> 23) as i64;
            let base = register(word >> 5);
            // A base that is also the register moved is unpredictable; the stack pointer as a base
            // with write-back is not worth a second register file here.
            if base == 31 || base == register(word) {
                return None;
            }
            transfer(
                word,
                opc,
                Some(WriteBack {
                    register: base,
                    offset,
                }),
            )
        }
    }
}

const fn register(bits: u32) -> u8 {
    (bits & 0x1f) as u8
}

const fn transfer(word: u32, opc: u32, write_back: Option<WriteBack>) -> Option<Transfer> {
    let size = word >> 30;
    let direction = match (opc, size) {
        (0, _) => Direction::Store,
        (1, _) => Direction::Load(Extend::Zero),
        (2, 0..=2) => Direction::Load(Extend::Sign64),
        (3, 0..=1) => Direction::Load(Extend::Sign32),
        // Prefetch and unallocated.
        _ => return None,
    };
    Some(Transfer {
        register: register(word),
        bytes: 1 << size,
        direction,
        write_back,
    })
}

impl Extend {
    /// Returns what a register holds after `bytes` bytes `value` were loaded.
    #[must_use]
    pub const fn apply(self, value: u64, bytes: u8) -> u64 {
        // A shift by 64, of no bytes, is one by none.
        let unused = 64_u32.wrapping_sub(8 * bytes as u32);
        let high = value.wrapping_shl(unused);
        match self {
            Self::Zero => high.wrapping_shr(unused),
            Self::Sign32 => (high as i64).wrapping_shr(unused) as u32 as u64,
            Self::Sign64 => (high as i64).wrapping_shr(unused) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Direction, Extend, Transfer, WriteBack, decode};

    const fn load(register: u8, bytes: u8, extend: Extend) -> Option<Transfer> {
        Some(Transfer {
            register,
            bytes,
            direction: Direction::Load(extend),
            write_back: None,
        })
    }

    const fn store(register: u8, bytes: u8) -> Option<Transfer> {
        Some(Transfer {
            register,
            bytes,
            direction: Direction::Store,
            write_back: None,
        })
    }

    const fn indexed(transfer: Option<Transfer>, register: u8, offset: i64) -> Option<Transfer> {
        match transfer {
            Some(t) => Some(Transfer {
                write_back: Some(WriteBack { register, offset }),
                ..t
            }),
            None => None,
        }
    }

    /// Words were assembled with LLVM; the text is what was assembled.
    const ACCEPTED: &[(&str, u32, Option<Transfer>)] = &[
        ("ldr w0, [x1]", 0xb940_0020, load(0, 4, Extend::Zero)),
        ("ldr x2, [x3]", 0xf940_0062, load(2, 8, Extend::Zero)),
        ("ldr w5, [sp, #16]", 0xb940_13e5, load(5, 4, Extend::Zero)),
        ("ldrb w4, [x5, #3]", 0x3940_0ca4, load(4, 1, Extend::Zero)),
        ("ldrh w6, [x7, #2]", 0x7940_04e6, load(6, 2, Extend::Zero)),
        ("ldrsb w8, [x9]", 0x39c0_0128, load(8, 1, Extend::Sign32)),
        ("ldrsb x8, [x9]", 0x3980_0128, load(8, 1, Extend::Sign64)),
        ("ldrsh w10, [x11]", 0x79c0_016a, load(10, 2, Extend::Sign32)),
        ("ldrsh x10, [x11]", 0x7980_016a, load(10, 2, Extend::Sign64)),
        ("ldrsw x12, [x13]", 0xb980_01ac, load(12, 4, Extend::Sign64)),
        ("str w14, [x15, #4]", 0xb900_05ee, store(14, 4)),
        ("str wzr, [x15]", 0xb900_01ff, store(31, 4)),
        ("str x16, [x17]", 0xf900_0230, store(16, 8)),
        ("strb w18, [x19]", 0x3900_0272, store(18, 1)),
        ("strh w20, [x21]", 0x7900_02b4, store(20, 2)),
        ("ldur w0, [x1, #-4]", 0xb85f_c020, load(0, 4, Extend::Zero)),
        ("stur w0, [x1, #-4]", 0xb81f_c020, store(0, 4)),
        ("ldurb w0, [x1, #1]", 0x3840_1020, load(0, 1, Extend::Zero)),
        ("ldr w0, [x1, x2]", 0xb862_6820, load(0, 4, Extend::Zero)),
        (
            "ldr w0, [x1, w2, uxtw #2]",
            0xb862_5820,
            load(0, 4, Extend::Zero),
        ),
        ("str x0, [x1, x2, lsl #3]", 0xf822_7820, store(0, 8)),
        ("ldtr w0, [x1]", 0xb840_0820, load(0, 4, Extend::Zero)),
        ("sttr w0, [x1]", 0xb800_0820, store(0, 4)),
        (
            "ldr w0, [x1], #4",
            0xb840_4420,
            indexed(load(0, 4, Extend::Zero), 1, 4),
        ),
        (
            "ldr w0, [x1, #4]!",
            0xb840_4c20,
            indexed(load(0, 4, Extend::Zero), 1, 4),
        ),
        (
            "ldr x0, [x1], #-256",
            0xf850_0420,
            indexed(load(0, 8, Extend::Zero), 1, -256),
        ),
        (
            "str w0, [x30], #255",
            0xb80f_f7c0,
            indexed(store(0, 4), 30, 255),
        ),
        (
            "strb wzr, [x1, #-1]!",
            0x381f_fc3f,
            indexed(store(31, 1), 1, -1),
        ),
        (
            "ldrsw x0, [x1], #4",
            0xb880_4420,
            indexed(load(0, 4, Extend::Sign64), 1, 4),
        ),
        ("ldar w0, [x1]", 0x88df_fc20, load(0, 4, Extend::Zero)),
        ("ldarb w0, [x1]", 0x08df_fc20, load(0, 1, Extend::Zero)),
        ("ldar x0, [x1]", 0xc8df_fc20, load(0, 8, Extend::Zero)),
        ("stlr w0, [x1]", 0x889f_fc20, store(0, 4)),
        ("stlrh w0, [x1]", 0x489f_fc20, store(0, 2)),
        ("ldapr w0, [x1]", 0xb8bf_c020, load(0, 4, Extend::Zero)),
    ];

    const REFUSED: &[(&str, u32)] = &[
        ("nop", 0xd503_201f),
        ("udf", 0),
        ("all ones", 0xffff_ffff),
        ("prfm pldl1keep, [x1]", 0xf980_0020),
        ("prfum pldl1keep, [x1]", 0xf880_0020),
        ("ldr q0, [x1]", 0x3dc0_0020),
        ("ldr d0, [x1]", 0xfd40_0020),
        ("ldp x0, x1, [x2]", 0xa940_0440),
        ("stp w0, w1, [x2]", 0x2900_0440),
        ("ldxr w0, [x1]", 0x885f_7c20),
        ("ldaxr w0, [x1]", 0x885f_fc20),
        ("stxr w2, w0, [x1]", 0x8802_7c20),
        ("cas w0, w1, [x2]", 0x88a0_7c41),
        ("ldadd w0, w1, [x2]", 0xb820_0041),
        ("swp w0, w1, [x2]", 0xb820_8041),
        ("ldr w0, literal", 0x1800_0000),
        ("dc zva, x0", 0xd50b_7420),
        ("ldr x1, [x1], #8", 0xf840_8421),
        ("ldr w0, [sp], #4", 0xb840_47e0),
        ("size 3, opc 3", 0xf9c0_0020),
        ("size 2, opc 3", 0xb9c0_0020),
        ("register offset with option 0", 0xb862_0820),
    ];

    #[test]
    fn each_form_that_moves_one_register_is_decoded() {
        for (text, word, expected) in ACCEPTED {
            assert_eq!(decode(*word), *expected, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, word) in REFUSED {
            assert_eq!(decode(*word), None, "{text}");
        }
    }

    #[test]
    fn no_word_decodes_to_an_impossible_transfer() {
        // Every combination of the bits that select a form, with several registers and offsets.
        for high in 0..=0x7ff_u32 {
            for middle in 0..=0x3f_u32 {
                for low in [0, 0x21, 0x3e0, 0x3ff, 0x3e1] {
                    let word = high << 21 | middle << 10 | low;
                    if let Some(t) = decode(word) {
                        assert!(matches!(t.bytes, 1 | 2 | 4 | 8) && t.register < 32);
                        if let Some(back) = t.write_back {
                            assert!(back.register < 31 && back.register != t.register);
                            assert!((-256..256).contains(&back.offset));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_load_extends_as_its_instruction_says() {
        assert_eq!(Extend::Zero.apply(0xffff_ffff_ffff_ff80, 1), 0x80);
        assert_eq!(Extend::Sign32.apply(0x80, 1), 0xffff_ff80);
        assert_eq!(Extend::Sign64.apply(0x80, 1), 0xffff_ffff_ffff_ff80);
        assert_eq!(Extend::Sign64.apply(0x7fff, 2), 0x7fff);
        assert_eq!(Extend::Zero.apply(u64::MAX, 8), u64::MAX);
    }
}
