// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A realm from its first granule to the last one that the host takes back.

use tsm_abi::rmi::Call;
use tsm_abi::rsi;
use tsm_platform_fake::{Host, Realm, success};

const PAGE: u64 = 0x1000;

#[test]
fn a_realm_lives_and_the_host_gets_everything_back() {
    let host = Host::activated();
    let realm = host.new_realm();
    host.init_ripas(&realm, 0, 4 * PAGE);
    let data = host.delegated();
    let src = host.page_with(b"first page");
    let rd = realm.rd;
    success(host.call(Call::RttDataMapInit {
        rd,
        data,
        ipa: 0,
        src,
        flags: 1,
    }));
    success(host.call(Call::RealmActivate { rd }));
    host.map_private(&realm, PAGE);
    let shared = host.map_shared(&realm, Realm::SHARED);
    host.fake.host_store(shared, b"hello").unwrap();

    host.fake.script().look(|fake, vcpu| {
        assert_eq!(&vcpu.load::<10>(fake, 0).unwrap(), b"first page");
        assert_eq!(&vcpu.load::<5>(fake, Realm::SHARED).unwrap(), b"hello");
        assert_eq!(vcpu.load::<4>(fake, PAGE).unwrap(), [0; 4]);
        vcpu.store(fake, PAGE, b"secret").unwrap();
        assert!(vcpu.load::<4>(fake, 2 * PAGE).is_err());
    });
    assert_eq!(host.enter(&realm).exit_reason.get(), 1);
    let requested = rsi::VERSION_LOWEST;
    host.fake
        .script()
        .guest_call(rsi::Call::Version { requested });
    host.fake
        .script()
        .look(|_, vcpu| assert_eq!(vcpu.gprs[..3], [0, 0x1_0000, 0x1_0001]));
    host.enter(&realm);
    assert!(host.fake.script().is_done());

    host.reclaim(&realm);
    assert!(host.has_everything_back());
    let leftover = host
        .fake
        .contents()
        .into_values()
        .any(|bytes| bytes.windows(6).any(|window| window == b"secret"));
    assert!(!leftover, "nothing of a realm survives");
}
