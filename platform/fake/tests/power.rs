// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Switching virtual CPUs and realms on and off.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, MapFlags, RecEnter, RecParams};
use tsm_platform_fake::{Host, Realm, success};
use zerocopy::{FromZeros, IntoBytes};

const PAGE: u64 = 0x1000;
const EXIT_PSCI: u64 = 3;

#[test]
fn a_guest_that_switches_off_does_not_run_again() {
    let host = Host::activated();
    let realm = host.realm();
    host.fake.script().call(&[0x8400_0008]);
    let exit = host.enter(&realm);
    assert_eq!(
        (exit.exit_reason.get(), exit.gprs[0].get()),
        (EXIT_PSCI, 0x8400_0008)
    );
    let refused = host
        .enter_with(&realm, &RecEnter::new_zeroed())
        .err()
        .unwrap();
    assert_eq!(refused, RmiStatus::REALM);
    host.reclaim(&realm);
    assert!(host.has_everything_back());
}

#[test]
fn one_virtual_cpu_switches_another_on_and_off() {
    let host = Host::activated();
    let realm = host.new_realm();
    let rec = host.delegated();
    let mut params = RecParams::new_zeroed();
    params.mpidr = 1.into();
    let params = host.page_with(params.as_bytes());
    success(host.call(Call::RecCreate {
        rd: realm.rd,
        rec,
        params,
    }));
    success(host.call(Call::RealmActivate { rd: realm.rd }));
    let second = Realm {
        rec,
        run: host.pages(1),
        ..realm
    };
    let enter = RecEnter::new_zeroed();
    assert_eq!(
        host.enter_with(&second, &enter).err().unwrap(),
        RmiStatus::REC
    );

    // Unknown target, entry outside private memory, itself.
    let early = [
        ([0xc400_0003, 9, 0x2000, 7], u64::MAX - 1),
        ([0xc400_0003, 1, Realm::SHARED, 7], u64::MAX - 8),
        ([0xc400_0003, 0, 0x2000, 7], u64::MAX - 3),
        ([0xc400_0004, 1, 3, 0], u64::MAX - 1),
    ];
    let first = Realm { ..realm };
    for (call, result) in early {
        host.fake.script().call(&call);
        host.fake.script().expect(&[result]);
        host.enter(&first);
    }
    host.fake.script().call(&[0xc400_0003, 1, 0x2000, 7]);
    assert_eq!(host.enter(&first).exit_reason.get(), EXIT_PSCI);
    assert_eq!(
        host.enter_with(&first, &enter).err().unwrap(),
        RmiStatus::REC
    );
    let complete = |target_rec, status| {
        host.status(Call::PsciComplete {
            calling_rec: first.rec,
            target_rec,
            status,
        })
    };
    assert_eq!(complete(first.rec, 0), RmiStatus::INPUT);
    assert_eq!(complete(first.rd, 0), RmiStatus::INPUT);
    assert_eq!(complete(rec, 5), RmiStatus::INPUT);
    assert_eq!(complete(rec, 0), RmiStatus::SUCCESS);
    assert_eq!(complete(rec, 0), RmiStatus::INPUT);
    host.fake.script().look(|_, vcpu| {
        assert_eq!((vcpu.mpidr, vcpu.pc, vcpu.gprs[0]), (1, 0x2000, 7));
    });
    host.enter(&second);
    host.fake.script().expect(&[0]);
    host.enter(&first);
    host.fake.script().call(&[0x8400_0002]);
    assert_eq!(host.enter(&second).exit_reason.get(), EXIT_PSCI);
    assert_eq!(
        host.enter_with(&second, &enter).err().unwrap(),
        RmiStatus::REC
    );
    host.fake.script().call(&[0xc400_0004, 1, 0, 0]);
    host.enter(&first);
    assert_eq!(complete(rec, 0), RmiStatus::SUCCESS);
    host.fake.script().expect(&[1]);
    host.enter(&first);
    assert!(host.fake.script().is_done());
}

#[test]
fn a_guest_switches_no_virtual_cpu_of_another_realm_on() {
    let host = Host::activated();
    let realm = host.new_realm();
    let victim = host.new_realm();
    let rec = host.delegated();
    let mut params = RecParams::new_zeroed();
    params.mpidr = 1.into();
    let params = host.page_with(params.as_bytes());
    let create = |rd| success(host.call(Call::RecCreate { rd, rec, params }));
    create(realm.rd);
    for rd in [realm.rd, victim.rd] {
        if rd == victim.rd {
            // The granule that the first realm knows as its virtual CPU 1 changes hands.
            success(host.call(Call::RecDestroy { rec }));
            create(victim.rd);
        }
        success(host.call(Call::RealmActivate { rd }));
    }
    host.fake.script().call(&[0xc400_0003, 1, 0x2000, 7]);
    assert_eq!(host.enter(&realm).exit_reason.get(), EXIT_PSCI);
    let complete = |status| {
        host.status(Call::PsciComplete {
            calling_rec: realm.rec,
            target_rec: rec,
            status,
        })
    };
    assert_eq!(complete(0), RmiStatus::INPUT);
    assert_eq!(complete(u64::MAX - 2), RmiStatus::INPUT);
    let taken = Realm {
        rec,
        run: host.pages(1),
        ..victim
    };
    let refused = host.enter_with(&taken, &RecEnter::new_zeroed());
    assert_eq!(refused.err().unwrap(), RmiStatus::REC, "still off");
}

#[test]
fn a_realm_that_runs_is_not_terminated() {
    let host = std::sync::Arc::new(Host::activated());
    let realm = host.realm();
    let (rd, other) = (realm.rd, std::sync::Arc::clone(&host));
    let rec = realm.rec;
    host.fake.script().look(move |_, _| {
        assert_eq!(other.status(Call::RealmTerminate { rd }), RmiStatus::REC);
        assert_eq!(other.status(Call::RecDestroy { rec }), RmiStatus::REC);
        assert_eq!(
            other.status(Call::RecEnter { rec, run: 0 }),
            RmiStatus::INPUT
        );
        let run = other.pages(1);
        assert_eq!(other.status(Call::RecEnter { rec, run }), RmiStatus::REC);
        let (flags, oaddr) = (MapFlags::single().0, 0);
        let unmap = Call::RttDataUnmap {
            rd,
            base: 0,
            top: PAGE,
            flags,
            oaddr,
        };
        assert_eq!(
            other.status(unmap),
            RmiStatus::SUCCESS,
            "tables are free while it runs"
        );
    });
    host.enter(&realm);
    assert!(host.fake.script().is_done());
    success(host.call(Call::RealmTerminate { rd }));
    assert_eq!(host.status(Call::RealmTerminate { rd }), RmiStatus::REALM);
}
