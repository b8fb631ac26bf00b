// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Numbers that the host cannot guess.

use super::processor;

/// Returns 32 random bytes, or none if the processor has no generator or it does not answer.
pub fn nonce() -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for chunk in bytes.as_chunks_mut::<8>().0 {
        *chunk = (0..1000).find_map(|_| processor::random())?.to_le_bytes();
    }
    Some(bytes)
}
