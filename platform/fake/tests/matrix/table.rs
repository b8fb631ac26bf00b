// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What each call answers in each state.
//!
//! `errors` is the set of errors that the interface defines for the call. A letter is a status:
//! `.` success, `+` incomplete, `I` input, `R` realm, `C` REC, `T` RTT, `N` not supported, `D`
//! device, `B` busy, `G` global, `M` granule.

use tsm_abi::Row;

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Realm,
    Rec,
    Pdev,
    Vdev,
    /// A delegated granule that the call takes.
    Donated,
    /// A page of the host.
    HostPage,
    /// The name of an operation or stream.
    Handle,
    /// A guest or physical address, or a descriptor of one.
    Address,
    /// The end of a range of which a call does what it can.
    End,
    Flags,
    Level,
    Unit,
    /// A number of which every value is answered.
    Any,
}

impl Role {
    pub fn is_granule(self) -> bool {
        use Role::{Donated, HostPage, Pdev, Realm, Rec, Vdev};
        matches!(self, Realm | Rec | Pdev | Vdev | Donated | HostPage)
    }
}

/// Returns what the arguments of `row` are. Names mean the same in every call, but for granules that
/// are taken.
pub fn roles(row: &Row) -> Vec<Role> {
    let one = |argument: &&'static str| match (row.name, *argument) {
        ("RMI_REALM_CREATE", "rd")
        | ("RMI_REC_CREATE", "rec")
        | ("RMI_RTT_CREATE", "rtt")
        | ("RMI_RTT_DATA_MAP_INIT", "data")
        | ("RMI_PDEV_CREATE", "pdev")
        | ("RMI_VDEV_CREATE", "vdev") => Role::Donated,
        ("RMI_FEATURES", "index") => Role::Any,
        // Who asked for power may be told of any failure but an unknown one.
        ("RMI_PSCI_COMPLETE", "status") => Role::Flags,
        ("RMI_RTT_DATA_MAP_INIT", "flags") => Role::Any,
        (_, "end") | ("RMI_GRANULE_TRACKING_GET", "top") => Role::End,
        (_, "rd") => Role::Realm,
        (_, "rec" | "calling_rec" | "target_rec") => Role::Rec,
        (_, "pdev" | "pdev_1" | "pdev_2") => Role::Pdev,
        (_, "vdev") => Role::Vdev,
        (_, "params" | "config" | "run" | "src" | "data" | "list") => Role::HostPage,
        (_, "handle") => Role::Handle,
        (_, "start" | "base" | "top" | "ipa" | "oaddr" | "sid") => Role::Address,
        (_, "flags" | "requested" | "count") => Role::Flags,
        (_, "level") => Role::Level,
        (_, "psmmu") => Role::Unit,
        (call, argument) => panic!("{call}: what is {argument}?"),
    };
    row.arguments.iter().map(one).collect()
}

/// A row: the call, its errors, its answers by [`crate::REALMS`] and by [`crate::DEVICES`].
pub struct Cells {
    pub name: &'static str,
    pub errors: &'static str,
    pub realms: &'static str,
    pub devices: &'static str,
}

const fn cells(
    name: &'static str,
    errors: &'static str,
    realms: &'static str,
    devices: &'static str,
) -> Cells {
    Cells {
        name,
        errors,
        realms,
        devices,
    }
}

/// Returns the row of a call.
pub fn row(name: &str) -> &'static Cells {
    let found = TABLE.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("{name} has no row"))
}

/// Returns the most operations of the platform that the call may take.
pub fn most_operations(name: &str) -> u64 {
    match name {
        // They look at every function that is there.
        "RMI_VDEV_CREATE" | "RMI_VDEV_LOCK" | "RMI_VDEV_START" => 2_000,
        // They look at every entry of a table.
        "RMI_REALM_DESTROY" | "RMI_RTT_DESTROY" | "RMI_RTT_FOLD" => 1_100,
        _ => 64,
    }
}

pub const TABLE: &[Cells] = &[
    cells("RMI_VERSION", "I", ".......", ""),
    cells("RMI_FEATURES", "", ".......", ""),
    cells("RMI_RMM_CONFIG_SET", "IG", ".GGGGGG", ""),
    cells("RMI_RMM_CONFIG_GET", "I", ".......", ""),
    cells("RMI_RMM_ACTIVATE", "G", ".GGGGGG", ""),
    cells("RMI_GRANULE_RANGE_DELEGATE", "I", "G......", ""),
    cells("RMI_GRANULE_RANGE_UNDELEGATE", "I", "G......", ""),
    cells("RMI_GRANULE_TRACKING_GET", "I", "G......", ""),
    cells("RMI_REALM_CREATE", "GI", "G......", ""),
    cells("RMI_REALM_ACTIVATE", "IR", "G..RRRR", ""),
    cells("RMI_REALM_TERMINATE", "IRC", "G.....R", ""),
    cells("RMI_REALM_DESTROY", "IR", "G.RRRRR", ""),
    cells("RMI_REC_CREATE", "IR", "G..RRRR", ""),
    cells("RMI_REC_DESTROY", "IC", "GI.....", ""),
    cells("RMI_REC_ENTER", "IRC", "GIR.CRR", ""),
    cells("RMI_PSCI_COMPLETE", "I", "GIII.II", ""),
    cells("RMI_RTT_CREATE", "BIT", "GT.....", ""),
    cells("RMI_RTT_DESTROY", "BIT", "GT.....", ""),
    cells("RMI_RTT_READ_ENTRY", "I", "G......", ""),
    cells("RMI_RTT_FOLD", "BIT", "GT.....", ""),
    cells("RMI_RTT_INIT_RIPAS", "BIRT", "GT.RRRR", ""),
    cells("RMI_RTT_SET_RIPAS", "BICT", "GII.II.", ""),
    cells("RMI_RTT_DATA_MAP_INIT", "BIRT", "GT.RRRR", ""),
    cells("RMI_RTT_DATA_MAP", "BIRT", "GT...RR", ""),
    cells("RMI_RTT_DATA_UNMAP", "IT", "GT.....", ""),
    cells("RMI_RTT_UNPROT_MAP", "BIRT", "GT...RR", ""),
    cells("RMI_RTT_UNPROT_UNMAP", "IT", "GT.....", ""),
    cells(
        "RMI_PDEV_CREATE",
        "IN",
        "G++++++",
        "+++IIIIIIIIIIIIIIIIIIII",
    ),
    cells(
        "RMI_OP_MEM_DONATE",
        "I",
        "GIIIIII",
        "III+IIIIIIIIIIIIIIIIIII",
    ),
    cells(
        "RMI_OP_CONTINUE",
        "BI",
        "GIIIIII",
        "IIII.IIIIIIIIIIIIIIIIII",
    ),
    cells("RMI_OP_CANCEL", "BI", "GIIIIII", "III..IIIIIIIIIIIIIIIIII"),
    cells(
        "RMI_OP_MEM_RECLAIM",
        "I",
        "GIIIIII",
        "IIIIIIIIIIIIIIIIIIIIIII",
    ),
    cells(
        "RMI_PDEV_GET_STATE",
        "I",
        "GIIIIII",
        "IIIII..................",
    ),
    cells(
        "RMI_PDEV_COMMUNICATE",
        "DI",
        "GIIIIII",
        "IIIII.D.DDD.DD..DDDDDDD",
    ),
    cells(
        "RMI_PDEV_SET_PUBKEY",
        "DI",
        "GIIIIII",
        "IIIIID.DDDDDDDDDDDDDDDD",
    ),
    cells(
        "RMI_PDEV_STREAM_CONNECT",
        "IN",
        "GIIIIII",
        "IIIIIIII.IIIIIIIIIIIIII",
    ),
    cells(
        "RMI_PDEV_STREAM_COMPLETE",
        "DI",
        "GIIIIII",
        "IIIIIIIIIIII.DIIDDDDDDD",
    ),
    cells(
        "RMI_PDEV_STREAM_KEY_REFRESH",
        "DI",
        "GIIIIII",
        "IIIIIIIIIIIII.II.......",
    ),
    cells(
        "RMI_PDEV_STREAM_KEY_PURGE",
        "DI",
        "GIIIIII",
        "IIIIIIIIIIIII.II.......",
    ),
    cells(
        "RMI_PDEV_STREAM_DISCONNECT",
        "DI",
        "GIIIIII",
        "IIIIIIIIIIIID.IIDDDDDDD",
    ),
    cells("RMI_PDEV_STOP", "DI", "GIIIIII", "IIIIID.D.D.DDDDDDDDDDDD"),
    cells("RMI_PDEV_ABORT", "DI", "GIIIIII", "IIIII.D.DDD.DD..DDDDDDD"),
    cells(
        "RMI_PDEV_DESTROY",
        "DI",
        "GIIIIII",
        "IIIIIDDDD.DDDDDDDDDDDDD",
    ),
    cells(
        "RMI_VDEV_CREATE",
        "DIR",
        "GIIIIII",
        "IIIIIDDDDDDDD.DDIIIIIII",
    ),
    cells(
        "RMI_VDEV_GET_STATE",
        "I",
        "GIIIIII",
        "IIIIIIIIIIIIIIII.......",
    ),
    cells(
        "RMI_VDEV_COMMUNICATE",
        "BDI",
        "GIIIIII",
        "IIIIIIIIIIIIIIII.DIDDDD",
    ),
    cells("RMI_VDEV_LOCK", "DI", "GIIIIII", "IIIIIIIIIIIIIIIID.DDDDD"),
    cells(
        "RMI_VDEV_GET_MEASUREMENTS",
        "DI",
        "GIIIIII",
        "IIIIIIIIIIIIIIIID.D...D",
    ),
    cells(
        "RMI_VDEV_GET_INTERFACE_REPORT",
        "DI",
        "GIIIIII",
        "IIIIIIIIIIIIIIIIDDD...D",
    ),
    cells("RMI_VDEV_START", "DI", "GIIIIII", "IIIIIIIIIIIIIIIIDDD.DDD"),
    cells(
        "RMI_VDEV_UNLOCK",
        "DIM",
        "GIIIIII",
        "IIIIIIIIIIIIIIIIDDD..MM",
    ),
    cells("RMI_VDEV_ABORT", "DI", "GIIIIII", "IIIIIIIIIIIIIIII.D.DDDD"),
    cells(
        "RMI_VDEV_DESTROY",
        "DI",
        "GIIIIII",
        "IIIIIIIIIIIIIIII..DDDDD",
    ),
    cells(
        "RMI_VDEV_COMPLETE",
        "DI",
        "GIIIIII",
        "IIIIIIIIIIIIIIIIIII.III",
    ),
    cells(
        "RMI_RTT_DEV_MAP",
        "BIRT",
        "GIIIIII",
        "IIIIIIIIIIIIIIIII.IIITT",
    ),
    cells(
        "RMI_RTT_DEV_UNMAP",
        "IT",
        "G......",
        ".......................",
    ),
    cells(
        "RMI_RTT_DEV_VALIDATE",
        "BICT",
        "GIIIIII",
        "IIIIIIIIIIIIIIIIIIIII.I",
    ),
    cells(
        "RMI_PSMMU_ACTIVATE",
        "IN",
        "GIIIIII",
        "I.IIIIIIIIIIIIIIIIIIIII",
    ),
    cells(
        "RMI_PSMMU_DEACTIVATE",
        "IN",
        "GIIIIII",
        "II.IIIIIIIIIIIIIIIIIIII",
    ),
    cells(
        "RMI_PSMMU_ST_L2_CREATE",
        "IN",
        "GIIIIII",
        "II.IIIIIIIIIIIIIIIIIIII",
    ),
    cells(
        "RMI_PSMMU_ST_L2_DESTROY",
        "IN",
        "GIIIIII",
        "IIIIIIIIIIIII.IIIIIIIII",
    ),
    cells("PORTCULLIS_IOMMU_FAULT_GET", "", "G......", ""),
];
