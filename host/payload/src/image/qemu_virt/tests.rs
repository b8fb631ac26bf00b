// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What must hold on this board.

use tsm_payload_support::arch;

use super::super::processor::vectors;
use super::super::report::check;
use super::super::rmi::Result;
use super::{FW_CFG, IOMMU, KEY_UNIT, TSM};

/// Runs the tests of this board.
pub fn run() {
    worlds();
    redistributor();
    power();
}

/// Runs the tests of this board that need an active TSM: there are none.
pub fn run_active() -> Result<()> {
    Ok(())
}

/// What is not the host's faults, and the host lives on.
fn worlds() {
    let places = [
        ("tsm", TSM),
        ("page-shared-by-monitor-and-tsm", 0x7fff_f000),
        ("smmu-first-page", IOMMU),
        ("smmu-second-page", IOMMU + 0x1_0000),
        ("key-configuration-unit", KEY_UNIT),
        ("fw-cfg", FW_CFG),
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
            let how = if write { "store" } else { "load" };
            check(
                name,
                format_args!("{how}: {result:x?}"),
                result.is_err_and(|fault| fault.is_protection()),
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
        let stored = vectors::write(table, TSM as u32);
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
