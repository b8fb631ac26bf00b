// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Accesses of the host that fault.

use tsm_abi::el3;

use super::{
    ECAM, EMULATED, LDR, READ_FAULT, STR_POST, UNKNOWN, WRITE_FAULT, exception, fault, realm,
    running,
};
use crate::abort::Level;
use crate::context::World;

#[test]
fn a_configuration_access_is_performed_by_r_el2() {
    let (monitor, mut cpu) = running();
    cpu.host.elr = 0x4800_1000;
    cpu.host.spsr = 0x3c9 | 1 << 10 | 1 << 21;
    let before = cpu.realm.x[8..].to_vec();
    fault(&monitor, ECAM + 0x1_0000, 0xffff_0000_0000_0ff0);
    monitor.processor().instruction.set(Some(LDR));
    assert_eq!(exception(&monitor, &mut cpu, READ_FAULT), World::Realm);
    assert_eq!(
        cpu.realm.x[..4],
        [el3::PORTCULLIS_CONFIG_ACCESS, 0x10, 0xff0 | 4 << 16, 0]
    );
    assert_eq!(cpu.realm.x[8..], before);
    assert_eq!(
        realm(
            &monitor,
            &mut cpu,
            &[el3::REQUEST_COMPLETE, 0, 0x5555_1234_5678]
        ),
        World::NonSecure
    );
    assert_eq!(cpu.host.x[0], 0x1234_5678);
    // One instruction further, without the traces of a branch or a step.
    assert_eq!((cpu.host.elr, cpu.host.spsr), (0x4800_1004, 0x3c9));
}

#[test]
fn a_store_writes_back_its_base_when_it_is_done() {
    let (monitor, mut cpu) = running();
    (cpu.host.x[0], cpu.host.x[1]) = (0xffff_ffff_0000_0006, 0x4004);
    fault(&monitor, ECAM, 0x4004);
    monitor.processor().instruction.set(Some(STR_POST));
    assert_eq!(exception(&monitor, &mut cpu, WRITE_FAULT), World::Realm);
    assert_eq!(cpu.realm.x[1..4], [0, 0x004 | 4 << 16 | 1 << 24, 6]);
    assert_eq!(cpu.host.x[1], 0x4004);
    assert_eq!(
        realm(&monitor, &mut cpu, &[el3::REQUEST_COMPLETE, 0]),
        World::NonSecure
    );
    assert_eq!(cpu.host.x[1], 0x4008);
}

#[test]
fn what_is_not_an_access_becomes_the_hosts_abort() {
    let (monitor, mut cpu) = running();
    let cases = [
        (
            "not configuration space",
            0x7f00_0000,
            Some(LDR),
            READ_FAULT,
        ),
        ("unreadable", ECAM, None, READ_FAULT),
        ("undecodable", ECAM, Some(0), READ_FAULT),
        (
            "a load that faulted as a store",
            ECAM,
            Some(LDR),
            WRITE_FAULT,
        ),
        ("a fetch", ECAM, Some(LDR), READ_FAULT | 1 << 20),
        ("a walk", ECAM, Some(LDR), READ_FAULT | 1 << 7),
        ("misaligned", ECAM | 2, Some(LDR), READ_FAULT),
    ];
    for (name, address, instruction, esr) in cases {
        (cpu.host.elr, cpu.host.spsr) = (0x4800_1000, 0x3c9);
        fault(&monitor, address & !0xfff, address);
        monitor.processor().instruction.set(instruction);
        assert_eq!(
            exception(&monitor, &mut cpu, esr),
            World::NonSecure,
            "{name}"
        );
        let (level, delivery, far, elr, spsr) = monitor.processor().raised.take().expect(name);
        assert_eq!(
            (level, far, elr, spsr),
            (Level::El2, Some(address), 0x4800_1000, 0x3c9),
            "{name}"
        );
        assert_eq!(cpu.host.elr, 0x5000_0200, "{name}");
        let class = if name == "a fetch" { 0x21 } else { 0x25 };
        assert_eq!(delivery.esr >> 26, class, "{name}");
    }
}

#[test]
fn an_emulated_granule_never_reaches_r_el2() {
    let (monitor, mut cpu) = running();
    fault(&monitor, EMULATED, 0x9008);
    monitor.processor().instruction.set(Some(LDR));
    assert_eq!(exception(&monitor, &mut cpu, READ_FAULT), World::NonSecure);
    assert_eq!(cpu.host.x[0], 0x804);
    cpu.host.x[0] = 0x1_0000_0003;
    monitor.processor().instruction.set(Some(STR_POST));
    assert_eq!(exception(&monitor, &mut cpu, WRITE_FAULT), World::NonSecure);
    assert_eq!(monitor.board().stored.get(), Some(0x1_0000_0003));
}

#[test]
fn an_unknown_exception_is_undefined_where_it_happened() {
    let (monitor, mut cpu) = running();
    assert_eq!(exception(&monitor, &mut cpu, 0x18 << 26), World::NonSecure);
    let (level, delivery, far, ..) = monitor.processor().raised.take().unwrap();
    assert_eq!((level, delivery.esr, far), (Level::El2, 1 << 25, None));
    // A call by the 32-bit instruction.
    cpu.host.x[0] = 0xc400_0150;
    assert_eq!(exception(&monitor, &mut cpu, 0x13 << 26), World::NonSecure);
    assert_eq!(cpu.host.x[0], UNKNOWN);
}
