// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entry, vectors, page tables and hardware access of the TSM.
//!
//! A board makes an image of it: a binary that names this crate, and a linker script that places
//! `.text.entry` first and defines the symbols of `linker/tsm.ld`. Everything that depends on the
//! machine comes from the monitor's boot manifest on Arm; on x86_64 from what the firmware before the
//! TSM left in memory, and from the [`Board`].

#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(target_os = "none"),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        reason = "a development machine uses the pure parts only, in tests"
    )
)]

mod arch;
mod board;
mod carve;
mod ecam;
mod filters;
#[cfg(target_os = "none")]
mod isolation;
#[cfg(all(target_os = "none", feature = "isolation-tests"))]
mod isolation_tests;
mod kinds;
mod layout;
mod log;
#[cfg(target_os = "none")]
mod machine;
#[cfg(not(all(target_arch = "x86_64", target_os = "none")))]
mod manifest;
mod memory;
mod paging;
#[cfg(target_os = "none")]
mod setup;
#[cfg(any(test, target_os = "none"))]
mod syndrome;

pub use board::{Board, File};
pub use filters::{ConfigRule, PortRule, PortUse};
