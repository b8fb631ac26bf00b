// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Arm SMMUv3 (IHI 0070): stream table entries, commands and events.

mod command;
mod event;
pub mod registers;
mod stream;
mod unit;

pub use command::Command;
pub use event::{EVENT_BYTES, Event, EventKind};
pub use stream::{STREAM_ENTRY_BYTES, STREAM_ENTRY_WORDS, StreamEntry};
pub use unit::Smmuv3;
