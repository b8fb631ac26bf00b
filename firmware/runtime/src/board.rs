// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the TSM has to know of a board on which nothing runs below it.

use tsm_platform::{GranuleRange, Rid};

use crate::filters::{ConfigRule, PortRule};

/// A file that the platform's owner gave to the TSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// How the board names it.
    pub key: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A board. The image exports one with [`export_board!`](crate::export_board).
pub trait Board: Sync {
    /// Writes a piece of the log, in the order of the calls. The host cannot reach where it goes.
    fn log(&self, bytes: &[u8]);

    /// Returns how many processors will answer, the first one among them.
    fn processors(&self) -> usize;

    /// Returns the file of that name, if the owner gave one.
    fn file(&self, name: &str) -> Option<File>;

    /// Reads `bytes` bytes of `file` from `offset` on to physical address `to`, and returns whether
    /// all of them were there.
    ///
    /// # Safety
    ///
    /// The memory must be `bytes` bytes that nothing else uses, and that no reference points to.
    unsafe fn load(&self, file: File, offset: u32, to: u64, bytes: u32) -> bool;

    /// Turns the machine off. Returns if that is not possible.
    fn power_off(&self);

    /// Returns where the registers of PCI functions are, apart from configuration space.
    fn device_window(&self) -> GranuleRange;

    /// Returns the ports that the TSM filters: its own, and those by which the platform would reach
    /// memory past nested paging and IOMMU, or start again with memory as it is.
    fn port_rules(&self) -> &'static [PortRule];

    /// Returns the functions whose registers the host may write in part only.
    fn config_rules(&self) -> &'static [ConfigRule];

    /// Returns the function that is the key configuration unit of the root ports, and its vendor and
    /// device id.
    fn key_unit(&self) -> (Rid, u32);
}

/// Makes `$board`, a constant expression of a type that implements [`Board`], the board of the image.
#[macro_export]
macro_rules! export_board {
    ($board:expr) => {
        // SAFETY: the runtime declares the function with this type, and an image has one.
        #[unsafe(no_mangle)]
        fn tsm_board() -> &'static dyn $crate::Board {
            &$board
        }
    };
}

#[cfg(all(target_arch = "x86_64", target_os = "none"))]
unsafe extern "Rust" {
    safe fn tsm_board() -> &'static dyn Board;
}

/// Returns the board of the image.
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
pub fn board() -> &'static dyn Board {
    tsm_board()
}
