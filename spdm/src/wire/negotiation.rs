// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! GET_VERSION to ALGORITHMS.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Code, Header, Malformed, Reader, Version, Writer, length16};

/// GET_VERSION: a header of version 1.0.
pub const GET_VERSION: Header = Header {
    version: Version::V1_0,
    code: Code::GET_VERSION,
    param1: 0,
    param2: 0,
};

/// VERSION.
#[derive(Clone, Copy, Debug)]
pub struct VersionResponse<'a> {
    /// Versions in no particular order: major 15:12, minor 11:8, update 7:4, alpha 3:0.
    pub entries: &'a [U16],
}

impl<'a> VersionResponse<'a> {
    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        if header.version != Version::V1_0 {
            return Err(Malformed::Version);
        }
        if header.code != Code::VERSION {
            return Err(Malformed::Code);
        }
        let [_reserved, count] = *reader.read::<[u8; 2]>()?;
        let entries = reader.read_list(usize::from(count))?;
        Ok((Self { entries }, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let count = u8::try_from(self.entries.len()).map_err(|_| Malformed::Length)?;
        let mut writer = Writer::new(out);
        writer.write(&Header {
            code: Code::VERSION,
            ..GET_VERSION
        })?;
        writer.put(&[0, count])?;
        writer.write(self.entries)?;
        Ok(writer.written())
    }

    /// Returns whether a released revision of `version` is in the list.
    #[must_use]
    pub fn offers(&self, version: Version) -> bool {
        self.entries.iter().any(|entry| {
            let [low, high] = entry.get().to_le_bytes();
            // An alpha is a draft, whose layouts may differ.
            high == version.0 && low & 0xf == 0
        })
    }
}

/// Capability flags of either side; the responder has some more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u32);

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        impl Capabilities {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }
    };
}

capabilities! {
    /// Responder keeps the negotiated state over a reset.
    CACHE = 0x1,
    /// GET_DIGESTS and GET_CERTIFICATE.
    CERT = 0x2,
    /// CHALLENGE.
    CHAL = 0x4,
    /// Responder measures, without signature.
    MEAS_UNSIGNED = 0x8,
    /// Responder measures, with signature.
    MEAS_SIGNED = 0x10,
    /// Responder's measurements are always fresh.
    MEAS_FRESH = 0x20,
    /// Sessions are encrypted.
    ENCRYPT = 0x40,
    /// Sessions are authenticated.
    MAC = 0x80,
    /// Mutual authentication.
    MUT_AUTH = 0x100,
    /// KEY_EXCHANGE.
    KEY_EX = 0x200,
    /// Pre-shared keys.
    PSK = 0x400,
    /// Encapsulated requests.
    ENCAP = 0x1000,
    /// HEARTBEAT.
    HBEAT = 0x2000,
    /// KEY_UPDATE.
    KEY_UPD = 0x4000,
    /// The messages that end the handshake can go in the clear.
    HANDSHAKE_IN_THE_CLEAR = 0x8000,
    /// The public key is provisioned; no certificates.
    PUB_KEY_ID = 0x1_0000,
    /// Messages can be sent in chunks.
    CHUNK = 0x2_0000,
    /// The responder's certificate is an alias certificate.
    ALIAS_CERT = 0x4_0000,
}

impl Capabilities {
    /// Returns the flags that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the flags that are in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// GET_CAPABILITIES and CAPABILITIES, which have one layout.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CapabilitiesMessage {
    header: Header,
    reserved0: u8,
    /// Cryptographic operations take up to 2^this microseconds. Bound it before shifting.
    pub ct_exponent: u8,
    reserved1: U16,
    flags: U32,
    /// Largest message, in bytes, that the sender takes in one piece.
    pub data_transfer_size: U32,
    /// Largest message, in bytes, that the sender takes in chunks.
    pub max_message_size: U32,
}

impl CapabilitiesMessage {
    /// Bytes of the message.
    pub const LENGTH: usize = size_of::<Self>();

    /// Makes either message, for a sender that takes `size` bytes and knows no chunks.
    #[must_use]
    pub fn new(
        version: Version,
        code: Code,
        ct_exponent: u8,
        flags: Capabilities,
        size: u32,
    ) -> Self {
        Self {
            header: Header::new(version, code, 0, 0),
            reserved0: 0,
            ct_exponent,
            reserved1: U16::ZERO,
            flags: flags.0.into(),
            data_transfer_size: size.into(),
            max_message_size: size.into(),
        }
    }

    /// Takes the message apart.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8], version: Version, code: Code) -> Result<(Self, usize), Malformed> {
        let fixed = *Reader::new(message).read::<Self>()?;
        fixed.header.expect(version, code)?;
        Ok((fixed, Self::LENGTH))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(self)?;
        Ok(writer.written())
    }

    /// Returns the sender's flags.
    #[must_use]
    pub fn flags(&self) -> Capabilities {
        Capabilities(self.flags.get())
    }
}

/// Measurement specification: DMTF.
pub const MEASUREMENT_SPECIFICATION_DMTF: u8 = 1;
/// Other parameter: opaque data in format 1.
pub const OPAQUE_FORMAT_1: u8 = 2;
/// Signatures: ECDSA over NIST P-256.
pub const ASYM_ECDSA_P256: u32 = 0x10;
/// Signatures: ECDSA over NIST P-384.
pub const ASYM_ECDSA_P384: u32 = 0x80;
/// Post-quantum signatures: ML-DSA-65.
pub const PQC_ASYM_ML_DSA_65: u32 = 0x2;
/// Post-quantum signatures: ML-DSA-87.
pub const PQC_ASYM_ML_DSA_87: u32 = 0x4;
/// Hash: SHA-256.
pub const HASH_SHA256: u32 = 0x1;
/// Hash: SHA-384.
pub const HASH_SHA384: u32 = 0x2;
/// Hash of measurements: SHA-256.
pub const MEASUREMENT_HASH_SHA256: u32 = 0x2;
/// Hash of measurements: SHA-384.
pub const MEASUREMENT_HASH_SHA384: u32 = 0x4;
/// Key exchange: secp256r1.
pub const DHE_SECP256R1: u16 = 0x8;
/// Key exchange: secp384r1.
pub const DHE_SECP384R1: u16 = 0x10;
/// Key encapsulation: ML-KEM-768.
pub const KEM_ML_KEM_768: u16 = 0x2;
/// Key encapsulation: ML-KEM-1024.
pub const KEM_ML_KEM_1024: u16 = 0x4;
/// Encryption: AES-128-GCM.
pub const AEAD_AES_128_GCM: u16 = 0x1;
/// Encryption: AES-256-GCM.
pub const AEAD_AES_256_GCM: u16 = 0x2;
/// Encryption: ChaCha20-Poly1305.
pub const AEAD_CHACHA20_POLY1305: u16 = 0x4;
/// Key schedule: SPDM's.
pub const KEY_SCHEDULE_SPDM: u16 = 0x1;

/// One entry of the algorithm list.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Algorithm {
    /// Kind of algorithm.
    pub kind: u8,
    /// Bytes of the mask in bits 7:4, count of external algorithms in bits 3:0.
    pub count: u8,
    /// Offered, or the one selected.
    pub mask: U16,
}

impl Algorithm {
    /// Kind: Diffie-Hellman groups.
    pub const DHE: u8 = 2;
    /// Kind: encryption.
    pub const AEAD: u8 = 3;
    /// Kind: key schedule.
    pub const KEY_SCHEDULE: u8 = 5;
    /// Kind: key encapsulation, from version 1.4 on.
    pub const KEM: u8 = 7;

    /// Makes an entry.
    #[must_use]
    pub const fn new(kind: u8, mask: u16) -> Self {
        Self {
            kind,
            count: 0x20,
            mask: U16::from_bytes(mask.to_le_bytes()),
        }
    }
}

/// The fixed part of NEGOTIATE_ALGORITHMS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct NegotiateFixed {
    header: Header,
    length: U16,
    measurement_specification: u8,
    other_parameters: u8,
    asym: U32,
    hash: U32,
    /// Reserved before version 1.4.
    pqc_asym: U32,
    reserved0: [u8; 8],
    external_asym_count: u8,
    external_hash_count: u8,
    reserved1: [u8; 2],
}

/// NEGOTIATE_ALGORITHMS.
#[derive(Clone, Copy, Debug)]
pub struct NegotiateAlgorithms<'a> {
    /// Measurement specifications offered.
    pub measurement_specification: u8,
    /// Other parameters offered.
    pub other_parameters: u8,
    /// Signature algorithms offered.
    pub asym: u32,
    /// Hash algorithms offered.
    pub hash: u32,
    /// Post-quantum signature algorithms offered; zero before version 1.4.
    pub pqc_asym: u32,
    /// The list.
    pub algorithms: &'a [Algorithm],
}

impl<'a> NegotiateAlgorithms<'a> {
    /// Takes the message apart. External algorithms are refused: their layout is unknown.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = reader.read::<NegotiateFixed>()?;
        fixed.header.expect(version, Code::NEGOTIATE_ALGORITHMS)?;
        if fixed.external_asym_count != 0 || fixed.external_hash_count != 0 {
            return Err(Malformed::Value);
        }
        let algorithms = reader.read_list(usize::from(fixed.header.param1))?;
        check_algorithms(algorithms, fixed.length, reader.used())?;
        let view = Self {
            measurement_specification: fixed.measurement_specification,
            other_parameters: fixed.other_parameters,
            asym: fixed.asym.get(),
            hash: fixed.hash.get(),
            pqc_asym: since_1_4(version, fixed.pqc_asym),
            algorithms,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let (count, length) = list_sizes(self.algorithms, size_of::<NegotiateFixed>())?;
        let mut writer = Writer::new(out);
        writer.write(&NegotiateFixed {
            header: Header::new(version, Code::NEGOTIATE_ALGORITHMS, count, 0),
            length,
            measurement_specification: self.measurement_specification,
            other_parameters: self.other_parameters,
            asym: self.asym.into(),
            hash: self.hash.into(),
            pqc_asym: since_1_4(version, self.pqc_asym.into()).into(),
            reserved0: [0; 8],
            external_asym_count: 0,
            external_hash_count: 0,
            reserved1: [0; 2],
        })?;
        writer.write(self.algorithms)?;
        Ok(writer.written())
    }
}

/// Returns the value of a field that version 1.4 brought, and zero for what was reserved before.
fn since_1_4(version: Version, field: U32) -> u32 {
    if version.is_at_least(Version::V1_4) {
        field.get()
    } else {
        0
    }
}

/// The fixed part of ALGORITHMS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct AlgorithmsFixed {
    header: Header,
    length: U16,
    measurement_specification: u8,
    other_parameters: u8,
    measurement_hash: U32,
    asym: U32,
    hash: U32,
    /// Reserved before version 1.4.
    pqc_asym: U32,
    reserved0: [u8; 8],
    external_asym_count: u8,
    external_hash_count: u8,
    reserved1: [u8; 2],
}

/// ALGORITHMS.
#[derive(Clone, Copy, Debug)]
pub struct Algorithms<'a> {
    /// Measurement specification selected.
    pub measurement_specification: u8,
    /// Other parameters selected.
    pub other_parameters: u8,
    /// Hash of measurements.
    pub measurement_hash: u32,
    /// Signature algorithm selected.
    pub asym: u32,
    /// Hash algorithm selected.
    pub hash: u32,
    /// Post-quantum signature algorithm selected; zero before version 1.4.
    pub pqc_asym: u32,
    /// The list.
    pub algorithms: &'a [Algorithm],
}

impl<'a> Algorithms<'a> {
    /// Takes the message apart. External algorithms are refused: none was offered.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &'a [u8], version: Version) -> Result<(Self, usize), Malformed> {
        let mut reader = Reader::new(message);
        let fixed = reader.read::<AlgorithmsFixed>()?;
        fixed.header.expect(version, Code::ALGORITHMS)?;
        if fixed.external_asym_count != 0 || fixed.external_hash_count != 0 {
            return Err(Malformed::Value);
        }
        let algorithms = reader.read_list(usize::from(fixed.header.param1))?;
        check_algorithms(algorithms, fixed.length, reader.used())?;
        let view = Self {
            measurement_specification: fixed.measurement_specification,
            other_parameters: fixed.other_parameters,
            measurement_hash: fixed.measurement_hash.get(),
            asym: fixed.asym.get(),
            hash: fixed.hash.get(),
            pqc_asym: since_1_4(version, fixed.pqc_asym),
            algorithms,
        };
        Ok((view, reader.used()))
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let (count, length) = list_sizes(self.algorithms, size_of::<AlgorithmsFixed>())?;
        let mut writer = Writer::new(out);
        writer.write(&AlgorithmsFixed {
            header: Header::new(version, Code::ALGORITHMS, count, 0),
            length,
            measurement_specification: self.measurement_specification,
            other_parameters: self.other_parameters,
            measurement_hash: self.measurement_hash.into(),
            asym: self.asym.into(),
            hash: self.hash.into(),
            pqc_asym: since_1_4(version, self.pqc_asym.into()).into(),
            reserved0: [0; 8],
            external_asym_count: 0,
            external_hash_count: 0,
            reserved1: [0; 2],
        })?;
        writer.write(self.algorithms)?;
        Ok(writer.written())
    }
}

/// Checks that the length field is the length, and that each entry has a 16-bit mask and no
/// external algorithms, so that the entries are where they seem to be.
fn check_algorithms(algorithms: &[Algorithm], field: U16, length: usize) -> Result<(), Malformed> {
    if usize::from(field.get()) != length {
        return Err(Malformed::Length);
    }
    if algorithms.iter().all(|algorithm| algorithm.count == 0x20) {
        Ok(())
    } else {
        Err(Malformed::Value)
    }
}

fn list_sizes(algorithms: &[Algorithm], fixed: usize) -> Result<(u8, U16), Malformed> {
    let count = u8::try_from(algorithms.len()).map_err(|_| Malformed::Length)?;
    let length = fixed
        .checked_add(size_of_val(algorithms))
        .ok_or(Malformed::Length)?;
    Ok((count, length16(length)?))
}
