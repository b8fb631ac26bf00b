// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tells every secret of the device, so that tests can look for it where it must not be.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

type Listener = dyn FnMut(&str, &[u8]) + Send;

/// Where secrets are told as soon as they are known; by default nowhere. For tests only: whoever
/// listens can read all that the device sends and receives.
#[derive(Clone, Default)]
pub struct Confidant(Option<Arc<Mutex<Listener>>>);

impl Confidant {
    /// Calls `listener` with the name and the bytes of each secret.
    pub fn new(listener: impl FnMut(&str, &[u8]) + Send + 'static) -> Self {
        Self(Some(Arc::new(Mutex::new(listener))))
    }

    /// Tells `secret`.
    pub fn tell(&self, name: &str, secret: &[u8]) {
        if let Some(listener) = &self.0 {
            listener.lock().unwrap_or_else(PoisonError::into_inner)(name, secret);
        }
    }
}

impl fmt::Debug for Confidant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Confidant")
    }
}
