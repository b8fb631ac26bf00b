// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What this program does with the processor itself.

pub mod bench;
pub mod privileged;
pub mod registers;
pub mod second;
pub mod vectors;

/// Level of a realm's start-level table.
pub const START_LEVEL: usize = 0;
