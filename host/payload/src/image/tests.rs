// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What must hold on the machine itself, where a fake platform cannot show it.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{self as abi, Call, ROWS};
use tsm_payload_support::arch;

use super::board::TSM;
use super::layout::{DONATED_TOP, OBJECTS, Page, REALM_DATA};
use super::processor::{registers, vectors};
use super::report::{self, check, verdict};
use super::rmi::{self, Result, delegate, must, undelegate};
use super::{board, cpus, flow, isolation, memory, pci};

/// Runs the tests and ends the machine.
pub fn run() -> ! {
    board::tests::run();
    registers_survive();
    let result = calls()
        .and_then(|()| board::tests::run_active())
        .and_then(|()| cpus::run())
        .and_then(|()| granules());
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

/// A call leaves the registers that it must preserve, and the host's system state, alone.
fn registers_survive() {
    let (function, arguments) = Call::Version {
        requested: abi::VERSION,
    }
    .encode();
    let changed = registers::changed_by(function, [arguments[0], 0]);
    check(
        "registers-survive-a-call",
        format_args!("{}; changed bits {changed:#x}", registers::WHICH),
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
    let harmless = [
        "RMI_FEATURES",
        "RMI_GRANULE_TRACKING_GET",
        "PORTCULLIS_IOMMU_FAULT_GET",
    ];
    let (mut refused, mut wrong) = (0, 0);
    for row in ROWS.iter().filter(|row| !harmless.contains(&row.name)) {
        for value in [1, 0xfff, TSM, u64::MAX, u64::MAX << 12] {
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
    let taken = vectors::read(page)
        .err()
        .is_some_and(|fault| fault.is_protection());
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

/// Loads and stores of every width reach configuration space through the firmware.
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
    let nothing = pci::Function::new(0, 0x1e).config().read32(pci::ID);
    check(
        "an-absent-function-reads-as-ones",
        format_args!("{nothing:#x}"),
        nothing == u32::MAX,
    );
}
