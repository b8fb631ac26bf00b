// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Measurements of a realm.
//!
//! Register 0 is the initial measurement (RIM): what the realm was when it was activated. Registers
//! 1 to 4 are the realm's own, extended by the guest.
//!
//! # The initial measurement
//!
//! `H` is the realm's hash algorithm; its output, padded with zeros to 64 bytes, is what a register
//! holds. All numbers are little-endian, all bytes that are not named are zero.
//!
//! - REALM_CREATE sets `RIM = H(page)`, where `page` is a 4096-byte parameter structure of which
//!   only `flags0`, `s2sz`, `sve_vl`, `num_bps`, `num_wps`, `pmu_num_ctrs` and `hash_algo` are
//!   filled in: what the host chose and the guest cannot see is not measured.
//! - Each later step sets `RIM = H(descriptor)`, where `descriptor` is 256 bytes:
//!   `0x00` kind (one byte), `0x08` length `0x100`, `0x10` the old RIM (64 bytes), then
//!   - RTT_DATA_MAP_INIT, kind 0: `0x50` guest address, `0x58` flags, `0x60` `H(content)`
//!     (64 bytes), or zeros if the content is not measured;
//!   - REC_CREATE of a runnable REC, kind 1: `0x50` `H(params)` (64 bytes), where `params` is a
//!     4096-byte parameter structure of which only `flags`, `pc` and `gprs` are filled in;
//!   - RTT_INIT_RIPAS, kind 2: `0x50` first address, `0x58` the address after the last that was
//!     changed.
//!
//! The order of steps counts. It is the order in which the realm was built.

use tsm_abi::rmi::{HashAlgorithm, RealmParams, RecParams};
use tsm_platform::Processor;
use zerocopy::{FromZeros, IntoBytes};

use crate::digest::{sha256, sha384, sha512};
use crate::granule::GRANULE_BYTES;

/// Bytes of a register.
pub(crate) const REGISTER_BYTES: usize = 64;
/// Registers, the initial measurement among them.
pub(crate) const REGISTERS: usize = 5;

const DESCRIPTOR_BYTES: usize = 0x100;
const KIND_DATA: u8 = 0;
const KIND_REC: u8 = 1;
const KIND_RIPAS: u8 = 2;

type Register = [u8; REGISTER_BYTES];

/// The measurements of one realm.
pub(crate) struct Measurement {
    algorithm: HashAlgorithm,
    registers: [Register; REGISTERS],
}

impl Measurement {
    /// Begins with the parameters of a new realm.
    pub fn new(platform: &impl Processor, algorithm: HashAlgorithm, params: &RealmParams) -> Self {
        let mut measured = RealmParams::new_zeroed();
        measured.flags0 = params.flags0;
        measured.s2sz = params.s2sz;
        measured.sve_vl = params.sve_vl;
        measured.num_bps = params.num_bps;
        measured.num_wps = params.num_wps;
        measured.pmu_num_ctrs = params.pmu_num_ctrs;
        measured.hash_algo = params.hash_algo;
        let initial = hash_page(platform, algorithm, measured.as_bytes());
        let mut registers = [[0; REGISTER_BYTES]; REGISTERS];
        if let Some(register) = registers.first_mut() {
            *register = initial;
        }
        Self {
            algorithm,
            registers,
        }
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// Returns register `index`.
    pub fn register(&self, index: u64) -> Option<&Register> {
        self.registers.get(usize::try_from(index).ok()?)
    }

    /// Extends register `index` (1 to 4) by `value`: the new content is the hash of both. Returns
    /// whether there is such a register.
    pub fn extend(&mut self, platform: &impl Processor, index: u64, value: &[u8]) -> bool {
        let algorithm = self.algorithm;
        let register = usize::try_from(index).ok().filter(|index| *index != 0);
        let Some(register) = register.and_then(|index| self.registers.get_mut(index)) else {
            return false;
        };
        let old = register.get(..digest_bytes(algorithm)).unwrap_or(&[]);
        *register = hash(platform, algorithm, &[old, value]);
        true
    }

    /// Measures a page that RTT_DATA_MAP_INIT maps.
    pub fn extend_data(
        &mut self,
        platform: &impl Processor,
        ipa: u64,
        flags: u64,
        content: Option<&[u8]>,
    ) {
        let digest = content.map_or([0; REGISTER_BYTES], |content| {
            hash(platform, self.algorithm, &[content])
        });
        let [ipa, flags] = [ipa.to_le_bytes(), flags.to_le_bytes()];
        self.extend_initial(platform, KIND_DATA, &[&ipa, &flags, &digest]);
    }

    /// Measures a runnable virtual CPU.
    pub fn extend_rec(&mut self, platform: &impl Processor, params: &RecParams) {
        let mut measured = RecParams::new_zeroed();
        measured.flags = params.flags;
        measured.pc = params.pc;
        measured.gprs = params.gprs;
        let digest = hash_page(platform, self.algorithm, measured.as_bytes());
        self.extend_initial(platform, KIND_REC, &[&digest]);
    }

    /// Measures a range that RTT_INIT_RIPAS changed.
    pub fn extend_ripas(&mut self, platform: &impl Processor, base: u64, top: u64) {
        self.extend_initial(
            platform,
            KIND_RIPAS,
            &[&base.to_le_bytes(), &top.to_le_bytes()],
        );
    }

    fn extend_initial(&mut self, platform: &impl Processor, kind: u8, detail: &[&[u8]]) {
        let algorithm = self.algorithm;
        let Some(register) = self.registers.first_mut() else {
            return;
        };
        let kind = u64::from(kind).to_le_bytes();
        let length = (DESCRIPTOR_BYTES as u64).to_le_bytes();
        let head: [&[u8]; 3] = [&kind, &length, register];
        let mut descriptor = [0_u8; DESCRIPTOR_BYTES];
        let parts = head.into_iter().chain(detail.iter().copied());
        for (to, from) in descriptor.iter_mut().zip(parts.flatten()) {
            *to = *from;
        }
        *register = hash(platform, algorithm, &[&descriptor]);
    }
}

const fn digest_bytes(algorithm: HashAlgorithm) -> usize {
    match algorithm {
        HashAlgorithm::Sha256 => 32,
        HashAlgorithm::Sha384 => 48,
        HashAlgorithm::Sha512 => 64,
    }
}

/// Hashes a parameter structure as the page that it is the beginning of.
fn hash_page(platform: &impl Processor, algorithm: HashAlgorithm, structure: &[u8]) -> Register {
    const PAGE: [u8; GRANULE_BYTES] = [0; GRANULE_BYTES];
    hash(
        platform,
        algorithm,
        &[structure, PAGE.get(structure.len()..).unwrap_or(&[])],
    )
}

fn hash(platform: &impl Processor, algorithm: HashAlgorithm, parts: &[&[u8]]) -> Register {
    match algorithm {
        HashAlgorithm::Sha256 => padded(sha256(platform, parts)),
        HashAlgorithm::Sha384 => padded(sha384(platform, parts)),
        HashAlgorithm::Sha512 => padded(sha512(platform, parts)),
    }
}

fn padded(digest: impl IntoIterator<Item = u8>) -> Register {
    let mut register = [0; REGISTER_BYTES];
    for (to, from) in register.iter_mut().zip(digest) {
        *to = from;
    }
    register
}
