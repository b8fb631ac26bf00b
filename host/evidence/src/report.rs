// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The TDISP device interface report (TDISP 1.0, 11.3.11).

use serde::Serialize;

const PAGE: u64 = 4096;
const RANGE_BYTES: usize = 16;
/// Most ranges in a report.
const MOST_RANGES: usize = 64;

/// A range of the device's registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// First address, in bytes.
    pub base: u64,
    /// Address after the last, in bytes.
    pub top: u64,
    /// Attributes: 1 MSI-X table, 2 pending bits, 4 not for TEEs, 8 attribute can change.
    pub attributes: u16,
    /// The device's name for it.
    pub id: u16,
}

/// A report.
#[derive(Clone, Debug, Serialize)]
pub struct Interface {
    /// INTERFACE_INFO: 1 firmware is not updated while locked, 2 DMA without PASID, 4 DMA with
    /// PASID, 8 ATS, 16 PRS.
    pub info: u16,
    /// MSI-X control.
    pub msi_x: u16,
    /// The ranges.
    pub ranges: Vec<Range>,
    /// Bytes of device-specific information.
    pub specific: usize,
}

impl Interface {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let short = "the report is cut short";
        let (head, rest) = bytes.split_first_chunk::<16>().ok_or(short)?;
        let half = |offset: usize| u16::from_le_bytes([head[offset], head[offset + 1]]);
        let count = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
        if count > MOST_RANGES {
            return Err(format!("{count} ranges are too many"));
        }
        let (ranges, rest) = rest.split_at_checked(count * RANGE_BYTES).ok_or(short)?;
        let (length, specific) = rest.split_first_chunk::<4>().ok_or(short)?;
        if u32::from_le_bytes(*length) as usize != specific.len() {
            return Err("the length of the specific part is wrong".into());
        }
        let (ranges, _) = ranges.as_chunks::<RANGE_BYTES>();
        let ranges = ranges.iter().map(range).collect::<Result<Vec<_>, _>>()?;
        for (index, range) in ranges.iter().enumerate() {
            let overlaps = |other: &Range| range.base < other.top && other.base < range.top;
            if ranges[..index].iter().any(overlaps) {
                return Err(format!("range {} overlaps another", range.id));
            }
        }
        Ok(Self {
            info: half(0),
            msi_x: half(4),
            ranges,
            specific: specific.len(),
        })
    }
}

fn range(bytes: &[u8; RANGE_BYTES]) -> Result<Range, String> {
    let [
        p0,
        p1,
        p2,
        p3,
        p4,
        p5,
        p6,
        p7,
        n0,
        n1,
        n2,
        n3,
        a0,
        a1,
        i0,
        i1,
    ] = *bytes;
    let id = u16::from_le_bytes([i0, i1]);
    let first = u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]);
    let pages = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
    let base = first.checked_mul(PAGE);
    let top = base.and_then(|base| base.checked_add(pages * PAGE));
    match (base, top) {
        (Some(base), Some(top)) if base < top => Ok(Range {
            base,
            top,
            attributes: u16::from_le_bytes([a0, a1]),
            id,
        }),
        _ => Err(format!("range {id} is empty or wraps")),
    }
}
