// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the device knows about its PCI function: bus number and BARs as the host set them.

use std::borrow::Cow;

/// A memory BAR that decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Index of the (first) BAR register.
    pub index: u8,
    /// Bus address of the first byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// Settings of the function that the host controls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionView {
    /// Bus, device and function number, or `None` where that is not known.
    pub rid: Option<u16>,
    /// Memory BARs that decode, in order of index.
    pub bars: Vec<Bar>,
}

/// Where the device learns about its function.
///
/// The answer is what is known already: waiting for the machine while it waits for us would never
/// end.
pub trait FunctionSource: Send {
    /// Returns the settings as last seen, or `None` if they were never seen.
    fn view(&mut self) -> Option<FunctionView>;
    /// Returns whether the machine was reset since the last call.
    fn take_reset(&mut self) -> bool {
        false
    }
}

/// A function whose settings do not change.
impl FunctionSource for FunctionView {
    fn view(&mut self) -> Option<FunctionView> {
        Some(self.clone())
    }
}

/// One function of a device.
pub struct Function {
    /// The fixed parts.
    pub layout: Layout,
    /// Where bus number and BARs are learnt from.
    pub source: Box<dyn FunctionSource>,
}

/// A BAR page with a purpose of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Index of the BAR.
    pub bar: u8,
    /// First byte within the BAR; a multiple of 4096.
    pub offset: u64,
    /// Bytes; a multiple of 4096.
    pub size: u64,
}

/// The parts of the function that never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of MSI-X vectors.
    pub msix_vectors: u16,
    /// The MSI-X table.
    pub msix_table: Region,
    /// The MSI-X pending bit array.
    pub msix_pending: Region,
    /// Other parts of BARs, with the attributes that the report gives their range.
    pub special: Cow<'static, [(Region, u16)]>,
    /// INTERFACE_INFO of the report, but for bit 0.
    pub info: u16,
    /// LNR control and TPH control of the report.
    pub notification: (u16, u32),
    /// The device-specific part of the report.
    pub device_specific: Cow<'static, [u8]>,
}

impl Layout {
    /// DMA without PASID.
    const PLAIN_DMA: u16 = 1 << 1;

    /// QEMU's NVMe controller with 64 queue pairs and 65 vectors, as it is by default.
    pub const QEMU_NVME: Self = Self {
        msix_vectors: 65,
        msix_table: Region {
            bar: 0,
            offset: 0x2000,
            size: 0x1000,
        },
        msix_pending: Region {
            bar: 0,
            offset: 0x3000,
            size: 0x1000,
        },
        special: Cow::Borrowed(&[]),
        info: Self::PLAIN_DMA,
        notification: (0, 0),
        device_specific: Cow::Borrowed(b"portcullis-nvme\0"),
    };
}
