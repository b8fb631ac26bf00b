// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Structures that the host and the TSM share.
//!
//! Each lives in a 4 KiB page. A structure ends with its last field; the rest of the page is
//! reserved. What a field means is said by the call that uses it.

use crate::wire::wire;
use zerocopy::little_endian::{U32, U64};

wire! {
    /// Configuration of the firmware as a whole.
    RmmConfig, 0x10 bytes {
        /// Size of a tracking region, encoded; 0 is 1 GiB.
        0x000 tracking_region_size: U64,
        /// Size of a granule, encoded; 0 is 4 KiB.
        0x008 granule_size: U64,
    }
}

wire! {
    /// A range of addresses.
    AddressRange, 0x10 bytes {
        /// First address.
        0x00 base: U64,
        /// Address after the last.
        0x08 top: U64,
    }
}

wire! {
    /// Parameters of a realm.
    RealmParams, 0xf98 bytes {
        /// See [`super::RealmFlags0`].
        0x000 flags0: U64,
        /// Width of guest addresses, in bits.
        0x008 s2sz: U32,
        /// Reserved.
        0x00c _reserved0: [u8; 0x4],
        /// Vector length.
        0x010 sve_vl: U32,
        /// Reserved.
        0x014 _reserved1: [u8; 0x4],
        /// Breakpoints.
        0x018 num_bps: U32,
        /// Reserved.
        0x01c _reserved2: [u8; 0x4],
        /// Watchpoints.
        0x020 num_wps: U32,
        /// Reserved.
        0x024 _reserved3: [u8; 0x4],
        /// Performance counters.
        0x028 pmu_num_ctrs: U32,
        /// Reserved.
        0x02c _reserved4: [u8; 0x4],
        /// Measurement algorithm, see [`super::HashAlgorithm`].
        0x030 hash_algo: u8,
        /// Reserved.
        0x031 _reserved5: [u8; 0x7],
        /// Auxiliary planes.
        0x038 num_aux_planes: U32,
        /// Reserved.
        0x03c _reserved6: [u8; 0x3c4],
        /// Value that the host chooses and attestation shows.
        0x400 rpv: [u8; 0x40],
        /// Plane that address translation by devices uses.
        0x440 ats_plane: U64,
        /// Reserved.
        0x448 _reserved7: [u8; 0x3c0],
        /// First start-level translation table; the others follow it.
        0x808 rtt_base: U64,
        /// Level at which walks start.
        0x810 rtt_level_start: U64,
        /// Number of start-level tables.
        0x818 rtt_num_start: U32,
        /// Reserved.
        0x81c _reserved8: [u8; 0x4],
        /// More flags.
        0x820 flags1: U64,
        /// Reserved.
        0x828 _reserved9: [u8; 0x750],
        /// In which order the host takes devices away, see [`super::TeardownOrder`].
        0xf78 teardown_order: U64,
        /// Start-level tables of the auxiliary planes.
        0xf80 aux_rtt_base: [U64; 3],
    }
}

wire! {
    /// Parameters of a virtual CPU.
    RecParams, 0x340 bytes {
        /// See [`super::RecParamsFlags`].
        0x000 flags: U64,
        /// Reserved.
        0x008 _reserved0: [u8; 0xf8],
        /// Affinity.
        0x100 mpidr: U64,
        /// Reserved.
        0x108 _reserved1: [u8; 0xf8],
        /// First instruction.
        0x200 pc: U64,
        /// Reserved.
        0x208 _reserved2: [u8; 0xf8],
        /// First eight registers.
        0x300 gprs: [U64; 8],
    }
}

wire! {
    /// What the host gives on entry to a virtual CPU: the first part of its run page.
    RecEnter, 0x2f8 bytes {
        /// See [`super::RecEnterFlags`].
        0x000 flags: U64,
        /// Reserved.
        0x008 _reserved0: [u8; 0x1f8],
        /// Registers for the guest, where the last exit asked for them.
        0x200 gprs: [U64; 31],
    }
}

wire! {
    /// What the host gets on exit of a virtual CPU: at 0x800 in its run page.
    RecExit, 0x708 bytes {
        /// See [`super::ExitReason`].
        0x000 exit_reason: U64,
        /// Reserved.
        0x008 _reserved0: [u8; 0xf8],
        /// Syndrome, as far as the host may know it.
        0x100 esr: U64,
        /// Fault address, as far as the host may know it.
        0x108 far: U64,
        /// Faulting guest address.
        0x110 hpfar: U64,
        /// Tree of tables in use.
        0x118 rtt_tree: U64,
        /// Level of the table that is missing.
        0x120 rtt_level: U64,
        /// Reserved.
        0x128 _reserved1: [u8; 0xd8],
        /// Registers that the guest shows.
        0x200 gprs: [U64; 31],
        /// Reserved.
        0x2f8 _reserved2: [u8; 0x108],
        /// Physical timer control.
        0x400 cntp_ctl: U64,
        /// Physical timer compare value.
        0x408 cntp_cval: U64,
        /// Virtual timer control.
        0x410 cntv_ctl: U64,
        /// Virtual timer compare value.
        0x418 cntv_cval: U64,
        /// Reserved.
        0x420 _reserved3: [u8; 0xe0],
        /// First address whose state the guest wants changed.
        0x500 ripas_base: U64,
        /// Address after the last.
        0x508 ripas_top: U64,
        /// New state, see [`super::Ripas`].
        0x510 ripas_value: u8,
        /// Reserved.
        0x511 _reserved4: [u8; 0xf],
        /// First address whose permissions the guest wants changed.
        0x520 s2ap_base: U64,
        /// Address after the last.
        0x528 s2ap_top: U64,
        /// Device id that the guest named.
        0x530 vdev_id_1: U64,
        /// Second device id that the guest named.
        0x538 vdev_id_2: U64,
        /// First guest address of the device memory to validate.
        0x540 dev_mem_base: U64,
        /// Address after the last.
        0x548 dev_mem_top: U64,
        /// Physical address of the device memory to validate.
        0x550 dev_mem_pa: U64,
        /// Reserved.
        0x558 _reserved5: [u8; 0xa8],
        /// Immediate of a host call.
        0x600 imm: U32,
        /// Reserved.
        0x604 _reserved6: [u8; 0x4],
        /// Plane that exited.
        0x608 plane: U64,
        /// Reserved.
        0x610 _reserved7: [u8; 0xf0],
        /// Whether a performance counter overflowed.
        0x700 pmu_ovf_status: U64,
    }
}

wire! {
    /// The run page of a virtual CPU.
    RecRun, 0x1000 bytes {
        /// Written by the host.
        0x000 enter: RecEnter,
        /// Reserved.
        0x2f8 _reserved0: [u8; 0x508],
        /// Written by the TSM.
        0x800 exit: RecExit,
        /// Reserved.
        0xf08 _reserved1: [u8; 0xf8],
    }
}

wire! {
    /// What the host gives to a step of an exchange.
    DevCommEnter, 0x20 bytes {
        /// See [`super::CommStatus`].
        0x00 status: u8,
        /// Reserved.
        0x01 _reserved0: [u8; 0x7],
        /// Host buffer that the TSM writes requests to.
        0x08 req_addr: U64,
        /// Host buffer that holds the response.
        0x10 resp_addr: U64,
        /// Bytes of the response.
        0x18 resp_len: U64,
    }
}

wire! {
    /// What a step of an exchange wants from the host: at 0x800 in the page.
    DevCommExit, 0x50 bytes {
        /// See [`super::DevCommExitFlags`].
        0x00 flags: U64,
        /// Where in the request buffer the slice to keep starts.
        0x08 cache_req_offset: U64,
        /// Bytes of the slice.
        0x10 cache_req_len: U64,
        /// Where in the response buffer the slice to keep starts.
        0x18 cache_rsp_offset: U64,
        /// Bytes of the slice.
        0x20 cache_rsp_len: U64,
        /// Object that the slices belong to, see [`super::CommObject`].
        0x28 cache_obj_id: u8,
        /// Reserved.
        0x29 _reserved0: [u8; 0x7],
        /// See [`super::CommProtocol`].
        0x30 protocol: u8,
        /// Reserved.
        0x31 _reserved1: [u8; 0x7],
        /// Microseconds to wait before the request is sent.
        0x38 req_delay: U64,
        /// Bytes of the request.
        0x40 req_len: U64,
        /// Milliseconds to wait for the response.
        0x48 timeout: U64,
    }
}

wire! {
    /// The page of an exchange with a device.
    DevCommData, 0x1000 bytes {
        /// Written by the host.
        0x000 enter: DevCommEnter,
        /// Reserved.
        0x020 _reserved0: [u8; 0x7e0],
        /// Written by the TSM.
        0x800 exit: DevCommExit,
        /// Reserved.
        0x850 _reserved1: [u8; 0x7b0],
    }
}

wire! {
    /// Parameters of a physical device or root port.
    PdevParams, 0x40 bytes {
        /// See [`super::PdevFlags`].
        0x00 flags: U64,
        /// Base of the host bridge's configuration space.
        0x08 hb_base: U64,
        /// Segment and requester id of the device.
        0x10 pdev_id: U64,
        /// Requester id of the root port above the device.
        0x18 routing_id: U64,
        /// Certificate slot.
        0x20 id_index: U64,
        /// First requester id of the device.
        0x28 rid_base: U32,
        /// Reserved.
        0x2c _reserved0: [u8; 0x4],
        /// Requester id after the last.
        0x30 rid_top: U32,
        /// Reserved.
        0x34 _reserved1: [u8; 0x4],
        /// Algorithm of the digests that guests see, see [`super::HashAlgorithm`].
        0x38 hash_algo: u8,
        /// Reserved.
        0x39 _reserved2: [u8; 0x7],
    }
}

wire! {
    /// Public key that a device must prove.
    PublicKeyParams, 0x818 bytes {
        /// The key. For ECDSA: an uncompressed point (04, x, y); for ML-DSA: the SHA-384 digest of the
        /// raw key.
        0x000 key: [u8; 0x400],
        /// More about the key.
        0x400 metadata: [u8; 0x400],
        /// Bytes of the key.
        0x800 key_len: U64,
        /// Bytes of the metadata.
        0x808 metadata_len: U64,
        /// See [`super::SignatureAlgorithm`].
        0x810 algo: u8,
        /// Reserved.
        0x811 _reserved0: [u8; 0x7],
    }
}

wire! {
    /// Parameters of an IDE stream.
    PdevStreamParams, 0x200 bytes {
        /// Flags; none is defined.
        0x000 flags: U64,
        /// See [`super::StreamType`].
        0x008 stream_type: U64,
        /// The root port's object.
        0x010 pdev_1: U64,
        /// The device's object.
        0x018 pdev_2: U64,
        /// Stream id.
        0x020 ide_sid: U64,
        /// Number of address ranges.
        0x028 num_addr_range: U64,
        /// Reserved.
        0x030 _reserved0: [u8; 0xd0],
        /// Address ranges that use the stream.
        0x100 addr_range: [AddressRange; 16],
    }
}

wire! {
    /// Parameters of a device interface.
    VdevParams, 0x280 bytes {
        /// Flags; none is supported.
        0x000 flags: U64,
        /// Id by which the guest names the interface.
        0x008 vdev_id: U64,
        /// Requester id of the interface.
        0x010 tdi_id: U64,
        /// Reserved.
        0x018 _reserved0: [u8; 0x8],
        /// Virtual IOMMU.
        0x020 vsmmu_addr: U64,
        /// Stream at the virtual IOMMU.
        0x028 vsid: U64,
        /// Number of address ranges.
        0x030 num_addr_range: U64,
        /// Reserved.
        0x038 _reserved1: [u8; 0x1c8],
        /// Physical ranges of the interface's memory.
        0x200 addr_range: [AddressRange; 8],
    }
}

wire! {
    /// Which measurements to fetch.
    VdevMeasureParams, 0x120 bytes {
        /// See [`super::VdevMeasureFlags`].
        0x000 flags: U64,
        /// Reserved.
        0x008 _reserved0: [u8; 0xf8],
        /// Nonce of the guest.
        0x100 nonce: [u8; 0x20],
    }
}

wire! {
    /// Parameters of an IOMMU.
    PsmmuParams, 0x38 bytes {
        /// Flags: message interrupts, ATS, PRI.
        0x00 flags: U64,
        /// Where errors are signalled.
        0x08 gerr_addr: U64,
        /// With what value.
        0x10 gerr_data: U64,
        /// Where events are signalled.
        0x18 eventq_addr: U64,
        /// With what value.
        0x20 eventq_data: U64,
        /// Where page requests are signalled.
        0x28 priq_addr: U64,
        /// With what value.
        0x30 priq_data: U64,
    }
}

#[cfg(test)]
mod tests {
    use super::{DevCommData, RecRun};
    use zerocopy::{FromBytes, FromZeros, IntoBytes};

    #[test]
    fn fields_of_a_page_are_where_other_implementations_look() {
        let mut page = [0_u8; 4096];
        page[0x800] = 9;
        page[0x800 + 0x540..][..8].copy_from_slice(&0x1000_0000_u64.to_le_bytes());
        let run = RecRun::read_from_bytes(&page).unwrap();
        assert_eq!(run.exit.exit_reason.get(), 9);
        assert_eq!(run.exit.dev_mem_base.get(), 0x1000_0000);

        let mut data = DevCommData::new_zeroed();
        data.exit.req_len.set(0x1234);
        data.enter.resp_len.set(7);
        assert_eq!(data.as_bytes()[0x840..0x842], [0x34, 0x12]);
        assert_eq!(data.as_bytes()[0x18], 7);
    }
}
