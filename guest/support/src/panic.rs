// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The end of a payload that contradicts itself.

use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::println!("NOTE {info}");
    crate::println!("VERDICT FAIL a payload panicked");
    #[cfg(target_arch = "aarch64")]
    {
        // PSCI SYSTEM_OFF: ends the run where the caller may do so; a guest's is an exit.
        let _ = crate::aarch64::call(0x8400_0008, &[]);
        crate::aarch64::halt()
    }
    #[cfg(not(target_arch = "aarch64"))]
    loop {
        core::hint::spin_loop();
    }
}
