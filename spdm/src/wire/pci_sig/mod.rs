// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Protocols of the PCI-SIG inside vendor-defined messages.

pub mod ide_km;
pub mod tdisp;

/// First byte of the payload: which protocol it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

impl Protocol {
    /// IDE key management.
    pub const IDE_KM: Self = Self(0);
    /// The TEE device interface security protocol.
    pub const TDISP: Self = Self(1);

    /// Returns the protocol of `payload`.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        payload.first().copied().map(Self)
    }
}

#[cfg(test)]
mod tests;
