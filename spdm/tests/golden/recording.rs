// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reading the recording.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use tsm_spdm::crypto::{AeadAlgorithm, RecordKey, Secret, SharedSecret, Suite, Transcript};
use tsm_spdm::wire::Version;
use tsm_spdm::wire::doe::DataObject;

/// What the recorded session agreed on.
pub const SUITE: Suite = Suite {
    version: Version::V1_2,
    ..Suite::STRONGEST
};

/// What a mailbox object was recorded as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Discovery,
    Plain,
    Secured,
}

/// One mailbox object.
pub struct Record {
    pub number: u64,
    pub is_request: bool,
    pub kind: Kind,
    /// The whole object.
    pub doe: Vec<u8>,
    pub name: String,
    /// The SPDM message; a plain one may have the padding of the object.
    pub spdm: Vec<u8>,
}

impl Record {
    /// Returns the payload of the object, with padding.
    pub fn payload(&self) -> &[u8] {
        DataObject::parse(&self.doe).unwrap().0.payload
    }
}

/// The whole session.
pub struct Recording {
    pub records: Vec<Record>,
    secrets: Value,
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Prints bytes, so that a difference can be read.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

impl Recording {
    /// Returns the recording, or says that the test skips.
    pub fn open() -> Option<&'static Self> {
        static RECORDING: OnceLock<Option<Recording>> = OnceLock::new();
        let recording = RECORDING.get_or_init(|| {
            let directory = std::env::var_os("PORTCULLIS_VECTORS")?;
            let path = Path::new(&directory).join("spdm-1.2-p384/session.json");
            Some(Self::read(
                &std::fs::read_to_string(path).expect("the recording is not there"),
            ))
        });
        if recording.is_none() {
            println!("skipped: PORTCULLIS_VECTORS is not set");
        }
        recording.as_ref()
    }

    fn read(text: &str) -> Self {
        let json: Value = serde_json::from_str(text).unwrap();
        let records = json["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|record| Record {
                number: record["n"].as_u64().unwrap(),
                is_request: record["dir"] == "req",
                kind: match record["kind"].as_str().unwrap() {
                    "doe-discovery" => Kind::Discovery,
                    "plain" => Kind::Plain,
                    "sec" => Kind::Secured,
                    other => panic!("a record of kind {other}"),
                },
                doe: unhex(record["doe"].as_str().unwrap()),
                name: record["name"].as_str().unwrap_or_default().into(),
                spdm: unhex(record["spdm"].as_str().unwrap_or_default()),
            });
        Self {
            records: records.collect(),
            secrets: json["secrets"].clone(),
        }
    }

    /// Returns the record with this number.
    pub fn record(&self, number: u64) -> &Record {
        self.records
            .iter()
            .find(|record| record.number == number)
            .unwrap()
    }

    /// Returns the message in a record, without padding.
    pub fn message(&self, number: u64) -> &[u8] {
        let record = self.record(number);
        &record.spdm[..crate::walk::exact_length(&record.spdm).unwrap()]
    }

    /// Hashes the messages in the records with these numbers.
    pub fn transcript(&self, numbers: impl IntoIterator<Item = u64>) -> Transcript {
        numbers
            .into_iter()
            .fold(Transcript::new(SUITE.hash), |transcript, number| {
                transcript.with(self.message(number))
            })
    }

    /// Returns a recorded secret of any length.
    pub fn secret_bytes(&self, name: &str) -> Vec<u8> {
        unhex(self.secrets[name].as_str().unwrap())
    }

    /// Returns a recorded secret of the key schedule.
    pub fn secret(&self, name: &str) -> Secret {
        Secret::new(SUITE.schedule(), &self.secret_bytes(name))
    }

    /// Returns what the two sides agreed on.
    pub fn shared_secret(&self) -> SharedSecret {
        SharedSecret::new(&self.secret_bytes("dhe_secret"))
    }
}

/// Returns the key of records under a secret.
pub fn record_key(secret: &Secret) -> RecordKey {
    RecordKey::new(AeadAlgorithm::Aes256Gcm, secret)
}
