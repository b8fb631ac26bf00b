// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! PCI configuration space through a memory window.

use tsm_platform::Rid;

/// Size of a window for 256 buses, in bytes.
pub const ECAM_BYTES: u64 = 256 << 20;
/// Buses in a window.
pub const BUSES: u16 = 256;

/// A window for all functions of one segment.
pub struct Ecam {
    base: *mut u8,
    physical: u64,
}

// SAFETY: configuration accesses are single loads and stores, which any CPU may make.
unsafe impl Send for Ecam {}
// SAFETY: as above.
unsafe impl Sync for Ecam {}

impl Ecam {
    /// Describes the window at physical address `physical`.
    ///
    /// # Safety
    ///
    /// [`ECAM_BYTES`] of device memory must be mapped at `base` for ever.
    pub const unsafe fn new(base: *mut u8, physical: u64) -> Self {
        Self { base, physical }
    }

    /// Returns the physical address, by which the monitor knows the root complex.
    pub const fn physical(&self) -> u64 {
        self.physical
    }

    fn place(&self, rid: Rid, offset: u16, width: u8) -> Option<*mut u8> {
        let aligned = matches!(width, 1 | 2 | 4) && offset.is_multiple_of(u16::from(width));
        let place = usize::from(rid.0) << 12 | usize::from(offset);
        (aligned && offset < 4096).then(|| self.base.wrapping_add(place))
    }

    /// Reads `width` bytes; all ones if that is not possible.
    pub fn read(&self, rid: Rid, offset: u16, width: u8) -> u32 {
        let Some(place) = self.place(rid, offset, width) else {
            return u32::MAX;
        };
        // SAFETY: `place` is inside the window and aligned to `width`.
        unsafe {
            match width {
                1 => u32::from(place.read_volatile()),
                2 => u32::from(place.cast::<u16>().read_volatile()),
                _ => place.cast::<u32>().read_volatile(),
            }
        }
    }

    /// Writes `width` bytes, if that is possible.
    pub fn write(&self, rid: Rid, offset: u16, width: u8, value: u32) {
        let Some(place) = self.place(rid, offset, width) else {
            return;
        };
        // SAFETY: as in `read`. The core decides which writes are harmless.
        unsafe {
            match width {
                1 => place.write_volatile(value as u8),
                2 => place.cast::<u16>().write_volatile(value as u16),
                _ => place.cast::<u32>().write_volatile(value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ecam;
    use tsm_platform::Rid;

    #[test]
    fn accesses_are_aligned_inside_one_function() {
        let mut functions = vec![0_u32; 3 * 1024];
        // SAFETY: the test touches functions 0 to 2 only.
        let ecam = unsafe { Ecam::new(functions.as_mut_ptr().cast(), 0) };
        ecam.write(Rid(1), 4, 4, 0x1234_5678);
        assert_eq!(ecam.read(Rid(1), 4, 4), 0x1234_5678);
        assert_eq!(ecam.read(Rid(1), 6, 2), 0x1234);
        ecam.write(Rid(1), 5, 1, 0xaa);
        assert_eq!(ecam.read(Rid(1), 4, 4), 0x1234_aa78);
        for (offset, width) in [(5, 2), (6, 4), (4096, 1), (4, 3), (4, 8)] {
            ecam.write(Rid(1), offset, width, 0);
            assert_eq!(ecam.read(Rid(1), offset, width), u32::MAX);
        }
        assert_eq!(ecam.read(Rid(1), 4, 4), 0x1234_aa78);
        assert_eq!(functions[1025], 0x1234_aa78);
    }
}
