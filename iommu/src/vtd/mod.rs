// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Intel VT-d in legacy mode: entries, descriptors, registers and fault records.

mod command;
mod entry;
mod fault;
pub mod registers;
mod unit;

pub use command::Command;
pub use entry::{CONTEXT_WORDS, ContextEntry, Domain, ENTRIES, root_entry};
pub use fault::{FaultRecord, RECORD_VALID};
pub use unit::Vtd;
