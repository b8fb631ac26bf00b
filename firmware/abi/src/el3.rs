// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls between R-EL2 and EL3: the standard RMM-EL3 interface 2.0 and a few private calls.

use crate::values::BitField;

/// Version of the interface that EL3 gives in x1 at boot: 2.0.
pub const INTERFACE_VERSION: u64 = 2 << 16;
/// Version of the boot manifest: 0.5.
pub const MANIFEST_VERSION: u32 = 5;

/// (address) Moves a granule from the host to the Realm world.
pub const GTSI_DELEGATE: u64 = 0xc400_01b0;
/// (address) Moves a granule from the Realm world to the host.
pub const GTSI_UNDELEGATE: u64 = 0xc400_01b1;
/// (buffer, size, curve) Returns the realm attestation key; its size in x1.
pub const GET_REALM_ATTEST_KEY: u64 = 0xc400_01b2;
/// (buffer, size, challenge size) Returns the platform token; its size in x1.
pub const GET_PLAT_TOKEN: u64 = 0xc400_01b3;
/// (index) Returns a feature register in x1.
pub const EL3_FEATURES: u64 = 0xc400_01b4;
/// Signs a token. Not offered by our monitor.
pub const EL3_TOKEN_SIGN: u64 = 0xc400_01b5;
/// Refreshes a memory encryption context. Not offered by our monitor.
pub const MEC_REFRESH: u64 = 0xc400_01b6;
/// (ECAM base, root port, [`stream_info`], key words 0 to 3, IV words 0 and 1) Programs a key.
pub const RP_IDE_KEY_PROG: u64 = 0xc400_01b7;
/// (ECAM base, root port, [`stream_info`]) Starts using a key.
pub const RP_IDE_KEY_SET_GO: u64 = 0xc400_01b8;
/// (ECAM base, root port, [`stream_info`]) Stops using a key and forgets it.
pub const RP_IDE_KEY_SET_STOP: u64 = 0xc400_01b9;
/// Returns the result of a key call that was in progress. Not offered by our monitor.
pub const RP_IDE_KM_POLL: u64 = 0xc400_01ba;
/// Reserves memory at boot. Not offered by our monitor.
pub const RESERVE_MEMORY: u64 = 0xc400_01bb;
/// (status) Ends the boot of R-EL2 on this CPU.
pub const BOOT_COMPLETE: u64 = 0xc400_01cf;
/// Ends a call of the host: x1 to x8 are its results.
pub const REQUEST_COMPLETE: u64 = crate::rmi::REQUEST_COMPLETE;

/// Returns the version of the firmware interface of the granule management service.
pub const FIRME_VERSION: u64 = 0xc400_0400;
/// Returns a feature register of a firmware service.
pub const FIRME_FEATURES: u64 = 0xc400_0401;
/// (base, count of granules, [`GPI_NON_SECURE`] or [`GPI_REALM`]) Changes the owner of a range;
/// returns the number of granules done in x1.
pub const FIRME_GM_GPI_SET: u64 = 0xc400_0402;
/// Granule protection value of the host's memory.
pub const GPI_NON_SECURE: u64 = 0x9;
/// Granule protection value of the Realm world's memory.
pub const GPI_REALM: u64 = 0xb;

/// Stream information: stream id.
pub const STREAM_ID: BitField = BitField::new(0, 8);
/// Stream information: sub-stream, 0 posted, 1 non-posted, 2 completion.
pub const STREAM_SUB_STREAM: BitField = BitField::new(8, 3);
/// Stream information: direction, 0 receive, 1 transmit.
pub const STREAM_DIRECTION: BitField = BitField::new(11, 1);
/// Stream information: key set.
pub const STREAM_KEY_SET: BitField = BitField::new(12, 1);

/// Returns the word that names one key of a root port.
#[must_use]
pub const fn stream_info(stream: u8, key_set: u8, sub_stream: u8, transmit: bool) -> u64 {
    STREAM_ID.place(stream as u64)
        | STREAM_SUB_STREAM.place(sub_stream as u64)
        | STREAM_DIRECTION.place(transmit as u64)
        | STREAM_KEY_SET.place(key_set as u64)
}

/// (R-EL2 to EL3) Returns [`Features`] bits in x1, the reserved MMIO range in x2 and x3, and the
/// hidden function's requester id, or [`NO_HIDDEN_FUNCTION`], in x4.
pub const PORTCULLIS_FEATURES: u64 = 0xc300_0000;
/// (R-EL2 to EL3: byte count 1 to 48, then bytes in x2 to x7) Prints on the console.
pub const PORTCULLIS_CONSOLE_WRITE: u64 = 0xc300_0001;
/// Largest number of bytes that one console call prints.
pub const CONSOLE_BYTES: usize = 48;
/// (R-EL2 to EL3: ECAM base, root port, [`stream_register`], two words) Writes a register pair of a
/// stream of a root port. Pair 0 is a [`StreamAssociation`] and zero; pair 1 to 16 is an address
/// range, first address and address after the last, or zeros.
pub const PORTCULLIS_STREAM_WRITE: u64 = 0xc300_0002;
/// (R-EL2 to EL3: ECAM base, root port, [`stream_register`]) Returns a register pair in x1 and x2.
pub const PORTCULLIS_STREAM_READ: u64 = 0xc300_0003;
/// (R-EL2 to EL3: ECAM base, root port, stream) Disables a stream and clears its registers.
pub const PORTCULLIS_STREAM_CLEAR: u64 = 0xc300_0004;
/// Number of address ranges of a stream.
pub const STREAM_RANGES: u64 = 16;
/// Stream register: stream id.
pub const STREAM_REGISTER_STREAM: BitField = BitField::new(0, 8);
/// Stream register: number of the pair, 0 to [`STREAM_RANGES`].
pub const STREAM_REGISTER_PAIR: BitField = BitField::new(8, 8);

/// Returns the word that names one register pair of a stream.
#[must_use]
pub const fn stream_register(stream: u8, pair: u8) -> u64 {
    STREAM_REGISTER_STREAM.place(stream as u64) | STREAM_REGISTER_PAIR.place(pair as u64)
}

/// Which requester ids are on a stream, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAssociation {
    /// First requester id.
    pub first: u16,
    /// Last requester id.
    pub last: u16,
    /// Whether the stream is enabled.
    pub enabled: bool,
}

impl StreamAssociation {
    const FIRST: BitField = BitField::new(0, 16);
    const LAST: BitField = BitField::new(16, 16);
    const ENABLED: BitField = BitField::new(32, 1);
    const VALID: BitField = BitField::new(33, 1);

    /// Returns the word.
    #[must_use]
    pub const fn word(self) -> u64 {
        Self::FIRST.place(self.first as u64)
            | Self::LAST.place(self.last as u64)
            | Self::ENABLED.place(self.enabled as u64)
            | Self::VALID.place(1)
    }

    /// Returns the association in `word`, if it is one.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        let [a, b, c, d, _, _, _, _] = word.to_le_bytes();
        let association = Self {
            first: u16::from_le_bytes([a, b]),
            last: u16::from_le_bytes([c, d]),
            enabled: Self::ENABLED.of(word) == 1,
        };
        if word == association.word() && association.first <= association.last {
            Some(association)
        } else {
            None
        }
    }
}

/// (EL3 to R-EL2: requester id, [`ConfigAccess`] word, value) Asks for a configuration access of
/// the host to be performed or refused; returns the value read in x1.
pub const PORTCULLIS_CONFIG_ACCESS: u64 = 0xc300_0010;
/// Value of "no function is hidden".
pub const NO_HIDDEN_FUNCTION: u64 = 0xffff_ffff;

bitflags::bitflags! {
    /// What the monitor offers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// [`PORTCULLIS_CONSOLE_WRITE`].
        const CONSOLE = 1 << 0;
        /// Host accesses to configuration space come as [`PORTCULLIS_CONFIG_ACCESS`].
        const CONFIG_MEDIATION = 1 << 1;
        /// The SMMU is in the Realm world.
        const SMMU_IS_REALM = 1 << 2;
        /// The configuration window is in the Realm world.
        const ECAM_IS_REALM = 1 << 3;
    }
}

/// One access to configuration space, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAccess {
    /// Offset in the function's 4 KiB.
    pub offset: u16,
    /// Width in bytes: 1, 2 or 4.
    pub width: u8,
    /// Whether the host writes.
    pub write: bool,
}

impl ConfigAccess {
    const OFFSET: BitField = BitField::new(0, 16);
    const WIDTH: BitField = BitField::new(16, 8);
    const WRITE: BitField = BitField::new(24, 1);

    /// Returns the word for x2.
    #[must_use]
    pub const fn word(self) -> u64 {
        Self::OFFSET.place(self.offset as u64)
            | Self::WIDTH.place(self.width as u64)
            | Self::WRITE.place(self.write as u64)
    }

    /// Returns the access in `word`; bits that have no meaning are ignored.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        let [offset_low, offset_high, width, _, _, _, _, _] = word.to_le_bytes();
        Self {
            offset: u16::from_le_bytes([offset_low, offset_high]),
            width,
            write: Self::WRITE.of(word) == 1,
        }
    }
}

macro_rules! signed_values {
    ($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i64)]
        pub enum $name {
            $($(#[$value_meta])* $variant = $number,)*
        }

        impl $name {
            /// Every value, for tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the value of the word in x0. EL3 may return 32 bits or 64.
            #[must_use]
            pub const fn from_word(word: u64) -> Option<Self> {
                let [a, b, c, d, ..] = word.to_le_bytes();
                match i32::from_le_bytes([a, b, c, d]) {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Returns the word for x0.
            #[must_use]
            pub const fn word(self) -> u64 {
                (self as i64).cast_unsigned()
            }
        }
    };
}

signed_values! {
    /// Status of an RMM-EL3 call.
    Status {
        /// Done.
        Ok = 0,
        /// Unknown error, or unknown function.
        Unknown = -1,
        /// Bad address.
        BadAddress = -2,
        /// The granule is in another world.
        BadPas = -3,
        /// No memory.
        NoMemory = -4,
        /// Invalid argument.
        Invalid = -5,
        /// Try again.
        Again = -6,
        /// A fault of the hardware.
        Fault = -7,
        /// Begun; poll for the result.
        InProgress = -8,
    }
}

signed_values! {
    /// Status that R-EL2 reports with [`BOOT_COMPLETE`].
    BootStatus {
        /// Done.
        Success = 0,
        /// Unknown error.
        Unknown = -1,
        /// The interface version does not match.
        VersionNotValid = -2,
        /// More CPUs than supported.
        CpusOutOfRange = -3,
        /// No such CPU.
        CpuIdOutOfRange = -4,
        /// The shared page is not valid.
        InvalidSharedBuffer = -5,
        /// The manifest version does not match.
        ManifestVersionNotSupported = -6,
        /// The manifest's content is wrong.
        ManifestDataError = -7,
        /// No memory.
        NoMemory = -8,
    }
}

signed_values! {
    /// Status of a firmware service call ([`FIRME_GM_GPI_SET`]).
    FirmeStatus {
        /// Done.
        Success = 0,
        /// No such function.
        NotSupported = -1,
        /// Invalid argument.
        InvalidParameters = -2,
        /// Aborted.
        Aborted = -3,
        /// Begun; x1 says how far.
        Incomplete = -4,
        /// The range is not the caller's.
        Denied = -5,
        /// Try again.
        Busy = -6,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BootStatus, ConfigAccess, FirmeStatus, Status, StreamAssociation, stream_info,
        stream_register,
    };

    #[test]
    fn a_status_comes_back_from_32_and_64_bits() {
        for &status in Status::ALL {
            assert_eq!(Status::from_word(status.word()), Some(status));
            assert_eq!(Status::from_word(status.word() & 0xffff_ffff), Some(status));
        }
        assert!(
            BootStatus::ALL
                .iter()
                .all(|&s| BootStatus::from_word(s.word()) == Some(s))
        );
        assert!(
            FirmeStatus::ALL
                .iter()
                .all(|&s| FirmeStatus::from_word(s.word()) == Some(s))
        );
        assert_eq!(Status::Invalid.word(), 0xffff_ffff_ffff_fffb);
        assert_eq!(Status::from_word(1), None);
    }

    #[test]
    fn a_configuration_access_fits_into_one_word() {
        let access = ConfigAccess {
            offset: 0x114,
            width: 4,
            write: true,
        };
        assert_eq!(access.word(), 0x0104_0114);
        assert_eq!(ConfigAccess::from_word(access.word()), access);
    }

    #[test]
    fn an_association_comes_back_from_its_word_and_nothing_else_does() {
        let association = StreamAssociation {
            first: 0x0100,
            last: 0x01ff,
            enabled: true,
        };
        assert_eq!(association.word(), 0x3_01ff_0100);
        assert_eq!(
            StreamAssociation::from_word(0x3_01ff_0100),
            Some(association)
        );
        for word in [0, 0x1_01ff_0100, 0x7_01ff_0100, 0x3_0100_0101, u64::MAX] {
            assert_eq!(StreamAssociation::from_word(word), None);
        }
        assert_eq!(stream_register(7, 16), 0x1007);
    }

    #[test]
    fn a_key_is_named_as_el3_expects_it() {
        assert_eq!(stream_info(7, 1, 2, true), 7 | 2 << 8 | 1 << 11 | 1 << 12);
    }
}
