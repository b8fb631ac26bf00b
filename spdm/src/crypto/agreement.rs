// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Agreement on a secret.

use ml_kem::{Decapsulate, DecapsulationKey, KeyExport, MlKem768, MlKem1024};
use p384::elliptic_curve::sec1::ToSec1Point;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{ExchangeAlgorithm, NoEntropy, Random, SharedSecret};
use crate::wire::Malformed;

/// Most bytes of an exchange value.
pub const MAX_EXCHANGE_LENGTH: usize = 1568;

/// The public half of an agreement, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    bytes: [u8; MAX_EXCHANGE_LENGTH],
    length: usize,
}

impl Exchange {
    /// Takes a value.
    ///
    /// # Errors
    /// [`Malformed::Length`] if no algorithm has one of that length.
    pub fn new(value: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = [0; MAX_EXCHANGE_LENGTH];
        bytes
            .get_mut(..value.len())
            .ok_or(Malformed::Length)?
            .copy_from_slice(value);
        Ok(Self {
            bytes,
            length: value.len(),
        })
    }

    /// Returns the value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// One side of a key exchange, with the private half kept inside.
pub trait KeyAgreement: Sized {
    /// Makes a fresh private half and returns it with the public one.
    ///
    /// # Errors
    /// [`NoEntropy`].
    fn generate(
        algorithm: ExchangeAlgorithm,
        random: Random<'_>,
    ) -> Result<(Self, Exchange), NoEntropy>;

    /// Combines the private half with the other side's public one.
    ///
    /// # Errors
    /// [`Malformed::Value`] if that is not a point of the curve, [`Malformed::Length`] if it has
    /// another length. Any ciphertext of the right length is taken: a wrong one yields a secret
    /// that the other side does not have.
    fn agree(self, other: &[u8]) -> Result<SharedSecret, Malformed>;
}

/// A private half that is used once.
pub struct Ephemeral(Kind);

enum Kind {
    Secp256r1(p256::SecretKey),
    Secp384r1(p384::SecretKey),
    MlKem768(Seed),
    MlKem1024(Seed),
}

/// What a decapsulation key is made from: `d`, then `z`. The key itself has kilobytes, and is made
/// anew when it is needed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Seed([u8; 64]);

impl Seed {
    fn draw(random: Random<'_>) -> Result<Self, NoEntropy> {
        let mut seed = Self([0; 64]);
        random(&mut seed.0)?;
        Ok(seed)
    }
}

impl KeyAgreement for Ephemeral {
    fn generate(
        algorithm: ExchangeAlgorithm,
        random: Random<'_>,
    ) -> Result<(Self, Exchange), NoEntropy> {
        match algorithm {
            ExchangeAlgorithm::Secp256r1 => {
                let key = scalar::<32, _>(random, |bytes| p256::SecretKey::from_slice(bytes).ok())?;
                let public = exchange(key.public_key().to_sec1_point(false).as_bytes())?;
                Ok((Self(Kind::Secp256r1(key)), public))
            }
            ExchangeAlgorithm::Secp384r1 => {
                let key = scalar::<48, _>(random, |bytes| p384::SecretKey::from_slice(bytes).ok())?;
                let public = exchange(key.public_key().to_sec1_point(false).as_bytes())?;
                Ok((Self(Kind::Secp384r1(key)), public))
            }
            ExchangeAlgorithm::MlKem768 => {
                let seed = Seed::draw(random)?;
                let key = DecapsulationKey::<MlKem768>::from_seed(seed.0.into());
                let public = Exchange::new(&key.encapsulation_key().to_bytes());
                Ok((Self(Kind::MlKem768(seed)), public.map_err(|_| NoEntropy)?))
            }
            ExchangeAlgorithm::MlKem1024 => {
                let seed = Seed::draw(random)?;
                let key = DecapsulationKey::<MlKem1024>::from_seed(seed.0.into());
                let public = Exchange::new(&key.encapsulation_key().to_bytes());
                Ok((Self(Kind::MlKem1024(seed)), public.map_err(|_| NoEntropy)?))
            }
        }
    }

    fn agree(self, other: &[u8]) -> Result<SharedSecret, Malformed> {
        match &self.0 {
            Kind::Secp256r1(key) => {
                let point = uncompressed::<65>(other)?;
                let other =
                    p256::PublicKey::from_sec1_bytes(&point).map_err(|_| Malformed::Value)?;
                let shared = key.diffie_hellman(&other);
                Ok(SharedSecret::new(shared.raw_secret_bytes()))
            }
            Kind::Secp384r1(key) => {
                let point = uncompressed::<97>(other)?;
                let other =
                    p384::PublicKey::from_sec1_bytes(&point).map_err(|_| Malformed::Value)?;
                let shared = key.diffie_hellman(&other);
                Ok(SharedSecret::new(shared.raw_secret_bytes()))
            }
            Kind::MlKem768(seed) => {
                let ciphertext = other.try_into().map_err(|_| Malformed::Length)?;
                let key = DecapsulationKey::<MlKem768>::from_seed(seed.0.into());
                Ok(taken(&mut key.decapsulate(ciphertext)))
            }
            Kind::MlKem1024(seed) => {
                let ciphertext = other.try_into().map_err(|_| Malformed::Length)?;
                let key = DecapsulationKey::<MlKem1024>::from_seed(seed.0.into());
                Ok(taken(&mut key.decapsulate(ciphertext)))
            }
        }
    }
}

/// Takes a secret out of memory that does not erase itself.
fn taken(shared: &mut [u8]) -> SharedSecret {
    let secret = SharedSecret::new(shared);
    shared.zeroize();
    secret
}

/// Draws a scalar of `N` bytes.
fn scalar<const N: usize, K>(
    random: Random<'_>,
    key: impl Fn(&[u8]) -> Option<K>,
) -> Result<K, NoEntropy> {
    let mut bytes = Zeroizing::new([0; N]);
    // Bytes that are no scalar have a chance of 2^-32 at most: a second miss is a broken source.
    for _ in 0..2 {
        random(&mut *bytes)?;
        if let Some(key) = key(&*bytes) {
            return Ok(key);
        }
    }
    Err(NoEntropy)
}

/// Leaves out the byte that says that a point is not compressed.
fn exchange(point: &[u8]) -> Result<Exchange, NoEntropy> {
    let coordinates = point.get(1..).unwrap_or_default();
    Exchange::new(coordinates).map_err(|_| NoEntropy)
}

/// Puts it back.
fn uncompressed<const N: usize>(coordinates: &[u8]) -> Result<[u8; N], Malformed> {
    let mut point = [4; N];
    let (_, xy) = point.split_first_mut().ok_or(Malformed::Length)?;
    if xy.len() != coordinates.len() {
        return Err(Malformed::Length);
    }
    xy.copy_from_slice(coordinates);
    Ok(point)
}
