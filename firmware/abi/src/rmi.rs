// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's calls (RMI 2.0 numbering).

pub mod features;
mod structs;
mod values;

pub use structs::{
    AddressRange, DevCommData, DevCommEnter, DevCommExit, PdevParams, PdevStreamParams,
    PsmmuParams, PublicKeyParams, RealmParams, RecEnter, RecExit, RecParams, RecRun, RmmConfig,
    VdevMeasureParams, VdevParams,
};
pub use values::{
    AddressType, BlockSize, CommObject, CommProtocol, CommStatus, DevCommExitFlags, DonateRequest,
    ExitReason, HashAlgorithm, IommuFaultFlags, MapFlags, PdevCategory, PdevFlags, PdevState,
    PsmmuState, RangeDescriptor, RealmFlags0, RecEnterFlags, RecParamsFlags, Response, Ripas,
    RttEntryState, SignatureAlgorithm, StreamState, StreamType, TeardownOrder, VdevDmaState,
    VdevMeasureFlags, VdevState,
};

use crate::RmiStatus;
use crate::call::calls;

/// Interface version that this release implements: major in bits 30:16, minor in bits 15:0.
pub const VERSION: u64 = 2 << 16;

/// Bit of the flags of `RTT_DATA_MAP_INIT`: the content counts in the realm's measurement.
pub const MEASURE_CONTENT: u64 = 1;

/// Function id by which R-EL2 hands its answer to EL3 and waits for the next call.
pub const REQUEST_COMPLETE: u64 = 0xc400_018f;

calls! {
    /// A call from the host.
    7 registers, otherwise RmiStatus = RmiStatus::NOT_SUPPORTED;
    answered {
        0x150 Version "RMI_VERSION" (requested) -> (lower, higher) "Returns the interface versions that are implemented.";
        0x165 Features "RMI_FEATURES" (index) -> (value) "Returns a feature register.";
        0x16e RmmConfigSet "RMI_RMM_CONFIG_SET" (config) -> () "Sets the configuration, before activation.";
        0x1ec RmmConfigGet "RMI_RMM_CONFIG_GET" (config) -> () "Returns the configuration.";
        0x202 RmmActivate "RMI_RMM_ACTIVATE" () -> () "Makes the other calls available.";
        0x1f1 GranuleRangeDelegate "RMI_GRANULE_RANGE_DELEGATE" (start, end) -> (next) "Takes granules from the host.";
        0x1f2 GranuleRangeUndelegate "RMI_GRANULE_RANGE_UNDELEGATE" (start, end) -> (next) "Scrubs unused granules and gives them to the host.";
        0x1e1 GranuleTrackingGet "RMI_GRANULE_TRACKING_GET" (base, top) -> (category, state, out_top) "Returns how granules are tracked.";
        0x158 RealmCreate "RMI_REALM_CREATE" (rd, params) -> () "Creates a realm.";
        0x157 RealmActivate "RMI_REALM_ACTIVATE" (rd) -> () "Ends the building of a realm and lets it run.";
        0x201 RealmTerminate "RMI_REALM_TERMINATE" (rd) -> () "Stops a realm for good.";
        0x159 RealmDestroy "RMI_REALM_DESTROY" (rd) -> () "Destroys a realm that holds nothing.";
        0x15a RecCreate "RMI_REC_CREATE" (rd, rec, params) -> () "Creates a virtual CPU.";
        0x15b RecDestroy "RMI_REC_DESTROY" (rec) -> () "Destroys a virtual CPU.";
        0x15c RecEnter "RMI_REC_ENTER" (rec, run) -> () "Runs a virtual CPU until it exits.";
        0x164 PsciComplete "RMI_PSCI_COMPLETE" (calling_rec, target_rec, status) -> () "Completes a power call of a guest.";
        0x15d RttCreate "RMI_RTT_CREATE" (rd, rtt, ipa, level) -> () "Adds a translation table.";
        0x15e RttDestroy "RMI_RTT_DESTROY" (rd, ipa, level) -> (rtt, top) "Removes a translation table that maps nothing.";
        0x161 RttReadEntry "RMI_RTT_READ_ENTRY" (rd, ipa, level) -> (walk_level, state, descriptor, ripas) "Reads a translation table entry.";
        0x166 RttFold "RMI_RTT_FOLD" (rd, ipa, level) -> (rtt) "Replaces a uniform table by one entry.";
        0x168 RttInitRipas "RMI_RTT_INIT_RIPAS" (rd, base, top) -> (out_top) "Marks guest addresses as private memory, before activation.";
        0x169 RttSetRipas "RMI_RTT_SET_RIPAS" (rd, rec, base, top) -> (out_top) "Carries out the change of memory state that the guest asked for.";
        0x153 RttDataMapInit "RMI_RTT_DATA_MAP_INIT" (rd, data, ipa, src, flags) -> () "Copies a page into a new realm and measures it.";
        0x1f5 RttDataMap "RMI_RTT_DATA_MAP" (rd, base, top, flags, oaddr) -> (out_top) "Gives private memory to a realm.";
        0x1f6 RttDataUnmap "RMI_RTT_DATA_UNMAP" (rd, base, top, flags, oaddr) -> (out_top, range, count) "Takes private memory from a realm.";
        0x1fb RttUnprotMap "RMI_RTT_UNPROT_MAP" (rd, base, top, flags, oaddr) -> (out_top) "Maps host memory in the shared half of a realm.";
        0x1fc RttUnprotUnmap "RMI_RTT_UNPROT_UNMAP" (rd, base, top, flags, oaddr) -> (out_top, range, count) "Unmaps host memory from the shared half of a realm.";
        0x176 PdevCreate "RMI_PDEV_CREATE" (pdev, params) -> (handle, request) "Creates the object of a root port; begins to create that of a physical device, which is incomplete until it was given memory and continued.";
        0x208 OpMemDonate "RMI_OP_MEM_DONATE" (handle, list, count) -> (consumed, request) "Gives delegated granules to an incomplete operation: the whole list of range descriptors, or nothing.";
        0x203 OpContinue "RMI_OP_CONTINUE" (handle, flags) -> (result, request) "Continues an incomplete operation that has its memory.";
        0x20a OpCancel "RMI_OP_CANCEL" (handle) -> () "Cancels an incomplete operation; its memory is delegated again at once.";
        0x209 OpMemReclaim "RMI_OP_MEM_RECLAIM" (handle, list, count) -> (written) "Takes memory back from an incomplete operation; refused, for none ever asks for that.";
        0x178 PdevGetState "RMI_PDEV_GET_STATE" (pdev) -> (state) "Returns the state of a physical device.";
        0x175 PdevCommunicate "RMI_PDEV_COMMUNICATE" (pdev, data) -> () "Advances the exchange with a physical device by one message.";
        0x17b PdevSetPubkey "RMI_PDEV_SET_PUBKEY" (pdev, params) -> () "Sets the public key that the device must prove.";
        0x204 PdevStreamConnect "RMI_PDEV_STREAM_CONNECT" (params) -> (handle) "Begins an IDE stream between a root port and a device.";
        0x206 PdevStreamComplete "RMI_PDEV_STREAM_COMPLETE" (pdev_1, pdev_2, handle) -> () "Ends the stream operation that both sides have finished.";
        0x17a PdevStreamKeyRefresh "RMI_PDEV_STREAM_KEY_REFRESH" (pdev_1, pdev_2, handle) -> () "Begins to replace the keys of a stream.";
        0x207 PdevStreamKeyPurge "RMI_PDEV_STREAM_KEY_PURGE" (pdev_1, pdev_2, handle) -> () "Begins to make both ends of a stream forget the key set that is not in use.";
        0x205 PdevStreamDisconnect "RMI_PDEV_STREAM_DISCONNECT" (pdev_1, pdev_2, handle) -> () "Begins to stop a stream.";
        0x17c PdevStop "RMI_PDEV_STOP" (pdev) -> () "Begins to end the session with a physical device.";
        0x174 PdevAbort "RMI_PDEV_ABORT" (pdev) -> () "Gives up the exchange with a physical device.";
        0x177 PdevDestroy "RMI_PDEV_DESTROY" (pdev) -> () "Destroys a stopped physical device object.";
        0x187 VdevCreate "RMI_VDEV_CREATE" (rd, pdev, vdev, params) -> () "Creates the object of a device interface that a realm will own.";
        0x189 VdevGetState "RMI_VDEV_GET_STATE" (vdev) -> (state) "Returns the state of a device interface.";
        0x186 VdevCommunicate "RMI_VDEV_COMMUNICATE" (rd, pdev, vdev, data) -> () "Advances the exchange about a device interface by one message.";
        0x1d2 VdevLock "RMI_VDEV_LOCK" (rd, pdev, vdev) -> () "Begins to lock a device interface.";
        0x1d1 VdevGetMeasurements "RMI_VDEV_GET_MEASUREMENTS" (rd, pdev, vdev, params) -> () "Begins to fetch the device's measurements.";
        0x1d0 VdevGetInterfaceReport "RMI_VDEV_GET_INTERFACE_REPORT" (rd, pdev, vdev) -> () "Begins to fetch the interface report.";
        0x1d3 VdevStart "RMI_VDEV_START" (rd, pdev, vdev) -> () "Begins to start a locked device interface.";
        0x18a VdevUnlock "RMI_VDEV_UNLOCK" (rd, pdev, vdev) -> (mapped) "Stops DMA and begins to unlock a device interface; may be incomplete in a realm whose host stops first.";
        0x185 VdevAbort "RMI_VDEV_ABORT" (rd, pdev, vdev) -> () "Gives up the exchange about a device interface.";
        0x188 VdevDestroy "RMI_VDEV_DESTROY" (rd, pdev, vdev) -> () "Destroys an unlocked device interface object.";
        0x18e VdevComplete "RMI_VDEV_COMPLETE" (rec, vdev) -> () "Names the object for the device id that a guest asked about.";
        0x1f7 RttDevMap "RMI_RTT_DEV_MAP" (rd, vdev, base, top, flags, oaddr) -> (out_top) "Maps device memory into a realm.";
        0x1f8 RttDevUnmap "RMI_RTT_DEV_UNMAP" (rd, base, top, flags, oaddr) -> (out_top, range, count) "Unmaps device memory from a realm.";
        0x163 RttDevValidate "RMI_RTT_DEV_VALIDATE" (rd, rec, base, top) -> (out_top) "Carries out the validation of device memory that the guest asked for.";
        0x1d7 PsmmuActivate "RMI_PSMMU_ACTIVATE" (psmmu, params) -> () "Activates an IOMMU for realms.";
        0x1d8 PsmmuDeactivate "RMI_PSMMU_DEACTIVATE" (psmmu) -> () "Deactivates an IOMMU for realms.";
        0x1db PsmmuStL2Create "RMI_PSMMU_ST_L2_CREATE" (psmmu, sid) -> () "Makes room for a range of streams.";
        0x1dc PsmmuStL2Destroy "RMI_PSMMU_ST_L2_DESTROY" (psmmu, sid) -> () "Removes the room of a range of streams.";
        0x2c0 IommuFaultGet "PORTCULLIS_IOMMU_FAULT_GET" () -> (flags, stream, page, count, lost) "Takes the oldest record of requests that an IOMMU refused; a guest's addresses are not in it. Not of RMI.";
    }
    absent {
        0x1e3 "RMI_GRANULE_TRACKING_SET" (region, category, state) -> () "Sets how granules are tracked.";
        0x1f3 "RMI_GPT_L1_CREATE" (base) -> () "Adds a granule protection table.";
        0x1f4 "RMI_GPT_L1_DESTROY" (base) -> () "Removes a granule protection table.";
        0x18b "RMI_RTT_SET_S2AP" (rd, rec, base, top) -> (out_top) "Changes access permissions for a guest's planes.";
        0x17d "RMI_RTT_AUX_CREATE" (rd, rtt, ipa, level, index) -> () "Adds an auxiliary translation table.";
        0x17e "RMI_RTT_AUX_DESTROY" (rd, ipa, level, index) -> (rtt, top) "Removes an auxiliary translation table.";
        0x17f "RMI_RTT_AUX_FOLD" (rd, ipa, level, index) -> (rtt) "Folds an auxiliary translation table.";
        0x180 "RMI_RTT_AUX_MAP_PROTECTED" (rd, ipa, index) -> () "Maps private memory in an auxiliary table.";
        0x181 "RMI_RTT_AUX_MAP_UNPROTECTED" (rd, ipa, index) -> () "Maps host memory in an auxiliary table.";
        0x183 "RMI_RTT_AUX_UNMAP_PROTECTED" (rd, ipa, index) -> () "Unmaps private memory from an auxiliary table.";
        0x184 "RMI_RTT_AUX_UNMAP_UNPROTECTED" (rd, ipa, index) -> () "Unmaps host memory from an auxiliary table.";
        0x16a "RMI_VSMMU_CREATE" () -> () "Creates a virtual IOMMU.";
        0x16b "RMI_VSMMU_DESTROY" () -> () "Destroys a virtual IOMMU.";
        0x16c "RMI_VSMMU_MAP" () -> () "Maps a virtual IOMMU.";
        0x16d "RMI_VSMMU_UNMAP" () -> () "Unmaps a virtual IOMMU.";
        0x16f "RMI_PSMMU_IRQ_NOTIFY" () -> () "Reports an interrupt of an IOMMU.";
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, REGISTERS, ROWS, name, row};
    use crate::RmiStatus;
    use std::collections::HashSet;

    const COUNTING: [u64; REGISTERS] = [11, 12, 13, 14, 15, 16, 17];

    #[test]
    fn function_ids_and_names_are_unique_and_in_the_hosts_ranges() {
        let functions: HashSet<u64> = ROWS.iter().map(|row| row.function).collect();
        let names: HashSet<&str> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!((functions.len(), names.len()), (ROWS.len(), ROWS.len()));
        for row in ROWS {
            let low = row.function - 0xc400_0000;
            assert!((0x150..=0x18e).contains(&low) || (0x1d0..=0x2cf).contains(&low));
            assert!(row.arguments_used() <= REGISTERS && row.results_used() <= 8);
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_call() {
        for row in ROWS.iter().filter(|row| row.implemented) {
            let call = Call::decode(row.function, &COUNTING).unwrap();
            let (function, registers) = call.encode();
            assert_eq!(function, row.function);
            let used = row.arguments_used();
            assert_eq!(registers[..used], COUNTING[..used]);
            assert_eq!(registers[used..], [0; REGISTERS][used..]);
            assert_eq!(Call::decode(function, &registers), Ok(call));
        }
    }

    #[test]
    fn registers_that_a_call_does_not_use_are_ignored() {
        for row in ROWS.iter().filter(|row| row.implemented) {
            let mut other = COUNTING;
            other[row.arguments_used()..].fill(u64::MAX);
            assert_eq!(
                Call::decode(row.function, &COUNTING),
                Call::decode(row.function, &other)
            );
        }
    }

    #[test]
    fn a_call_that_is_not_there_answers_not_supported() {
        let absent = ROWS.iter().filter(|row| !row.implemented);
        let outside = [0, 0x150, 0xc400_0151, 0xc400_018f, 0x1_c400_0150, u64::MAX];
        for function in absent.map(|row| row.function).chain(outside) {
            assert_eq!(
                Call::decode(function, &COUNTING),
                Err(RmiStatus::NOT_SUPPORTED)
            );
        }
    }

    #[test]
    fn arguments_are_in_the_order_of_the_interface() {
        let call = Call::RttDataMapInit {
            rd: 1,
            data: 2,
            ipa: 3,
            src: 4,
            flags: 5,
        };
        assert_eq!(call.encode(), (0xc400_0153, [1, 2, 3, 4, 5, 0, 0]));
        let call = Call::RttDevMap {
            rd: 1,
            vdev: 2,
            base: 3,
            top: 4,
            flags: 5,
            oaddr: 6,
        };
        assert_eq!(call.encode(), (0xc400_01f7, [1, 2, 3, 4, 5, 6, 0]));
        assert_eq!(name(0xc400_0187), "RMI_VDEV_CREATE");
        assert_eq!(name(0), "?");
        assert_eq!(row(0xc400_0161).unwrap().results_used(), 5);
    }
}
