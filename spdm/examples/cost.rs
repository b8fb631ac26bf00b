// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Prints what each algorithm costs the requester in time and stack on this machine.
//!
//! `cargo run --release -p tsm-spdm --example cost`. Time is the shortest of some rounds. Stack is
//! the smallest that a thread got through with, less what a thread takes that does nothing: each
//! try is a process of its own, as one that runs out does not return.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p384::ecdsa::signature::hazmat::PrehashSigner;
use tsm_spdm::crypto::{
    AeadAlgorithm, Digest, Ephemeral, ExchangeAlgorithm, HashAlgorithm, KeyAgreement, PublicKey,
    RecordKey, Secret, SignatureAlgorithm, Signed, SigningContext, Suite, Transcript,
    signing_prefix,
};
use tsm_spdm::wire::record::OVERHEAD;
use tsm_spdm::wire::session::SessionId;

/// Something to measure.
type Work = Box<dyn FnMut() + Send>;

/// The names of everything that can be measured.
const WORKS: [&str; 16] = [
    "nothing",
    "verify ECDSA P-256",
    "verify ECDSA P-384",
    "verify ML-DSA-65",
    "verify ML-DSA-87",
    "generate secp256r1",
    "generate secp384r1",
    "generate ML-KEM-768",
    "generate ML-KEM-1024",
    "agree secp256r1",
    "agree secp384r1",
    "agree ML-KEM-768",
    "agree ML-KEM-1024",
    "record AES-128-GCM",
    "record AES-256-GCM",
    "record ChaCha20-Poly1305",
];
/// Bytes of the message in a record.
const MESSAGE: usize = 4096 - OVERHEAD;

fn work(name: &str) -> Work {
    use ExchangeAlgorithm::{MlKem768, MlKem1024, Secp256r1, Secp384r1};
    match name {
        "nothing" => Box::new(|| ()),
        "verify ECDSA P-256" => verify(SignatureAlgorithm::EcdsaP256),
        "verify ECDSA P-384" => verify(SignatureAlgorithm::EcdsaP384),
        "verify ML-DSA-65" => verify(SignatureAlgorithm::MlDsa65),
        "verify ML-DSA-87" => verify(SignatureAlgorithm::MlDsa87),
        "generate secp256r1" => Box::new(|| drop(black_box(generate(Secp256r1)))),
        "generate secp384r1" => Box::new(|| drop(black_box(generate(Secp384r1)))),
        "generate ML-KEM-768" => Box::new(|| drop(black_box(generate(MlKem768)))),
        "generate ML-KEM-1024" => Box::new(|| drop(black_box(generate(MlKem1024)))),
        "agree secp256r1" => agree(Secp256r1),
        "agree secp384r1" => agree(Secp384r1),
        "agree ML-KEM-768" => agree(MlKem768),
        "agree ML-KEM-1024" => agree(MlKem1024),
        "record AES-128-GCM" => record(AeadAlgorithm::Aes128Gcm),
        "record AES-256-GCM" => record(AeadAlgorithm::Aes256Gcm),
        "record ChaCha20-Poly1305" => record(AeadAlgorithm::ChaCha20Poly1305),
        other => panic!("{other} is nothing that can be measured"),
    }
}

/// Returns what is signed.
fn signed(digest: &Digest) -> Signed<'_> {
    Signed {
        version: Suite::STRONGEST.version,
        hash: HashAlgorithm::Sha384,
        context: SigningContext::Measurements,
        digest,
    }
}

/// Makes the work of looking at a signature.
fn verify(algorithm: SignatureAlgorithm) -> Work {
    let digest = Digest::zero(HashAlgorithm::Sha384);
    let (raw, signature) = sign(algorithm, &signed(&digest));
    let key = PublicKey::from_raw(algorithm, &raw).unwrap();
    Box::new(move || assert!(key.verifies(&raw, &signed(&digest), &signature)))
}

/// Returns a public key and its signature.
fn sign(algorithm: SignatureAlgorithm, signed: &Signed<'_>) -> (Vec<u8>, Vec<u8>) {
    let prehash = signed.prehash();
    let prefix = signing_prefix(signed.version, signed.context);
    let message = [&prefix, signed.digest.as_bytes()].concat();
    let words = signed.context.words();
    match algorithm {
        SignatureAlgorithm::EcdsaP256 => {
            let key = p256::ecdsa::SigningKey::from_slice(&[1; 32]).unwrap();
            let signature: p256::ecdsa::Signature = key.sign_prehash(prehash.as_bytes()).unwrap();
            let point = key.verifying_key().to_sec1_point(false);
            (point.as_bytes().to_vec(), signature.to_bytes().to_vec())
        }
        SignatureAlgorithm::EcdsaP384 => {
            let key = p384::ecdsa::SigningKey::from_slice(&[1; 48]).unwrap();
            let signature: p384::ecdsa::Signature = key.sign_prehash(prehash.as_bytes()).unwrap();
            let point = key.verifying_key().to_sec1_point(false);
            (point.as_bytes().to_vec(), signature.to_bytes().to_vec())
        }
        SignatureAlgorithm::MlDsa65 => {
            let key = ml_dsa::ExpandedSigningKey::<ml_dsa::MlDsa65>::from_seed(&[1; 32].into());
            let signature = key.sign_deterministic(&message, words).unwrap();
            let raw = key.verifying_key().encode().to_vec();
            (raw, signature.encode().to_vec())
        }
        SignatureAlgorithm::MlDsa87 => {
            let key = ml_dsa::ExpandedSigningKey::<ml_dsa::MlDsa87>::from_seed(&[1; 32].into());
            let signature = key.sign_deterministic(&message, words).unwrap();
            let raw = key.verifying_key().encode().to_vec();
            (raw, signature.encode().to_vec())
        }
    }
}

fn generate(algorithm: ExchangeAlgorithm) -> Ephemeral {
    let mut random = |bytes: &mut [u8]| {
        bytes.fill(1);
        Ok(())
    };
    Ephemeral::generate(algorithm, &mut random).unwrap().0
}

/// Makes the work of combining a private half, made anew, with another side's public one. What
/// making it takes stands in the row of its own.
fn agree(algorithm: ExchangeAlgorithm) -> Work {
    let mut random = |bytes: &mut [u8]| {
        bytes.fill(2);
        Ok(())
    };
    let other = match algorithm {
        ExchangeAlgorithm::Secp256r1 | ExchangeAlgorithm::Secp384r1 => {
            let (_, half) = Ephemeral::generate(algorithm, &mut random).unwrap();
            half.as_bytes().to_vec()
        }
        // Decapsulation takes the same time for whatever comes.
        ExchangeAlgorithm::MlKem768 | ExchangeAlgorithm::MlKem1024 => {
            vec![0; algorithm.response_length()]
        }
    };
    Box::new(move || drop(black_box(generate(algorithm).agree(&other).unwrap())))
}

/// Makes the work of sealing a record and opening it.
fn record(aead: AeadAlgorithm) -> Work {
    let secret = Secret::new(Suite::STRONGEST.schedule(), &[1; 48]);
    let mut keys = (RecordKey::new(aead, &secret), RecordKey::new(aead, &secret));
    let mut buffer = vec![0; MESSAGE + OVERHEAD];
    Box::new(move || {
        keys.0.seal(SessionId(1), &mut buffer, MESSAGE).unwrap();
        assert_eq!(keys.1.open(SessionId(1), &mut buffer), Ok(MESSAGE));
    })
}

/// Returns the shortest time that the work took.
fn time(name: &str) -> Duration {
    let mut work = work(name);
    let end = Instant::now() + Duration::from_millis(300);
    let mut best = Duration::MAX;
    while Instant::now() < end {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed());
    }
    best
}

/// Does the work once, on a stack of that many bytes.
fn on_stack(name: &str, bytes: usize) {
    let work = work(name);
    let thread = std::thread::Builder::new().stack_size(bytes);
    thread.spawn(work).unwrap().join().unwrap();
}

/// Returns the smallest stack, in KiB, on which the work gets done.
fn stack(name: &str) -> usize {
    let fits = |kib: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args([name, &kib.to_string()])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    let (mut too_small, mut enough) = (0, 4096);
    assert!(fits(enough), "{name} does not get done in {enough} KiB");
    while enough - too_small > 1 {
        let middle = too_small.midpoint(enough);
        if fits(middle) {
            enough = middle;
        } else {
            too_small = middle;
        }
    }
    enough
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [name, kib] = &arguments[..] {
        on_stack(name, kib.parse::<usize>().unwrap() * 1024);
        return;
    }
    // A transcript of what is read most.
    let bytes = vec![0; 4096];
    for hash in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
        let start = Instant::now();
        black_box(Transcript::new(hash).with(&bytes).digest());
        println!("{hash:?} of 4 KiB: {:?}", start.elapsed());
    }
    let nothing = stack("nothing");
    println!("{:<28} {:>10} {:>10}", "", "time, us", "stack, KiB");
    for name in WORKS.into_iter().skip(1) {
        let micros = time(name).as_secs_f64() * 1e6;
        println!("{name:<28} {micros:>10.1} {:>10}", stack(name) - nothing);
    }
}
