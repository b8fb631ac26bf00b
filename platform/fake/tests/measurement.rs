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

#[test]
fn the_initial_measurement_is_what_its_description_says() {
    // Computed from the description in `tsm-core`'s measurement module by another program: a realm
    // with devices, 39-bit addresses and SHA-384; a runnable REC that begins at 0x1000; private
    // memory up to 0x2000; a measured page at 0 and one that is not measured at 0x1000.
    const EXPECTED: [u64; 8] = [
        0x01fd_cced_4ee2_bc04,
        0xa9af_4859_d7e3_2973,
        0xb66a_5596_4907_9973,
        0xdc6c_a63c_34f0_01f8,
        0x4043_48f6_fb79_c6ee,
        0xf98d_f408_d7d5_eb09,
        0,
        0,
    ];
    let host = Host::activated();
    let realm = host.new_realm();
    let rd = realm.rd;
    host.init_ripas(&realm, 0, 2 * PAGE);
    let src = host.page_with(b"measured");
    for (ipa, flags) in [(0, 1), (PAGE, 0)] {
        let data = host.delegated();
        success(host.call(Call::RttDataMapInit {
            rd,
            data,
            ipa,
            src,
            flags,
        }));
    }
    success(host.call(Call::RealmActivate { rd }));
    let script = host.fake.script();
    script.guest_call(rsi::Call::MeasurementRead { index: 0 });
    script.look(|_, vcpu| assert_eq!(vcpu.gprs[1..9], EXPECTED));
    host.enter(&realm);
    assert!(host.fake.script().is_done());
}
