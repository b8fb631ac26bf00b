// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which calls the monitor answers itself, and what it says of itself.

use tsm_abi::el3;

/// Answer to a function id that is unknown, in every interface.
pub const UNKNOWN: u64 = u64::MAX;
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u64 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES.
pub const SMCCC_ARCH_FEATURES: u64 = 0x8000_0001;
/// Version of the SMC calling convention: 1.2.
pub const SMCCC_VERSION_1_2: u64 = 0x0001_0002;
/// Version of the FIRME services: 1.0.
pub const FIRME_VERSION_1_0: u64 = 1 << 16;
/// Bit of a function id that says that the caller has no live SVE state.
pub const SVE_HINT: u32 = 1 << 16;

/// What this monitor offers beyond the interface.
pub const FEATURES: el3::Features = el3::Features::all();

/// Returns whether the host's function id is one that R-EL2 answers.
#[must_use]
pub const fn is_rmi(function: u64) -> bool {
    // From 0x150; 0x18f is the way back, 0x190 to 0x1cf are the calls of guests and of R-EL2.
    let number = (function as u32).wrapping_sub(0xc400_0150);
    number < 0x3f || number.wrapping_sub(0x80) < 0x100
}

/// Reads a feature register of a FIRME service, `gpccr` being the register of that name.
#[must_use]
pub const fn firme_feature(service: u64, register: u64, gpccr: u64) -> Option<u64> {
    match (service & 0xff, register & 0xff) {
        // Base: both of its calls; then the list of services, of which granule management is the first.
        (0, 0) => Some(0b11),
        (0, 1) => Some(1 << 16),
        // Granule management: GPI_SET; then granule size, level 0 size and address width.
        (1, 0) => Some(1),
        (1, 1) => Some(gpccr >> 14 & 3 | (gpccr >> 20 & 0xf) << 2 | (gpccr & 7) << 6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{firme_feature, is_rmi};

    #[test]
    fn only_the_hosts_calls_are_forwarded() {
        for function in [0xc400_0150, 0xc400_018e, 0xc400_01d0, 0xc400_02cf] {
            assert!(is_rmi(function), "{function:#x}");
        }
        for function in [
            0xc400_014f,
            0xc400_018f,
            0xc400_0190,
            0xc400_01b0,
            0xc400_01cf,
            0xc400_02d0,
            0x8400_0150,
            0x4400_0150,
            0xc401_0150,
            0xc300_0001,
            0,
            0xffff_ffff,
        ] {
            assert!(!is_rmi(function), "{function:#x}");
        }
    }

    #[test]
    fn feature_registers_tell_the_services_and_the_table_format() {
        assert_eq!(firme_feature(0, 1, 0), Some(1 << 16));
        assert_eq!(firme_feature(1, 0, 0), Some(1));
        assert_eq!(firme_feature(1, 1, crate::gpt::GPCCR), Some(2 << 6));
        assert_eq!(firme_feature(2, 0, 0), None);
        assert_eq!(firme_feature(0, 2, 0), None);
    }
}
