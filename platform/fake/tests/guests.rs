// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest sees: its calls, its faults, its memory.

use tsm_abi::rmi::{BlockSize, Call, MapFlags, RangeDescriptor, RecEnter, RecEnterFlags};
use tsm_abi::{RmiStatus, rsi};
use tsm_platform::{Access, FaultSyndrome, GuestExit, Ipa, Transfer};
use tsm_platform_fake::{Host, IPA_BITS, Realm, fault, success};
use zerocopy::{FromZeros, IntoBytes};

const PAGE: u64 = 0x1000;
const EXIT_SYNC: u64 = 0;
const EXIT_IRQ: u64 = 1;
const EXIT_RIPAS: u64 = 4;
const EXIT_HOST_CALL: u64 = 5;

/// Returns an active realm whose first four pages are private memory, all there.
fn realm_with_memory(host: &Host) -> Realm {
    let realm = host.new_realm();
    host.init_ripas(&realm, 0, 4 * PAGE);
    success(host.call(Call::RealmActivate { rd: realm.rd }));
    for page in 0..4 {
        host.map_private(&realm, page * PAGE);
    }
    realm
}

#[test]
fn versions_1_0_and_1_1_are_accepted_and_others_refused() {
    let host = Host::activated();
    let realm = host.realm();
    let answers = [
        (0x1_0000, [0, 0x1_0000]),
        (0x1_0001, [0, 0x1_0001]),
        (0x1_0002, [1, 0x1_0001]),
        (0x0_0001, [1, 0x1_0000]),
        (u64::MAX, [1, 0x1_0001]),
    ];
    for (requested, [status, lower]) in answers {
        host.fake
            .script()
            .guest_call(rsi::Call::Version { requested });
        host.fake.script().expect(&[status, lower, 0x1_0001, 0]);
    }
    for _ in answers {
        host.enter(&realm);
    }
    assert!(host.fake.script().is_done());
}

#[test]
fn a_call_that_does_not_exist_answers_all_ones_and_keeps_other_registers() {
    let host = Host::activated();
    let realm = host.realm();
    for function in [0xc400_0194, 0xc400_01bf, 0xc600_0000, 0x8600_ff01] {
        host.fake.script().call(&[function, 1, 2, 3, 4]);
        host.fake.script().expect(&[u64::MAX, 1, 2, 3, 4]);
        host.enter(&realm);
    }
    // PSCI answers the same for its own range, and the program counter moved past each call.
    host.fake.script().call(&[0x8400_0013]);
    host.fake.script().expect(&[u64::MAX]);
    host.fake
        .script()
        .look(|_, vcpu| assert_eq!(vcpu.pc, 0x1000 + 5 * 4));
    host.enter(&realm);
    host.enter(&realm);
    assert!(host.fake.script().is_done());
}

#[test]
fn a_realm_reads_its_configuration() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    host.fake
        .script()
        .guest_call(rsi::Call::RealmConfig { ipa: PAGE });
    host.fake.script().look(|fake, vcpu| {
        assert_eq!(vcpu.gprs[0], 0);
        assert_eq!(
            vcpu.load::<9>(fake, PAGE).unwrap(),
            [IPA_BITS, 0, 0, 0, 0, 0, 0, 0, 2]
        );
        assert_eq!(vcpu.load::<64>(fake, PAGE + 0x200).unwrap(), [0x5a; 64]);
    });
    host.enter(&realm);
    // Not aligned, shared, empty, beyond the address space.
    for ipa in [
        PAGE + 0x100,
        Realm::SHARED,
        5 * PAGE,
        1 << IPA_BITS,
        u64::MAX - 0xfff,
    ] {
        host.fake
            .script()
            .guest_call(rsi::Call::RealmConfig { ipa });
        host.fake.script().expect(&[1, 0, 0, 0]);
        host.enter(&realm);
    }
    assert!(host.fake.script().is_done());
}

#[test]
fn memory_changes_state_only_as_the_guest_asks_and_as_far_as_the_host_does_it() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    host.fake.script().guest_call(rsi::Call::IpaStateSet {
        base: PAGE,
        top: 3 * PAGE,
        ripas: 0,
        flags: 0,
    });
    let exit = host.enter(&realm);
    let seen = (
        exit.ripas_base.get(),
        exit.ripas_top.get(),
        exit.ripas_value,
    );
    assert_eq!(
        (exit.exit_reason.get(), seen),
        (EXIT_RIPAS, (PAGE, 3 * PAGE, 0))
    );
    let set = |base, top| Call::RttSetRipas {
        rd: realm.rd,
        rec: realm.rec,
        base,
        top,
    };
    assert_eq!(success(host.call(set(PAGE, 2 * PAGE)))[0], 2 * PAGE);
    // The part that is done cannot be done again.
    assert_eq!(host.status(set(PAGE, 2 * PAGE)), RmiStatus::INPUT);
    host.fake.script().expect(&[0, 2 * PAGE, 0]);
    host.enter(&realm);
    host.fake.script().guest_call(rsi::Call::IpaStateGet {
        base: 0,
        top: 4 * PAGE,
    });
    host.fake.script().expect(&[0, PAGE, 1]);
    host.fake.script().guest_call(rsi::Call::IpaStateGet {
        base: PAGE,
        top: 4 * PAGE,
    });
    host.fake.script().expect(&[0, 2 * PAGE, 0]);
    host.enter(&realm);
    host.enter(&realm);
    // The host lets none of it become RAM again, and says so.
    host.fake.script().guest_call(rsi::Call::IpaStateSet {
        base: PAGE,
        top: 2 * PAGE,
        ripas: 1,
        flags: 0,
    });
    host.enter(&realm);
    let mut entry = RecEnter::new_zeroed();
    entry.flags = RecEnterFlags::RIPAS_RESPONSE.bits().into();
    host.fake.script().expect(&[0, PAGE, 1]);
    host.enter_with(&realm, &entry).unwrap();
    assert!(host.fake.script().is_done());
}

#[test]
fn what_the_host_took_comes_back_only_if_the_guest_says_so() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    host.unmap_private(&realm, 0);
    let set = Call::RttSetRipas {
        rd: realm.rd,
        rec: realm.rec,
        base: 0,
        top: PAGE,
    };
    host.fake
        .script()
        .guest_call(rsi::Call::IpaStateGet { base: 0, top: PAGE });
    host.fake.script().expect(&[0, PAGE, 2]);
    host.enter(&realm);
    host.fake.script().guest_call(rsi::Call::IpaStateSet {
        base: 0,
        top: PAGE,
        ripas: 1,
        flags: 0,
    });
    assert_eq!(host.enter(&realm).exit_reason.get(), EXIT_RIPAS);
    assert_eq!(host.status(set), RmiStatus::rtt(3));
    host.enter(&realm);
    let flags = rsi::CHANGE_DESTROYED;
    host.fake.script().guest_call(rsi::Call::IpaStateSet {
        base: 0,
        top: PAGE,
        ripas: 1,
        flags,
    });
    assert_eq!(host.enter(&realm).exit_reason.get(), EXIT_RIPAS);
    success(host.call(set));
    host.map_private(&realm, 0);
    host.fake.script().look(|fake, vcpu| {
        assert_eq!(
            vcpu.load::<8>(fake, 0).unwrap(),
            [0; 8],
            "not what was there"
        );
    });
    host.enter(&realm);
    assert!(host.fake.script().is_done());
}

#[test]
fn requests_about_memory_that_make_no_sense_are_refused() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    let cases = [
        (PAGE, PAGE, 0),
        (2 * PAGE, PAGE, 0),
        (PAGE + 1, 2 * PAGE, 0),
        (0, Realm::SHARED + PAGE, 0),
        (Realm::SHARED, Realm::SHARED + PAGE, 1),
        (0, PAGE, 2),
        (0, PAGE, 3),
        (0, PAGE, u64::MAX),
    ];
    for (base, top, ripas) in cases {
        host.fake.script().guest_call(rsi::Call::IpaStateSet {
            base,
            top,
            ripas,
            flags: 0,
        });
        host.fake.script().expect(&[1, 0, 0, 0]);
        assert_eq!(host.enter(&realm).exit_reason.get(), EXIT_IRQ);
    }
    assert!(host.fake.script().is_done());
}

#[test]
fn a_host_call_carries_registers_there_and_back() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    host.fake.script().then(|fake, vcpu| {
        let mut call = rsi::HostCall::new_zeroed();
        call.imm = 7.into();
        call.gprs[0] = 0x11.into();
        call.gprs[30] = 0x22.into();
        vcpu.store(fake, PAGE + 0x100, call.as_bytes()).unwrap();
        [vcpu.gprs[0], vcpu.gprs[1]] = [0xc400_0199, PAGE + 0x100];
        GuestExit::Call
    });
    let exit = host.enter(&realm);
    assert_eq!(
        (exit.exit_reason.get(), exit.imm.get()),
        (EXIT_HOST_CALL, 7)
    );
    assert_eq!((exit.gprs[0].get(), exit.gprs[30].get()), (0x11, 0x22));
    let mut entry = RecEnter::new_zeroed();
    entry.gprs[1] = 0x33.into();
    host.fake.script().look(|fake, vcpu| {
        assert_eq!(vcpu.gprs[0], 0);
        assert_eq!(vcpu.load::<16>(fake, PAGE + 0x108).unwrap()[8], 0x33);
    });
    host.enter_with(&realm, &entry).unwrap();
    host.fake
        .script()
        .guest_call(rsi::Call::HostCall { ipa: PAGE + 0x80 });
    host.fake.script().expect(&[1]);
    host.enter(&realm);
    assert!(host.fake.script().is_done());
}

#[test]
fn a_structure_that_the_host_took_away_is_asked_for_and_the_call_repeated() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    let page = host.unmap_private(&realm, PAGE);
    host.undelegate(page, 1);
    host.fake
        .script()
        .guest_call(rsi::Call::HostCall { ipa: PAGE });
    let exit = host.enter(&realm);
    assert_eq!(
        (exit.exit_reason.get(), exit.hpfar.get()),
        (EXIT_SYNC, PAGE >> 8)
    );
    host.fake
        .script()
        .look(|_, vcpu| assert_eq!(vcpu.pc, 0x1000, "still at the call"));
    host.enter(&realm);
    assert!(host.fake.script().is_done());
}

/// Makes the guest take the fault of an access.
fn touch(host: &Host, ipa: u64, access: Access) {
    host.fake.script().then(move |_, vcpu| {
        vcpu.gprs[5] = 0xaaaa_bbbb_cccc_dddd;
        GuestExit::Fault(fault(ipa, access))
    });
}

#[test]
fn a_fault_on_private_memory_shows_the_host_nothing_but_the_page() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    host.unmap_private(&realm, PAGE);
    touch(&host, PAGE + 0x10, Access::Write);
    let exit = host.enter(&realm);
    assert_eq!(exit.exit_reason.get(), EXIT_SYNC);
    let seen = (
        exit.esr.get(),
        exit.far.get(),
        exit.hpfar.get(),
        exit.gprs[0].get(),
    );
    assert_eq!(seen, (0, 0, (PAGE + 0x10) >> 8, 0));
    // It cannot be emulated nor turned into an abort.
    for flag in [RecEnterFlags::EMULATED_MMIO, RecEnterFlags::INJECT_SEA] {
        let mut entry = RecEnter::new_zeroed();
        entry.flags = flag.bits().into();
        assert_eq!(
            host.enter_with(&realm, &entry).err().unwrap(),
            RmiStatus::REC
        );
    }
}

#[test]
fn an_access_to_nothing_is_the_guests_own_affair() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    let nothing = [
        (5 * PAGE, Access::Read),
        (1 << IPA_BITS, Access::Write),
        (Realm::SHARED + PAGE, Access::Execute),
    ];
    for (ipa, access) in nothing {
        touch(&host, ipa, access);
        host.fake
            .script()
            .look(move |_, vcpu| assert_eq!(vcpu.aborts.pop(), Some(Ipa(ipa))));
        assert_eq!(host.enter(&realm).exit_reason.get(), EXIT_IRQ);
    }
    assert!(host.fake.script().is_done());
}

#[test]
fn a_fault_on_shared_memory_shows_the_host_no_address_of_the_guests_own() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    let ipa = Realm::SHARED + 8 * PAGE + 0x124;
    host.fake.script().then(move |_, _| {
        let mut fault = fault(ipa, Access::Read);
        fault.syndrome.far = 0xffff_8000_dead_b124;
        GuestExit::Fault(fault)
    });
    let exit = host.enter(&realm);
    assert_eq!((exit.far.get(), exit.hpfar.get()), (0x124, ipa >> 8));
}

#[test]
fn no_exit_tells_the_host_which_register_the_guest_used() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    let syndrome = FaultSyndrome {
        esr: 0x01 << 26 | 7 << 16 | 7 << 5,
        far: 0xabc_d123,
        hpfar: 0,
    };
    host.fake
        .script()
        .then(move |_, _| GuestExit::Idle(syndrome));
    host.fake
        .script()
        .then(move |_, _| GuestExit::SystemError(syndrome));
    for _ in 0..2 {
        assert_eq!(host.enter(&realm).esr.get(), 0);
    }
    host.fake.script().then(|_, _| {
        let mut fault = fault(Realm::SHARED + 8 * PAGE, Access::Read);
        fault.syndrome.esr |= 7 << 16;
        GuestExit::Fault(fault)
    });
    assert_eq!(host.enter(&realm).esr.get(), 0x9000_0047);
}

#[test]
fn an_access_to_shared_memory_is_emulated_by_the_host() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    let ipa = Realm::SHARED + 8 * PAGE + 4;
    touch(&host, ipa, Access::Write);
    let exit = host.enter(&realm);
    assert_eq!(
        (exit.exit_reason.get(), exit.gprs[0].get()),
        (EXIT_SYNC, 0xcccc_dddd)
    );
    let mut entry = RecEnter::new_zeroed();
    entry.flags = RecEnterFlags::EMULATED_MMIO.bits().into();
    entry.gprs[0] = 0x1234_5678_9abc_def0.into();
    host.fake
        .script()
        .look(|_, vcpu| assert_eq!(vcpu.gprs[5], 0xaaaa_bbbb_cccc_dddd));
    host.enter_with(&realm, &entry).unwrap();
    // A flag that answers nothing is refused.
    assert_eq!(
        host.enter_with(&realm, &entry).err().unwrap(),
        RmiStatus::REC
    );

    touch(&host, ipa, Access::Read);
    assert_eq!(host.enter(&realm).gprs[0].get(), 0);
    host.fake
        .script()
        .look(|_, vcpu| assert_eq!(vcpu.gprs[5], 0x9abc_def0));
    host.enter_with(&realm, &entry).unwrap();
    touch(&host, ipa, Access::Read);
    host.enter(&realm);
    entry.flags = RecEnterFlags::INJECT_SEA.bits().into();
    host.fake
        .script()
        .look(move |_, vcpu| assert_eq!(vcpu.aborts, [Ipa(ipa)]));
    host.enter_with(&realm, &entry).unwrap();
    assert!(host.fake.script().is_done());
}

#[test]
fn an_emulated_load_extends_what_was_read_to_the_width_of_its_register() {
    let host = Host::activated();
    let realm = realm_with_memory(&host);
    let memory = 0x1122_3344_89ab_8081;
    let cases = [
        // Bytes, sign, 64-bit register, what is in it afterwards.
        (1, false, false, 0x81),
        (1, true, false, 0xffff_ff81),
        (1, true, true, 0xffff_ffff_ffff_ff81),
        (2, true, false, 0xffff_8081),
        (2, true, true, 0xffff_ffff_ffff_8081),
        (4, false, false, 0x89ab_8081),
        (4, true, true, 0xffff_ffff_89ab_8081),
        (8, false, true, memory),
    ];
    let mut entry = RecEnter::new_zeroed();
    entry.flags = RecEnterFlags::EMULATED_MMIO.bits().into();
    for (bytes, sign_extend, sixty_four, expected) in cases {
        // A positive value is the same extended either way.
        let positive = 0x7f7f_7f7f_7f7f_7f7f >> (64 - 8 * u32::from(bytes));
        for (value, expected) in [(memory, expected), (positive, positive)] {
            host.fake.script().then(move |_, vcpu| {
                vcpu.gprs[5] = u64::MAX;
                let mut fault = fault(Realm::SHARED + 8 * PAGE, Access::Read);
                fault.transfer = Some(Transfer {
                    register: 5,
                    bytes,
                    sign_extend,
                    sixty_four,
                });
                GuestExit::Fault(fault)
            });
            host.enter(&realm);
            entry.gprs[0] = value.into();
            host.fake.script().look(move |_, vcpu| {
                assert_eq!(vcpu.gprs[5], expected, "{bytes} bytes, {sign_extend}");
            });
            host.enter_with(&realm, &entry).unwrap();
        }
    }
    assert!(host.fake.script().is_done());
}

#[test]
fn memory_that_a_guest_gets_is_zero_whatever_the_host_left_there() {
    let host = Host::activated();
    let realm = host.new_realm();
    host.init_ripas(&realm, 0, PAGE);
    success(host.call(Call::RealmActivate { rd: realm.rd }));
    let page = host.page_with(&[0xa5; 4096]);
    host.delegate(page, 1);
    let map = Call::RttDataMap {
        rd: realm.rd,
        base: 0,
        top: PAGE,
        flags: MapFlags::single().0,
        oaddr: RangeDescriptor::new(page, BlockSize::Page, 1).0,
    };
    success(host.call(map));
    host.fake.script().look(|fake, vcpu| {
        assert_eq!(vcpu.load::<4096>(fake, 0).unwrap(), [0; 4096]);
    });
    host.enter(&realm);
    assert!(host.fake.script().is_done());
}
