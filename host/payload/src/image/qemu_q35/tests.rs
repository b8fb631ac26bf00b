// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What must hold on this board.

use super::super::attacks::reported;
use super::super::layout::REALM_DATA;
use super::super::pci::BAR0;
use super::super::processor::vectors;
use super::super::report::check;
use super::super::rmi::{Result, delegate, undelegate};
use super::edu::Edu;
use super::{IOMMU, KEY_UNIT, TSM, TSM_TOP, attacks};

/// Runs the tests of this board.
pub fn run() {
    worlds();
}

/// Runs the tests of this board that need an active TSM.
pub fn run_active() -> Result<()> {
    delegate(REALM_DATA, REALM_DATA + 0x1000)?;
    attacks::confinement(&[REALM_DATA]);
    undelegate(REALM_DATA, REALM_DATA + 0x1000)?;
    remembered_translations()?;
    device_page()
}

/// The IOMMU forgets the page that leaves, whose translation it has used, and not the one beside it.
fn remembered_translations() -> Result<()> {
    let Some(edu) = Edu::find() else {
        check("dma-engine-found", format_args!("no edu"), false);
        return Ok(());
    };
    let (page, beside) = (REALM_DATA, REALM_DATA + 0x1000);
    let refused = |address| !edu.load(address, 8) || reported(edu.function, address, false);
    let before = [page, beside].map(refused);
    delegate(page, beside)?;
    let meanwhile = [page, beside].map(refused);
    undelegate(page, beside)?;
    let after = [page, beside].map(refused);
    check(
        "the-iommu-forgets-the-page-that-leaves",
        format_args!("refused {before:?}, delegated {meanwhile:?}, back {after:?}"),
        (before, meanwhile, after) == ([false; 2], [true, false], [false; 2]),
    );
    Ok(())
}

/// A page of a device's registers leaves the host and comes back.
fn device_page() -> Result<()> {
    let Some(edu) = Edu::find() else {
        return Ok(());
    };
    let page = u64::from(edu.function.config().read32(BAR0) & !0xf);
    let before = vectors::read(page);
    delegate(page, page + 0x1000)?;
    let meanwhile = [vectors::read(page).map(|_| ()), vectors::write(page + 4, 0)];
    let beside = vectors::read(page + 0x1000);
    undelegate(page, page + 0x1000)?;
    let after = vectors::read(page);
    let taken = meanwhile
        .iter()
        .all(|result| result.is_err_and(|fault| fault.is_protection()));
    check(
        "a-delegated-device-page-faults",
        format_args!("{before:x?}, delegated {meanwhile:x?}, back {after:x?}"),
        taken && beside.is_ok() && before.is_ok() && after == before,
    );
    Ok(())
}

/// What is not the host's faults, and the host lives on.
fn worlds() {
    let places = [
        ("tsm", TSM),
        ("tsm-last-page", TSM_TOP - 0x1000),
        ("iommu-first-page", IOMMU),
        ("key-configuration-unit", KEY_UNIT),
        ("local-apic-page", 0xfee0_0000),
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
    // The memory beside it is the host's.
    for (name, address) in [("below-the-tsm", TSM - 4), ("above-the-tsm", TSM_TOP)] {
        let seen = vectors::read(address);
        check(name, format_args!("load: {seen:x?}"), seen.is_ok());
    }
}
