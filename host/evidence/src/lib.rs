// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Judges the evidence of a device: what the host kept of SPDM and TDISP for the guest's verifier.
//!
//! The host need not be trusted with it. Everything is signed by the device, or hashed into what it
//! signed; whoever has the TSM's digests can compare them with those of [`Finding::digests`].
//! The library prints nothing.

#![forbid(unsafe_code)]

mod chain;
mod key;
mod measurement;
mod negotiation;
mod report;

use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest as _, Sha384};

pub use chain::{Certificate, FunctionName};
pub use measurement::Block;
pub use negotiation::Negotiation;
pub use report::{Interface, Range};

/// What the host keeps of a device, and what was asked of it.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// GET_VERSION to ALGORITHMS.
    pub negotiation: Vec<u8>,
    /// The certificate chain in SPDM's form.
    pub certificates: Vec<u8>,
    /// The signed MEASUREMENTS message.
    pub measurements: Vec<u8>,
    /// The TDISP interface report.
    pub report: Vec<u8>,
    /// The nonce that the guest chose for the measurements.
    pub nonce: [u8; 32],
    /// The certificate slot that signed.
    pub slot: u8,
    /// Whether raw measurements were asked for.
    pub raw: bool,
}

/// By what evidence is judged.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The root certificate that is trusted, as DER.
    pub root: Vec<u8>,
    /// The time at which certificates must be valid.
    pub time: SystemTime,
    /// Values that measurement blocks must have, by index.
    pub expected: Vec<(u8, Vec<u8>)>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Why it does not hold; none if it does.
    pub trouble: Option<String>,
}

/// SHA-384 digests of the objects, in hexadecimal, as the TSM tells them to the guest.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "each is the digest of the object of its name")]
pub struct Digests {
    pub negotiation: String,
    pub certificates: String,
    pub measurements: String,
    pub report: String,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at, in order.
    pub checks: Vec<Check>,
    /// Version and algorithms.
    pub negotiation: Option<Negotiation>,
    /// The chain, root first.
    pub certificates: Vec<Certificate>,
    /// The PCI Express function that the leaf names.
    pub function: Option<FunctionName>,
    /// Measurement blocks.
    pub measurements: Vec<Block>,
    /// The interface report.
    pub interface: Option<Interface>,
    /// Digests of the objects.
    pub digests: Digests,
}

impl Finding {
    /// Returns whether everything holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.trouble.is_none())
    }

    /// Takes in how something was judged, and returns what came of it.
    fn check<T>(&mut self, name: &'static str, result: Result<T, String>) -> Option<T> {
        let (value, trouble) = match result {
            Ok(value) => (Some(value), None),
            Err(trouble) => (None, Some(trouble)),
        };
        self.checks.push(Check { name, trouble });
        value
    }
}

/// Judges `evidence` by `policy`. Everything is looked at, also after something did not hold.
#[must_use]
pub fn judge(evidence: &Evidence, policy: &Policy) -> Finding {
    let mut finding = Finding {
        checks: Vec::new(),
        negotiation: None,
        certificates: Vec::new(),
        function: None,
        measurements: Vec::new(),
        interface: None,
        digests: Digests {
            negotiation: digest(&evidence.negotiation),
            certificates: digest(&evidence.certificates),
            measurements: digest(&evidence.measurements),
            report: digest(&evidence.report),
        },
    };
    let negotiated = Negotiation::parse(&evidence.negotiation);
    let Some(negotiated) = finding.check("negotiation", negotiated) else {
        return finding;
    };
    judge_chain(&mut finding, evidence, policy, &negotiated);
    judge_measurements(&mut finding, evidence, policy, &negotiated);
    let interface = Interface::parse(&evidence.report);
    finding.interface = finding.check("interface-report", interface);
    finding.negotiation = Some(negotiated);
    finding
}

fn judge_chain(
    finding: &mut Finding,
    evidence: &Evidence,
    policy: &Policy,
    negotiated: &Negotiation,
) {
    let parsed = chain::parse(&evidence.certificates, negotiated);
    let Some(chain) = finding.check("chain-form", parsed) else {
        return;
    };
    finding.check("chain-root", chain.verify_root(&policy.root, negotiated));
    finding.check("chain-signatures", chain.verify_signatures());
    finding.check("chain-usage", chain.verify_usage());
    finding.check("chain-validity", chain.verify_validity(policy.time));
    finding.function = finding.check("pcie-identity", chain.function());
    finding.certificates = chain.describe();
}

fn judge_measurements(
    finding: &mut Finding,
    evidence: &Evidence,
    policy: &Policy,
    negotiated: &Negotiation,
) {
    let parsed = measurement::parse(&evidence.measurements, negotiated);
    let Some(message) = finding.check("measurements-form", parsed) else {
        return;
    };
    let key = chain::parse(&evidence.certificates, negotiated).and_then(|chain| chain.leaf_key());
    let signed = key.and_then(|key| message.verify(evidence, negotiated, &key));
    finding.check("measurements-signature", signed);
    for (index, value) in &policy.expected {
        finding.check("expected-measurement", message.expect(*index, value));
    }
    finding.measurements = message.blocks;
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha384::digest(bytes))
}

/// Returns `bytes` in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
