// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host's virtual CPU may do, decided without touching hardware.

pub mod config;
pub mod cpuid;
pub mod icr;
pub mod instruction;
pub mod io_apic;
pub mod msr;
pub mod ports;
pub mod requests;
pub mod start;
pub mod walk;
