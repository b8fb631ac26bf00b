// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys and streams of root ports. No firmware lies below the TSM that would keep the key
//! configuration unit for it: the TSM drives it itself.

use spin::{Mutex, Once};
use tsm_ide::unit::{self, KeyError, Registers, Slot, Stream};
use tsm_platform::{GranuleRange, PlatformError, Rid};

use crate::ecam::Ecam;

/// Registers of configuration space (PCIe 6.0, 7.5.1).
const IDENTITY: u16 = 0x00;
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const BAR2: u16 = 0x18;
const BAR3: u16 = 0x1c;
/// Bits 2:0 of a BAR of memory with a 64-bit address.
const BAR_IS_WIDE_MEMORY: u32 = 0b100;
/// Bits of a BAR that are no address.
const BAR_KIND: u64 = 0xf;

/// Returns where the unit's registers are: BAR 2 of the function `rid`, which must have the vendor
/// and device id `identity`. Switches its memory on and everything else of it off.
pub fn locate(ecam: &Ecam, rid: Rid, identity: u32) -> Option<GranuleRange> {
    find(
        identity,
        |register| ecam.read(rid, register, 4),
        |register, value| ecam.write(rid, register, 4, value),
    )
}

fn find(
    identity: u32,
    read: impl Fn(u16) -> u32,
    write: impl Fn(u16, u32),
) -> Option<GranuleRange> {
    if read(IDENTITY) != identity {
        return None;
    }
    // While its BARs are measured it answers nowhere. Zeros clear none of the status bits above the command.
    write(COMMAND, 0);
    let bars = [read(BAR2), read(BAR3)];
    write(BAR2, u32::MAX);
    write(BAR3, u32::MAX);
    let mask = [read(BAR2), read(BAR3)];
    write(BAR2, bars[0]);
    write(BAR3, bars[1]);
    if bars[0] & 0b111 != BAR_IS_WIDE_MEMORY {
        return None;
    }
    let word = |[low, high]: [u32; 2]| (u64::from(high) << 32 | u64::from(low)) & !BAR_KIND;
    let base = word(bars);
    let size = (!word(mask)).wrapping_add(1);
    let window = GranuleRange::new(base, base.checked_add(size)?)?;
    if base == 0 || size < u64::from(unit::SIZE) {
        return None;
    }
    write(COMMAND, COMMAND_MEMORY);
    Some(window)
}

/// The unit's registers.
struct Window(*mut u8);

// SAFETY: registers may be used from any CPU; `UNIT` lets one use them at a time.
unsafe impl Send for Window {}

impl Window {
    fn at(&self, offset: u32) -> Option<*mut u32> {
        let is_inside = offset < unit::SIZE && offset.is_multiple_of(4);
        is_inside.then(|| self.0.wrapping_add(offset as usize).cast())
    }
}

impl Registers for Window {
    fn read(&self, offset: u32) -> u32 {
        // SAFETY: `start` was promised `unit::SIZE` bytes of mapped registers, and `at` keeps to them.
        self.at(offset)
            .map_or(u32::MAX, |register| unsafe { register.read_volatile() })
    }

    fn write(&self, offset: u32, value: u32) {
        if let Some(register) = self.at(offset) {
            // SAFETY: as in `read`.
            unsafe { register.write_volatile(value) }
        }
    }

    fn zero(&self, first: u32, end: u32) {
        for offset in (first..end).step_by(4) {
            self.write(offset, 0);
        }
    }
}

/// The one there may be.
static UNIT: Once<Mutex<Window>> = Once::new();

/// Takes the unit whose registers are at `base` and empties it.
///
/// # Safety
///
/// [`unit::SIZE`] bytes of device memory must be mapped at `base` for ever, aligned to a granule,
/// which no host access reaches and nothing else uses.
pub unsafe fn start(base: *mut u8) {
    UNIT.call_once(|| {
        let window = Window(base);
        unit::reset(&window);
        Mutex::new(window)
    });
}

fn with<R>(work: impl FnOnce(&Window) -> Result<R, KeyError>) -> Result<R, PlatformError> {
    let unit = UNIT.get().ok_or(PlatformError::Refused)?;
    work(&unit.lock()).map_err(|_| PlatformError::Refused)
}

/// Programs a key of a root port; `info` is `tsm_abi::el3::stream_info`. All calls here take the
/// address of the root complex, of which there is one.
pub fn key_program(
    _: u64,
    port: u16,
    info: u64,
    key: &[u8; 32],
    iv: u64,
) -> Result<(), PlatformError> {
    let words = unit::key_words(key);
    with(|unit| {
        let slot = Slot::decode(port.into(), info)?;
        unit::program(unit, slot, &words, [iv, 0])
    })
}

/// Starts using a key of a root port.
pub fn key_go(_: u64, port: u16, info: u64) -> Result<(), PlatformError> {
    with(|unit| unit::go(unit, Slot::decode(port.into(), info)?))
}

/// Stops using a key of a root port and forgets it.
pub fn key_stop(_: u64, port: u16, info: u64) -> Result<(), PlatformError> {
    with(|unit| {
        unit::stop(unit, Slot::decode(port.into(), info)?);
        Ok(())
    })
}

/// Writes a register pair of a stream of a root port; `register` is
/// `tsm_abi::el3::stream_register`.
pub fn stream_write(
    _: u64,
    port: u16,
    register: u64,
    words: [u64; 2],
) -> Result<(), PlatformError> {
    with(|unit| {
        let (stream, pair) = Stream::decode_register(port.into(), register)?;
        unit::write_pair(unit, stream, pair, words)
    })
}

/// Reads a register pair of a stream of a root port.
pub fn stream_read(_: u64, port: u16, register: u64) -> Result<[u64; 2], PlatformError> {
    with(|unit| {
        let (stream, pair) = Stream::decode_register(port.into(), register)?;
        unit::read_pair(unit, stream, pair)
    })
}

/// Disables a stream of a root port and clears its registers.
pub fn stream_clear(_: u64, port: u16, stream: u8) -> Result<(), PlatformError> {
    with(|unit| {
        unit::clear(unit, Stream::decode(port.into(), stream.into())?);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use tsm_abi::el3::{StreamAssociation, stream_info, stream_register};
    use tsm_ide::unit;
    use tsm_platform::{GranuleRange, PlatformError};

    const IDENTITY: u32 = 0x1110_1af4;
    const PORT: u16 = 0x10;

    /// Configuration space with a BAR 2 of `size` bytes at `base`, and what was ever switched on.
    struct Function {
        registers: RefCell<[u32; 16]>,
        size: u64,
    }

    impl Function {
        fn new(kind: u32, base: u64, size: u64) -> Self {
            let mut registers = [0; 16];
            registers[0] = IDENTITY;
            registers[1] = 0b111;
            registers[6] = base as u32 | kind;
            registers[7] = (base >> 32) as u32;
            let registers = RefCell::new(registers);
            Self { registers, size }
        }

        fn find(&self, identity: u32) -> Option<GranuleRange> {
            let read = |register: u16| self.registers.borrow()[usize::from(register / 4)];
            let write = |register: u16, value: u32| {
                let mask = !(self.size - 1);
                let index = usize::from(register / 4);
                let registers = &mut self.registers.borrow_mut();
                let kept = match register {
                    0x18 => value & mask as u32 | registers[index] & 0xf,
                    0x1c => value & (mask >> 32) as u32,
                    _ => value,
                };
                registers[index] = kept;
            };
            super::find(identity, read, write)
        }

        fn command(&self) -> u32 {
            self.registers.borrow()[1]
        }
    }

    #[test]
    fn the_unit_is_where_its_bar_says_and_masters_no_bus() {
        for base in [0xfe00_0000, 0x8_0000_0000] {
            let function = Function::new(0b1100, base, 1 << 20);
            let found = function.find(IDENTITY);
            assert_eq!(found, GranuleRange::new(base, base + (1 << 20)));
            assert_eq!(function.command(), 0b010);
            assert_eq!(function.find(IDENTITY), found, "it was put back");
        }
    }

    #[test]
    fn what_is_not_the_unit_is_not_taken_for_it() {
        let unit = Function::new(0b1100, 0xfe00_0000, 1 << 20);
        assert_eq!(unit.find(IDENTITY + 1), None);
        assert_eq!(unit.command(), 0b111, "another function is left alone");
        for (kind, base, size) in [
            (0b1100, 0, 1 << 20),
            (0b1100, 0xfe00_0000, 1 << 16),
            (0b1000, 0xfe00_0000, 1 << 20),
            (0b0001, 0xfe00_0000, 1 << 20),
            (0b1100, !0 << 20, 1 << 20),
        ] {
            let function = Function::new(kind, base, size);
            assert_eq!(function.find(IDENTITY), None, "{kind:#b} {base:#x}");
            assert_eq!(function.command(), 0, "it is not switched on");
        }
    }

    #[test]
    fn the_calls_reach_the_unit_and_what_it_refuses_is_refused() {
        let info = stream_info(3, 1, 2, true);
        let none = super::key_go(0, PORT, info);
        assert_eq!(none, Err(PlatformError::Refused), "there is no unit yet");
        let registers = vec![0xdead_beef_u32; unit::SIZE as usize / 4].leak();
        // SAFETY: the memory is leaked, and only the unit uses it.
        unsafe { super::start(registers.as_mut_ptr().cast()) };
        let key = core::array::from_fn(|index| index as u8);
        assert_eq!(super::key_go(0, PORT, info), Err(PlatformError::Refused));
        super::key_program(0, PORT, info, &key, 1).unwrap();
        super::key_go(0, PORT, info).unwrap();
        let again = super::key_program(0, PORT, info, &key, 1);
        assert_eq!(again, Err(PlatformError::Refused), "it is in use");
        super::key_stop(0, PORT, info).unwrap();

        let association = StreamAssociation {
            first: 0x100,
            last: 0x1ff,
            enabled: true,
        };
        let pair = [association.word(), 0];
        let register = stream_register(3, 0);
        super::stream_write(0, PORT, register, pair).unwrap();
        assert_eq!(super::stream_read(0, PORT, register), Ok(pair));
        assert_eq!(super::stream_read(0, PORT + 8, register), Ok([0; 2]));
        for (register, words) in [(register, [1, 0]), (1 << 16, pair), (0x1103, [0; 2])] {
            let refused = super::stream_write(0, PORT, register, words);
            assert_eq!(refused, Err(PlatformError::Refused), "{register:#x}");
        }
        super::stream_clear(0, PORT, 3).unwrap();
        assert_eq!(super::stream_read(0, PORT, register), Ok([0; 2]));
    }
}
