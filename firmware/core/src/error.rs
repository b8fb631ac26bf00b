// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a call fails, and the one place where that becomes a status word.

use tsm_abi::{MemoryRequest, RmiStatus};
use tsm_platform::{HostFault, MemoryError, PlatformError};

/// The reason that a host call gives for changing nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// An argument is misaligned, out of range, or names something of the wrong kind or state.
    Input,
    /// The realm is in the wrong state.
    Realm,
    /// The virtual CPU is in the wrong state.
    Rec,
    /// The translation table walk ended at this level, or its entry is in the wrong state.
    Rtt(u8),
    /// The call, or what it asks for, does not exist here.
    NotSupported,
    /// A device object is in the wrong state, or the device misbehaved.
    Device,
    /// The object is in use by another call.
    Busy,
    /// The TSM is in the wrong state, or the platform failed.
    Global,
    /// The granule at this address is still in use.
    Granule(u64),
    /// The object waits for its incomplete operation to be continued.
    Blocked,
}

impl Error {
    /// Returns the status that the host sees.
    #[must_use]
    pub const fn status(self) -> RmiStatus {
        match self {
            Self::Input => RmiStatus::INPUT,
            Self::Realm => RmiStatus::REALM,
            Self::Rec => RmiStatus::REC,
            Self::Rtt(level) => RmiStatus::rtt(level),
            Self::NotSupported => RmiStatus::NOT_SUPPORTED,
            Self::Device => RmiStatus::DEVICE,
            Self::Busy => RmiStatus::BUSY,
            Self::Global => RmiStatus::GLOBAL,
            Self::Granule(_) => RmiStatus::GRANULE,
            Self::Blocked => RmiStatus::BLOCKED,
        }
    }

    /// Returns the registers of the answer: most errors return nothing but the status.
    #[must_use]
    pub const fn registers(self) -> [u64; 8] {
        let value = match self {
            Self::Granule(address) => address,
            _ => 0,
        };
        [self.status().word(), value, 0, 0, 0, 0, 0, 0]
    }
}

impl From<HostFault> for Error {
    fn from(_: HostFault) -> Self {
        Self::Input
    }
}

/// A granule that the table vouches for and memory refuses is a contradiction inside the TSM; a
/// borrow that is held is another call at work.
impl From<MemoryError> for Error {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::InUse => Self::Busy,
            MemoryError::NotOwned | MemoryError::WrongKind | MemoryError::TooLarge => Self::Global,
        }
    }
}

impl From<PlatformError> for Error {
    fn from(error: PlatformError) -> Self {
        match error {
            PlatformError::Unsupported => Self::NotSupported,
            PlatformError::Refused | PlatformError::Timeout | PlatformError::Entropy => {
                Self::Global
            }
        }
    }
}

/// The registers that a call returns: the status word, then values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply([u64; 8]);

impl Reply {
    /// Success without a value.
    pub const NONE: Self = Self([0; 8]);

    /// Returns success with one value.
    #[must_use]
    pub const fn one(value: u64) -> Self {
        Self([0, value, 0, 0, 0, 0, 0, 0])
    }

    /// Returns success with two values.
    #[must_use]
    pub const fn two(first: u64, second: u64) -> Self {
        Self([0, first, second, 0, 0, 0, 0, 0])
    }

    /// Returns success with three values.
    #[must_use]
    pub const fn three(first: u64, second: u64, third: u64) -> Self {
        Self([0, first, second, third, 0, 0, 0, 0])
    }

    /// Returns success with four values.
    #[must_use]
    pub const fn four(first: u64, second: u64, third: u64, fourth: u64) -> Self {
        Self([0, first, second, third, fourth, 0, 0, 0])
    }

    /// Returns success with five values.
    #[must_use]
    pub const fn five(values: [u64; 5]) -> Self {
        let [first, second, third, fourth, fifth] = values;
        Self([0, first, second, third, fourth, fifth, 0, 0])
    }

    /// Returns that an operation, which can be cancelled, waits for `request`.
    #[must_use]
    pub const fn incomplete(request: MemoryRequest, values: [u64; 2]) -> Self {
        let [first, second] = values;
        let status = RmiStatus::incomplete(request, true);
        Self([status.word(), first, second, 0, 0, 0, 0, 0])
    }

    /// Returns that an operation, which cannot be cancelled, has done its bounded share and is to be
    /// continued by the name of `object`.
    #[must_use]
    pub const fn unfinished(object: u64) -> Self {
        let status = RmiStatus::incomplete(MemoryRequest::None, false);
        Self([status.word(), object, 0, 0, 0, 0, 0, 0])
    }

    /// Returns a failure that has values all the same.
    #[must_use]
    pub const fn failure(error: Error, values: [u64; 2]) -> Self {
        let [first, second] = values;
        Self([error.status().word(), first, second, 0, 0, 0, 0, 0])
    }

    /// Returns the registers of the answer.
    #[must_use]
    pub const fn registers(self) -> [u64; 8] {
        self.0
    }
}

/// What a handler returns.
pub type Result<T = Reply> = core::result::Result<T, Error>;
