// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Root monitor at EL3: granule protection, world switch, PSCI.
//!
//! Everything but [`arch`] is plain code that knows the architecture's formats and none of its
//! registers: [`Monitor`] decides, a [`Board`] and a [`Processor`] do.

#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod abort;
mod access;
#[cfg(target_arch = "aarch64")]
pub mod arch;
mod attestation;
mod context;
pub mod decode;
pub mod fdt;
pub mod gpt;
mod machine;
pub mod manifest;
mod monitor;
pub mod psci;
pub mod services;
pub mod token;

pub use access::Mediation;
pub use attestation::AttestationKey;
pub use context::{Common, Context, Cpu, El2, Pending, Rare, World};
pub use machine::{Board, Event, FaultAddress, Layout, Processor};
pub use monitor::{MAX_PROCESSORS, Monitor};
pub use tsm_ide::unit as keys;
