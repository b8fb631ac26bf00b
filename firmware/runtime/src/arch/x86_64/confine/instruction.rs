// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Decoder of the MOV forms that a host uses on configuration space and on other registers whose
//! writes the TSM performs.
//!
//! The address comes from the fault; only length, width, direction and register are decoded here.
//! Anything else is not decoded: the host then takes the fault itself.

/// Longest instruction in bytes.
pub const LONGEST: usize = 15;

/// Where a store takes its value from, or a load puts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register by its encoding, from bit 0 on.
    Register(u8),
    /// Bits 15:8 of one of the first four registers.
    HighByte(u8),
    /// A constant; of a store only.
    Constant(u64),
}

/// What a load does with the rest of its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// The rest is kept, and cleared by a load of 4 bytes (AMD64 APM volume 1, 3.1.2).
    Plain,
    /// Zero up to this width in bytes, then as for a plain load of it.
    Zero(u8),
    /// The sign up to this width in bytes, then as for a plain load of it.
    Sign(u8),
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Memory to register.
    Load(Extend),
    /// Register or constant to memory.
    Store,
}

/// One decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Length in bytes.
    pub length: u8,
    /// Bytes moved: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Which way.
    pub direction: Direction,
    /// The register or constant.
    pub operand: Operand,
}

/// Bytes of an instruction and how far they are read.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.all.get(..LONGEST.min(self.all.len()))?.get(self.at)?;
        self.at += 1;
        Some(*byte)
    }

    fn peek(&self) -> Option<u8> {
        self.all.get(self.at).copied()
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.next().map(drop))
    }

    /// Reads a little-endian number of up to 4 bytes and repeats its sign.
    fn signed(&mut self, count: u8) -> Option<u64> {
        let mut value = 0;
        for place in 0..u32::from(count) {
            value |= u64::from(self.next()?) << (8 * place);
        }
        let unused = 64 - 8 * u32::from(count);
        Some(((value << unused) as i64 >> unused) as u64)
    }
}

/// Prefixes that matter.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    /// REX, or 0.
    rex: u8,
    operand_size: bool,
    address_size: bool,
}

impl Prefixes {
    fn read(bytes: &mut Bytes<'_>, long: bool) -> Option<Self> {
        let mut prefixes = Self::default();
        loop {
            match bytes.peek()? {
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                // Segments.
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
                rex @ 0x40..=0x4f if long => {
                    bytes.next()?;
                    // It counts right before the opcode only.
                    prefixes.rex = rex;
                    return Some(prefixes);
                }
                _ => return Some(prefixes),
            }
            bytes.next()?;
        }
    }

    /// Width of a full operand in bytes.
    const fn width(self) -> u8 {
        if self.rex & 8 != 0 {
            8
        } else if self.operand_size {
            2
        } else {
            4
        }
    }

    /// The register of 1 byte that `number` encodes.
    const fn byte_register(self, number: u8) -> Operand {
        if self.rex == 0 && number >= 4 {
            Operand::HighByte(number - 4)
        } else {
            Operand::Register(number)
        }
    }

    fn register(self, number: u8, bytes: u8) -> Operand {
        match bytes {
            1 => self.byte_register(number),
            _ => Operand::Register(number),
        }
    }
}

/// Decodes an instruction of 64-bit code (`long`) or of 32-bit code.
pub fn decode(bytes: &[u8], long: bool) -> Option<Move> {
    let mut bytes = Bytes { all: bytes, at: 0 };
    let prefixes = Prefixes::read(&mut bytes, long)?;
    let wide = prefixes.width();
    let (width, direction, operand) = match bytes.next()? {
        opcode @ 0x88..=0x8b => {
            let width = if opcode & 1 == 0 { 1 } else { wide };
            let register = modrm(&mut bytes, prefixes, long)?;
            let direction = if opcode & 2 == 0 {
                Direction::Store
            } else {
                Direction::Load(Extend::Plain)
            };
            (width, direction, prefixes.register(register, width))
        }
        opcode @ 0xa0..=0xa3 => {
            let width = if opcode & 1 == 0 { 1 } else { wide };
            bytes.skip(match (long, prefixes.address_size) {
                (true, false) => 8,
                (false, true) => 2,
                _ => 4,
            })?;
            let direction = if opcode & 2 == 0 {
                Direction::Load(Extend::Plain)
            } else {
                Direction::Store
            };
            (width, direction, Operand::Register(0))
        }
        opcode @ (0xc6 | 0xc7) => {
            let width = if opcode & 1 == 0 { 1 } else { wide };
            if modrm(&mut bytes, prefixes, long)? & 7 != 0 {
                return None;
            }
            let value = bytes.signed(width.min(4))?;
            (width, Direction::Store, Operand::Constant(value))
        }
        0x63 if long => {
            let register = modrm(&mut bytes, prefixes, long)?;
            let load = Direction::Load(Extend::Sign(wide));
            (4, load, Operand::Register(register))
        }
        0x0f => {
            let opcode = bytes.next()?;
            let extend = match opcode {
                0xb6 | 0xb7 => Extend::Zero(wide),
                0xbe | 0xbf => Extend::Sign(wide),
                _ => return None,
            };
            let width = if opcode & 1 == 0 { 1 } else { 2 };
            let register = modrm(&mut bytes, prefixes, long)?;
            (width, Direction::Load(extend), Operand::Register(register))
        }
        _ => return None,
    };
    Some(Move {
        length: bytes.at as u8,
        bytes: width,
        direction,
        operand,
    })
}

/// Skips the operand in memory and returns the number of the register beside it.
fn modrm(bytes: &mut Bytes<'_>, prefixes: Prefixes, long: bool) -> Option<u8> {
    let modrm = bytes.next()?;
    let (mode, memory) = (modrm >> 6, modrm & 7);
    // A register, and addresses of 16-bit code.
    if mode == 3 || !long && prefixes.address_size {
        return None;
    }
    let mut base = memory;
    if memory == 4 {
        base = bytes.next()? & 7;
    }
    bytes.skip(match (mode, base) {
        (0, 5) => 4,
        (0, _) => 0,
        (1, _) => 1,
        _ => 4,
    })?;
    Some(modrm >> 3 & 7 | (prefixes.rex & 4) << 1)
}

/// Returns `bytes` bytes of a register's value for a store.
pub const fn stored(operand: Operand, value: u64, bytes: u8) -> u64 {
    let value = match operand {
        Operand::Register(_) => value,
        Operand::HighByte(_) => value >> 8,
        Operand::Constant(value) => value,
    };
    value & ones(bytes)
}

/// Returns what a register holds after a load has brought `value`.
pub const fn loaded(access: &Move, extend: Extend, register: u64, value: u64) -> u64 {
    let value = value & ones(access.bytes);
    let (value, bytes) = match extend {
        Extend::Plain => (value, access.bytes),
        Extend::Zero(width) => (value, width),
        Extend::Sign(width) => {
            let unused = 64 - 8 * access.bytes as u32;
            (((value << unused) as i64 >> unused) as u64, width)
        }
    };
    let (shift, bytes) = match access.operand {
        Operand::HighByte(_) => (8, 1),
        _ => (0, bytes),
    };
    match bytes {
        8 => value,
        4 => value & ones(4),
        _ => register & !(ones(bytes) << shift) | (value & ones(bytes)) << shift,
    }
}

/// Returns 1 to 8 `bytes` bytes set.
const fn ones(bytes: u8) -> u64 {
    u64::MAX.wrapping_shr(64_u32.wrapping_sub(8 * bytes as u32))
}

#[cfg(test)]
mod tests {
    use super::{Direction, Extend, Move, Operand, decode, loaded, stored};
    use Operand::{Constant, HighByte, Register};

    const LOAD: Direction = Direction::Load(Extend::Plain);
    const STORE: Direction = Direction::Store;

    /// 64-bit code as an assembler makes it; the text is what was assembled.
    const ACCEPTED: &[(&str, &[u8], u8, Direction, Operand)] = &[
        ("mov [rax], ecx", &[0x89, 0x08], 4, STORE, Register(1)),
        ("mov ecx, [rax]", &[0x8b, 0x08], 4, LOAD, Register(1)),
        (
            "mov [rdi], r9w",
            &[0x66, 0x44, 0x89, 0x0f],
            2,
            STORE,
            Register(9),
        ),
        ("mov al, [rdi]", &[0x8a, 0x07], 1, LOAD, Register(0)),
        ("mov [rdi], ah", &[0x88, 0x27], 1, STORE, HighByte(0)),
        ("mov [rdi], spl", &[0x40, 0x88, 0x27], 1, STORE, Register(4)),
        (
            "mov r12, [r13]",
            &[0x4d, 0x8b, 0x65, 0x00],
            8,
            LOAD,
            Register(12),
        ),
        (
            "mov [rsp + 8], rdx",
            &[0x48, 0x89, 0x54, 0x24, 0x08],
            8,
            STORE,
            Register(2),
        ),
        (
            "mov eax, [rip + 0x11223344]",
            &[0x8b, 0x05, 0x44, 0x33, 0x22, 0x11],
            4,
            LOAD,
            Register(0),
        ),
        (
            "mov [rax*4 + 0x11223344], ebx",
            &[0x89, 0x1c, 0x85, 0x44, 0x33, 0x22, 0x11],
            4,
            STORE,
            Register(3),
        ),
        (
            "mov [rbp + rax], esi",
            &[0x89, 0x74, 0x05, 0x00],
            4,
            STORE,
            Register(6),
        ),
        (
            "mov dword ptr [rax], 0x80000001",
            &[0xc7, 0x00, 0x01, 0x00, 0x00, 0x80],
            4,
            STORE,
            Constant(0xffff_ffff_8000_0001),
        ),
        (
            "mov word ptr [rax], 6",
            &[0x66, 0xc7, 0x00, 6, 0],
            2,
            STORE,
            Constant(6),
        ),
        (
            "mov byte ptr [rax], 6",
            &[0xc6, 0x00, 6],
            1,
            STORE,
            Constant(6),
        ),
        (
            "movabs [0x1122334455667788], eax",
            &[0xa3, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
            4,
            STORE,
            Register(0),
        ),
        (
            "mov gs:[rax], ecx",
            &[0x65, 0x89, 0x08],
            4,
            STORE,
            Register(1),
        ),
        (
            "movzx ecx, byte ptr [rax]",
            &[0x0f, 0xb6, 0x08],
            1,
            Direction::Load(Extend::Zero(4)),
            Register(1),
        ),
        (
            "movsx r9, word ptr [rax]",
            &[0x4c, 0x0f, 0xbf, 0x08],
            2,
            Direction::Load(Extend::Sign(8)),
            Register(9),
        ),
        (
            "movsxd rcx, dword ptr [rax]",
            &[0x48, 0x63, 0x08],
            4,
            Direction::Load(Extend::Sign(8)),
            Register(1),
        ),
    ];

    const REFUSED: &[(&str, &[u8])] = &[
        ("nothing", &[]),
        ("mov eax, ecx", &[0x89, 0xc8]),
        ("lock add [rax], ecx", &[0xf0, 0x01, 0x08]),
        ("add [rax], ecx", &[0x01, 0x08]),
        ("rep movsb", &[0xf3, 0xa4]),
        ("xchg [rax], ecx", &[0x87, 0x08]),
        ("movaps [rax], xmm0", &[0x0f, 0x29, 0x00]),
        ("vmovd", &[0xc5, 0xf9, 0x7e, 0x00]),
        ("c7 /1", &[0xc7, 0x08, 0, 0, 0, 0]),
        ("rex before a prefix", &[0x48, 0x66, 0x89]),
        ("cut off", &[0x89]),
        ("cut off in the constant", &[0xc7, 0x00, 0x01, 0x00]),
        ("sixteen bytes", &[0x65; 16]),
    ];

    #[test]
    fn each_form_that_moves_one_register_is_decoded() {
        for (text, bytes, width, direction, operand) in ACCEPTED {
            let mut followed = bytes.to_vec();
            followed.resize(15, 0x90);
            let expected = Move {
                length: bytes.len() as u8,
                bytes: *width,
                direction: *direction,
                operand: *operand,
            };
            assert_eq!(decode(&followed, true), Some(expected), "{text}");
            for short in 0..bytes.len() {
                assert_eq!(decode(&bytes[..short], true), None, "{text}, {short} bytes");
            }
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, bytes) in REFUSED {
            assert_eq!(decode(bytes, true), None, "{text}");
        }
    }

    #[test]
    fn thirty_two_bit_code_has_no_rex() {
        // dec eax; mov [eax], ecx.
        assert_eq!(decode(&[0x48, 0x89, 0x08], false), None);
        let store = decode(&[0xa3, 1, 2, 3, 4], false).unwrap();
        assert_eq!((store.length, store.bytes), (5, 4));
        assert_eq!(decode(&[0x67, 0x89, 0x08], false), None);
    }

    #[test]
    fn no_bytes_decode_to_an_impossible_move() {
        let mut bytes = [0; 15];
        for first in 0..=255 {
            for second in 0..=255 {
                for third in [0, 4, 5, 0x0f, 0x44, 0x84, 0x89, 0xb6, 0xc0] {
                    bytes[..3].copy_from_slice(&[first, second, third]);
                    for long in [false, true] {
                        if let Some(found) = decode(&bytes, long) {
                            assert!(matches!(found.bytes, 1 | 2 | 4 | 8));
                            assert!((2..=15).contains(&found.length));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn values_have_the_width_of_their_instruction() {
        let value = 0x1122_3344_5566_7788;
        assert_eq!(stored(Register(0), value, 4), 0x5566_7788);
        assert_eq!(stored(HighByte(0), value, 1), 0x77);
        assert_eq!(stored(Constant(u64::MAX), 0, 2), 0xffff);
        let load = |bytes: &[u8], value| {
            let access = decode(bytes, true).unwrap();
            let Direction::Load(extend) = access.direction else {
                panic!("a load");
            };
            loaded(&access, extend, u64::MAX, value)
        };
        assert_eq!(load(&[0x8b, 0x08], 5), 5);
        assert_eq!(load(&[0x66, 0x8b, 0x08], 5), 0xffff_ffff_ffff_0005);
        assert_eq!(load(&[0x8a, 0x20], 5), 0xffff_ffff_ffff_05ff);
        assert_eq!(load(&[0x0f, 0xb6, 0x08], 0x180), 0x80);
        assert_eq!(load(&[0x0f, 0xbe, 0x08], 0x80), 0xffff_ff80);
        assert_eq!(load(&[0x48, 0x0f, 0xbe, 0x08], 0x80), 0xffff_ffff_ffff_ff80);
        assert_eq!(
            load(&[0x48, 0x63, 0x08], 0x8000_0000),
            0xffff_ffff_8000_0000
        );
    }
}
