// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

extern crate std;

use super::{
    KeyError, Registers, SIZE, Slot, Stream, clear, go, key_words, program, read_pair, reset, stop,
    write_pair,
};
use std::{cell::RefCell, vec, vec::Vec};
use tsm_abi::el3::StreamAssociation;

struct Unit(RefCell<Vec<u32>>);

impl Registers for Unit {
    fn read(&self, offset: u32) -> u32 {
        self.0.borrow()[offset as usize / 4]
    }
    fn write(&self, offset: u32, value: u32) {
        self.0.borrow_mut()[offset as usize / 4] = value;
    }
    fn zero(&self, first: u32, end: u32) {
        self.0.borrow_mut()[first as usize / 4..end as usize / 4].fill(0);
    }
}

impl Unit {
    fn new() -> Self {
        let unit = Self(RefCell::new(vec![0xdead_beef; SIZE as usize / 4]));
        reset(&unit);
        unit
    }

    fn is_empty(&self) -> bool {
        self.0.borrow()[0x1000 / 4..].iter().all(|word| *word == 0)
    }
}

const PORT: u64 = 0x10;
/// Stream 3, completions, transmit, key set 1.
const INFO: u64 = 3 | 2 << 8 | 1 << 11 | 1 << 12;
const ENTRY: u32 = 0x1000;
const SLOT: u32 = ENTRY + 0x40 + (6 + 4 + 1) * 0x40;

/// The key whose bytes in AES order are 0, 1, 2, ... 31.
const COUNTING: [u64; 4] = [
    0x1819_1a1b_1c1d_1e1f,
    0x1011_1213_1415_1617,
    0x0809_0a0b_0c0d_0e0f,
    0x0001_0203_0405_0607,
];

fn stream(port: u64, id: u64) -> Stream {
    Stream::decode(port, id).unwrap()
}

fn association(first: u16, last: u16) -> [u64; 2] {
    let association = StreamAssociation {
        first,
        last,
        enabled: false,
    };
    [association.word(), 0]
}

#[test]
fn reset_forgets_all_and_names_the_layout() {
    let unit = Unit::new();
    assert_eq!(
        [unit.read(0), unit.read(4), unit.read(8)],
        [0x5543_4b50, 2, 256]
    );
    assert_eq!(
        unit.read(0xc),
        0xdead_beef,
        "the counter is the other half's"
    );
    assert!(unit.is_empty());
}

#[test]
fn a_key_lands_with_its_first_bytes_in_the_last_word() {
    let unit = Unit::new();
    let slot = Slot::decode(PORT, INFO).unwrap();
    program(&unit, slot, &COUNTING, [0x1_0000_0002, 0]).unwrap();
    assert_eq!(unit.read(ENTRY), 0x8003_0010);
    assert_eq!(unit.read(SLOT + 0x1c), 0x0001_0203);
    assert_eq!(unit.read(SLOT), 0x1c1d_1e1f);
    assert_eq!([unit.read(SLOT + 0x20), unit.read(SLOT + 0x24)], [2, 1]);
    assert_eq!(unit.read(SLOT + 0x28), 1);
    go(&unit, slot).unwrap();
    assert_eq!(unit.read(SLOT + 0x28), 3);
}

#[test]
fn the_first_bytes_of_a_key_are_the_highest_of_its_last_word() {
    let key = core::array::from_fn(|index| index as u8);
    assert_eq!(*key_words(&key), COUNTING);
}

#[test]
fn a_register_names_a_stream_and_a_pair_and_nothing_else() {
    assert_eq!(
        Stream::decode_register(PORT, 0x1003),
        Ok((stream(PORT, 3), 16))
    );
    for (port, register) in [(PORT, 0x1_0003), (PORT, 1 << 63), (0x1_0000, 3)] {
        let refused = Stream::decode_register(port, register);
        assert_eq!(refused, Err(KeyError::Argument));
    }
}

#[test]
fn a_key_in_use_is_not_replaced() {
    let unit = Unit::new();
    let slot = Slot::decode(PORT, INFO).unwrap();
    assert_eq!(go(&unit, slot), Err(KeyError::State));
    program(&unit, slot, &COUNTING, [1, 0]).unwrap();
    go(&unit, slot).unwrap();
    assert_eq!(program(&unit, slot, &[0; 4], [1, 0]), Err(KeyError::State));
    assert_eq!(unit.read(SLOT + 0x1c), 0x0001_0203);
}

#[test]
fn stop_forgets_the_key_and_the_last_one_frees_the_entry() {
    let unit = Unit::new();
    let one = Slot::decode(PORT, INFO).unwrap();
    let other = Slot::decode(PORT, 3).unwrap();
    for slot in [one, other] {
        program(&unit, slot, &COUNTING, [1, 0]).unwrap();
        go(&unit, slot).unwrap();
    }
    stop(&unit, one);
    assert!(
        (SLOT..SLOT + 0x40)
            .step_by(4)
            .all(|offset| unit.read(offset) == 0)
    );
    assert_eq!(unit.read(ENTRY), 0x8003_0010);
    stop(&unit, other);
    stop(&unit, other);
    assert!(unit.is_empty());
}

#[test]
fn one_stream_id_of_two_ports_is_two_streams() {
    let unit = Unit::new();
    let one = Slot::decode(PORT, INFO).unwrap();
    let other = Slot::decode(0x18, INFO).unwrap();
    program(&unit, one, &COUNTING, [1, 0]).unwrap();
    assert_eq!(go(&unit, other), Err(KeyError::State));
    program(&unit, other, &[7; 4], [1, 0]).unwrap();
    go(&unit, one).unwrap();
    assert_eq!(unit.read(SLOT + 0x28), 3);
    assert_eq!(unit.read(SLOT + 0x800 + 0x28), 1);
    stop(&unit, one);
    assert_eq!(unit.read(SLOT + 0x800), 7);
    // The entry that became free is taken again.
    program(&unit, one, &COUNTING, [1, 0]).unwrap();
    assert_eq!(unit.read(ENTRY), 0x8003_0010);
}

#[test]
fn registers_of_a_stream_are_read_as_they_were_written() {
    let unit = Unit::new();
    let (own, others) = (stream(PORT, 3), stream(0x18, 3));
    assert_eq!(read_pair(&unit, own, 0), Ok([0; 2]));
    let range = [0x1_1000_0000, 0x1_1020_0000];
    write_pair(&unit, own, 0, association(0x100, 0x1ff)).unwrap();
    write_pair(&unit, others, 0, association(0x200, 0x200)).unwrap();
    write_pair(&unit, own, 16, range).unwrap();
    assert_eq!(read_pair(&unit, own, 0), Ok(association(0x100, 0x1ff)));
    assert_eq!(read_pair(&unit, own, 16), Ok(range));
    assert_eq!(read_pair(&unit, own, 1), Ok([0; 2]));
    assert_eq!(read_pair(&unit, others, 16), Ok([0; 2]));
    write_pair(&unit, own, 16, [0; 2]).unwrap();
    assert_eq!(read_pair(&unit, own, 16), Ok([0; 2]));
    clear(&unit, others);
    clear(&unit, own);
    clear(&unit, own);
    assert!(unit.is_empty());
}

#[test]
fn a_stream_keeps_its_entry_while_it_has_keys_or_registers() {
    let unit = Unit::new();
    let slot = Slot::decode(PORT, INFO).unwrap();
    let own = stream(PORT, 3);
    write_pair(&unit, own, 0, association(0x100, 0x100)).unwrap();
    program(&unit, slot, &COUNTING, [1, 0]).unwrap();
    stop(&unit, slot);
    assert_eq!(read_pair(&unit, own, 0), Ok(association(0x100, 0x100)));
    program(&unit, slot, &COUNTING, [1, 0]).unwrap();
    clear(&unit, own);
    assert_eq!(unit.read(SLOT + 0x28), 1);
    stop(&unit, slot);
    assert!(unit.is_empty());
}

#[test]
fn when_every_entry_is_taken_the_next_stream_is_refused() {
    let unit = Unit::new();
    for id in 0..256 {
        write_pair(&unit, stream(PORT, id), 0, association(0x100, 0x100)).unwrap();
    }
    let next = stream(0x18, 0);
    let refused = write_pair(&unit, next, 0, association(0x200, 0x200));
    assert_eq!(refused, Err(KeyError::State));
    let slot = Slot::decode(0x18, 0).unwrap();
    assert_eq!(
        program(&unit, slot, &COUNTING, [1, 0]),
        Err(KeyError::State)
    );
    clear(&unit, stream(PORT, 77));
    write_pair(&unit, next, 0, association(0x200, 0x200)).unwrap();
}

#[test]
fn an_argument_that_names_nothing_is_refused() {
    let unit = Unit::new();
    assert_eq!(Slot::decode(0x1_0000, 0), Err(KeyError::Argument));
    assert_eq!(Slot::decode(PORT, 3 << 8), Err(KeyError::Argument));
    assert_eq!(Slot::decode(PORT, 1 << 13), Err(KeyError::Argument));
    assert_eq!(Stream::decode(0x1_0000, 0), Err(KeyError::Argument));
    assert_eq!(Stream::decode(PORT, 256), Err(KeyError::Argument));
    let slot = Slot::decode(PORT, INFO).unwrap();
    let refused = program(&unit, slot, &COUNTING, [1, 1]);
    assert_eq!(refused, Err(KeyError::Argument));
    let own = stream(PORT, 3);
    let wrong = [
        (0, [0, 0]),
        (0, [association(2, 1)[0], 0]),
        (0, [association(1, 2)[0], 1]),
        (1, [0x2000, 0x1000]),
        (16, [0x1000, 0x1000]),
        (17, [0x1000, 0x2000]),
    ];
    for (pair, words) in wrong {
        let refused = write_pair(&unit, own, pair, words);
        assert_eq!(refused, Err(KeyError::Argument), "{pair} {words:x?}");
    }
    assert_eq!(read_pair(&unit, own, 17), Err(KeyError::Argument));
    assert!(unit.is_empty());
}
