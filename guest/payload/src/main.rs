// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bare-metal confidential guest.
//!
//! It asks for a disk, judges the evidence itself, uses the disk privately while the host attacks,
//! gives it back, and says on the way what it saw.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    mod board;
    mod evidence;
    mod flow;
    #[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
    #[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
    mod processor;
    mod random;
    mod report;
    mod rhi;
    mod rsi;
    mod workload;

    tsm_payload_support::payload_entry!(start);

    extern "C" fn start(_argument: u64) -> ! {
        processor::set_up();
        board::set_up();
        flow::run();
        rsi::power_off()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This program runs in the realm that `cargo xtask run` builds.");
}
