// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Ranges and output addresses that are wrong.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{BlockSize, Call, MapFlags, RangeDescriptor};
use tsm_platform_fake::{DRAM_TOP, ENDPOINT_BAR, Host, Realm};

use crate::Case;
use crate::common::{PAGE, World};

pub fn cases(world: &World) -> Vec<Case> {
    let single = MapFlags::single().0;
    let (new, active) = (world.new.rd, world.active.rd);
    let page = RangeDescriptor::new(world.free, BlockSize::Page, 1).0;
    let data_map = |base, top, flags, oaddr| Call::RttDataMap {
        rd: active,
        base,
        top,
        flags,
        oaddr,
    };
    let unmap = |base, top, flags, oaddr| Call::RttDataUnmap {
        rd: active,
        base,
        top,
        flags,
        oaddr,
    };
    let block = RangeDescriptor::new(world.free, BlockSize::Block2M, 1).0;
    let giant = RangeDescriptor::new(0x8000_0000, BlockSize::Block1G, 1).0;
    let (plain, free) = (world.plain, world.free);
    vec![
        (
            "empty range",
            data_map(PAGE, PAGE, single, page),
            RmiStatus::INPUT,
        ),
        (
            "reversed range",
            data_map(2 * PAGE, PAGE, single, page),
            RmiStatus::INPUT,
        ),
        (
            "misaligned base",
            data_map(PAGE + 1, 3 * PAGE, single, page),
            RmiStatus::INPUT,
        ),
        (
            "misaligned top",
            data_map(2 * PAGE, 3 * PAGE + 8, single, page),
            RmiStatus::INPUT,
        ),
        (
            "shared half",
            data_map(Realm::SHARED, Realm::SHARED + PAGE, single, page),
            RmiStatus::INPUT,
        ),
        (
            "both halves",
            data_map(Realm::SHARED - PAGE, Realm::SHARED + PAGE, single, page),
            RmiStatus::INPUT,
        ),
        (
            "past the end",
            data_map(2 * Realm::SHARED, 2 * Realm::SHARED + PAGE, single, page),
            RmiStatus::INPUT,
        ),
        (
            "no output address",
            data_map(2 * PAGE, 3 * PAGE, 0, page),
            RmiStatus::INPUT,
        ),
        (
            "unknown address type",
            data_map(2 * PAGE, 3 * PAGE, 3, page),
            RmiStatus::INPUT,
        ),
        (
            "no blocks",
            data_map(2 * PAGE, 3 * PAGE, single, page & !0xffc),
            RmiStatus::INPUT,
        ),
        (
            "reserved bits",
            data_map(2 * PAGE, 3 * PAGE, single, page | 1 << 55),
            RmiStatus::INPUT,
        ),
        (
            "host's memory",
            data_map(2 * PAGE, 3 * PAGE, single, page | 1 << 63),
            RmiStatus::INPUT,
        ),
        (
            "not delegated",
            data_map(
                2 * PAGE,
                3 * PAGE,
                single,
                Host::shared_range(plain) & !(1 << 63),
            ),
            RmiStatus::INPUT,
        ),
        (
            "misaligned block",
            data_map(0, 0x20_0000, single, block),
            RmiStatus::INPUT,
        ),
        (
            "block of 1 GiB",
            data_map(0, 0x4000_0000, single, giant),
            RmiStatus::INPUT,
        ),
        (
            "a device's granule",
            data_map(
                2 * PAGE,
                3 * PAGE,
                single,
                RangeDescriptor::new(ENDPOINT_BAR, BlockSize::Page, 1).0,
            ),
            RmiStatus::INPUT,
        ),
        (
            "of another realm",
            data_map(
                2 * PAGE,
                3 * PAGE,
                single,
                RangeDescriptor::new(world.data, BlockSize::Page, 1).0,
            ),
            RmiStatus::INPUT,
        ),
        (
            "mapped otherwise",
            data_map(PAGE, 2 * PAGE, single, page),
            RmiStatus::rtt(3),
        ),
        (
            "no table",
            data_map(0x40_0000, 0x40_1000, single, page),
            RmiStatus::rtt(2),
        ),
        (
            "empty list",
            data_map(2 * PAGE, 3 * PAGE, 2, plain),
            RmiStatus::INPUT,
        ),
        (
            "misaligned list",
            data_map(2 * PAGE, 3 * PAGE, MapFlags::list(1).0, plain + 4),
            RmiStatus::INPUT,
        ),
        (
            "list in the TSM's memory",
            data_map(2 * PAGE, 3 * PAGE, MapFlags::list(1).0, free),
            RmiStatus::INPUT,
        ),
        (
            "list outside memory",
            data_map(2 * PAGE, 3 * PAGE, MapFlags::list(1).0, DRAM_TOP),
            RmiStatus::INPUT,
        ),
        (
            "unmap: empty range",
            unmap(PAGE, PAGE, single, 0),
            RmiStatus::INPUT,
        ),
        (
            "unmap: shared half",
            unmap(Realm::SHARED, Realm::SHARED + PAGE, single, 0),
            RmiStatus::INPUT,
        ),
        (
            "unmap: stray address",
            unmap(PAGE, 2 * PAGE, single, 0x1000),
            RmiStatus::INPUT,
        ),
        (
            "unmap: stray count",
            unmap(PAGE, 2 * PAGE, single | 4, 0),
            RmiStatus::INPUT,
        ),
        (
            "unmap: list in the TSM's memory",
            unmap(PAGE, 2 * PAGE, MapFlags::list(1).0, free),
            RmiStatus::INPUT,
        ),
        (
            "unmap: in the middle of a block",
            unmap(0x40_1000, 0x40_2000, single, 0),
            RmiStatus::rtt(2),
        ),
        (
            "unmap: a device call on memory",
            Call::RttDevUnmap {
                rd: active,
                base: PAGE,
                top: 2 * PAGE,
                flags: single,
                oaddr: 0,
            },
            RmiStatus::rtt(3),
        ),
        (
            "unmap: part of what no table divides",
            unmap(0x40_0000, 0x40_1000, single, 0),
            RmiStatus::rtt(2),
        ),
        (
            "init: active realm",
            Call::RttDataMapInit {
                rd: active,
                data: free,
                ipa: 2 * PAGE,
                src: plain,
                flags: 0,
            },
            RmiStatus::REALM,
        ),
        (
            "init: unknown flag",
            Call::RttDataMapInit {
                rd: new,
                data: free,
                ipa: 0,
                src: plain,
                flags: 2,
            },
            RmiStatus::INPUT,
        ),
        (
            "init: shared half",
            Call::RttDataMapInit {
                rd: new,
                data: free,
                ipa: Realm::SHARED,
                src: plain,
                flags: 0,
            },
            RmiStatus::INPUT,
        ),
        (
            "init: no table",
            Call::RttDataMapInit {
                rd: new,
                data: free,
                ipa: 0x40_0000,
                src: plain,
                flags: 0,
            },
            RmiStatus::rtt(2),
        ),
    ]
}
