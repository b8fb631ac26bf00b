// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One session: records under its keys.

use super::terms::Terms;

/// One established or half established session of a test.
pub struct Session {
    pub id: u32,
    pub terms: Terms,
    pub(super) handshake: Vec<u8>,
    pub(super) transcript: Vec<u8>,
    pub(super) request: Direction,
    pub(super) response: Direction,
    pub(super) request_secret: Vec<u8>,
}

pub struct Direction {
    terms: Terms,
    secret: Vec<u8>,
    sequence: u64,
}

impl Direction {
    pub(super) fn new(terms: Terms, secret: Vec<u8>) -> Self {
        Self {
            terms,
            secret,
            sequence: 0,
        }
    }

    pub fn update(&mut self) {
        let size = self.secret.len();
        let next = self.terms.expand(&self.secret, "traffic upd", &[], size);
        *self = Self::new(self.terms, next);
    }

    /// Key and nonce of the next record.
    fn next(&mut self) -> (Vec<u8>, [u8; 12]) {
        let size = self.terms.key_size();
        let key = self.terms.expand(&self.secret, "key", &[], size);
        let iv = self.terms.expand(&self.secret, "iv", &[], 12);
        let mut nonce: [u8; 12] = iv.try_into().unwrap();
        for (byte, count) in nonce.iter_mut().zip(self.sequence.to_le_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        (key, nonce)
    }
}

impl Session {
    pub fn seal(&mut self, message: &[u8]) -> Vec<u8> {
        let mut record = self.id.to_le_bytes().to_vec();
        record.extend((message.len() as u16 + 18).to_le_bytes());
        let mut text = (message.len() as u16).to_le_bytes().to_vec();
        text.extend(message);
        let (key, nonce) = self.request.next();
        let tag = self.terms.encrypt(&key, &nonce, &record, &mut text);
        record.extend(text);
        record.extend(tag);
        record
    }

    pub fn open(&mut self, record: &[u8]) -> Vec<u8> {
        assert_eq!(record[..4], self.id.to_le_bytes());
        let length = usize::from(u16::from_le_bytes([record[4], record[5]]));
        let (text, tag) = record[6..6 + length].split_last_chunk::<16>().unwrap();
        let mut text = text.to_vec();
        let (key, nonce) = self.response.next();
        assert!(
            self.terms
                .decrypt(&key, &nonce, &record[..6], &mut text, tag),
            "the response does not open"
        );
        let application = usize::from(u16::from_le_bytes([text[0], text[1]]));
        text[2..2 + application].to_vec()
    }

    /// Returns the key of `request` or `response`.
    pub fn key(&self, direction: &str) -> Vec<u8> {
        let direction = match direction {
            "request" => &self.request,
            _ => &self.response,
        };
        let terms = direction.terms;
        terms.expand(&direction.secret, "key", &[], terms.key_size())
    }

    pub fn update_request(&mut self) {
        self.request.update();
    }

    pub fn update_response(&mut self) {
        self.response.update();
    }
}
