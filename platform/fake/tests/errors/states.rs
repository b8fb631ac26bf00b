// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! States, levels and owners that are wrong.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, MapFlags};
use tsm_platform_fake::{DRAM_TOP, Host, Realm, success};
use zerocopy::IntoBytes;

use crate::Case;
use crate::common::{PAGE, World};

pub fn cases(world: &World) -> Vec<Case> {
    let (new, active) = (world.new.rd, world.active.rd);
    let (plain, free, rec) = (world.plain, world.free, world.active.rec);
    let create = |ipa, level| Call::RttCreate {
        rd: new,
        rtt: free,
        ipa,
        level,
    };
    let read = |ipa, level| Call::RttReadEntry {
        rd: new,
        ipa,
        level,
    };
    let shared = |flags, oaddr| {
        let (base, top) = (Realm::SHARED + PAGE, Realm::SHARED + 2 * PAGE);
        Call::RttUnprotMap {
            rd: active,
            base,
            top,
            flags,
            oaddr,
        }
    };
    let set = |rd, rec, base, top| Call::RttSetRipas { rd, rec, base, top };
    vec![
        (
            "activate twice",
            Call::RealmActivate { rd: active },
            RmiStatus::REALM,
        ),
        (
            "destroy with a REC",
            Call::RealmDestroy { rd: new },
            RmiStatus::REALM,
        ),
        (
            "destroy what may run",
            Call::RealmDestroy { rd: active },
            RmiStatus::REALM,
        ),
        (
            "enter before activation",
            Call::RecEnter {
                rec: world.new.rec,
                run: world.new.run,
            },
            RmiStatus::REALM,
        ),
        (
            "REC of an active realm",
            Call::RecCreate {
                rd: active,
                rec: free,
                params: host_params(world, 1),
            },
            RmiStatus::REALM,
        ),
        (
            "REC out of order",
            Call::RecCreate {
                rd: new,
                rec: free,
                params: host_params(world, 2),
            },
            RmiStatus::INPUT,
        ),
        (
            "REC that exists",
            Call::RecCreate {
                rd: new,
                rec: free,
                params: host_params(world, 0),
            },
            RmiStatus::INPUT,
        ),
        ("table: root level", create(0, 1), RmiStatus::INPUT),
        ("table: level 4", create(0, 4), RmiStatus::INPUT),
        (
            "table: negative level",
            create(0, u64::MAX),
            RmiStatus::INPUT,
        ),
        ("table: misaligned", create(PAGE, 3), RmiStatus::INPUT),
        (
            "table: past the end",
            create(2 * Realm::SHARED, 3),
            RmiStatus::INPUT,
        ),
        ("table: exists", create(0, 3), RmiStatus::rtt(2)),
        (
            "table: parent missing",
            create(0x4000_0000, 3),
            RmiStatus::rtt(1),
        ),
        (
            "destroy table: missing",
            Call::RttDestroy {
                rd: new,
                ipa: 0x40_0000,
                level: 3,
            },
            RmiStatus::rtt(2),
        ),
        (
            "destroy table: root",
            Call::RttDestroy {
                rd: new,
                ipa: 0,
                level: 1,
            },
            RmiStatus::INPUT,
        ),
        (
            "destroy table: live",
            Call::RttDestroy {
                rd: active,
                ipa: 0,
                level: 3,
            },
            RmiStatus::rtt(3),
        ),
        (
            "fold: missing",
            Call::RttFold {
                rd: new,
                ipa: 0x40_0000,
                level: 3,
            },
            RmiStatus::rtt(2),
        ),
        (
            "fold: not uniform",
            Call::RttFold {
                rd: active,
                ipa: 0,
                level: 3,
            },
            RmiStatus::rtt(3),
        ),
        ("read: level 4", read(0, 4), RmiStatus::INPUT),
        ("read: level 0", read(0, 0), RmiStatus::INPUT),
        ("read: misaligned", read(PAGE, 2), RmiStatus::INPUT),
        (
            "read: past the end",
            read(2 * Realm::SHARED, 3),
            RmiStatus::INPUT,
        ),
        (
            "init RIPAS: active",
            Call::RttInitRipas {
                rd: active,
                base: 0,
                top: PAGE,
            },
            RmiStatus::REALM,
        ),
        (
            "init RIPAS: empty",
            Call::RttInitRipas {
                rd: new,
                base: PAGE,
                top: PAGE,
            },
            RmiStatus::INPUT,
        ),
        (
            "init RIPAS: shared",
            Call::RttInitRipas {
                rd: new,
                base: Realm::SHARED,
                top: Realm::SHARED + PAGE,
            },
            RmiStatus::INPUT,
        ),
        (
            "init RIPAS: below a block",
            Call::RttInitRipas {
                rd: new,
                base: 0x40_1000,
                top: 0x40_2000,
            },
            RmiStatus::rtt(2),
        ),
        (
            "set RIPAS: not asked for",
            set(active, rec, 2 * PAGE, 3 * PAGE),
            RmiStatus::INPUT,
        ),
        (
            "set RIPAS: too much",
            set(active, rec, PAGE, 4 * PAGE),
            RmiStatus::INPUT,
        ),
        (
            "set RIPAS: empty",
            set(active, rec, PAGE, PAGE),
            RmiStatus::INPUT,
        ),
        (
            "set RIPAS: misaligned",
            set(active, rec, PAGE, 2 * PAGE + 1),
            RmiStatus::INPUT,
        ),
        (
            "set RIPAS: another realm",
            set(new, rec, PAGE, 3 * PAGE),
            RmiStatus::REC,
        ),
        (
            "set RIPAS: nothing pending",
            set(new, world.new.rec, PAGE, 3 * PAGE),
            RmiStatus::INPUT,
        ),
        (
            "power call: nothing pending",
            Call::PsciComplete {
                calling_rec: rec,
                target_rec: world.new.rec,
                status: 0,
            },
            RmiStatus::INPUT,
        ),
        (
            "shared: executable",
            shared(Host::shared_flags() | 4 << 19, Host::shared_range(plain)),
            RmiStatus::INPUT,
        ),
        (
            "shared: guest's choice of type",
            shared(
                MapFlags::single().with_access(7, 3).0,
                Host::shared_range(plain),
            ),
            RmiStatus::INPUT,
        ),
        (
            "shared: delegated memory",
            shared(Host::shared_flags(), Host::shared_range(free)),
            RmiStatus::INPUT,
        ),
        (
            "shared: said to be delegated",
            shared(Host::shared_flags(), Host::shared_range(plain) & !(1 << 63)),
            RmiStatus::INPUT,
        ),
        (
            "shared: what is not tracked",
            shared(Host::shared_flags(), Host::shared_range(0x4000_0000)),
            RmiStatus::INPUT,
        ),
        (
            "delegate: empty",
            Call::GranuleRangeDelegate {
                start: plain,
                end: plain,
            },
            RmiStatus::INPUT,
        ),
        (
            "delegate: reversed",
            Call::GranuleRangeDelegate {
                start: plain + PAGE,
                end: plain,
            },
            RmiStatus::INPUT,
        ),
        (
            "delegate: misaligned",
            Call::GranuleRangeDelegate {
                start: plain + 1,
                end: plain + PAGE,
            },
            RmiStatus::INPUT,
        ),
        (
            "delegate: not tracked",
            Call::GranuleRangeDelegate {
                start: DRAM_TOP,
                end: DRAM_TOP + PAGE,
            },
            RmiStatus::INPUT,
        ),
        (
            "delegate: in use",
            Call::GranuleRangeDelegate {
                start: new,
                end: new + PAGE,
            },
            RmiStatus::INPUT,
        ),
        (
            "delegate: shared with devices",
            Call::GranuleRangeDelegate {
                start: shared_page(world),
                end: shared_page(world) + PAGE,
            },
            RmiStatus::INPUT,
        ),
        (
            "undelegate: in use",
            Call::GranuleRangeUndelegate {
                start: world.data,
                end: world.data + PAGE,
            },
            RmiStatus::INPUT,
        ),
        (
            "undelegate: reversed",
            Call::GranuleRangeUndelegate {
                start: free + PAGE,
                end: free,
            },
            RmiStatus::INPUT,
        ),
        (
            "tracking: empty",
            Call::GranuleTrackingGet {
                base: plain,
                top: plain,
            },
            RmiStatus::INPUT,
        ),
        (
            "version 1.0",
            Call::Version {
                requested: 0x1_0000,
            },
            RmiStatus::INPUT,
        ),
        (
            "version 2.1",
            Call::Version {
                requested: 0x2_0001,
            },
            RmiStatus::INPUT,
        ),
    ]
}

fn host_params(world: &World, mpidr: u64) -> u64 {
    world.host.page_with(Host::rec_params(mpidr).as_bytes())
}

fn shared_page(world: &World) -> u64 {
    let call = Call::RttReadEntry {
        rd: world.active.rd,
        ipa: Realm::SHARED,
        level: 3,
    };
    success(world.host.call(call))[2] & !0xfff
}
