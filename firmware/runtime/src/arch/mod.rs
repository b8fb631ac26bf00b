// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the rest of this crate needs from a processor.
//!
//! Parts of an architecture that only decide are compiled for unit tests on the development machine, too.

#[cfg(all(target_arch = "aarch64", target_os = "none"))]
mod aarch64;
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
pub use aarch64::*;

#[cfg(any(test, all(target_arch = "aarch64", target_os = "none")))]
#[path = "aarch64/trap.rs"]
mod trap;
#[cfg(any(test, all(target_arch = "aarch64", target_os = "none")))]
#[path = "aarch64/vmsa.rs"]
pub mod vmsa;

#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
pub use self::x86_64::*;

#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/acpi.rs"]
pub mod acpi;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/confine/mod.rs"]
mod confine;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/generation.rs"]
mod generation;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/keys.rs"]
mod keys;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/loader/mod.rs"]
mod loader;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/long_mode.rs"]
pub mod long_mode;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/pvh.rs"]
pub mod pvh;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/vcpu/mod.rs"]
mod vcpu;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "none")))]
#[path = "x86_64/vmcb.rs"]
mod vmcb;

#[cfg(not(target_os = "none"))]
mod hosted;
#[cfg(not(target_os = "none"))]
pub use hosted::*;
