// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What must hold on the machine itself, where a fake platform cannot show it.

use core::arch::global_asm;

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{self as abi, Call, ROWS};
use tsm_payload_support::arch;

use super::board::{self, DONATED_TOP, OBJECTS, Page, REALM_DATA};
use super::report::{self, check, verdict};
use super::rmi::{self, Result, delegate, must, undelegate};
use super::vectors::{self, is_granule_fault};
use super::{cpus, flow, isolation, memory, pci};

/// Runs the tests and ends the machine.
pub fn run() -> ! {
    worlds();
    redistributor();
    power();
    registers_survive();
    let result = calls().and_then(|()| cpus::run()).and_then(|()| granules());
    match result {
        Ok(()) => verdict(
            report::failures() == 0,
            format_args!("{} failed", report::failures()),
        ),
        Err(refused) => verdict(false, format_args!("{refused}")),
    }
}

/// Runs the tests of an image that fails on request, and ends the machine.
pub fn run_isolated() -> ! {
    isolation::run();
    registers_survive();
    match calls().and_then(|()| granules()) {
        Ok(()) => verdict(
            report::failures() == 0,
            format_args!("{} failed", report::failures()),
        ),
        Err(refused) => verdict(false, format_args!("{refused}")),
    }
}

/// What is not the host's faults, and the host lives on.
fn worlds() {
    let places = [
        ("tsm", 0x7f00_0000),
        ("page-shared-by-monitor-and-tsm", 0x7fff_f000),
        ("smmu-first-page", board::SMMU),
        ("smmu-second-page", board::SMMU + 0x1_0000),
        ("key-configuration-unit", 0x3e00_0000),
        ("fw-cfg", board::FW_CFG as u64),
        ("virtio-mmio-first", 0x0a00_0000),
        ("virtio-mmio-last", 0x0a00_3e00),
        ("interrupt-translation-control", 0x0808_0000),
        ("interrupt-translation-doorbell", 0x0809_0040),
    ];
    for (name, address) in places {
        for write in [false, true] {
            let result = if write {
                vectors::write(address, 0)
            } else {
                vectors::read(address).map(|_| ())
            };
            let seen = result.err().unwrap_or(0);
            let how = if write { "store" } else { "load" };
            check(
                name,
                format_args!("{how}: ESR {seen:#x}"),
                is_granule_fault(seen),
            );
        }
    }
    // Neither the code nor the data of the monitor is in the host's address space at all.
    for (name, address) in [("monitor-code", 0), ("monitor-data", 0x0e00_0000)] {
        let seen = vectors::read(address);
        check(name, format_args!("load: {seen:x?}"), seen.is_err());
    }
}

/// The host's redistributor has no interrupts that live in memory: their tables would be read and
/// written past granule protection.
fn redistributor() {
    const FRAME: u64 = 0x080a_0000;
    const CONTROL: u64 = FRAME;
    const TYPER: u64 = FRAME + 0x08;
    const TABLES: [u64; 4] = [FRAME + 0x70, FRAME + 0x74, FRAME + 0x78, FRAME + 0x7c];
    /// PLPIS, VLPIS and DirectLPI of TYPER; EnableLPIs of the control register.
    const LPIS: u32 = 0b1011;
    const ENABLE: u32 = 1;
    let kind = vectors::read(TYPER);
    check(
        "redistributor-has-no-lpis",
        format_args!("TYPER {kind:x?}"),
        kind.is_ok_and(|kind| kind & LPIS == 0),
    );
    for table in TABLES {
        let stored = vectors::write(table, 0x7f00_0000);
        let loaded = vectors::read(table);
        check(
            "lpi-table-is-not-set",
            format_args!("store {stored:x?}, then load {loaded:x?}"),
            stored.is_ok() && loaded == Ok(0),
        );
    }
    let stored = vectors::write(CONTROL, ENABLE);
    let loaded = vectors::read(CONTROL);
    check(
        "lpis-are-not-enabled",
        format_args!("store {stored:x?}, then load {loaded:x?}"),
        stored.is_ok() && loaded.is_ok_and(|control| control & ENABLE == 0),
    );
}

/// Power calls that return.
fn power() {
    const VERSION: u64 = 0x8400_0000;
    const FEATURES: u64 = 0x8400_000a;
    const AFFINITY_INFO: u64 = 0xc400_0004;
    const SYSTEM_OFF: u64 = 0x8400_0008;
    const SMCCC_VERSION: u64 = 0x8000_0000;
    const NOT_SUPPORTED: u64 = u64::MAX;
    let cases = [
        ("psci-version-1", VERSION, 0, 1, 16),
        ("smccc-version-1", SMCCC_VERSION, 0, 1, 16),
        ("psci-offers-system-off", FEATURES, SYSTEM_OFF, 0, 0),
        ("this-cpu-is-on", AFFINITY_INFO, 0, 0, 0),
    ];
    for (name, function, argument, expected, shift) in cases {
        let answer = arch::call(function, &[argument])[0];
        check(
            name,
            format_args!("{answer:#x}"),
            answer >> shift == expected,
        );
    }
    let low = 0xffff_ffff;
    let unknown = arch::call(0x8400_00ff, &[])[0];
    check(
        "an-unknown-service-answers-not-supported",
        format_args!("{unknown:#x}"),
        unknown & low == NOT_SUPPORTED & low,
    );
}

// Makes the call in x0 and x1 with a pattern in registers that it has to preserve, and returns the
// bits that changed in x0. The system registers have no use in this program.
global_asm!(
    ".arch_extension fp",
    ".section .text.call_with_pattern, \"ax\"",
    "call_with_pattern:",
    "stp x29, x30, [sp, #-32]!",
    "stp x19, x28, [sp, #16]",
    "movz x19, #0x5aa5",
    "mov x28, x19",
    ".irp register, tpidr_el2, vttbr_el2, cntvoff_el2, tpidr_el1, elr_el1",
    "msr \\register, x19",
    ".endr",
    ".irp register, d0, d7, d15, d31",
    "fmov \\register, x19",
    ".endr",
    "smc #0",
    "movz x1, #0x5aa5",
    "eor x0, x19, x1",
    "eor x2, x28, x1",
    "orr x0, x0, x2",
    ".irp register, tpidr_el2, vttbr_el2, cntvoff_el2, tpidr_el1, elr_el1",
    "mrs x2, \\register",
    "eor x2, x2, x1",
    "orr x0, x0, x2",
    ".endr",
    ".irp register, d0, d7, d15, d31",
    "fmov x2, \\register",
    "eor x2, x2, x1",
    "orr x0, x0, x2",
    ".endr",
    "msr cntvoff_el2, xzr",
    "ldp x19, x28, [sp, #16]",
    "ldp x29, x30, [sp], #32",
    "ret",
    ".text",
);

unsafe extern "C" {
    fn call_with_pattern(function: u64, argument: u64) -> u64;
}

/// A call leaves the registers that SMCCC preserves, and the host's EL1 and EL2 state, alone.
fn registers_survive() {
    let (function, arguments) = Call::Version {
        requested: abi::VERSION,
    }
    .encode();
    // SAFETY: The function keeps to the procedure call standard; see its comment.
    let changed = unsafe { call_with_pattern(function, arguments[0]) };
    check(
        "registers-survive-a-call",
        format_args!("general, vector, EL1 and EL2; changed bits {changed:#x}"),
        changed == 0,
    );
}

fn status(function: u64, arguments: &[u64]) -> Option<RmiStatus> {
    RmiStatus::from_word(arch::call(function, arguments)[0])
}

/// Every call of the table with arguments that cannot be right.
fn calls() -> Result<()> {
    let before = rmi::call(&Call::GranuleRangeDelegate {
        start: REALM_DATA,
        end: REALM_DATA + 0x1000,
    });
    check(
        "nothing-works-before-activation",
        format_args!("{:?}", before.status()),
        before.status() == Some(RmiStatus::GLOBAL),
    );
    let old = rmi::call(&Call::Version { requested: 1 << 16 });
    check(
        "an-old-version-is-refused",
        format_args!("{:?}", old.status()),
        old.status() == Some(RmiStatus::INPUT),
    );
    flow::start_tsm()?;
    // Calls that take no address answer any argument.
    let harmless = ["RMI_FEATURES", "RMI_GRANULE_TRACKING_GET"];
    let (mut refused, mut wrong) = (0, 0);
    for row in ROWS.iter().filter(|row| !harmless.contains(&row.name)) {
        for value in [1, 0xfff, 0x7f00_0000, u64::MAX, u64::MAX << 12] {
            let answer = status(row.function, &[value; 7]);
            let expected = match answer {
                Some(RmiStatus::NOT_SUPPORTED) => true,
                Some(RmiStatus::SUCCESS) | None => false,
                Some(_) => row.implemented,
            };
            refused += 1;
            if !expected {
                wrong += 1;
                tsm_payload_support::println!("NOTE {} with {value:#x}: {answer:?}", row.name);
            }
        }
    }
    check(
        "impossible-arguments-are-refused",
        format_args!("{refused} calls, {wrong} answered otherwise"),
        wrong == 0,
    );
    let absent = ROWS.iter().filter(|row| !row.implemented);
    let supported =
        absent.filter(|row| status(row.function, &[]) != Some(RmiStatus::NOT_SUPPORTED));
    let count = supported.count();
    check(
        "absent-calls-answer-not-supported",
        format_args!("{count} answered otherwise"),
        count == 0,
    );
    Ok(())
}

/// Granules change hands scrubbed and as a whole; configuration space is mediated.
fn granules() -> Result<()> {
    let page = REALM_DATA;
    memory::words(page).write64(8, 0x1122_3344_5566_7788);
    delegate(page, page + 0x1000)?;
    let taken = vectors::read(page).err().is_some_and(is_granule_fault);
    check("a-delegated-granule-faults", format_args!("{taken}"), taken);
    let again = rmi::call(&Call::GranuleRangeDelegate {
        start: page,
        end: page + 0x1000,
    });
    check(
        "a-granule-that-is-delegated-already-is-passed-over",
        format_args!("{:?}", again.status()),
        again.status() == Some(RmiStatus::SUCCESS) && again.register(1) == page + 0x1000,
    );
    undelegate(page, page + 0x1000)?;
    let left = memory::words(page).read64(8);
    check(
        "a-returned-granule-is-scrubbed",
        format_args!("{left:#x}"),
        left == 0,
    );
    delegate(REALM_DATA, DONATED_TOP)?;
    let holes = (REALM_DATA..DONATED_TOP)
        .step_by(0x1000)
        .filter(|address| vectors::read(*address).is_ok())
        .count();
    check(
        "a-range-is-delegated-as-a-whole",
        format_args!("{holes} granules still readable"),
        holes == 0,
    );
    must(&Call::RmmConfigGet {
        config: Page::Parameters.address(),
    })?;
    let into_tsm = rmi::call(&Call::RmmConfigGet { config: OBJECTS });
    check(
        "results-do-not-go-to-delegated-memory",
        format_args!("{:?}", into_tsm.status()),
        into_tsm.status() == Some(RmiStatus::INPUT),
    );
    undelegate(REALM_DATA, DONATED_TOP)?;
    configuration();
    flow::stop_tsm()?;
    Ok(())
}

/// Loads and stores of every width reach configuration space through monitor and TSM.
fn configuration() {
    let Some(topology) = pci::enumerate() else {
        check("bus-is-enumerated", format_args!("no disk found"), false);
        return;
    };
    let config = topology.disk.config();
    let word = config.read32(pci::ID);
    let halves = u32::from(config.read16(0)) | u32::from(config.read16(2)) << 16;
    let bytes = u32::from_le_bytes([0, 1, 2, 3].map(|offset| config.read8(offset)));
    let wide = config.read64(0);
    check(
        "configuration-reads-agree-in-every-width",
        format_args!("{word:#x} {halves:#x} {bytes:#x} {wide:#x}"),
        word == halves && word == bytes && wide as u32 == word && word != u32::MAX,
    );
    let nothing = pci::Function::new(0, 0x1f).config().read32(pci::ID);
    check(
        "an-absent-function-reads-as-ones",
        format_args!("{nothing:#x}"),
        nothing == u32::MAX,
    );
}
