// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The end of a payload that contradicts itself.

use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::println!("NOTE {info}");
    crate::println!("VERDICT FAIL a payload panicked");
    // Ends the run where the caller may do so; a guest's is an exit.
    crate::power::off()
}
