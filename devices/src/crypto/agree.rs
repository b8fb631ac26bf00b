// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Key agreement: ECDH and ML-KEM, the device being the one that answers.

use ml_kem::{EncapsulationKey, MlKem768, MlKem1024};
use p256::elliptic_curve::sec1::ToSec1Point;
use zeroize::Zeroizing;

use super::hash::Secret;
use super::{NoEntropy, random};

/// A key agreement algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// ECDHE on secp256r1.
    Secp256r1,
    /// ECDHE on secp384r1.
    Secp384r1,
    /// ML-KEM-768.
    MlKem768,
    /// ML-KEM-1024.
    MlKem1024,
}

/// Our share and the shared secret.
type Agreed = (Vec<u8>, Secret);

impl Exchange {
    /// Returns the bytes of what the requester sends: a point without its format byte, or an
    /// encapsulation key.
    #[must_use]
    pub fn request_size(self) -> usize {
        match self {
            Self::Secp256r1 => 64,
            Self::Secp384r1 => 96,
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Answers a peer's share; `None` if it is not a point of the curve or not a key.
    pub(crate) fn answer(self, peer: &[u8]) -> Result<Option<Agreed>, NoEntropy> {
        match self {
            Self::Secp256r1 => p256_answer(peer),
            Self::Secp384r1 => p384_answer(peer),
            Self::MlKem768 => {
                let key = peer
                    .try_into()
                    .ok()
                    .and_then(|peer| EncapsulationKey::<MlKem768>::new(peer).ok());
                let coins = Zeroizing::new(random::<32>()?);
                Ok(key.map(|key| {
                    let (sealed, shared) = key.encapsulate_deterministic(&(*coins).into());
                    (sealed.to_vec(), Secret::new(shared.to_vec()))
                }))
            }
            Self::MlKem1024 => {
                let key = peer
                    .try_into()
                    .ok()
                    .and_then(|peer| EncapsulationKey::<MlKem1024>::new(peer).ok());
                let coins = Zeroizing::new(random::<32>()?);
                Ok(key.map(|key| {
                    let (sealed, shared) = key.encapsulate_deterministic(&(*coins).into());
                    (sealed.to_vec(), Secret::new(shared.to_vec()))
                }))
            }
        }
    }
}

fn p256_answer(peer: &[u8]) -> Result<Option<Agreed>, NoEntropy> {
    let Ok(peer) = p256::PublicKey::from_sec1_bytes(&[&[0x04], peer].concat()) else {
        return Ok(None);
    };
    let secret = loop {
        let bytes = Zeroizing::new(random::<32>()?);
        if let Ok(secret) = p256::SecretKey::from_slice(&bytes[..]) {
            break secret;
        }
    };
    let share = secret.public_key().to_sec1_point(false).as_bytes()[1..].to_vec();
    let shared = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
    Ok(Some((
        share,
        Secret::new(shared.raw_secret_bytes().to_vec()),
    )))
}

fn p384_answer(peer: &[u8]) -> Result<Option<Agreed>, NoEntropy> {
    let Ok(peer) = p384::PublicKey::from_sec1_bytes(&[&[0x04], peer].concat()) else {
        return Ok(None);
    };
    let secret = loop {
        let bytes = Zeroizing::new(random::<48>()?);
        if let Ok(secret) = p384::SecretKey::from_slice(&bytes[..]) {
            break secret;
        }
    };
    let share = secret.public_key().to_sec1_point(false).as_bytes()[1..].to_vec();
    let shared = p384::ecdh::diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
    Ok(Some((
        share,
        Secret::new(shared.raw_secret_bytes().to_vec()),
    )))
}

#[cfg(test)]
mod tests {
    use super::Exchange;

    #[test]
    fn a_share_that_is_no_point_or_key_is_refused() {
        for exchange in [
            Exchange::Secp256r1,
            Exchange::Secp384r1,
            Exchange::MlKem768,
            Exchange::MlKem1024,
        ] {
            let size = exchange.request_size();
            // An ML-KEM key of ones has coefficients above the modulus.
            assert!(exchange.answer(&vec![0xff; size]).unwrap().is_none());
            assert!(exchange.answer(&vec![0; size - 1]).unwrap().is_none());
        }
        assert!(Exchange::Secp384r1.answer(&[0; 96]).unwrap().is_none());
        assert!(Exchange::Secp256r1.answer(&[0; 64]).unwrap().is_none());
    }
}
