// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a requester lets a device choose from, and the judgment of what it chose.

use crate::crypto::{AeadAlgorithm, ExchangeAlgorithm, HashAlgorithm, SignatureAlgorithm, Suite};
use crate::error::{Error, PeerMisbehaved};
use crate::wire::negotiation::{
    AEAD_AES_128_GCM, AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, ASYM_ECDSA_P256, ASYM_ECDSA_P384,
    Algorithm, Algorithms, DHE_SECP256R1, DHE_SECP384R1, HASH_SHA256, HASH_SHA384, KEM_ML_KEM_768,
    KEM_ML_KEM_1024, KEY_SCHEDULE_SPDM, MEASUREMENT_HASH_SHA256, MEASUREMENT_HASH_SHA384,
    MEASUREMENT_SPECIFICATION_DMTF, NegotiateAlgorithms, OPAQUE_FORMAT_1, PQC_ASYM_ML_DSA_65,
    PQC_ASYM_ML_DSA_87, VersionResponse,
};
use crate::wire::{Malformed, Version};

/// What a device may choose from: a bit for each version, and each algorithm as in
/// NEGOTIATE_ALGORITHMS. Bits that this requester has no code for mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Bit n: SPDM 1.n. The latest that the device has as well is spoken.
    pub versions: u8,
    /// Signatures.
    pub asym: u32,
    /// Post-quantum signatures, of which version 1.4 can select one in place of the others.
    pub pqc_asym: u32,
    /// Hashes.
    pub hash: u32,
    /// Diffie-Hellman groups.
    pub dhe: u16,
    /// Key encapsulation, of which version 1.4 can select one in place of a group.
    pub kem: u16,
    /// Encryption of records.
    pub aead: u16,
    /// Hashes that measurements may be digests of. The device says which; nothing is offered.
    pub measurement_hash: u32,
}

/// Most bytes of NEGOTIATE_ALGORITHMS.
pub(super) const MAX_NEGOTIATE: usize = 64;

/// Versions, the strongest first.
const VERSIONS: [(u8, Version); 3] = [
    (1 << 4, Version::V1_4),
    (1 << 3, Version::V1_3),
    (1 << 2, Version::V1_2),
];

const ASYM: [(u32, SignatureAlgorithm); 2] = [
    (ASYM_ECDSA_P384, SignatureAlgorithm::EcdsaP384),
    (ASYM_ECDSA_P256, SignatureAlgorithm::EcdsaP256),
];

const PQC_ASYM: [(u32, SignatureAlgorithm); 2] = [
    (PQC_ASYM_ML_DSA_87, SignatureAlgorithm::MlDsa87),
    (PQC_ASYM_ML_DSA_65, SignatureAlgorithm::MlDsa65),
];

const HASH: [(u32, HashAlgorithm); 2] = [
    (HASH_SHA384, HashAlgorithm::Sha384),
    (HASH_SHA256, HashAlgorithm::Sha256),
];

const DHE: [(u16, ExchangeAlgorithm); 2] = [
    (DHE_SECP384R1, ExchangeAlgorithm::Secp384r1),
    (DHE_SECP256R1, ExchangeAlgorithm::Secp256r1),
];

const KEM: [(u16, ExchangeAlgorithm); 2] = [
    (KEM_ML_KEM_1024, ExchangeAlgorithm::MlKem1024),
    (KEM_ML_KEM_768, ExchangeAlgorithm::MlKem768),
];

const AEAD: [(u16, AeadAlgorithm); 3] = [
    (AEAD_AES_256_GCM, AeadAlgorithm::Aes256Gcm),
    (AEAD_CHACHA20_POLY1305, AeadAlgorithm::ChaCha20Poly1305),
    (AEAD_AES_128_GCM, AeadAlgorithm::Aes128Gcm),
];

impl Offer {
    /// Everything that this requester has code for.
    pub const ALL: Self = Self {
        versions: 0x1c,
        asym: ASYM_ECDSA_P384 | ASYM_ECDSA_P256,
        pqc_asym: PQC_ASYM_ML_DSA_87 | PQC_ASYM_ML_DSA_65,
        hash: HASH_SHA384 | HASH_SHA256,
        dhe: DHE_SECP384R1 | DHE_SECP256R1,
        kem: KEM_ML_KEM_1024 | KEM_ML_KEM_768,
        aead: AEAD_AES_256_GCM | AEAD_AES_128_GCM | AEAD_CHACHA20_POLY1305,
        measurement_hash: MEASUREMENT_HASH_SHA384 | MEASUREMENT_HASH_SHA256,
    };

    /// Returns the offer without the bits that mean nothing.
    pub(super) const fn known(self) -> Self {
        Self {
            versions: self.versions & Self::ALL.versions,
            asym: self.asym & Self::ALL.asym,
            pqc_asym: self.pqc_asym & Self::ALL.pqc_asym,
            hash: self.hash & Self::ALL.hash,
            dhe: self.dhe & Self::ALL.dhe,
            kem: self.kem & Self::ALL.kem,
            aead: self.aead & Self::ALL.aead,
            measurement_hash: self.measurement_hash & Self::ALL.measurement_hash,
        }
    }

    /// Returns the latest version that both sides have.
    pub(super) fn version(&self, device: &VersionResponse<'_>) -> Option<Version> {
        VERSIONS
            .iter()
            .find(|(bit, version)| self.versions & bit != 0 && device.offers(*version))
            .map(|(_, version)| *version)
    }

    /// Returns the offer without what a version does not know.
    const fn in_version(self, version: Version) -> Self {
        if version.is_at_least(Version::V1_4) {
            self
        } else {
            Self {
                pqc_asym: 0,
                kem: 0,
                ..self
            }
        }
    }

    /// Writes NEGOTIATE_ALGORITHMS and returns its length.
    pub(super) fn emit(&self, version: Version, out: &mut [u8]) -> Result<usize, Malformed> {
        let this = self.in_version(version);
        let list = [
            Algorithm::new(Algorithm::DHE, this.dhe),
            Algorithm::new(Algorithm::AEAD, this.aead),
            Algorithm::new(Algorithm::KEY_SCHEDULE, KEY_SCHEDULE_SPDM),
            Algorithm::new(Algorithm::KEM, this.kem),
        ];
        // A list is in the order of kinds, and begins with the groups even if there are none.
        let offered = if this.kem == 0 { 3 } else { list.len() };
        let message = NegotiateAlgorithms {
            measurement_specification: MEASUREMENT_SPECIFICATION_DMTF,
            other_parameters: OPAQUE_FORMAT_1,
            asym: this.asym,
            hash: this.hash,
            pqc_asym: this.pqc_asym,
            algorithms: list.get(..offered).unwrap_or_default(),
        };
        message.emit(version, out)
    }

    /// Returns the suite that a device selected: for each purpose exactly one that was offered.
    pub(super) fn suite(
        &self,
        version: Version,
        selected: &Algorithms<'_>,
    ) -> Result<Suite, Error> {
        if selected.measurement_specification != MEASUREMENT_SPECIFICATION_DMTF
            || selected.other_parameters != OPAQUE_FORMAT_1
            || !is_one_of(selected.measurement_hash, self.measurement_hash)
        {
            return Err(PeerMisbehaved::WrongAlgorithm.into());
        }
        let list = List::read(selected.algorithms)?;
        if list.key_schedule != KEY_SCHEDULE_SPDM {
            return Err(PeerMisbehaved::WrongAlgorithm.into());
        }
        let this = self.in_version(version);
        // Of the classical and the post-quantum ones, one kind is selected, and the other is not.
        let signature = match (selected.asym, selected.pqc_asym) {
            (asym, 0) => chosen(&ASYM, this.asym, asym)?,
            (0, pqc_asym) => chosen(&PQC_ASYM, this.pqc_asym, pqc_asym)?,
            _ => return Err(PeerMisbehaved::WrongAlgorithm.into()),
        };
        let exchange = match (list.dhe, list.kem) {
            (dhe, 0) => chosen(&DHE, this.dhe, dhe)?,
            (0, kem) => chosen(&KEM, this.kem, kem)?,
            _ => return Err(PeerMisbehaved::WrongAlgorithm.into()),
        };
        Ok(Suite {
            version,
            hash: chosen(&HASH, this.hash, selected.hash)?,
            signature,
            exchange,
            aead: chosen(&AEAD, this.aead, list.aead)?,
        })
    }
}

/// What the list of ALGORITHMS selects.
#[derive(Default)]
struct List {
    dhe: u16,
    aead: u16,
    key_schedule: u16,
    kem: u16,
}

impl List {
    /// Takes each kind once. A kind that was not offered may be listed, with nothing selected.
    fn read(algorithms: &[Algorithm]) -> Result<Self, PeerMisbehaved> {
        let mut list = Self::default();
        for algorithm in algorithms {
            let mask = algorithm.mask.get();
            let field = match algorithm.kind {
                Algorithm::DHE => &mut list.dhe,
                Algorithm::AEAD => &mut list.aead,
                Algorithm::KEY_SCHEDULE => &mut list.key_schedule,
                Algorithm::KEM => &mut list.kem,
                _ if mask == 0 => continue,
                _ => return Err(PeerMisbehaved::WrongAlgorithm),
            };
            if *field != 0 {
                return Err(PeerMisbehaved::WrongAlgorithm);
            }
            *field = mask;
        }
        Ok(list)
    }
}

/// Returns the algorithm whose bit is selected, if that is one bit, and was offered.
fn chosen<M: Copy + Into<u32>, A: Copy>(
    table: &[(M, A)],
    offered: M,
    selected: M,
) -> Result<A, PeerMisbehaved> {
    if !is_one_of(selected.into(), offered.into()) {
        return Err(PeerMisbehaved::WrongAlgorithm);
    }
    table
        .iter()
        .find(|(bit, _)| (*bit).into() == selected.into())
        .map(|(_, algorithm)| *algorithm)
        .ok_or(PeerMisbehaved::WrongAlgorithm)
}

fn is_one_of(selected: u32, offered: u32) -> bool {
    selected.is_power_of_two() && selected & offered != 0
}
