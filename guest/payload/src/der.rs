// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A walk over DER values, without copies and without recursion.

/// Reports bytes that are not DER, or not the value that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Tags that certificates use.
pub(crate) mod tag {
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const OBJECT_ID: u8 = 0x06;
    pub const SEQUENCE: u8 = 0x30;
    pub const VERSION: u8 = 0xa0;
    pub const EXTENSIONS: u8 = 0xa3;
}

/// One value: its tag, its content, and both together with the length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    pub whole: &'a [u8],
}

/// Values that follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes the next value. Lengths are definite, in the shortest form and below 64 KiB.
    pub fn value(&mut self) -> Result<Value<'a>, Malformed> {
        let (tag, length, head) = match *self.rest {
            [tag, length, ..] if length < 0x80 => (tag, usize::from(length), 2),
            [tag, 0x81, length, ..] if length >= 0x80 => (tag, usize::from(length), 3),
            [tag, 0x82, high, low, ..] if high != 0 => {
                (tag, usize::from(u16::from_be_bytes([high, low])), 4)
            }
            _ => return Err(Malformed),
        };
        // Tag numbers above 30 take more bytes; certificates have none.
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        let end = length.checked_add(head).ok_or(Malformed)?;
        let (whole, rest) = self.rest.split_at_checked(end).ok_or(Malformed)?;
        self.rest = rest;
        Ok(Value {
            tag,
            content: whole.get(head..).ok_or(Malformed)?,
            whole,
        })
    }

    /// Takes the next value, which has `tag`.
    pub fn expect(&mut self, tag: u8) -> Result<Value<'a>, Malformed> {
        let value = self.value()?;
        if value.tag == tag {
            Ok(value)
        } else {
            Err(Malformed)
        }
    }

    /// Takes the next value if it has `tag`.
    pub fn optional(&mut self, tag: u8) -> Result<Option<Value<'a>>, Malformed> {
        match self.rest.first() {
            Some(first) if *first == tag => self.value().map(Some),
            _ => Ok(None),
        }
    }

    /// Takes the next value, a sequence, and returns what is in it.
    pub fn sequence(&mut self) -> Result<Self, Malformed> {
        Ok(Self::new(self.expect(tag::SEQUENCE)?.content))
    }

    /// Succeeds when nothing is left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

impl<'a> Value<'a> {
    /// Returns the bytes of a bit string that has whole bytes.
    pub fn bits(&self) -> Result<&'a [u8], Malformed> {
        match self.content {
            [0, bits @ ..] if self.tag == tag::BIT_STRING => Ok(bits),
            _ => Err(Malformed),
        }
    }

    /// Writes a non-negative integer to the end of `out`, which is zero before.
    pub fn unsigned(&self, out: &mut [u8]) -> Result<(), Malformed> {
        let digits = match self.content {
            [0, digits @ ..] if digits.first().is_some_and(|digit| *digit >= 0x80) => digits,
            [first, ..] if *first < 0x80 => self.content,
            _ => return Err(Malformed),
        };
        let start = out.len().checked_sub(digits.len()).ok_or(Malformed)?;
        out.get_mut(start..)
            .ok_or(Malformed)?
            .copy_from_slice(digits);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Reader, tag};

    #[test]
    fn values_are_taken_one_by_one() {
        let bytes = [0x30, 3, 2, 1, 5, 4, 0];
        let mut reader = Reader::new(&bytes);
        let mut inner = reader.sequence().unwrap();
        assert_eq!(inner.expect(tag::INTEGER).unwrap().content, [5]);
        assert!(inner.end().is_ok());
        assert!(reader.optional(tag::INTEGER).unwrap().is_none());
        assert_eq!(reader.value().unwrap().whole, [4, 0]);
        assert!(reader.is_empty());
        assert!(reader.value().is_err());
    }

    #[test]
    fn long_lengths_are_in_the_shortest_form() {
        let mut bytes = vec![4, 0x81, 0x80];
        bytes.resize(3 + 0x80, 7);
        assert_eq!(Reader::new(&bytes).value().unwrap().content.len(), 0x80);
        let mut bytes = vec![4, 0x82, 1, 0];
        bytes.resize(4 + 0x100, 7);
        assert_eq!(Reader::new(&bytes).value().unwrap().content.len(), 0x100);
        for bad in [
            &[4, 0x81, 1, 9][..],
            &[4, 0x82, 0, 1, 9],
            &[4, 0x80, 0, 0],
            &[4, 2, 9],
        ] {
            assert_eq!(Reader::new(bad).value().err(), Some(Malformed));
        }
    }

    #[test]
    fn integers_are_not_negative_and_have_no_spare_zeros() {
        let read = |bytes: &[u8]| {
            let mut out = [0; 2];
            let value = Reader::new(bytes).value()?;
            value.unsigned(&mut out).map(|()| out)
        };
        assert_eq!(read(&[2, 1, 5]), Ok([0, 5]));
        assert_eq!(read(&[2, 3, 0, 0x81, 2]), Ok([0x81, 2]));
        for bad in [&[2, 1, 0x80][..], &[2, 3, 1, 2, 3], &[2, 0]] {
            assert_eq!(read(bad), Err(Malformed));
        }
    }
}
