// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls from guest to host that the TSM only carries (RHI for device assignment).
//!
//! A call is a host call with immediate [`IMMEDIATE`]: register 0 holds the function, the others
//! its arguments; the host answers in registers 0 and on, register 0 being a
//! [`crate::RhiStatus`] unless said otherwise.

use crate::values::values;

/// Immediate of a host call that carries one of these functions.
pub const IMMEDIATE: u16 = 0;
/// Immediate of a host call that prints: register 0 is a byte count, the others the bytes.
pub const CONSOLE_IMMEDIATE: u16 = 1;
/// Largest number of bytes that one console call prints.
pub const CONSOLE_BYTES: usize = 240;

/// Version of the device assignment calls: 1.0.
pub const DA_VERSION_VALUE: u64 = 1 << 16;

/// Returns the version in register 0.
pub const DA_VERSION: u64 = 0xc500_004a;
/// Returns the supported functions in register 0, one bit each from [`DA_OBJECT_SIZE`] on.
pub const DA_FEATURES: u64 = 0xc500_004b;
/// (vdev id, object) Returns the size of an object in register 1.
pub const DA_OBJECT_SIZE: u64 = 0xc500_004c;
/// (vdev id, object, shared address, bytes, offset) Copies a part of an object into shared memory
/// and returns the number of bytes in register 1.
pub const DA_OBJECT_READ: u64 = 0xc500_004d;
/// (vdev id) Continues an operation that answered "incomplete".
pub const DA_VDEV_CONTINUE: u64 = 0xc500_0051;
/// (vdev id, shared address of [`crate::rmi::VdevMeasureParams`]) Fetches measurements.
pub const DA_VDEV_GET_MEASUREMENTS: u64 = 0xc500_0052;
/// (vdev id) Fetches the interface report.
pub const DA_VDEV_GET_INTERFACE_REPORT: u64 = 0xc500_0053;
/// (vdev id, [`TdiState`]) Moves the device interface to another state.
pub const DA_VDEV_SET_TDI_STATE: u64 = 0xc500_0054;
/// (vdev id) Ends a binding between devices.
pub const DA_VDEV_P2P_UNBIND: u64 = 0xc500_0055;
/// (vdev id) Aborts the operation under way.
pub const DA_VDEV_ABORT: u64 = 0xc500_0056;

values! {
    /// Objects that the host keeps.
    Object {
        /// Version, capabilities and algorithms exchange.
        Vca = 0,
        /// Certificate chain.
        Certificate = 1,
        /// Measurements.
        Measurements = 2,
        /// Interface report.
        InterfaceReport = 3,
        /// More evidence.
        ExternalEvidence = 4,
    }
}

values! {
    /// States that a guest can ask for.
    TdiState {
        /// Given back.
        Unlocked = 0,
        /// Locked.
        Locked = 1,
        /// Running.
        Run = 2,
    }
}
