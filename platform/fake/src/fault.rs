// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Making hardware fail at a chosen point.

use crate::{Fake, lock};

/// A kind of step that hardware may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPoint {
    /// A copy from host memory.
    HostRead,
    /// A copy to host memory.
    HostWrite,
    /// A change of the granule protection table.
    Ownership,
    /// A change of the IOMMU or an invalidation in it.
    Iommu,
    /// A key operation of a root port.
    RootPort,
    /// Random bytes.
    Entropy,
    /// A panic at the end of isolated work.
    Isolation,
}

#[derive(Default)]
pub(crate) struct Faults {
    /// Points to pass before one fails; `None` if none is to fail.
    countdown: Option<u64>,
    /// The kind that counts; `None` counts all.
    only: Option<FaultPoint>,
    /// Where it failed.
    failed: Option<FaultPoint>,
}

impl Fake {
    /// Makes one fault point fail, once, after `passed` others were passed.
    pub fn fail_after(&self, passed: u64) {
        *lock(&self.faults) = Faults {
            countdown: Some(passed),
            only: None,
            failed: None,
        };
    }

    /// Makes a point of one kind fail, once, after `passed` others of the kind were passed.
    pub fn fail_kind_after(&self, kind: FaultPoint, passed: u64) {
        *lock(&self.faults) = Faults {
            countdown: Some(passed),
            only: Some(kind),
            failed: None,
        };
    }

    /// Lets nothing fail any more, and returns where something failed since the last arming.
    pub fn disarm(&self) -> Option<FaultPoint> {
        std::mem::take(&mut *lock(&self.faults)).failed
    }

    /// Passes a fault point.
    pub(crate) fn reach(&self, kind: FaultPoint) -> Result<(), ()> {
        self.pause();
        let mut faults = lock(&self.faults);
        if faults.only.is_some_and(|only| only != kind) {
            return Ok(());
        }
        match faults.countdown {
            None => Ok(()),
            Some(0) => {
                faults.countdown = None;
                faults.failed = Some(kind);
                Err(())
            }
            Some(left) => {
                faults.countdown = Some(left - 1);
                Ok(())
            }
        }
    }
}
