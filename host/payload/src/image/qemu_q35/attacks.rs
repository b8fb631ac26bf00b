// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a hostile host tries on this board only.

use tsm_abi::rmi::Call;
use tsm_payload_support::x86_64::exception::Exception;
use tsm_payload_support::x86_64::port;

use super::super::attacks::{Disturbance, faults, reported};
use super::super::cpus;
use super::super::flow::Host;
use super::super::layout::{HOST_DMA_TOP, REALM_DATA};
use super::super::memory;
use super::super::pci::{BAR0, Function, ID};
use super::super::processor::privileged::{self, Outcome};
use super::super::processor::vectors;
use super::super::realm;
use super::super::report::{attack, check};
use super::super::rmi;
use super::edu::Edu;
use super::{IOMMU, KEY_UNIT_RID, TSM, TSM_TOP, ports};

/// A page of the host's, which nothing else uses, and the one behind it.
const PAGE: u64 = HOST_DMA_TOP as u64 - 0x3000;
const OTHER_PAGE: u64 = PAGE + 0x1000;
/// The debug console, which takes the TSM's log.
const LOG_PORT: u16 = 0xe9;
const MARK: u64 = u64::from_le_bytes(*b"EDUMARK!");

/// Everything that must fail without harm while the guest uses its device. The guest would not
/// survive stores to its code.
pub fn while_running(_host: &mut Host) {
    let last = REALM_DATA + realm::image_bytes() - 0x1000;
    let middle = (REALM_DATA + realm::image_bytes() / 2) & !0xfff;
    confinement(&[REALM_DATA + realm::POLICY_IPA, middle, last]);
}

/// Everything that must fail whether there is a guest or not. The pages of `private` are not the
/// host's.
pub fn confinement(private: &[u64]) {
    places();
    processor();
    below_translation();
    configuration();
    device_memory_access(private);
    cpus::starts_confined(TSM);
    let alive = rmi::call(&Call::Version {
        requested: tsm_abi::rmi::VERSION,
    });
    check(
        "the-tsm-lives-on",
        format_args!("{:?}", alive.status()),
        alive.status() == Some(tsm_abi::RmiStatus::SUCCESS),
    );
}

/// Loads and stores.
fn places() {
    faults(
        "write-iommu",
        "store to the IOMMU's registers",
        vectors::write(IOMMU + 0x18, 0),
    );
    faults(
        "write-tsm",
        "store to the TSM's memory",
        vectors::write(TSM, 0),
    );
    faults(
        "read-tsm-end",
        "load from the end of the TSM's memory, where its tables are",
        vectors::read(TSM_TOP - 0x1000).map(|_| ()),
    );
    faults(
        "local-apic-page",
        "store to the local APIC's page",
        vectors::write(0xfee0_0300, 0x4500),
    );
}

fn raises(name: &str, what: &str, outcome: Outcome, vector: u8) {
    match outcome {
        Ok(()) => attack(
            name,
            format_args!("{what}"),
            format_args!("it worked"),
            false,
        ),
        Err(raised) => attack(
            name,
            format_args!("{what}"),
            format_args!("{raised}"),
            raised.vector == vector,
        ),
    }
}

/// Instructions and registers that reach below the host.
fn processor() {
    const SVME: u64 = 1 << 12;
    const BASE: u64 = 0xffff_f000;
    for (name, outcome) in privileged::svm(PAGE) {
        raises("svm-instruction", name, outcome, Exception::INVALID_OPCODE);
    }
    let efer = privileged::read(privileged::EFER);
    attack(
        "efer-svme",
        format_args!("read EFER"),
        format_args!("{efer:x?}"),
        efer.is_ok_and(|efer| efer & SVME == 0),
    );
    let protection = Exception::GENERAL_PROTECTION;
    let apic = privileged::read(privileged::APIC_BASE).unwrap_or(0);
    for (name, what, register, value) in [
        (
            "efer-svme",
            "set EFER.SVME",
            privileged::EFER,
            efer.unwrap_or(0) | SVME,
        ),
        ("vm-cr", "write VM_CR", privileged::VM_CR, 0),
        (
            "vm-hsave-pa",
            "write VM_HSAVE_PA",
            privileged::VM_HSAVE_PA,
            PAGE,
        ),
        ("smm-base", "write SMBASE", privileged::SMM_BASE, PAGE),
        (
            "apic-base",
            "move the local APIC over the TSM",
            privileged::APIC_BASE,
            apic & !BASE | TSM,
        ),
        (
            "apic-base",
            "leave x2APIC mode",
            privileged::APIC_BASE,
            apic & !(1 << 10),
        ),
    ] {
        raises(name, what, privileged::write(register, value), protection);
    }
    // What is refused above works with a harmless value.
    let same = privileged::write(privileged::EFER, efer.unwrap_or(0))
        .and(privileged::write(privileged::APIC_BASE, apic));
    check(
        "harmless-writes-work",
        format_args!("{same:?}"),
        same.is_ok(),
    );
    let (call, nothing) = privileged::call_at_level_3();
    raises(
        "call-at-level-3",
        "VMMCALL at level 3",
        call,
        Exception::INVALID_OPCODE,
    );
    check(
        "level-3-runs",
        format_args!("{nothing:?}"),
        nothing.is_err_and(|raised| raised.vector == protection),
    );
}

/// Ways to memory that neither nested paging nor the IOMMU is in.
fn below_translation() {
    firmware_configuration();
    let same = |name: &str, what: &str| {
        let (low, high) = (
            memory::words(PAGE & !(1 << 20)),
            memory::words(PAGE | 1 << 20),
        );
        low.write64(0, 1);
        high.write64(0, 2);
        let apart = low.read64(0) == 1 && high.read64(0) == 2;
        attack(
            name,
            format_args!("{what}"),
            format_args!("addresses that differ in bit 20 only are apart: {apart}"),
            apart,
        );
    };
    port::write8(0x92, 0);
    same("a20-gate", "close the A20 gate by port 0x92");
    port::write8(0x92, 2);
    port::write8(0x64, 0xdd);
    same("a20-gate", "close the A20 gate by a command of port 0x64");
    port::write8(0x64, 0xdf);
    port::write8(0x64, 0xd1);
    port::write8(0x60, 0xdd);
    same("a20-gate", "close the A20 gate by the output port");
    port::write8(0x64, 0xd1);
    port::write8(0x60, 0xdf);
    let log = port::read8(LOG_PORT);
    attack(
        "log-port",
        format_args!("read the port of the TSM's log, which answers with its own number"),
        format_args!("{log:#x}"),
        log != LOG_PORT as u8,
    );
    let timer = vectors::read(0xfed0_0000);
    attack(
        "event-timer",
        format_args!("find the timer whose interrupts write memory (HPET)"),
        format_args!("{timer:x?}"),
        timer.map_or(true, |id| id >> 16 != 0x8086),
    );
}

/// fw_cfg copies files to any address.
fn firmware_configuration() {
    /// Select item 0, the signature, and read.
    const CONTROL: u32 = 0x0a;
    const SIGNATURE: u32 = u32::from_le_bytes(*b"QEMU");
    let (request, target) = (memory::words(PAGE), memory::words(OTHER_PAGE));
    memory::zero_page(PAGE);
    memory::zero_page(OTHER_PAGE);
    // Control, length and address, big-endian.
    request.write32(0, CONTROL.swap_bytes());
    request.write32(4, 4_u32.swap_bytes());
    request.write64(8, OTHER_PAGE.swap_bytes());
    let before = request.read32(0);
    port::write32(0x514, 0);
    port::write32(0x518, (PAGE as u32).swap_bytes());
    let (after, copied) = (request.read32(0), target.read32(0));
    attack(
        "fw-cfg-dma",
        format_args!("have fw_cfg copy to memory"),
        format_args!("request {after:#x}, memory {copied:#x}"),
        before == after && copied != SIGNATURE,
    );
}

/// Configuration accesses by ports and by memory.
fn configuration() {
    const MEMORY_WINDOW_REGISTER: usize = 0x60;
    const MANAGEMENT_MEMORY: usize = 0x9c;
    let hidden = ports::read(Function(KEY_UNIT_RID), ID);
    attack(
        "key-unit-config-by-ports",
        format_args!("read the id of the key configuration unit's function"),
        format_args!("{hidden:#x}"),
        hidden == u32::MAX,
    );
    let bridge = Function::new(0, 0);
    let seen = (bridge.config().read32(ID), ports::read(bridge, ID));
    check(
        "ports-and-memory-agree",
        format_args!("host bridge {seen:x?}"),
        seen.0 == seen.1 && seen.0 != u32::MAX,
    );
    for (name, what, offset, change) in [
        (
            "move-configuration-space",
            "move configuration space over the TSM",
            MEMORY_WINDOW_REGISTER,
            0xb000_0000 ^ TSM as u32,
        ),
        (
            "open-management-memory",
            "open system management memory",
            MANAGEMENT_MEMORY,
            0x4000,
        ),
    ] {
        let before = bridge.config().read32(offset);
        bridge.config().write32(offset, before ^ change);
        let by_memory = ports::read(bridge, offset);
        ports::write(bridge, offset, before ^ change);
        let by_ports = ports::read(bridge, offset);
        attack(
            name,
            format_args!("{what}"),
            format_args!("{by_memory:#x} and {by_ports:#x}, was {before:#x}"),
            by_memory == before && by_ports == before,
        );
    }
}

/// A device that copies wherever the host wants.
fn device_memory_access(private: &[u64]) {
    let Some(edu) = Edu::find() else {
        check("dma-engine-found", format_args!("no edu"), false);
        return;
    };
    let (source, target) = (memory::words(PAGE), memory::words(OTHER_PAGE));
    source.write64(0, MARK);
    target.write64(0, 0);
    let ended = edu.load(PAGE, 8) && edu.store(OTHER_PAGE, 8);
    let copied = target.read64(0);
    let told = reported(edu.function, PAGE, false);
    check(
        "edu-copies-host-memory",
        format_args!("copied {copied:#x}; refused {told}"),
        ended && copied == MARK && !told,
    );
    let pages = private.iter().map(|page| ("private memory", *page));
    // The TSM would not survive stores to its code: its entry and its exits are in the first page.
    for (whose, address) in pages.chain([("the TSM", TSM)]) {
        target.write64(0, 0);
        let ended = edu.load(PAGE, 8) && edu.load(address, 8) && edu.store(OTHER_PAGE, 8);
        let copied = target.read64(0);
        let told = reported(edu.function, address, false);
        attack(
            "edu-dma-read",
            format_args!("edu copies {whose} to the host"),
            format_args!("got {copied:#x}; refused {told}"),
            ended && (copied == 0 || copied == MARK) && told,
        );
        let ended = edu.load(PAGE, 8) && edu.store(address, 0x1000);
        let told = reported(edu.function, address, true);
        attack(
            "edu-dma-write",
            format_args!("edu stores to {whose}"),
            format_args!("refused {told}"),
            ended && told,
        );
    }
}

fn write_by_ports(function: Function, offset: usize, value: u32) {
    ports::write(function, offset, value);
}

/// Returns ways to change a device under its guest that only this board has.
pub fn disturbances(host: &Host) -> [Disturbance; 1] {
    [Disturbance {
        name: "move-bar-by-ports",
        what: "move the disk's BAR by I/O ports",
        function: host.topology.disk,
        offset: BAR0,
        change: |bar| bar.wrapping_add(0x8_0000),
        write: write_by_ports,
    }]
}
