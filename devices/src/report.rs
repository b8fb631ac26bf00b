// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device interface report.

use crate::function::{Bar, FunctionView, Layout};

const PAGE: u64 = 4096;

/// INTERFACE_INFO: no firmware update while locked.
const NO_UPDATE: u16 = 1 << 0;

/// Range attributes.
const MSIX_TABLE: u16 = 1 << 0;
const MSIX_PENDING: u16 = 1 << 1;
const NON_TEE: u16 = 1 << 2;

/// What LOCK_INTERFACE asked for, as far as the report shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReportOptions {
    /// Firmware updates are refused while locked.
    pub(crate) no_update: bool,
    /// The MSI-X table is locked with the interface.
    pub(crate) lock_msix: bool,
    /// Added to every address, modulo 2^64; a multiple of the page size.
    pub(crate) mmio_offset: u64,
}

/// Pages of a BAR with the same attributes.
struct Range {
    first: u64,
    size: u64,
    attributes: u16,
}

/// Builds the report of `function`.
pub(crate) fn build(function: &FunctionView, layout: &Layout, options: ReportOptions) -> Vec<u8> {
    let ranges: Vec<(u8, Range)> = function
        .bars
        .iter()
        .flat_map(|bar| {
            split(bar, layout, options.lock_msix)
                .into_iter()
                .map(|range| (bar.index, range))
        })
        .collect();
    let no_update = if options.no_update { NO_UPDATE } else { 0 };
    let info = layout.info & !NO_UPDATE | no_update;
    // Only the size of the table is fixed; whether vectors are enabled is the driver's business.
    let msix_control = if options.lock_msix {
        layout.msix_vectors.saturating_sub(1)
    } else {
        0
    };

    let mut report = Vec::new();
    report.extend(info.to_le_bytes());
    report.extend([0, 0]);
    report.extend(msix_control.to_le_bytes());
    let (notification, hints) = layout.notification;
    report.extend(notification.to_le_bytes());
    report.extend(hints.to_le_bytes());
    report.extend((ranges.len() as u32).to_le_bytes());
    for (bar, range) in ranges {
        let first = range.first.wrapping_add(options.mmio_offset) / PAGE;
        report.extend(first.to_le_bytes());
        report.extend(((range.size / PAGE) as u32).to_le_bytes());
        report.extend(range.attributes.to_le_bytes());
        report.extend(u16::from(bar).to_le_bytes());
    }
    report.extend((layout.device_specific.len() as u32).to_le_bytes());
    report.extend(&layout.device_specific[..]);
    report
}

/// Cuts a BAR into ranges: TEE memory, MSI-X table, pending bit array, other parts.
fn split(bar: &Bar, layout: &Layout, lock_msix: bool) -> Vec<Range> {
    // TDISP: the MSI-X bits are set for what LOCK_INTERFACE locked. What is not locked stays with
    // the host, which makes it memory that no TEE may trust.
    let special = |bit| if lock_msix { bit } else { NON_TEE };
    let mut cuts = vec![
        (layout.msix_table, special(MSIX_TABLE)),
        (layout.msix_pending, special(MSIX_PENDING)),
    ];
    cuts.extend(layout.special.iter());
    cuts.sort_by_key(|(region, _)| region.offset);

    let mut ranges = Vec::new();
    let mut push = |from: u64, to: u64, attributes| {
        if from < to {
            ranges.push(Range {
                first: bar.address + from,
                size: to - from,
                attributes,
            });
        }
    };
    let mut done = 0;
    for (region, attributes) in cuts {
        let inside =
            (done..=bar.size).contains(&region.offset) && region.size <= bar.size - region.offset;
        if region.bar != bar.index || !inside {
            continue;
        }
        push(done, region.offset, 0);
        push(region.offset, region.offset + region.size, attributes);
        done = region.offset + region.size;
    }
    push(done, bar.size, 0);
    ranges
}

#[cfg(test)]
mod tests {
    use super::{ReportOptions, build};
    use crate::function::{Bar, FunctionView, Layout, Region};

    fn report(lock_msix: bool, mmio_offset: u64) -> Vec<u8> {
        let bars = vec![Bar {
            index: 0,
            address: 0x1000_0000,
            size: 0x4000,
        }];
        let options = ReportOptions {
            no_update: true,
            lock_msix,
            mmio_offset,
        };
        build(
            &FunctionView {
                rid: Some(0x100),
                bars,
            },
            &Layout::QEMU_NVME,
            options,
        )
    }

    fn range(report: &[u8], index: usize) -> (u64, u32, u16, u16) {
        let bytes = &report[16 + 16 * index..];
        (
            u64::from_le_bytes(bytes[..8].try_into().unwrap()),
            u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
            u16::from_le_bytes([bytes[12], bytes[13]]),
            u16::from_le_bytes([bytes[14], bytes[15]]),
        )
    }

    #[test]
    fn the_nvme_bar_is_registers_then_table_then_pending_bits() {
        let report = report(true, 0);
        assert_eq!(
            report[..16],
            [3, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]
        );
        assert_eq!(range(&report, 0), (0x10000, 2, 0, 0));
        assert_eq!(range(&report, 1), (0x10002, 1, 1, 0));
        assert_eq!(range(&report, 2), (0x10003, 1, 2, 0));
        assert_eq!(report.len(), 16 + 3 * 16 + 4 + 16);
    }

    #[test]
    fn an_unlocked_table_is_not_tee_memory() {
        let report = report(false, 0);
        assert_eq!(range(&report, 1), (0x10002, 1, 4, 0));
        assert_eq!(range(&report, 2), (0x10003, 1, 4, 0));
        assert_eq!(report[4..6], [0, 0]);
    }

    #[test]
    fn parts_of_the_bar_are_ranges_with_their_attributes() {
        let part = |page: u64, attributes| {
            let region = Region {
                bar: 0,
                offset: page * 0x1000,
                size: 0x1000,
            };
            (region, attributes)
        };
        let parts: Vec<_> = (4..65).map(|page| part(page, 4 | 8)).collect();
        let layout = Layout {
            special: [parts, vec![part(5, 4), part(80, 4)]].concat().into(),
            info: 0x1e,
            notification: (7, 9),
            ..Layout::QEMU_NVME
        };
        let bars = vec![Bar {
            index: 0,
            address: 0x1000_0000,
            size: 0x41000,
        }];
        let options = ReportOptions {
            no_update: false,
            lock_msix: true,
            mmio_offset: 0,
        };
        let view = FunctionView { rid: None, bars };
        let report = build(&view, &layout, options);
        // Registers, table, pending bits, and 61 parts; what overlaps or lies outside is none.
        assert_eq!(
            report[..16],
            [0x1e, 0, 0, 0, 64, 0, 7, 0, 9, 0, 0, 0, 64, 0, 0, 0]
        );
        assert_eq!(range(&report, 63), (0x10040, 1, 0xc, 0));
        assert_eq!(report.len(), 16 + 64 * 16 + 4 + 16);
    }

    #[test]
    fn the_reporting_offset_is_added_modulo_two_to_the_64() {
        assert_eq!(range(&report(true, 0xd000_0000), 0).0, 0xe0000);
        assert_eq!(
            range(&report(true, 0_u64.wrapping_sub(0x1000_0000)), 2).0,
            3
        );
    }
}
