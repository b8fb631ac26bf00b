// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Other CPUs: forgetting translations of guests on all of them, and bringing them out of guests.

/// Marks this CPU as inside a guest. Returns whether the entry must forget translations.
pub fn before_entry() -> bool {
    true
}

/// Marks this CPU as outside of a guest.
pub fn after_exit() {}

/// Returns when no CPU can use translations of a guest that are older than this call.
pub fn shootdown() {}

/// Brings a CPU out of its guest.
pub fn kick(_cpu: usize) {}

/// Brings all other CPUs out of their guests.
pub fn kick_others() {}
