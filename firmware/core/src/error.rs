// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why a call fails, and the one place where that becomes a status word.

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
}

impl Error {
    /// Returns the status word: the code in bits 7:0, the level of a walk in bits 15:8.
    #[must_use]
    pub const fn status(self) -> u64 {
        match self {
            Self::Input => 1,
            Self::Realm => 2,
            Self::Rec => 3,
            Self::Rtt(level) => 4 | ((level as u64) << 8),
            Self::NotSupported => 5,
            Self::Device => 6,
            Self::Busy => 10,
            Self::Global => 11,
            Self::Granule(_) => 16,
        }
    }

    /// Returns the registers of the answer: most errors return nothing but the status.
    #[must_use]
    pub const fn registers(self) -> [u64; 8] {
        let value = match self {
            Self::Granule(address) => address,
            _ => 0,
        };
        [self.status(), value, 0, 0, 0, 0, 0, 0]
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

/// The registers that a successful call returns after the status word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply(pub [u64; 7]);

impl Reply {
    /// A reply with no value.
    pub const NONE: Self = Self([0; 7]);

    /// Returns a reply with one value in x1.
    #[must_use]
    pub const fn one(value: u64) -> Self {
        Self([value, 0, 0, 0, 0, 0, 0])
    }

    /// Returns the registers of the answer.
    #[must_use]
    pub const fn registers(self) -> [u64; 8] {
        let [a, b, c, d, e, f, g] = self.0;
        [0, a, b, c, d, e, f, g]
    }
}

/// What a handler returns.
pub type Result<T = Reply> = core::result::Result<T, Error>;
