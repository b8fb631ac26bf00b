// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's virtual CPU.

use crate::log::info;

/// What one CPU needs to run the host.
pub struct HostCpu;

impl HostCpu {
    /// The state before first use.
    pub const NEW: Self = Self;
}

/// Runs the host on this CPU, for ever.
pub fn run() -> ! {
    info!("cpu {=usize}: no host", super::cpu_index());
    super::exception::stop()
}
