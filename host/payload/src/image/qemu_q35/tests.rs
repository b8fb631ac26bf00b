// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What must hold on this board.

use super::super::layout::REALM_DATA;
use super::super::processor::vectors;
use super::super::report::check;
use super::super::rmi::{Result, delegate, undelegate};
use super::{IOMMU, KEY_UNIT, TSM, TSM_TOP, attacks};

/// Runs the tests of this board.
pub fn run() {
    worlds();
}

/// Runs the tests of this board that need an active TSM.
pub fn run_active() -> Result<()> {
    delegate(REALM_DATA, REALM_DATA + 0x1000)?;
    attacks::confinement(&[REALM_DATA]);
    undelegate(REALM_DATA, REALM_DATA + 0x1000)
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
