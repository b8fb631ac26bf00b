// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arm SMMUv3 (IHI 0070): stream table entries, commands, events and plans.

mod command;
mod event;
mod plan;
pub mod registers;
mod stream;

pub use command::Command;
pub use event::{EVENT_BYTES, Event, EventKind};
pub use plan::{attach, block, host_map, host_unmap, invalidate, invalidate_all, release, reset};
pub use stream::{STREAM_ENTRY_BYTES, STREAM_ENTRY_WORDS, StreamEntry};
