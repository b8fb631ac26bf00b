// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What to do to an IOMMU, one step at a time.

use tsm_platform::StreamId;

use crate::TableWrite;

/// One step of a plan. Steps are carried out in order.
///
/// Memory written by a step is visible to the IOMMU before the next [`Step::Command`] is, and
/// before the plan counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write one 64-bit word of the entry that describes `stream`, in one store.
    Stream {
        /// Whose entry.
        stream: StreamId,
        /// Which word of it, from 0.
        word: usize,
        /// The new value.
        value: u64,
    },
    /// Write entries of the host's identity tables, each in one store.
    Table(TableWrite),
    /// Put one command, lower word first, into the IOMMU's queue.
    Command([u64; 2]),
    /// Wait until all queued commands are complete; the plan fails if that takes too long.
    Wait,
}
