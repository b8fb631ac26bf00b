// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the TSM demands of a device when it locks an interface. The one place that decides it.
//!
//! A guest sees the outcome in the interface report, whose digest it judges: bit 0 of the interface
//! information says that firmware stays, and MSI-X structures are marked if they are locked.
//! Peer-to-peer streams are not there: `BIND_P2P_STREAM`, `UNBIND_P2P_STREAM` and vendor-defined
//! messages are never sent, and neither is `SET_MMIO_ATTRIBUTE`: memory stays what the report says.

use tsm_spdm::wire::pci_sig::tdisp::{DeviceCapabilities, LockFlags};

/// Added by the device to the addresses in its report. Zero: a guest names physical addresses when
/// it accepts memory, so it has to learn them, and reports under different locks agree.
pub(crate) const REPORTING_OFFSET: u64 = 0;

/// Demanded of a device that can: no firmware update, an MSI-X table that stays as it is, and no
/// request that goes to another device past the root complex.
const WANTED: u16 =
    LockFlags::NO_FIRMWARE_UPDATE.0 | LockFlags::LOCK_MSIX.0 | LockFlags::ALL_REQUEST_REDIRECT.0;

/// Size of a cache line, in bytes, that a device has to be told of; 64 is what it assumes.
const LONG_CACHE_LINE: u32 = 128;

/// Requests that an interface is locked, judged and given back by, bit n for code 0x80 + n: from
/// GET_TDISP_VERSION to STOP_INTERFACE.
const NEEDED_REQUESTS: u8 = 0xfe;

/// Returns the flags of the lock, or nothing if the device must not be locked: it lacks a request, or
/// cannot work with cache lines of `cache_line` bytes.
pub(crate) fn lock_flags(device: &DeviceCapabilities, cache_line: u32) -> Option<LockFlags> {
    let [requests, ..] = device.requests;
    let supported = device.lock_flags().0;
    let required = if cache_line == LONG_CACHE_LINE {
        LockFlags::CACHE_LINE_128.0
    } else {
        0
    };
    let is_able = requests & NEEDED_REQUESTS == NEEDED_REQUESTS && supported & required == required;
    is_able.then_some(LockFlags(WANTED & supported | required))
}

#[cfg(test)]
mod tests {
    use super::lock_flags;
    use tsm_spdm::wire::pci_sig::tdisp::{DeviceCapabilities, LockFlags};

    fn device(requests: u8, flags: u16) -> DeviceCapabilities {
        let mut all = [0; 16];
        all[0] = requests;
        DeviceCapabilities::new(all, LockFlags(flags), 52)
    }

    fn flags(requests: u8, flags: u16, cache_line: u32) -> Option<u16> {
        lock_flags(&device(requests, flags), cache_line).map(|flags| flags.0)
    }

    #[test]
    fn what_the_device_can_is_demanded_and_peers_never() {
        assert_eq!(flags(0xfe, 0xffff, 64), Some(0x15));
        assert_eq!(flags(0xfe, 0x1f, 64), Some(0x15));
        for bit in [0x1, 0x4, 0x10] {
            assert_eq!(flags(0xfe, bit, 64), Some(bit));
            assert_eq!(flags(0xfe, !bit, 64), Some(0x15 & !bit));
        }
        assert_eq!(flags(0xfe, 0x8, 64), Some(0));
    }

    #[test]
    fn a_device_that_cannot_work_with_the_cache_lines_is_not_locked() {
        assert_eq!(flags(0xfe, 0x7, 128), Some(0x7));
        assert_eq!(flags(0xfe, 0x5, 128), None);
        assert_eq!(flags(0xfe, 0x7, 64), Some(0x5), "not told what is not so");
    }

    #[test]
    fn a_device_that_lacks_a_request_is_not_locked() {
        for bit in 1..8 {
            assert_eq!(flags(0xfe & !(1 << bit), 0x7, 64), None, "{bit}");
        }
        assert_eq!(flags(0xff, 0, 64), Some(0));
    }
}
