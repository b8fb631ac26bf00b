// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Virtual CPUs.

use tsm_platform::{Granule, Object};

use crate::device::Request;

/// What the host must answer before the virtual CPU goes on.
pub(crate) enum Pending {
    /// Nothing.
    None,
    /// A device request of the guest.
    Device(Request),
}

/// A virtual CPU. A running one has a reference; its lock is not held while the guest runs.
///
/// `C` is the platform's [`GuestCpu::Context`](tsm_platform::GuestCpu::Context).
pub(crate) struct Rec<C> {
    /// The realm that it belongs to.
    pub realm: Granule,
    /// What the host must answer first.
    pub pending: Pending,
    /// Registers.
    pub cpu: C,
}

impl<C: Object> Object for Rec<C> {}
