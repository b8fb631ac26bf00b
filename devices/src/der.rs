// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Just enough DER to write a certificate.

/// Universal and context tags used in a certificate.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    pub(crate) const CONTEXT_0: u8 = 0x80;
    pub(crate) const CONTEXT_0_CONSTRUCTED: u8 = 0xa0;
    pub(crate) const CONTEXT_3_CONSTRUCTED: u8 = 0xa3;
}

/// Encodes one value: tag, shortest length, content.
pub(crate) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let used = &bytes[length.leading_zeros() as usize / 8..];
        out.push(0x80 | used.len() as u8);
        out.extend_from_slice(used);
    }
    out.extend_from_slice(content);
    out
}

/// Encodes a SEQUENCE of encoded values.
pub(crate) fn sequence(items: &[Vec<u8>]) -> Vec<u8> {
    value(tag::SEQUENCE, &items.concat())
}

/// Encodes an OBJECT IDENTIFIER of at least two arcs.
pub(crate) fn oid(arcs: &[u32]) -> Vec<u8> {
    let mut content = Vec::new();
    let first = arcs[0] * 40 + arcs[1];
    for arc in std::iter::once(&first).chain(&arcs[2..]) {
        let groups = (32 - arc.leading_zeros()).div_ceil(7).max(1);
        for group in (0..groups).rev() {
            let more = if group == 0 { 0 } else { 0x80 };
            content.push(more | (arc >> (7 * group)) as u8 & 0x7f);
        }
    }
    value(tag::OBJECT_IDENTIFIER, &content)
}

/// Encodes a non-negative INTEGER from big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = &bytes[zeros.min(bytes.len().saturating_sub(1))..];
    let mut content = Vec::new();
    if digits.first().is_none_or(|byte| byte & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(digits);
    value(tag::INTEGER, &content)
}

/// Encodes a BIT STRING without unused bits.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    value(tag::BIT_STRING, &[&[0], bytes].concat())
}

/// Encodes a point of time, in seconds since 1970, as a certificate's validity wants it.
pub(crate) fn time(seconds: u64) -> Vec<u8> {
    let (year, month, day) = civil_date(seconds / 86_400);
    let rest = seconds % 86_400;
    let clock = format!("{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60);
    // RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime after.
    if year < 2050 {
        let text = format!("{:02}{month:02}{day:02}{clock}", year % 100);
        value(tag::UTC_TIME, text.as_bytes())
    } else {
        let text = format!("{year:04}{month:02}{day:02}{clock}");
        value(tag::GENERALIZED_TIME, text.as_bytes())
    }
}

/// Converts days since 1970-01-01 to year, month and day of the Gregorian calendar.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::{civil_date, oid, time, unsigned, value};

    #[test]
    fn lengths_take_the_shortest_form() {
        assert_eq!(value(4, &[0; 0x7f])[..2], [4, 0x7f]);
        assert_eq!(value(4, &[0; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(value(4, &[0; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
    }

    #[test]
    fn object_identifiers_match_their_known_encoding() {
        assert_eq!(oid(&[2, 23, 147]), [6, 3, 0x67, 0x81, 0x13]);
        assert_eq!(
            oid(&[1, 2, 840, 10045, 4, 3, 3]),
            [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]
        );
    }

    #[test]
    fn integers_are_positive_and_minimal() {
        assert_eq!(unsigned(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0]), [2, 1, 0]);
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(20_777), (2026, 11, 20));
        assert_eq!(time(0)[2..], *b"700101000000Z");
        assert_eq!(time(2_524_608_000)[2..], *b"20500101000000Z");
    }
}
