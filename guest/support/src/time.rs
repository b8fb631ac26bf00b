// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bounded waiting.

/// A moment after which waiting is over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    #[cfg(target_os = "none")]
    end: u64,
    #[cfg(not(target_os = "none"))]
    end: std::time::Instant,
}

impl Deadline {
    /// Returns the moment `milliseconds` from now.
    #[must_use]
    pub fn after_ms(milliseconds: u64) -> Self {
        #[cfg(target_os = "none")]
        {
            let per_millisecond = crate::arch::counter_frequency() / 1000;
            Self {
                end: crate::arch::counter()
                    .saturating_add(per_millisecond.saturating_mul(milliseconds)),
            }
        }
        #[cfg(not(target_os = "none"))]
        Self {
            end: std::time::Instant::now() + std::time::Duration::from_millis(milliseconds),
        }
    }

    /// Returns whether the moment has passed.
    pub fn expired(&self) -> bool {
        #[cfg(target_os = "none")]
        {
            crate::arch::counter() >= self.end
        }
        #[cfg(not(target_os = "none"))]
        {
            std::time::Instant::now() >= self.end
        }
    }
}

/// Waits until `done` says so, at most `milliseconds`. Returns whether it did.
pub fn wait_until(milliseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::after_ms(milliseconds);
    loop {
        if done() {
            return true;
        }
        if deadline.expired() {
            return done();
        }
        core::hint::spin_loop();
    }
}

/// Waits for `microseconds`.
pub fn delay_us(microseconds: u64) {
    let _ = wait_until(microseconds.div_ceil(1000), || microseconds == 0);
}
