// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the TSM says of a device, and what must follow from it.

use tsm_abi::rmi::HashAlgorithm;
use tsm_abi::rsi::{DeviceState, FORMAT_TDISP, VdevInfo};

use crate::key::DeviceKey;
use crate::{Digest, sha384};

/// Why the evidence is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The TSM speaks of another kind of device, or uses another hash.
    Format,
    /// The device is in another state.
    State,
    /// The evidence is not of this lock, or was not fetched after it.
    Stale,
    /// An object of the host is not the one that the TSM saw.
    Digest,
    /// The TSM's session is with another key than the certificate's.
    Key,
}

/// The three numbers that name one lock and the evidence fetched under it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nonces {
    /// Of the lock.
    pub lock: u64,
    /// Of the measurements.
    pub measurements: u64,
    /// Of the interface report.
    pub report: u64,
}

impl Nonces {
    /// Returns the nonces that the TSM reports.
    #[must_use]
    pub fn of(info: &VdevInfo) -> Self {
        Self {
            lock: info.lock_nonce.get(),
            measurements: info.meas_nonce.get(),
            report: info.report_nonce.get(),
        }
    }
}

/// Checks that the TSM describes a TDISP device with SHA-384 digests, in `state`.
///
/// # Errors
/// [`Refusal::Format`] or [`Refusal::State`].
pub fn verify_state(info: &VdevInfo, state: DeviceState) -> Result<(), Refusal> {
    if u64::from(info.hash_algo) != HashAlgorithm::Sha384.word()
        || info.format_type.get() != FORMAT_TDISP
    {
        return Err(Refusal::Format);
    }
    if info.state.get() == state.word() {
        Ok(())
    } else {
        Err(Refusal::State)
    }
}

/// Checks that measurements and report were fetched between `before` and `after`, under one lock.
///
/// # Errors
/// [`Refusal::Stale`].
pub fn verify_fetched(before: &VdevInfo, after: &VdevInfo) -> Result<(), Refusal> {
    let (old, new) = (Nonces::of(before), Nonces::of(after));
    if new.lock == old.lock && new.measurements != old.measurements && new.report != old.report {
        Ok(())
    } else {
        Err(Refusal::Stale)
    }
}

/// Checks that the evidence that was accepted is still the current one.
///
/// # Errors
/// [`Refusal::Stale`].
pub fn verify_current(info: &VdevInfo, accepted: Nonces) -> Result<(), Refusal> {
    if Nonces::of(info) == accepted {
        Ok(())
    } else {
        Err(Refusal::Stale)
    }
}

/// Checks one object of the host against the TSM's digest of it.
///
/// # Errors
/// [`Refusal::Digest`].
pub fn verify_digest(stated: &[u8; 64], object: &[u8]) -> Result<(), Refusal> {
    if padded(&sha384(object)) == *stated {
        Ok(())
    } else {
        Err(Refusal::Digest)
    }
}

/// Checks that the TSM's session is with the key of the certificate.
///
/// # Errors
/// [`Refusal::Key`].
pub fn verify_key(info: &VdevInfo, key: &DeviceKey<'_>) -> Result<(), Refusal> {
    if padded(&sha384(key.bytes())) == info.pubkey_digest {
        Ok(())
    } else {
        Err(Refusal::Key)
    }
}

/// Returns the digest as the TSM states it: zeros follow.
fn padded(digest: &Digest) -> [u8; 64] {
    let mut field = [0; 64];
    for (slot, byte) in field.iter_mut().zip(digest) {
        *slot = *byte;
    }
    field
}

#[cfg(test)]
mod tests {
    use tsm_abi::rmi::HashAlgorithm;
    use tsm_abi::rsi::{DeviceState, VdevInfo};
    use zerocopy::FromZeros;

    use super::{
        Nonces, Refusal, padded, verify_current, verify_digest, verify_fetched, verify_key,
        verify_state,
    };
    use crate::agreed::Hash;
    use crate::certificate::tests::good_chain;
    use crate::certificate::verify_chain;
    use crate::sha384;

    fn info(state: DeviceState, nonces: [u64; 3]) -> VdevInfo {
        let mut info = VdevInfo::new_zeroed();
        info.hash_algo = HashAlgorithm::Sha384 as u8;
        info.format_type.set(1);
        info.state.set(state.word());
        info.lock_nonce.set(nonces[0]);
        info.meas_nonce.set(nonces[1]);
        info.report_nonce.set(nonces[2]);
        info
    }

    #[test]
    fn only_the_wanted_state_is_accepted() {
        let locked = info(DeviceState::Locked, [1, 1, 1]);
        assert_eq!(verify_state(&locked, DeviceState::Locked), Ok(()));
        let refused = Err(Refusal::State);
        assert_eq!(verify_state(&locked, DeviceState::Started), refused);
        let failed = info(DeviceState::Error, [1, 1, 1]);
        assert_eq!(verify_state(&failed, DeviceState::Locked), refused);
        let mut other = locked.clone();
        other.hash_algo = 77;
        assert_eq!(
            verify_state(&other, DeviceState::Locked),
            Err(Refusal::Format)
        );
    }

    #[test]
    fn evidence_from_before_is_refused() {
        let before = info(DeviceState::Locked, [5, 2, 3]);
        let fetched = |nonces| verify_fetched(&before, &info(DeviceState::Locked, nonces));
        assert_eq!(fetched([5, 9, 8]), Ok(()));
        for stale in [[5, 2, 8], [5, 9, 3], [5, 2, 3], [6, 9, 8]] {
            assert_eq!(fetched(stale), Err(Refusal::Stale), "{stale:?}");
        }
    }

    #[test]
    fn a_stale_nonce_is_refused() {
        let accepted = Nonces::of(&info(DeviceState::Locked, [5, 9, 8]));
        let now = |nonces| verify_current(&info(DeviceState::Started, nonces), accepted);
        assert_eq!(now([5, 9, 8]), Ok(()));
        for changed in [[6, 9, 8], [5, 10, 8], [5, 9, 9]] {
            assert_eq!(now(changed), Err(Refusal::Stale), "{changed:?}");
        }
    }

    #[test]
    fn a_wrong_digest_is_refused() {
        let stated = padded(&sha384(b"evidence"));
        assert_eq!(verify_digest(&stated, b"evidence"), Ok(()));
        assert_eq!(verify_digest(&stated, b"evidencf"), Err(Refusal::Digest));
        let mut tail = stated;
        tail[63] = 1;
        assert_eq!(verify_digest(&tail, b"evidence"), Err(Refusal::Digest));
    }

    #[test]
    fn a_key_that_the_session_does_not_use_is_refused() {
        let (chain, root) = good_chain();
        let key = verify_chain(&chain, &root, Hash::Sha384).unwrap();
        let mut info = info(DeviceState::Locked, [1, 1, 1]);
        assert_eq!(verify_key(&info, &key), Err(Refusal::Key));
        info.pubkey_digest = padded(&sha384(key.bytes()));
        assert_eq!(verify_key(&info, &key), Ok(()));
    }
}
