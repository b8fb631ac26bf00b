// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls that are wrong in one way answer the specified status and change nothing.
//!
//! Most cases come from the call table: a call that the table gets and this file does not know
//! fails the first test.

#[path = "../common/mod.rs"]
mod common;
mod ranges;
mod states;

use common::{Role, World, role};
use tsm_abi::rmi::{Call, ROWS, RealmParams, RecParams, features};
use tsm_abi::{RmiCode, RmiStatus, Row};
use tsm_platform_fake::{DRAM_TOP, ENDPOINT_BAR, Host, MMIO_BASE, success};
use zerocopy::{FromZeros, IntoBytes};

fn answered() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| row.implemented)
}

fn status(reply: [u64; 8]) -> RmiStatus {
    RmiStatus::from_word(reply[0]).expect("a status word")
}

#[test]
fn every_call_of_the_table_is_known_here() {
    let world = World::new();
    for row in answered() {
        let arguments = world.arguments(row.name);
        let arguments = arguments.unwrap_or_else(|| panic!("{} has no row", row.name));
        assert_eq!(arguments.len(), row.arguments.len(), "{}", row.name);
        for argument in row.arguments {
            assert!(role(row, argument).is_some(), "{} {argument}", row.name);
        }
    }
}

/// Calls that are about devices or need more than one right call before them.
const NOT_RIGHT_ALONE: [&str; 7] = ["PDEV", "VDEV", "PSMMU", "_DEV_", "_OP_", "DESTROY", "PSCI"];

#[test]
fn the_calls_that_the_other_tests_spoil_are_right() {
    for row in answered() {
        if NOT_RIGHT_ALONE.iter().any(|part| row.name.contains(part)) {
            continue;
        }
        let world = World::new();
        let activated = ["RMI_RMM_ACTIVATE", "RMI_RMM_CONFIG_SET"].contains(&row.name);
        let expected = if activated {
            RmiCode::Global
        } else {
            RmiCode::Success
        };
        let reply = world.raw(row.function, &world.arguments(row.name).unwrap());
        assert_eq!(status(reply).code, expected, "{}", row.name);
    }
}

/// Runs a call that must fail and checks that nothing changed.
#[track_caller]
fn refuse(world: &World, row: &Row, arguments: &[u64], expected: &[RmiCode], what: &str) {
    let before = world.host.snapshot();
    let traced = world.host.fake.calls().len();
    let status = status(world.raw(row.function, arguments));
    assert!(
        expected.contains(&status.code),
        "{}: {what}: {status:?}",
        row.name
    );
    assert!(
        before == world.host.snapshot(),
        "{}: {what}: something changed",
        row.name
    );
    let calls = world.host.fake.calls();
    assert_eq!(calls.len(), traced + 1, "one trace record a call");
    assert_eq!(calls[traced].status, status.word());
}

/// Addresses that are never right, whatever a call wants.
fn wild_addresses(right: u64) -> [(u64, &'static str); 8] {
    [
        (right + 1, "misaligned by one"),
        (right + 0x800, "misaligned by half a page"),
        (0x4000_0000, "not tracked"),
        (DRAM_TOP, "just past memory"),
        (DRAM_TOP - 1, "the last byte of memory"),
        (MMIO_BASE, "a device's"),
        (u64::MAX - 0xfff, "the last page of the address space"),
        (u64::MAX, "all ones"),
    ]
}

#[test]
fn a_wild_address_is_refused_and_changes_nothing() {
    let world = World::new();
    for row in answered() {
        let right = world.arguments(row.name).unwrap();
        for (index, argument) in row.arguments.iter().enumerate() {
            if role(row, argument) == Some(Role::Number) {
                continue;
            }
            for (address, what) in wild_addresses(right[index]) {
                let mut arguments = right.clone();
                arguments[index] = address;
                let expected = [RmiCode::Input, RmiCode::NotSupported];
                refuse(
                    &world,
                    row,
                    &arguments,
                    &expected,
                    &format!("{argument} {what}"),
                );
            }
        }
    }
}

#[test]
fn a_granule_in_another_state_is_refused_and_changes_nothing() {
    let world = World::new();
    for row in answered() {
        let right = world.arguments(row.name).unwrap();
        for (index, argument) in row.arguments.iter().enumerate() {
            let kept = |address: u64| address != right[index];
            let (table, data) = (world.empty_table, world.data);
            let granules = match role(row, argument).unwrap() {
                Role::Number => continue,
                Role::HostPage => vec![world.free, table, data, world.new.rd],
                Role::Donated => {
                    let (rd, rec) = (world.new.rd, world.active.rec);
                    vec![world.plain, table, data, rd, rec, ENDPOINT_BAR]
                }
                Role::Object if argument.contains("rec") => {
                    vec![world.plain, world.free, table, data, world.new.rd]
                }
                Role::Object => vec![world.plain, table, data, world.active.rec],
            };
            for address in granules.into_iter().filter(|address| kept(*address)) {
                let mut arguments = right.clone();
                arguments[index] = address;
                let expected = [RmiCode::Input, RmiCode::NotSupported];
                refuse(
                    &world,
                    row,
                    &arguments,
                    &expected,
                    &format!("{argument} {address:#x}"),
                );
            }
        }
    }
}

#[test]
fn one_granule_in_two_roles_is_refused_and_changes_nothing() {
    let world = World::new();
    for row in answered() {
        let right = world.arguments(row.name).unwrap();
        let pages: Vec<usize> = (0..row.arguments.len())
            .filter(|index| role(row, row.arguments[*index]) != Some(Role::Number))
            .collect();
        for first in &pages {
            for second in pages.iter().filter(|second| *second != first) {
                let mut arguments = right.clone();
                arguments[*second] = right[*first];
                let expected = [RmiCode::Input, RmiCode::NotSupported];
                refuse(&world, row, &arguments, &expected, "aliased");
            }
        }
    }
}

#[test]
fn before_activation_only_what_leads_to_it_is_answered() {
    let world = World::before_activation();
    let early = [
        "RMI_VERSION",
        "RMI_FEATURES",
        "RMI_RMM_CONFIG_GET",
        "RMI_RMM_CONFIG_SET",
    ];
    for row in answered().filter(|row| row.name != "RMI_RMM_ACTIVATE") {
        let arguments = world.arguments(row.name).unwrap();
        if early.contains(&row.name) {
            assert_eq!(
                status(world.raw(row.function, &arguments)),
                RmiStatus::SUCCESS
            );
        } else {
            refuse(
                &world,
                row,
                &arguments,
                &[RmiCode::Global],
                "before activation",
            );
        }
    }
    success(world.host.call(Call::RmmActivate {}));
    assert_eq!(world.host.status(Call::RmmActivate {}), RmiStatus::GLOBAL);
}

#[test]
fn a_call_that_does_not_exist_answers_not_supported() {
    let world = World::new();
    let before = world.host.snapshot();
    let absent = ROWS
        .iter()
        .filter(|row| !row.implemented)
        .map(|row| row.function);
    for function in absent.chain([0, 0x8400_0150, 0xc400_018f, 0xc400_0190, u64::MAX]) {
        let reply = world.raw(function, &[world.new.rd; 7]);
        assert_eq!(status(reply), RmiStatus::NOT_SUPPORTED);
    }
    assert!(before == world.host.snapshot());
}

/// A call that is wrong in itself: name, what is wrong, the call, the status.
pub type Case = (&'static str, Call, RmiStatus);

#[test]
fn a_call_that_is_wrong_in_itself_answers_its_status_and_changes_nothing() {
    let world = World::new();
    for (what, call, expected) in ranges::cases(&world)
        .into_iter()
        .chain(states::cases(&world))
    {
        let before = world.host.snapshot();
        assert_eq!(world.host.status(call), expected, "{what}");
        assert!(before == world.host.snapshot(), "{what}: something changed");
    }
}

/// Makes right parameters wrong in one way.
type Spoil = fn(&mut RealmParams);

#[test]
fn parameters_of_a_realm_that_do_not_fit_are_refused() {
    let world = World::new();
    let right = world.host.realm_params();
    let spoil: [(&str, Spoil); 14] = [
        ("flags", |params| params.flags0 = (1 << 20).into()),
        ("LPA2", |params| params.flags0 = 1.into()),
        ("SVE", |params| params.flags0 = 2.into()),
        ("PMU", |params| params.flags0 = 4.into()),
        ("too narrow", |params| params.s2sz = 31.into()),
        ("too wide", |params| params.s2sz = 49.into()),
        ("wrapping", |params| params.s2sz = (256 + 39).into()),
        ("level 3", |params| params.rtt_level_start = 3.into()),
        ("level -1", |params| {
            params.rtt_level_start = u64::MAX.into()
        }),
        ("two roots", |params| params.rtt_num_start = 2.into()),
        ("no root", |params| params.rtt_num_start = 0.into()),
        ("hash", |params| params.hash_algo = 3),
        ("planes", |params| params.num_aux_planes = 1.into()),
        ("root", |params| params.rtt_base = (DRAM_TOP).into()),
    ];
    let mut cases = vec![("breakpoints", right.clone())];
    cases[0].1.num_bps = 1.into();
    cases.extend(spoil.map(|(what, spoil)| {
        let mut params = right.clone();
        spoil(&mut params);
        (what, params)
    }));
    let mut aliased = right.clone();
    aliased.rtt_base = world.free.into();
    cases.push(("the descriptor as a root", aliased));
    let mut misaligned = right;
    misaligned.rtt_base = (misaligned.rtt_base.get() + 0x10).into();
    cases.push(("a misaligned root", misaligned));
    for (what, params) in cases {
        let params = world.host.page_with(params.as_bytes());
        let before = world.host.snapshot();
        let call = Call::RealmCreate {
            rd: world.free,
            params,
        };
        assert_eq!(world.host.status(call), RmiStatus::INPUT, "{what}");
        assert!(before == world.host.snapshot(), "{what}: something changed");
    }
}

#[test]
fn flags_of_a_virtual_cpu_that_do_not_exist_are_refused() {
    let world = World::new();
    let mut params = RecParams::new_zeroed();
    params.flags = 2.into();
    params.mpidr = 1.into();
    let params = world.host.page_with(params.as_bytes());
    let call = Call::RecCreate {
        rd: world.new.rd,
        rec: world.free,
        params,
    };
    assert_eq!(world.host.status(call), RmiStatus::INPUT);
}

#[test]
fn no_byte_of_the_host_is_read_twice_in_one_call() {
    for row in answered() {
        let world = World::new();
        world.host.fake.take_copies_in();
        world.raw(row.function, &world.arguments(row.name).unwrap());
        let mut copies = world.host.fake.take_copies_in();
        copies.sort_unstable();
        for pair in copies.windows(2) {
            let end = pair[0].0 + pair[0].1 as u64;
            assert!(end <= pair[1].0, "{}: {pair:x?}", row.name);
        }
    }
}

#[test]
fn versions_and_features_are_what_the_host_expects() {
    let host = Host::new();
    let reply = host.call(Call::Version {
        requested: 0x3_0000,
    });
    assert_eq!(reply[..3], [RmiStatus::INPUT.word(), 0x2_0000, 0x2_0000]);
    let feature = |index| success(host.call(Call::Features { index }))[0];
    assert_eq!(features::R0_S2SZ.of(feature(0)), 48);
    assert_eq!(features::R1_GRANULE_4K.of(feature(1)), 1);
    assert_eq!(features::R2_DA.of(feature(2)), 1);
    assert_eq!(feature(4), 0);
    let page = host.page_with(&[0xff; 16]);
    success(host.call(Call::RmmConfigGet { config: page }));
    assert_eq!(host.fake.host_load(page, 16).unwrap(), [0; 16]);
    let config = host.page_with(&[1]);
    assert_eq!(host.status(Call::RmmConfigSet { config }), RmiStatus::INPUT);
}
