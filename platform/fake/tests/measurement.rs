// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a realm's measurements count.

use tsm_abi::rmi::Call;
use tsm_abi::rsi;
use tsm_platform_fake::{Host, Realm, STATUS_SUCCESS, success};

const PAGE: u64 = 0x1000;

#[test]
fn the_initial_measurement_counts_every_step_and_its_order() {
    let measure = |build: &dyn Fn(&Host, &Realm)| {
        let host = Host::activated();
        let realm = host.new_realm();
        build(&host, &realm);
        success(host.call(Call::RealmActivate { rd: realm.rd }));
        host.fake
            .script()
            .guest_call(rsi::Call::MeasurementRead { index: 0 });
        let (sender, receiver) = std::sync::mpsc::channel();
        host.fake.script().look(move |_, vcpu| {
            assert_eq!(vcpu.gprs[0], 0);
            sender.send(vcpu.gprs[1..9].to_vec()).unwrap();
        });
        host.enter(&realm);
        receiver.recv().unwrap()
    };
    let page = |host: &Host, realm: &Realm, ipa, content: &[u8], flags| {
        let (data, src) = (host.delegated(), host.page_with(content));
        let call = Call::RttDataMapInit {
            rd: realm.rd,
            data,
            ipa,
            src,
            flags,
        };
        assert_eq!(host.call(call)[0], STATUS_SUCCESS);
    };
    let plain = measure(&|_, _| {});
    assert_eq!(
        plain,
        measure(&|_, _| {}),
        "the same steps measure the same"
    );
    assert_eq!(
        plain[6..],
        [0, 0],
        "SHA-384 leaves the rest of the register zero"
    );
    let different = [
        plain,
        measure(&|host, realm| host.init_ripas(realm, 0, PAGE)),
        measure(&|host, realm| host.init_ripas(realm, 0, 2 * PAGE)),
        measure(&|host, realm| page(host, realm, 0, b"a", 1)),
        measure(&|host, realm| page(host, realm, 0, b"b", 1)),
        measure(&|host, realm| page(host, realm, PAGE, b"a", 1)),
        measure(&|host, realm| page(host, realm, 0, b"a", 0)),
        measure(&|host, realm| {
            page(host, realm, 0, b"a", 1);
            host.init_ripas(realm, PAGE, 2 * PAGE);
        }),
        measure(&|host, realm| {
            host.init_ripas(realm, PAGE, 2 * PAGE);
            page(host, realm, 0, b"a", 1);
        }),
    ];
    for (index, one) in different.iter().enumerate() {
        assert!(!different[index + 1..].contains(one), "{index}");
    }
}

#[test]
fn a_guest_extends_its_own_measurements_only() {
    let host = Host::activated();
    let realm = host.realm();
    let extend = |index, size| {
        host.fake
            .script()
            .call(&[0xc400_0193, index, size, 1, 2, 3])
    };
    extend(1, 24);
    host.fake.script().expect(&[0]);
    host.fake
        .script()
        .guest_call(rsi::Call::MeasurementRead { index: 1 });
    host.fake
        .script()
        .look(|_, vcpu| assert_ne!(vcpu.gprs[1], 0));
    for (index, size) in [(0, 24), (5, 24), (u64::MAX, 24), (1, 65), (1, u64::MAX)] {
        extend(index, size);
        host.fake.script().expect(&[1]);
    }
    host.fake
        .script()
        .guest_call(rsi::Call::MeasurementRead { index: 5 });
    host.fake.script().expect(&[1]);
    while !host.fake.script().is_done() {
        host.enter(&realm);
    }
}
