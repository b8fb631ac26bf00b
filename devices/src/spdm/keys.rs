// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Key schedule and secured records (DSP0274, DSP0277 over PCI DOE).

use zeroize::Zeroizing;

use super::offer::Version;
use crate::crypto::{Cipher, Hash, Secret, TAG_SIZE};
use crate::event::SessionId;
use crate::secrets::Confidant;

/// What the key schedule of a session depends on.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    pub(super) version: Version,
    pub(super) hash: Hash,
    pub(super) cipher: Cipher,
}

impl Schedule {
    /// Expands `secret` into `out`: the info is length, version label, label, context.
    fn expand(self, secret: &Secret, label: &str, context: &[u8], out: &mut [u8]) {
        let version = format!("spdm1.{} ", self.version.minor());
        let info = [
            &(out.len() as u16).to_le_bytes()[..],
            version.as_bytes(),
            label.as_bytes(),
            context,
        ]
        .concat();
        self.hash.expand(secret, &info, out);
    }

    fn derive(self, secret: &Secret, label: &str, context: &[u8]) -> Secret {
        let mut out = Secret::new(vec![0; self.hash.size()]);
        self.expand(secret, label, context, &mut out);
        out
    }

    fn extract(self, salt: &[u8], secret: &[u8]) -> Secret {
        Secret::new(self.hash.hmac(salt, secret))
    }

    /// Computes the HMAC of a finished message for one direction's handshake secret.
    pub(super) fn finished(self, secret: &Secret, transcript: &[u8]) -> Vec<u8> {
        let key = self.derive(secret, "finished", &[]);
        self.hash.hmac(&key, transcript)
    }
}

/// The secrets of one stage of a session.
pub(super) struct Stage {
    schedule: Schedule,
    /// The extracted secret that this stage and the next derive from.
    main: Secret,
    /// Secret of what the requester sends.
    pub(super) request: Secret,
    /// Secret of what the responder sends.
    pub(super) response: Secret,
}

impl Stage {
    /// Derives the handshake stage from the shared secret and TH1.
    pub(super) fn handshake(schedule: Schedule, shared: &Secret, th1: &[u8]) -> Self {
        let main = schedule.extract(&vec![0; schedule.hash.size()], shared);
        Self {
            request: schedule.derive(&main, "req hs data", th1),
            response: schedule.derive(&main, "rsp hs data", th1),
            schedule,
            main,
        }
    }

    /// Derives the application stage from this handshake stage and TH2.
    pub(super) fn application(&self, th2: &[u8]) -> Self {
        let schedule = self.schedule;
        let salt = schedule.derive(&self.main, "derived", &[]);
        let main = schedule.extract(&salt, &vec![0; schedule.hash.size()]);
        Self {
            request: schedule.derive(&main, "req app data", th2),
            response: schedule.derive(&main, "rsp app data", th2),
            schedule,
            main,
        }
    }

    /// Returns the MAC of the finished message of one direction.
    pub(super) fn finished(&self, secret: &Secret, transcript: &[u8]) -> Vec<u8> {
        self.schedule.finished(secret, transcript)
    }

    /// Tells the secrets of this stage and the keys of its directions.
    pub(super) fn tell(&self, stage: &str, confidant: &Confidant) {
        confidant.tell(&format!("{stage}-main-secret"), &self.main);
        let (request, response) = self.directions();
        request.tell(&format!("{stage}-request"), confidant);
        response.tell(&format!("{stage}-response"), confidant);
    }

    /// Returns the directions of requests and responses, both at their first record.
    pub(super) fn directions(&self) -> (Direction, Direction) {
        (
            Direction::new(self.schedule, self.request.clone()),
            Direction::new(self.schedule, self.response.clone()),
        )
    }
}

/// Key, nonce base and record counter of one direction.
pub(super) struct Direction {
    schedule: Schedule,
    secret: Secret,
    key: Secret,
    iv: Zeroizing<[u8; 12]>,
    sequence: u64,
}

impl Direction {
    /// Derives key and nonce base; the first record has sequence number 0.
    pub(super) fn new(schedule: Schedule, secret: Secret) -> Self {
        let mut key = Secret::new(vec![0; schedule.cipher.key_size()]);
        let mut iv = Zeroizing::new([0; 12]);
        schedule.expand(&secret, "key", &[], &mut key);
        schedule.expand(&secret, "iv", &[], &mut iv[..]);
        Self {
            schedule,
            secret,
            key,
            iv,
            sequence: 0,
        }
    }

    /// Moves to the next key; the one before is erased.
    pub(super) fn update(&mut self) {
        let next = self.schedule.derive(&self.secret, "traffic upd", &[]);
        *self = Self::new(self.schedule, next);
    }

    /// Tells secret, key and nonce base.
    pub(super) fn tell(&self, direction: &str, confidant: &Confidant) {
        confidant.tell(&format!("{direction}-secret"), &self.secret);
        confidant.tell(&format!("{direction}-key"), &self.key);
        confidant.tell(&format!("{direction}-iv"), &self.iv[..]);
    }

    /// Returns the nonce of the next record, or `None` when the counter is used up.
    fn next_nonce(&mut self) -> Option<[u8; 12]> {
        let mut nonce = *self.iv;
        for (byte, count) in nonce.iter_mut().zip(self.sequence.to_le_bytes()) {
            *byte ^= count;
        }
        self.sequence = self.sequence.checked_add(1)?;
        Some(nonce)
    }

    /// Wraps `message` into a record of `session`.
    pub(super) fn seal(&mut self, session: SessionId, message: &[u8]) -> Option<Vec<u8>> {
        let length = u16::try_from(2 + message.len() + TAG_SIZE).ok()?;
        let application = u16::try_from(message.len()).ok()?;
        let aad = [&session.0.to_le_bytes()[..], &length.to_le_bytes()].concat();
        let mut text = [&application.to_le_bytes()[..], message].concat();
        let nonce = self.next_nonce()?;
        let tag = self
            .schedule
            .cipher
            .seal(&self.key, &nonce, &aad, &mut text);
        Some([&aad[..], &text, &tag].concat())
    }

    /// Unwraps a record whose session id has been looked at. Padding behind it is ignored.
    pub(super) fn open(&mut self, record: &[u8]) -> Option<Vec<u8>> {
        let (aad, rest) = record.split_at_checked(6)?;
        let length = usize::from(u16::from_le_bytes([aad[4], aad[5]]));
        let (sealed, padding) = rest.split_at_checked(length)?;
        if padding.len() >= 4 {
            return None;
        }
        let (text, tag) = sealed.split_last_chunk::<TAG_SIZE>()?;
        let mut text = text.to_vec();
        let nonce = self.next_nonce()?;
        if !self
            .schedule
            .cipher
            .open(&self.key, &nonce, aad, &mut text, tag)
        {
            return None;
        }
        let (application, message) = text.split_first_chunk()?;
        let application = usize::from(u16::from_le_bytes(*application));
        // What follows the message is the random padding that DSP0277 allows.
        message.get(..application).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use serde_json::Value;

    use super::{Direction, Schedule, Secret, Stage};
    use crate::crypto::{Cipher, Hash};
    use crate::event::SessionId;
    use crate::spdm::Version;

    const SCHEDULE: Schedule = Schedule {
        version: Version::V1_2,
        hash: Hash::Sha384,
        cipher: Cipher::Aes256Gcm,
    };

    fn sha384(parts: &[&[u8]]) -> Vec<u8> {
        Hash::Sha384.digest(parts)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
        text.as_bytes()
            .chunks(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }

    /// A session between two other implementations, if the machine has the recording.
    fn golden() -> Option<Value> {
        let Some(place) = env::var_os("PORTCULLIS_VECTORS") else {
            println!("skipped: PORTCULLIS_VECTORS names no recorded session");
            return None;
        };
        let path = std::path::Path::new(&place).join("spdm-1.2-p384/session.json");
        Some(serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
    }

    fn record(session: &Value, number: usize, field: &str) -> Vec<u8> {
        let record = &session["records"][number - 1];
        assert_eq!(record["n"], number);
        hex(record[field].as_str().unwrap())
    }

    #[test]
    fn the_key_schedule_is_that_of_others() {
        let Some(session) = golden() else { return };
        let secret = |name: &str| hex(session["secrets"][name].as_str().unwrap());
        let mut covered: Vec<u8> = (7..13).flat_map(|n| record(&session, n, "spdm")).collect();
        covered.extend(sha384(&[&record(&session, 16, "spdm")[8..1599]]));
        // Plain messages are recorded with their padding.
        covered.extend(&record(&session, 29, "spdm")[..158]);
        let response = record(&session, 30, "spdm");
        let (signed, verify) = response[..342].split_at(294);
        covered.extend(signed);
        let th1 = sha384(&[&covered]);
        let handshake = Stage::handshake(SCHEDULE, &Secret::new(secret("dhe_secret")), &th1);
        assert_eq!(*handshake.main, secret("handshake_secret"));
        assert_eq!(*handshake.request, secret("request_handshake_secret"));
        assert_eq!(*handshake.response, secret("response_handshake_secret"));
        assert_eq!(verify, handshake.finished(&handshake.response, &th1));
        covered.extend(verify);

        let finish = record(&session, 31, "spdm");
        let th2 = sha384(&[&covered, &finish[..4]]);
        let expected = handshake.finished(&handshake.request, &th2);
        assert_eq!(finish[4..], expected);
        covered.extend(finish);
        covered.extend(record(&session, 32, "spdm"));
        let application = handshake.application(&sha384(&[&covered]));
        assert_eq!(*application.main, secret("master_secret"));
        assert_eq!(*application.request, secret("request_data_secret"));
        assert_eq!(*application.response, secret("response_data_secret"));
    }

    #[test]
    fn records_of_others_open() {
        let Some(session) = golden() else { return };
        let direction = |name: &str| {
            let bytes = hex(session["secrets"][name].as_str().unwrap());
            Direction::new(SCHEDULE, Secret::new(bytes))
        };
        let mut request = direction("request_handshake_secret");
        let mut response = direction("response_handshake_secret");
        for number in 31..=92 {
            if number == 33 {
                request = direction("request_data_secret");
                response = direction("response_data_secret");
            }
            let sender = if number % 2 == 1 {
                &mut request
            } else {
                &mut response
            };
            let sealed = &record(&session, number, "doe")[8..];
            assert_eq!(
                sender.open(sealed).unwrap(),
                record(&session, number, "spdm")
            );
        }
    }

    fn pair() -> (Direction, Direction) {
        let direction = || Direction::new(SCHEDULE, Secret::new(vec![3; 48]));
        (direction(), direction())
    }

    #[test]
    fn a_record_opens_once_and_in_order() {
        let (mut sender, mut receiver) = pair();
        let first = sender.seal(SessionId(7), b"first").unwrap();
        let second = sender.seal(SessionId(7), b"second").unwrap();
        assert_eq!(receiver.open(&first).unwrap(), b"first");
        assert_eq!(receiver.open(&second).unwrap(), b"second");
        assert!(receiver.open(&second).is_none());
    }

    #[test]
    fn an_updated_key_starts_at_record_zero_and_does_not_open_older_records() {
        let (mut sender, mut receiver) = pair();
        let old = sender.seal(SessionId(7), b"old").unwrap();
        receiver.open(&old).unwrap();
        sender.update();
        receiver.update();
        assert_eq!(
            receiver
                .open(&sender.seal(SessionId(7), b"new").unwrap())
                .unwrap(),
            b"new"
        );
        let (_, mut late) = pair();
        late.update();
        assert!(late.open(&old).is_none());
    }

    #[test]
    fn lengths_that_lie_do_not_open() {
        let (mut sender, _) = pair();
        let record = sender.seal(SessionId(7), b"message").unwrap();
        for cut in 0..record.len() {
            assert!(pair().1.open(&record[..cut]).is_none());
        }
        assert!(pair().1.open(&[&record[..], &[0; 3]].concat()).is_some());
        assert!(pair().1.open(&[&record[..], &[0; 4]].concat()).is_none());
    }
}
