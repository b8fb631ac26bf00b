// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bare-metal host that drives the TSM at NS-EL2.
//!
//! It uses a disk as any host would, gives it to a confidential guest, attacks both while the guest
//! works, takes the disk back, and says whether all was as it must be.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    mod attacks;
    mod bench;
    mod board;
    mod cache;
    mod comm;
    mod cpus;
    mod doe;
    mod evidence;
    mod faults;
    mod flow;
    mod isolation;
    mod memory;
    mod pci;
    mod pdev;
    mod realm;
    mod rec;
    mod report;
    mod rhi;
    mod rmi;
    mod tests;
    mod vdev;
    mod vectors;

    tsm_payload_support::payload_entry!(start);

    extern "C" fn start(_device_tree: u64) -> ! {
        let at_entry = tsm_payload_support::arch::counter();
        board::set_up();
        vectors::install();
        match board::mode() {
            0 => flow::run(),
            1 => bench::run(at_entry),
            2 => tests::run(),
            3 => tests::run_isolated(),
            4 => faults::run(),
            other => report::verdict(false, format_args!("mode {other} is not known")),
        }
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This program runs on the machine that `cargo xtask run` boots.");
}
