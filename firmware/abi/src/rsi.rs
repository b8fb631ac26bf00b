// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest's calls (RSI 1.0, and 1.1 for devices).

use crate::RSI_NOT_SUPPORTED;
use crate::call::calls;
use crate::values::{BitField, values};
use crate::wire::wire;
use zerocopy::little_endian::{U16, U32, U64};

/// Lowest interface version that is implemented: 1.0.
pub const VERSION_LOWEST: u64 = 1 << 16;
/// Highest interface version that is implemented: 1.1.
pub const VERSION_HIGHEST: u64 = 1 << 16 | 1;

/// Bit of the flags of `IPA_STATE_SET`: addresses that the host destroyed may change too.
pub const CHANGE_DESTROYED: u64 = 1;

/// Feature register 0: devices can be assigned to this realm.
pub const FEATURES_DA: BitField = BitField::new(0, 1);

calls! {
    /// A call from a guest. A call that is absent answers [`RSI_NOT_SUPPORTED`].
    10 registers, otherwise u64 = RSI_NOT_SUPPORTED;
    answered {
        0x190 Version "RSI_VERSION" (requested) -> (lower, higher) "Returns the interface versions that are implemented.";
        0x191 Features "RSI_FEATURES" (index) -> (value) "Returns a feature register.";
        0x192 MeasurementRead "RSI_MEASUREMENT_READ" (index) -> (value_0, value_1, value_2, value_3, value_4, value_5, value_6, value_7) "Returns a measurement of the realm.";
        0x193 MeasurementExtend "RSI_MEASUREMENT_EXTEND" (index, size, value_0, value_1, value_2, value_3, value_4, value_5, value_6, value_7) -> () "Extends a measurement of the realm.";
        0x196 RealmConfig "RSI_REALM_CONFIG" (ipa) -> () "Writes the realm's configuration to a page of the guest.";
        0x197 IpaStateSet "RSI_IPA_STATE_SET" (base, top, ripas, flags) -> (new_base, response) "Asks for another state of a range of addresses.";
        0x198 IpaStateGet "RSI_IPA_STATE_GET" (base, top) -> (out_top, ripas) "Returns the state of a range of addresses.";
        0x199 HostCall "RSI_HOST_CALL" (ipa) -> () "Calls the host with a structure of the guest.";
        0x19c VdevDmaEnable "RSI_VDEV_DMA_ENABLE" (vdev_id, flags, non_ats_plane, lock_nonce, meas_nonce, report_nonce) -> () "Lets a started device access the realm's memory.";
        0x19d VdevGetInfo "RSI_VDEV_GET_INFO" (vdev_id, ipa) -> () "Writes what the TSM knows of a device to the guest.";
        0x19f VdevValidateMapping "RSI_VDEV_VALIDATE_MAPPING" (vdev_id, ipa_base, ipa_top, pa_base, flags, lock_nonce, meas_nonce, report_nonce) -> (next_ipa, response) "Accepts device memory at a range of addresses.";
        0x1a4 VdevDmaDisable "RSI_VDEV_DMA_DISABLE" (vdev_id) -> () "Ends a device's access to the realm's memory.";
    }
    absent {
        0x194 "RSI_ATTEST_TOKEN_INIT" (challenge_0, challenge_1, challenge_2, challenge_3, challenge_4, challenge_5, challenge_6, challenge_7) -> (bound) "Begins an attestation token.";
        0x195 "RSI_ATTEST_TOKEN_CONTINUE" (ipa, offset, size) -> (written) "Continues an attestation token.";
        0x19a "RSI_VSMMU_GET_INFO" () -> () "Returns what the TSM knows of a virtual IOMMU.";
        0x19b "RSI_ARCH_DEV_ACTIVATE" () -> () "Activates a device of the architecture.";
        0x1a0 "RSI_MEM_GET_PERM_VALUE" (plane, index) -> (value) "Returns a memory permission of a plane.";
        0x1a1 "RSI_MEM_SET_PERM_INDEX" (base, top, index, cookie) -> (new_base, response, new_cookie) "Sets which permission applies.";
        0x1a2 "RSI_MEM_SET_PERM_VALUE" (plane, index, value) -> () "Sets a memory permission of a plane.";
        0x1a3 "RSI_PLANE_ENTER" (plane, run) -> () "Enters a plane.";
        0x1ae "RSI_PLANE_SYSREG_READ" (plane, register) -> (value) "Reads a system register of a plane.";
        0x1af "RSI_PLANE_SYSREG_WRITE" (plane, register, value) -> () "Writes a system register of a plane.";
    }
}

values! {
    /// State of a device, as a guest sees it.
    DeviceState {
        /// Not locked.
        Unlocked = 0,
        /// Locked; evidence can be fetched.
        Locked = 1,
        /// Running for the realm.
        Started = 2,
        /// Failed.
        Error = 3,
    }
}

/// Value of [`VdevInfo::format_type`] for a TDISP device.
pub const FORMAT_TDISP: u64 = 1;

wire! {
    /// What a realm can learn of its configuration.
    RealmConfig, 0x1000 bytes {
        /// Width of guest addresses, in bits.
        0x000 ipa_width: U64,
        /// Measurement algorithm, see [`crate::rmi::HashAlgorithm`].
        0x008 hash_algo: u8,
        /// Reserved.
        0x009 _reserved0: [u8; 0x7],
        /// Auxiliary planes.
        0x010 num_aux_planes: U64,
        /// Value of the interrupt controller's type register.
        0x018 gicv3_vtr: U32,
        /// Reserved.
        0x01c _reserved1: [u8; 0x4],
        /// Plane that address translation by devices uses.
        0x020 ats_plane: U64,
        /// Reserved.
        0x028 _reserved2: [u8; 0x1d8],
        /// Value that the host chose.
        0x200 rpv: [u8; 0x40],
        /// Reserved.
        0x240 _reserved3: [u8; 0xdc0],
    }
}

wire! {
    /// A call from guest to host. Aligned to 256 bytes in guest memory.
    HostCall, 0x100 bytes {
        /// Says which set of calls it is.
        0x00 imm: U16,
        /// Reserved.
        0x02 _reserved0: [u8; 0x6],
        /// Registers for the host, and its answer.
        0x08 gprs: [U64; 31],
    }
}

/// Largest digest in a [`VdevInfo`], in bytes.
pub const DIGEST_SIZE: usize = 0x40;

wire! {
    /// What the TSM knows of a device. Aligned to 512 bytes in guest memory.
    VdevInfo, 0x200 bytes {
        /// Flags.
        0x000 flags: U64,
        /// Certificate slot.
        0x008 cert_id: U64,
        /// Algorithm of the digests, see [`crate::rmi::HashAlgorithm`].
        0x010 hash_algo: u8,
        /// Reserved.
        0x011 _reserved0: [u8; 0x7],
        /// Changes with each lock.
        0x018 lock_nonce: U64,
        /// Changes with each fetch of measurements.
        0x020 meas_nonce: U64,
        /// Changes with each fetch of the report.
        0x028 report_nonce: U64,
        /// Format of the report, see [`FORMAT_TDISP`].
        0x030 format_type: U64,
        /// Version of the device interface protocol.
        0x038 version: U64,
        /// See [`DeviceState`].
        0x040 state: U64,
        /// Reserved.
        0x048 _reserved1: [u8; 0x38],
        /// Digest of the version, capabilities and algorithms exchange.
        0x080 vca_digest: [u8; 0x40],
        /// Digest of the certificate chain.
        0x0c0 cert_digest: [u8; 0x40],
        /// Digest of the public key that the device proved.
        0x100 pubkey_digest: [u8; 0x40],
        /// Digest of the measurements.
        0x140 meas_digest: [u8; 0x40],
        /// Digest of the interface report.
        0x180 report_digest: [u8; 0x40],
        /// Virtual IOMMU.
        0x1c0 vsmmu_addr: U64,
        /// Stream at the virtual IOMMU.
        0x1c8 vsid: U64,
        /// Reserved.
        0x1d0 _reserved2: [u8; 0x30],
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, HostCall, REGISTERS, ROWS, VdevInfo};
    use crate::RSI_NOT_SUPPORTED;
    use std::collections::HashSet;
    use zerocopy::{FromZeros, IntoBytes};

    const COUNTING: [u64; REGISTERS] = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20];

    #[test]
    fn function_ids_are_unique_and_in_the_guests_range() {
        let functions: HashSet<u64> = ROWS.iter().map(|row| row.function).collect();
        assert_eq!(functions.len(), ROWS.len());
        for row in ROWS {
            assert!((0xc400_0190..=0xc400_01af).contains(&row.function));
            assert!(row.arguments_used() <= REGISTERS);
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_call_and_the_rest_is_ignored() {
        for row in ROWS.iter().filter(|row| row.implemented) {
            let call = Call::decode(row.function, &COUNTING).unwrap();
            let (function, mut registers) = call.encode();
            assert_eq!(function, row.function);
            let used = row.arguments_used();
            assert_eq!(registers[..used], COUNTING[..used]);
            registers[used..].fill(u64::MAX);
            assert_eq!(Call::decode(function, &registers), Ok(call));
        }
    }

    #[test]
    fn a_call_that_is_not_there_answers_all_ones() {
        for row in ROWS.iter().filter(|row| !row.implemented) {
            assert_eq!(
                Call::decode(row.function, &COUNTING),
                Err(RSI_NOT_SUPPORTED)
            );
        }
        assert_eq!(Call::decode(0, &COUNTING), Err(RSI_NOT_SUPPORTED));
    }

    #[test]
    fn fields_of_a_structure_are_where_other_implementations_look() {
        let mut info = VdevInfo::new_zeroed();
        info.report_digest[0] = 0x5a;
        info.state.set(2);
        assert_eq!((info.as_bytes()[0x180], info.as_bytes()[0x40]), (0x5a, 2));
        let mut call = HostCall::new_zeroed();
        call.gprs[30].set(0x77);
        assert_eq!(call.as_bytes()[0xf8], 0x77);
    }
}
