// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The certificate chain. x509-cert takes certificates apart; the path is judged here.

use std::time::SystemTime;

use serde::Serialize;
use x509_cert::der::asn1::{ObjectIdentifier, Utf8StringRef};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

use crate::key::Key;
use crate::negotiation::Negotiation;

/// Name form of a PCI Express function (PCIe 6.0, 6.31.3).
const PCI_SIG_CMA: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.147");
/// `id-DMTF-eku-responder-auth`.
const RESPONDER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.3");
/// Most certificates in a chain.
const MOST: usize = 16;

/// A certificate, for reading.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// Whom it names.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Kind of its key.
    pub key: String,
    /// First moment of its validity.
    pub from: String,
    /// Last moment of its validity.
    pub to: String,
}

/// What a leaf certificate says of its PCI Express function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionName {
    /// The name as it stands in the certificate.
    pub text: String,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
}

/// A chain whose form is right.
#[derive(Debug)]
pub(crate) struct Chain {
    root_hash: Vec<u8>,
    /// From the root, or what it signed, to the leaf.
    certificates: Vec<(x509_cert::Certificate, Vec<u8>)>,
}

/// Takes a chain in SPDM's form apart: length, digest of the root, certificates.
pub(crate) fn parse(bytes: &[u8], negotiated: &Negotiation) -> Result<Chain, String> {
    let (head, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or("the chain has no header")?;
    // Two reserved bytes follow a length of two bytes; 1.4 counts them as its upper half.
    let length = u32::from_le_bytes(*head);
    if usize::try_from(length) != Ok(bytes.len()) {
        return Err(format!(
            "the chain says {length} bytes and has {}",
            bytes.len()
        ));
    }
    let (root_hash, rest) = rest
        .split_at_checked(negotiated.hash.length())
        .ok_or("the chain ends within the digest of its root")?;
    let mut certificates = Vec::new();
    let mut reader = SliceReader::new(rest).map_err(|error| error.to_string())?;
    while !reader.is_finished() {
        let der = reader.tlv_bytes().map_err(|error| error.to_string())?;
        let certificate = x509_cert::Certificate::from_der(der);
        certificates.push((
            certificate.map_err(|error| error.to_string())?,
            der.to_vec(),
        ));
        if certificates.len() > MOST {
            return Err(format!("there are more than {MOST} certificates"));
        }
    }
    if certificates.is_empty() {
        return Err("there is no certificate".into());
    }
    Ok(Chain {
        root_hash: root_hash.to_vec(),
        certificates,
    })
}

fn key(certificate: &x509_cert::Certificate) -> Result<Key, String> {
    Key::new(certificate.tbs_certificate().subject_public_key_info())
}

/// Checks that `issuer` signed `certificate`.
fn signed_by(
    certificate: &x509_cert::Certificate,
    issuer: &x509_cert::Certificate,
) -> Result<(), String> {
    let fields = certificate.tbs_certificate();
    if fields.issuer() != issuer.tbs_certificate().subject() {
        return Err(format!("{} names another issuer", fields.subject()));
    }
    let message = fields.to_der().map_err(|error| error.to_string())?;
    let oid = certificate.signature_algorithm().oid;
    let signature = certificate.signature().raw_bytes();
    if fields.signature().oid == oid && key(issuer)?.verifies_certificate(oid, &message, signature)
    {
        Ok(())
    } else {
        Err(format!("the signature on {} is wrong", fields.subject()))
    }
}

impl Chain {
    fn leaf(&self) -> Result<&x509_cert::Certificate, String> {
        let (leaf, _) = self.certificates.last().ok_or("there is no certificate")?;
        Ok(leaf)
    }

    pub(crate) fn leaf_key(&self) -> Result<Key, String> {
        key(self.leaf()?)
    }

    /// Checks that the chain begins at `root`: with it, or with what it signed.
    pub(crate) fn verify_root(&self, root: &[u8], negotiated: &Negotiation) -> Result<(), String> {
        if negotiated.hash.digest(root) != self.root_hash {
            return Err("the chain names another root".into());
        }
        let (first, der) = self.certificates.first().ok_or("there is no certificate")?;
        if der == root {
            return Ok(());
        }
        let root = x509_cert::Certificate::from_der(root).map_err(|error| error.to_string())?;
        signed_by(first, &root)
    }

    /// Checks that each certificate signs the next one.
    pub(crate) fn verify_signatures(&self) -> Result<(), String> {
        let pairs = self.certificates.windows(2);
        for pair in pairs {
            if let [(issuer, _), (certificate, _)] = pair {
                signed_by(certificate, issuer)?;
            }
        }
        Ok(())
    }

    /// Checks that issuers may issue, within their path lengths, and that the leaf may sign for a
    /// device.
    pub(crate) fn verify_usage(&self) -> Result<(), String> {
        let issuers = self.certificates.len().saturating_sub(1);
        for (index, (certificate, _)) in self.certificates.iter().enumerate() {
            let fields = certificate.tbs_certificate();
            let subject = fields.subject();
            let usage = extension::<KeyUsage>(certificate)?;
            let constraints = extension::<BasicConstraints>(certificate)?;
            if index == issuers {
                if constraints.is_some_and(|constraints| constraints.ca) {
                    return Err(format!("{subject} is an authority, not a device"));
                }
                if usage.is_none_or(|usage| !usage.digital_signature()) {
                    return Err(format!("{subject} may not sign"));
                }
                let purposes = extension::<ExtendedKeyUsage>(certificate)?;
                if purposes.is_some_and(|purposes| !purposes.0.contains(&RESPONDER_AUTH)) {
                    return Err(format!("{subject} is for another purpose"));
                }
                continue;
            }
            let constraints = constraints.filter(|constraints| constraints.ca);
            let constraints = constraints.ok_or_else(|| format!("{subject} is no authority"))?;
            let below = issuers - index - 1;
            if constraints
                .path_len_constraint
                .is_some_and(|limit| usize::from(limit) < below)
            {
                return Err(format!("{below} authorities are below {subject}"));
            }
            if usage.is_some_and(|usage| !usage.key_cert_sign()) {
                return Err(format!("{subject} may not sign certificates"));
            }
        }
        Ok(())
    }

    /// Checks that every certificate is valid at `time`.
    pub(crate) fn verify_validity(&self, time: SystemTime) -> Result<(), String> {
        for (certificate, _) in &self.certificates {
            let fields = certificate.tbs_certificate();
            let validity = fields.validity();
            if time < validity.not_before.to_system_time() {
                return Err(format!("{} is not valid yet", fields.subject()));
            }
            if time > validity.not_after.to_system_time() {
                return Err(format!("{} has expired", fields.subject()));
            }
        }
        Ok(())
    }

    /// Returns the PCI Express function that the leaf names.
    pub(crate) fn function(&self) -> Result<FunctionName, String> {
        let leaf = self.leaf()?;
        let names = extension::<SubjectAltName>(leaf)?.ok_or("the leaf has no other name")?;
        let text = names.0.iter().find_map(|name| match name {
            GeneralName::OtherName(other) if other.type_id == PCI_SIG_CMA => {
                let text = other.value.decode_as::<Utf8StringRef<'_>>().ok()?;
                Some(text.as_str().to_owned())
            }
            _ => None,
        });
        let text = text.ok_or("the leaf names no PCI Express function")?;
        let number = |field: &str| {
            let value = text.split(':').find_map(|part| part.strip_prefix(field));
            value
                .and_then(|value| u16::from_str_radix(value, 16).ok())
                .ok_or_else(|| format!("the function's name has no {field}"))
        };
        Ok(FunctionName {
            vendor: number("Vendor=")?,
            device: number("Device=")?,
            text,
        })
    }

    /// Returns the certificates for reading.
    pub(crate) fn describe(&self) -> Vec<Certificate> {
        let describe = |(certificate, _): &(x509_cert::Certificate, Vec<u8>)| {
            let fields = certificate.tbs_certificate();
            let validity = fields.validity();
            Certificate {
                subject: fields.subject().to_string(),
                issuer: fields.issuer().to_string(),
                key: key(certificate).map_or_else(|error| error, |key| key.kind().into()),
                from: validity.not_before.to_string(),
                to: validity.not_after.to_string(),
            }
        };
        self.certificates.iter().map(describe).collect()
    }
}

/// Returns an extension, if the certificate has it.
fn extension<'a, T>(certificate: &'a x509_cert::Certificate) -> Result<Option<T>, String>
where
    T: Decode<'a, Error = x509_cert::der::Error> + x509_cert::der::oid::AssociatedOid,
{
    let found = certificate.tbs_certificate().get_extension::<T>();
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.map(|(_, extension)| extension))
}
