// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Handing the machine over to a host that starts by the 64-bit boot protocol of Linux
//! (Documentation/arch/x86/boot.rst), decided without touching hardware.

pub mod linux;
pub mod tables;

/// Where in low memory the host finds what it is handed. The host may use all of it again, but for
/// the page of ACPI tables, which its memory map says.
pub mod place {
    /// The boot parameters, one page.
    pub const PARAMETERS: u64 = 0x1_0000;
    /// The descriptor table.
    pub const DESCRIPTORS: u64 = 0x1_1000;
    /// The two levels of identity page tables.
    pub const ROOT: u64 = 0x1_2000;
    /// The second level.
    pub const DIRECTORY: u64 = 0x1_3000;
    /// Root tables of ACPI, one page.
    pub const ACPI: u64 = 0x1_4000;
    /// The command line, one page.
    pub const COMMAND_LINE: u64 = 0x1_5000;
    /// End of all.
    pub const END: u64 = 0x1_6000;
}

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Returns the two page tables that map the first 512 GiB at their physical addresses, in pages of
/// 1 GiB, as entries by index.
pub fn identity() -> ([u64; 512], [u64; 512]) {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let mut root = [0; 512];
    root[0] = place::DIRECTORY | PRESENT_WRITABLE;
    let mut directory = [0; 512];
    for (entry, gigabyte) in directory.iter_mut().zip(0_u64..) {
        *entry = gigabyte << 30 | LARGE | PRESENT_WRITABLE;
    }
    (root, directory)
}

#[cfg(test)]
mod tests {
    use super::{identity, place};

    #[test]
    fn identity_tables_name_each_gigabyte_once() {
        let (root, directory) = identity();
        assert_eq!(root[0], place::DIRECTORY | 3);
        assert!(root[1..].iter().all(|entry| *entry == 0));
        assert_eq!((directory[0], directory[511]), (0x83, 0x7f_c000_0083));
    }
}
