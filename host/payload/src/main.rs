// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bare-metal host that drives the TSM.
//!
//! It uses a disk as any host would, gives it to a confidential guest, attacks both while the guest
//! works, takes the disk back, and says whether all was as it must be.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    mod attacks;
    mod bench;
    #[cfg_attr(target_arch = "aarch64", path = "qemu_virt/mod.rs")]
    #[cfg_attr(target_arch = "x86_64", path = "qemu_q35/mod.rs")]
    mod board;
    mod cache;
    mod comm;
    mod cpus;
    mod doe;
    mod evidence;
    mod faults;
    mod flow;
    mod isolation;
    mod layout;
    mod memory;
    mod pci;
    mod pdev;
    #[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
    #[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
    mod processor;
    mod realm;
    mod rec;
    mod report;
    mod rhi;
    mod rmi;
    mod teardown;
    mod tests;
    mod vdev;

    #[cfg(target_arch = "aarch64")]
    tsm_payload_support::payload_entry!(start);
    #[cfg(target_arch = "x86_64")]
    tsm_payload_support::linux_entry!(start);

    /// Starts with the address of what the loader tells: a device tree or boot parameters.
    extern "C" fn start(_parameters: u64) -> ! {
        let at_entry = tsm_payload_support::arch::counter();
        board::set_up();
        processor::vectors::install();
        match layout::mode() {
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
