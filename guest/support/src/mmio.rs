// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory-mapped registers.

/// A block of registers, or of other memory that is only touched by single loads and stores.
///
/// Each access is one load or store of a general-purpose register with plain base addressing, which
/// a hypervisor or monitor that emulates it can decode.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: usize,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal, $register:tt) => {
        #[doc = concat!("Reads a `", stringify!($type), "` at `offset`, which is aligned.")]
        #[must_use]
        pub fn $read(&self, offset: usize) -> $type {
            let address = self.base.wrapping_add(offset);
            let value: u64;
            // SAFETY: `new` promises that the block may be read.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                core::arch::asm!(
                    $load,
                    address = in(reg) address,
                    value = out(reg) value,
                    options(nostack, preserves_flags),
                );
            }
            // SAFETY: As above.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                core::arch::asm!(
                    concat!("mov ", $register, ", [{address}]"),
                    address = in(reg) address,
                    out("rax") value,
                    options(nostack, preserves_flags),
                );
            }
            value as $type
        }

        #[doc = concat!("Writes a `", stringify!($type), "` at `offset`, which is aligned.")]
        pub fn $write(&self, offset: usize, value: $type) {
            let address = self.base.wrapping_add(offset);
            // SAFETY: `new` promises that the block may be written.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                core::arch::asm!(
                    $store,
                    address = in(reg) address,
                    value = in(reg) u64::from(value),
                    options(nostack, preserves_flags),
                );
            }
            // SAFETY: As above.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                core::arch::asm!(
                    concat!("mov [{address}], ", $register),
                    address = in(reg) address,
                    in("rax") u64::from(value),
                    options(nostack, preserves_flags),
                );
            }
        }
    };
}

impl Mmio {
    /// Returns the block at `base`.
    ///
    /// # Safety
    /// Every offset that is used names registers or memory that may be read and written there
    /// without breaking what the rest of the program relies on.
    #[must_use]
    pub const unsafe fn new(base: usize) -> Self {
        Self { base }
    }

    /// Returns the address of the block.
    #[must_use]
    pub const fn base(&self) -> usize {
        self.base
    }

    access!(
        read8,
        write8,
        u8,
        "ldrb {value:w}, [{address}]",
        "strb {value:w}, [{address}]",
        "al"
    );
    access!(
        read16,
        write16,
        u16,
        "ldrh {value:w}, [{address}]",
        "strh {value:w}, [{address}]",
        "ax"
    );
    access!(
        read32,
        write32,
        u32,
        "ldr {value:w}, [{address}]",
        "str {value:w}, [{address}]",
        "eax"
    );
    access!(
        read64,
        write64,
        u64,
        "ldr {value}, [{address}]",
        "str {value}, [{address}]",
        "rax"
    );
}
