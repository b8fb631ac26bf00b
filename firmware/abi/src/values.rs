// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Closed sets of values and bit fields of words.

/// One named value of a closed set, for documents.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// The number on the wire.
    pub number: u64,
    /// The name in plain English.
    pub name: &'static str,
}

/// Makes an enum whose values are fixed on the wire.
macro_rules! values {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$value_meta:meta])* $variant:ident = $number:literal,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$value_meta])* $variant = $number,)*
        }

        impl $name {
            /// Every value, for documents and tests.
            pub const VALUES: &'static [$crate::Value] = &[
                $($crate::Value { number: $number, name: stringify!($variant) },)*
            ];

            /// Returns the value that `word` stands for, if it is one of the set.
            #[must_use]
            pub const fn from_word(word: u64) -> Option<Self> {
                match word {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Returns the number on the wire.
            #[must_use]
            pub const fn word(self) -> u64 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }
        }
    };
}
pub(crate) use values;

/// A field of consecutive bits in a 64-bit word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitField {
    low: u32,
    width: u32,
}

impl BitField {
    /// Returns the field of `width` bits (1 to 64) whose lowest is bit `low`.
    #[must_use]
    pub const fn new(low: u32, width: u32) -> Self {
        Self { low, width }
    }

    const fn ones(self) -> u64 {
        match 64_u32.checked_sub(self.width) {
            Some(unused) => match u64::MAX.checked_shr(unused) {
                Some(ones) => ones,
                None => 0,
            },
            None => u64::MAX,
        }
    }

    /// Returns the bits that the field covers.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self.ones().checked_shl(self.low) {
            Some(mask) => mask,
            None => 0,
        }
    }

    /// Returns the field's value in `word`.
    #[must_use]
    pub const fn of(self, word: u64) -> u64 {
        match (word & self.mask()).checked_shr(self.low) {
            Some(value) => value,
            None => 0,
        }
    }

    /// Returns `value`, cut to the field's width, at the field's place.
    #[must_use]
    pub const fn place(self, value: u64) -> u64 {
        match (value & self.ones()).checked_shl(self.low) {
            Some(placed) => placed,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BitField;

    #[test]
    fn a_field_is_cut_to_its_width_and_found_again() {
        let field = BitField::new(12, 40);
        assert_eq!(field.mask(), 0x000f_ffff_ffff_f000);
        assert_eq!(field.of(field.place(u64::MAX)), 0xff_ffff_ffff);
        assert_eq!(BitField::new(0, 64).of(u64::MAX), u64::MAX);
        assert_eq!(BitField::new(63, 1).place(3), 1 << 63);
    }
}
