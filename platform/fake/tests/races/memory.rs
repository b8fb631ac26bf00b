// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory, realms and virtual CPUs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{BlockSize, Call, MapFlags, RangeDescriptor};
use tsm_platform_fake::{Host, Owner, Realm, Work, success};
use zerocopy::IntoBytes;

use crate::common::PAGE;
use crate::{explore, race, winners};

fn single(page: u64) -> u64 {
    RangeDescriptor::new(page, BlockSize::Page, 1).0
}

fn map(realm: &Realm, ipa: u64, page: u64) -> Call {
    Call::RttDataMap {
        rd: realm.rd,
        base: ipa,
        top: ipa + PAGE,
        flags: MapFlags::single().0,
        oaddr: single(page),
    }
}

fn unmap(realm: &Realm, ipa: u64) -> Call {
    Call::RttDataUnmap {
        rd: realm.rd,
        base: ipa,
        top: ipa + PAGE,
        flags: MapFlags::single().0,
        oaddr: 0,
    }
}

const fn undelegate(page: u64) -> Call {
    Call::GranuleRangeUndelegate {
        start: page,
        end: page + PAGE,
    }
}

const fn delegate(page: u64) -> Call {
    Call::GranuleRangeDelegate {
        start: page,
        end: page + PAGE,
    }
}

/// A03: what two calls want in different roles, one of them gets.
#[test]
fn a_granule_that_several_calls_want_goes_to_one_of_them() {
    let host = Host::activated();
    let realm = host.new_realm();
    let source = host.page_with(b"content");
    let params = host.page_with(Host::rec_params(1).as_bytes());
    let realm_params = host.page_with(host.realm_params().as_bytes());
    let (rd, page) = (realm.rd, host.delegated());
    let init = Call::RttDataMapInit {
        rd,
        data: page,
        ipa: 0,
        src: source,
        flags: 1,
    };
    let table = Call::RttCreate {
        rd,
        rtt: page,
        ipa: 0x20_0000,
        level: 3,
    };
    let realm_create = Call::RealmCreate {
        rd: page,
        params: realm_params,
    };
    let rec = Call::RecCreate {
        rd,
        rec: page,
        params,
    };
    let rivals = [
        (init, unmap(&realm, 0)),
        (map(&realm, PAGE, page), unmap(&realm, PAGE)),
        (
            table,
            Call::RttDestroy {
                rd,
                ipa: 0x20_0000,
                level: 3,
            },
        ),
        (realm_create, Call::RealmDestroy { rd: page }),
        (undelegate(page), delegate(page)),
    ];
    explore("one granule, several roles", 600, |seed| {
        let mut all = 0;
        for (index, first) in rivals.iter().enumerate() {
            let second = rivals[(index + 1 + seed as usize % 4) % rivals.len()];
            if second.0 == first.0 {
                continue;
            }
            let (answers, switches) = race(&host, seed, &[vec![first.0], vec![second.0]]);
            all += switches;
            assert_eq!(winners(&answers), 1, "{first:x?} {second:x?} {answers:?}");
            let won = usize::from(answers[1][0] == RmiStatus::SUCCESS);
            success(host.call([first.1, second.1][won]));
            let owned = host.fake.owner(page) == Owner::Realm;
            assert!(owned, "back where it was");
        }
        all
    });
    success(host.call(rec));
}

/// A05: the host takes a page away, or puts it to another use, while the TSM reads or writes it.
#[test]
fn a_page_that_is_taken_away_during_a_copy_fails_the_call_and_nothing_else() {
    let host = Host::activated();
    let params = host.page_with(host.realm_params().as_bytes());
    let rd = host.delegated();
    let realm = host.realm();
    let page = params;
    explore("page revoked", 500, |seed| {
        let create = Call::RealmCreate { rd, params };
        let read = Call::RmmConfigGet { config: page };
        let revoke = vec![delegate(page), undelegate(page)];
        let works = [vec![create], revoke, vec![read]];
        let content = host.fake.host_load(page, 4096).unwrap();
        let (answers, switches) = race(&host, seed, &works);
        assert_eq!(answers[1], [RmiStatus::SUCCESS; 2]);
        let created = answers[0][0] == RmiStatus::SUCCESS;
        assert!(created || answers[0][0] == RmiStatus::INPUT);
        if created {
            success(host.call(Call::RealmDestroy { rd }));
        }
        // What comes back was scrubbed.
        let scrubbed = host.fake.host_load(page, 4096).unwrap();
        assert_eq!(scrubbed, [0; 4096]);
        host.fake.host_store(page, &content).unwrap();
        switches
    });
    host.reclaim(&realm);
}

/// The guest reads a page while the host takes it and gives it back to itself.
#[test]
fn a_guest_never_reads_what_the_host_has_taken_back() {
    let host = Host::activated();
    let realm = host.new_realm();
    host.init_ripas(&realm, 0, PAGE);
    success(host.call(Call::RealmActivate { rd: realm.rd }));
    // Loads that worked, and loads that faulted.
    let seen = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    explore("enter against unmap", 500, |seed| {
        let page = host.map_private(&realm, 0);
        let script = host.fake.script();
        script.look(|fake, vcpu| vcpu.store(fake, 0, b"guest's").unwrap());
        host.enter(&realm);
        for _ in 0..4 {
            let seen = seen.clone();
            script.look(move |fake, vcpu| {
                let loaded = vcpu.load::<7>(fake, 0);
                seen[usize::from(loaded.is_err())].fetch_add(1, Ordering::Relaxed);
                assert!(loaded.is_err() || loaded == Ok(*b"guest's"));
            });
        }
        let run = Call::RecEnter {
            rec: realm.rec,
            run: realm.run,
        };
        let enter: Work<'_> = Box::new(|| {
            for _ in 0..4 {
                success(host.call(run));
            }
        });
        let take: Work<'_> = Box::new(|| {
            success(host.call(unmap(&realm, 0)));
            success(host.call(undelegate(page)));
            host.fake.host_store(page, b"host's!").unwrap();
        });
        let switches = host.fake.interleave(seed, vec![enter, take]);
        assert!(script.is_done());
        ask_again(&host, &realm);
        switches
    });
    assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) > 100));
}

/// The guest asks for the address that the host has taken from it.
fn ask_again(host: &Host, realm: &Realm) {
    let set = tsm_abi::rsi::Call::IpaStateSet {
        base: 0,
        top: PAGE,
        ripas: 1,
        flags: tsm_abi::rsi::CHANGE_DESTROYED,
    };
    host.fake.script().guest_call(set);
    assert_eq!(host.enter(realm).exit_reason.get(), 4);
    let (rd, rec) = (realm.rd, realm.rec);
    let (base, top) = (0, PAGE);
    success(host.call(Call::RttSetRipas { rd, rec, base, top }));
}

/// A realm is entered, terminated and taken apart by three CPUs at once.
#[test]
fn a_realm_that_is_destroyed_while_it_is_entered_does_one_or_the_other() {
    let mut outcomes = [0; 2];
    explore("destroy against enter", 400, |seed| {
        let host = Host::activated();
        let realm = host.realm();
        let (rd, rec) = (realm.rd, realm.rec);
        let enter = Call::RecEnter {
            rec,
            run: realm.run,
        };
        let destroy = vec![Call::RecDestroy { rec }, Call::RealmDestroy { rd }];
        let stop = vec![Call::RealmTerminate { rd }];
        let (answers, switches) = race(&host, seed, &[vec![enter, enter], destroy, stop]);
        let entered = answers[0][0] == RmiStatus::SUCCESS;
        outcomes[usize::from(entered)] += 1;
        if answers[1][0] == RmiStatus::SUCCESS {
            assert_ne!(answers[0][1], RmiStatus::BUSY);
        }
        // Tables hold the realm: it cannot be gone.
        assert_ne!(answers[1][1], RmiStatus::SUCCESS);
        let is_gone = answers[1][0] == RmiStatus::SUCCESS;
        if is_gone {
            host.undelegate(rec, 1);
            let _ = host.call(Call::RealmTerminate { rd });
            let spare = realm;
            reclaim_without_rec(&host, &spare);
        } else {
            host.reclaim(&realm);
        }
        assert!(host.has_everything_back());
        switches
    });
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

fn reclaim_without_rec(host: &Host, realm: &Realm) {
    for half in [0, Realm::SHARED] {
        for level in [3, 2] {
            let (rd, ipa) = (realm.rd, half);
            let [table, ..] = success(host.call(Call::RttDestroy { rd, ipa, level }));
            host.undelegate(table, 1);
        }
    }
    success(host.call(Call::RealmDestroy { rd: realm.rd }));
    host.undelegate(realm.rd, 1);
    host.undelegate(realm.root, 1);
}

/// Two virtual CPUs name each other: the order of locks is by address, whoever calls.
#[test]
fn calls_that_name_two_virtual_cpus_in_both_orders_do_not_wait_for_each_other() {
    let host = Host::activated();
    let realm = host.new_realm();
    let (rd, second) = (realm.rd, host.delegated());
    let params = host.page_with(Host::rec_params(1).as_bytes());
    let create = Call::RecCreate {
        rd,
        rec: second,
        params,
    };
    success(host.call(create));
    success(host.call(Call::RealmActivate { rd }));
    explore("power calls", 300, |seed| {
        let complete = |calling_rec, target_rec| Call::PsciComplete {
            calling_rec,
            target_rec,
            status: 0,
        };
        // The guest asks for the state of the other.
        host.fake.script().clear();
        host.fake.script().call(&[0xc400_0004, 1, 0]);
        assert_eq!(host.enter(&realm).exit_reason.get(), 3);
        let (a, b) = (realm.rec, second);
        // The third keeps the realm's lock, so that both have looked at the call before one of them
        // carries it out.
        let works = [
            vec![complete(a, b), complete(b, a)],
            vec![complete(b, a), complete(a, b)],
            vec![
                Call::RttReadEntry {
                    rd,
                    ipa: 0,
                    level: 3
                };
                4
            ],
        ];
        let (answers, switches) = race(&host, seed, &works);
        let all = answers.iter().take(2).flatten();
        let done = all.filter(|status| **status == RmiStatus::SUCCESS).count();
        assert_eq!(done, 1, "{answers:?}");
        switches
    });
}
