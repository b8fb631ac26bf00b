// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A world in which one right call of every kind is known.

#![allow(dead_code, reason = "each test file uses its part")]

use tsm_abi::Row;
use tsm_abi::rmi::{
    BlockSize, Call, MapFlags, PdevFlags, PdevParams, RangeDescriptor, RmmConfig, VERSION,
};
use tsm_platform_fake::{ENDPOINT_BAR, Host, Realm, success};
use zerocopy::{FromZeros, IntoBytes};

pub const PAGE: u64 = 0x1000;

/// What a register of a call holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A granule that holds an object of a certain kind.
    Object,
    /// A delegated granule that the call takes.
    Donated,
    /// A page of the host that the call reads or writes.
    HostPage,
    /// Something else.
    Number,
}

/// A host with two realms: one being built, one that runs and waits for a change of RIPAS.
pub struct World {
    pub host: Host,
    pub new: Realm,
    pub active: Realm,
    /// Table of level 3 at 2 MiB of the new realm: maps nothing.
    pub empty_table: u64,
    /// Private page of the active realm, at guest address 0x1000.
    pub data: u64,
    /// Delegated granules, a run of four.
    pub free: u64,
    /// Granules of the host, a run of four.
    pub plain: u64,
    /// Pages of the host with parameters.
    realm_params: u64,
    rec_params: u64,
    pdev_params: u64,
    config: u64,
}

impl World {
    pub fn new() -> Self {
        let host = Host::activated();
        let new = host.new_realm();
        let empty_table = host.add_table(&new, 0x20_0000, 3);
        let active = host.new_realm();
        host.init_ripas(&active, 0, 8 * PAGE);
        success(host.call(Call::RealmActivate { rd: active.rd }));
        let data = host.map_private(&active, PAGE);
        host.map_shared(&active, Realm::SHARED);
        let set = tsm_abi::rsi::Call::IpaStateSet {
            base: PAGE,
            top: 3 * PAGE,
            ripas: 0,
            flags: 0,
        };
        let (function, arguments) = set.encode();
        host.fake
            .script()
            .call(&[&[function], &arguments[..]].concat());
        assert_eq!(host.enter(&active).exit_reason.get(), 4);
        let free = host.pages(4);
        host.delegate(free, 4);
        let bar = Call::GranuleRangeDelegate {
            start: ENDPOINT_BAR,
            end: ENDPOINT_BAR + PAGE,
        };
        success(host.call(bar));
        let plain = host.pages(4);
        let realm_params = host.page_with(host.realm_params().as_bytes());
        let rec_params = host.page_with(Host::rec_params(1).as_bytes());
        let mut pdev = PdevParams::new_zeroed();
        pdev.flags = PdevFlags::SPDM.bits().into();
        let pdev_params = host.page_with(pdev.as_bytes());
        let config = host.page_with(RmmConfig::new_zeroed().as_bytes());
        Self {
            host,
            new,
            active,
            empty_table,
            data,
            free,
            plain,
            realm_params,
            rec_params,
            pdev_params,
            config,
        }
    }

    /// The same arguments, and a TSM that has just booted.
    pub fn before_activation() -> Self {
        Self {
            host: Host::new(),
            ..Self::new()
        }
    }

    /// Returns the arguments of a right call, or `None` if the table below has no row for it. Calls
    /// about devices name a device that is not there; everything else about them is right.
    pub fn arguments(&self, name: &str) -> Option<Vec<u64>> {
        let (new, active) = (self.new.rd, self.active.rd);
        let single = MapFlags::single().0;
        let pages = |pa| RangeDescriptor::new(pa, BlockSize::Page, 1).0;
        let (free, plain) = (self.free, self.plain);
        let second = self.free + PAGE;
        let rows = match name {
            "RMI_VERSION" => vec![VERSION],
            "RMI_FEATURES" => vec![0],
            "RMI_RMM_CONFIG_SET" | "RMI_RMM_CONFIG_GET" => vec![self.config],
            "RMI_RMM_ACTIVATE" | "PORTCULLIS_IOMMU_FAULT_GET" => vec![],
            "RMI_GRANULE_RANGE_DELEGATE" => vec![plain, plain + 4 * PAGE],
            "RMI_GRANULE_RANGE_UNDELEGATE" => vec![free, free + 4 * PAGE],
            "RMI_GRANULE_TRACKING_GET" => vec![free, free + PAGE],
            "RMI_REALM_CREATE" => vec![free, self.realm_params],
            "RMI_REALM_ACTIVATE" => vec![new],
            "RMI_REALM_TERMINATE" => vec![active],
            "RMI_REALM_DESTROY" => vec![new],
            "RMI_REC_CREATE" => vec![new, free, self.rec_params],
            "RMI_REC_DESTROY" => vec![self.new.rec],
            "RMI_REC_ENTER" => vec![self.active.rec, self.active.run],
            "RMI_PSCI_COMPLETE" => vec![self.active.rec, self.new.rec, 0],
            "RMI_RTT_CREATE" => vec![new, free, 0x40_0000, 3],
            "RMI_RTT_DESTROY" | "RMI_RTT_FOLD" => vec![new, 0x20_0000, 3],
            "RMI_RTT_READ_ENTRY" => vec![new, 0, 3],
            "RMI_RTT_INIT_RIPAS" => vec![new, 0, 4 * PAGE],
            "RMI_RTT_SET_RIPAS" => vec![active, self.active.rec, PAGE, 3 * PAGE],
            "RMI_RTT_DATA_MAP_INIT" => vec![new, free, 0, plain, 1],
            "RMI_RTT_DATA_MAP" => vec![active, 2 * PAGE, 3 * PAGE, single, pages(free)],
            "RMI_RTT_DATA_UNMAP" => vec![active, PAGE, 2 * PAGE, single, 0],
            "RMI_RTT_UNPROT_MAP" => {
                let (base, range) = (Realm::SHARED + PAGE, Host::shared_range(plain));
                vec![active, base, base + PAGE, Host::shared_flags(), range]
            }
            "RMI_RTT_UNPROT_UNMAP" => {
                vec![active, Realm::SHARED, Realm::SHARED + PAGE, single, 0]
            }
            "RMI_RTT_DEV_MAP" => {
                vec![
                    active,
                    second,
                    4 * PAGE,
                    5 * PAGE,
                    single,
                    pages(ENDPOINT_BAR),
                ]
            }
            "RMI_RTT_DEV_UNMAP" => vec![active, 4 * PAGE, 5 * PAGE, single, 0],
            "RMI_RTT_DEV_VALIDATE" => vec![active, self.active.rec, 4 * PAGE, 5 * PAGE],
            "RMI_PDEV_CREATE" => vec![free, self.pdev_params],
            "RMI_OP_MEM_DONATE" | "RMI_OP_MEM_RECLAIM" => vec![free, plain, 1],
            "RMI_OP_CONTINUE" => vec![free, 0],
            "RMI_OP_CANCEL" => vec![free],
            "RMI_PDEV_GET_STATE" | "RMI_PDEV_STOP" | "RMI_PDEV_ABORT" | "RMI_PDEV_DESTROY"
            | "RMI_VDEV_GET_STATE" => vec![free],
            "RMI_PDEV_COMMUNICATE" | "RMI_PDEV_SET_PUBKEY" => vec![free, plain],
            "RMI_PDEV_STREAM_CONNECT" => vec![plain],
            "RMI_PDEV_STREAM_COMPLETE"
            | "RMI_PDEV_STREAM_KEY_REFRESH"
            | "RMI_PDEV_STREAM_KEY_PURGE"
            | "RMI_PDEV_STREAM_DISCONNECT" => vec![free, second, 0],
            "RMI_VDEV_CREATE" => vec![active, free, second, plain],
            "RMI_VDEV_COMMUNICATE" | "RMI_VDEV_GET_MEASUREMENTS" => {
                vec![active, free, second, plain]
            }
            "RMI_VDEV_LOCK"
            | "RMI_VDEV_GET_INTERFACE_REPORT"
            | "RMI_VDEV_START"
            | "RMI_VDEV_UNLOCK"
            | "RMI_VDEV_ABORT"
            | "RMI_VDEV_DESTROY" => vec![active, free, second],
            "RMI_VDEV_COMPLETE" => vec![self.active.rec, free],
            "RMI_PSMMU_ACTIVATE" => vec![plain, plain],
            "RMI_PSMMU_DEACTIVATE" => vec![plain],
            "RMI_PSMMU_ST_L2_CREATE" | "RMI_PSMMU_ST_L2_DESTROY" => vec![plain, 0],
            _ => return None,
        };
        Some(rows)
    }

    /// Calls with registers; those that are not given are zero.
    pub fn raw(&self, function: u64, arguments: &[u64]) -> [u64; 8] {
        let mut registers = [0; 7];
        registers[..arguments.len()].copy_from_slice(arguments);
        self.host.raw(function, &registers)
    }
}

/// Returns what the argument `argument` of `row` is. Names mean the same in every call.
pub fn role(row: &Row, argument: &str) -> Option<Role> {
    Some(match argument {
        "rd" | "rec" | "calling_rec" | "target_rec" | "pdev" | "pdev_1" | "pdev_2" | "vdev"
        | "rtt" | "data"
            if is_donated(row.name, argument) =>
        {
            Role::Donated
        }
        "data" if row.name.ends_with("COMMUNICATE") => Role::HostPage,
        "rd" | "rec" | "calling_rec" | "target_rec" | "pdev" | "pdev_1" | "pdev_2" | "vdev" => {
            Role::Object
        }
        "params" | "config" | "run" | "src" | "list" => Role::HostPage,
        "requested" | "index" | "start" | "end" | "base" | "top" | "ipa" | "level" | "flags"
        | "oaddr" | "handle" | "count" | "status" | "psmmu" | "sid" => Role::Number,
        _ => return None,
    })
}

fn is_donated(call: &str, argument: &str) -> bool {
    matches!(
        (call, argument),
        ("RMI_REALM_CREATE", "rd")
            | ("RMI_REC_CREATE", "rec")
            | ("RMI_RTT_CREATE", "rtt")
            | ("RMI_RTT_DATA_MAP_INIT", "data")
            | ("RMI_PDEV_CREATE", "pdev")
            | ("RMI_VDEV_CREATE", "vdev")
    )
}
