// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What each call of the guest comes to.
//!
//! A letter is a status: `.` success, `I` input, `S` state, `D` device, `N` not supported. What the
//! host has to act on first: `r` a change of RIPAS, `h` a host call, `m` memory of a device to map,
//! `P` private memory that is missing.

use tsm_abi::rsi::CHANGE_DESTROYED;
use tsm_platform_fake::{DRAM_BASE, ENDPOINT_BAR, MMIO_BASE, Realm};

use crate::rig::{DATA_IPA, DEVICE_IPA, INFO_IPA, PAGE, PRIVATE_PAGES, VDEV_ID};
use crate::states::{DESTROYED_IPA, EMPTY_IPA, MISSING_IPA};

/// Address after the last of the guest.
const IPA_TOP: u64 = Realm::SHARED * 2;
/// The last page of 64 bits.
const LAST: u64 = !0xfff;

/// A wrong argument.
pub enum Wrong {
    /// This value, whatever is wrong besides.
    Early(u64, char),
    /// This value, which is looked at only if the call would do something: elsewhere the answer may
    /// be the one to right arguments.
    Late(u64, char),
    /// The right value changed in these bits; looked at as late.
    Changed(u64, char),
}

/// Right values of an argument that only the TSM knows.
pub enum Right {
    Value(u64),
    /// Nonces of the interface, by number.
    Nonce(usize),
}

use Right::{Nonce, Value};
use Wrong::{Changed, Early, Late};

/// An argument: its name, its right value and wrong ones.
pub struct Argument {
    pub name: &'static str,
    pub right: Right,
    pub wrong: &'static [Wrong],
}

const fn argument(name: &'static str, right: Right, wrong: &'static [Wrong]) -> Argument {
    Argument { name, right, wrong }
}

/// A row: the call, what right arguments come to by [`crate::states::STATES`], and its arguments.
pub struct Cells {
    pub name: &'static str,
    pub states: &'static str,
    pub arguments: &'static [Argument],
}

impl Cells {
    /// Returns whether the call is about a device, which a realm without devices may not make.
    pub fn is_of_device(&self) -> bool {
        self.name.starts_with("RSI_VDEV")
    }
}

/// Returns the row of a call.
pub fn row(name: &str) -> &'static Cells {
    let found = TABLE.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("{name} has no row"))
}

/// A page that the TSM writes or reads for the guest.
const PAGES: &[Wrong] = &[
    Early(DATA_IPA | 1, 'I'),
    Early(DATA_IPA | 0x80, 'I'),
    Early(LAST, 'I'),
    Early(u64::MAX, 'I'),
    Early(IPA_TOP, 'I'),
    Early(IPA_TOP | DATA_IPA, 'I'),
    Early(1 << 63 | DATA_IPA, 'I'),
    Early(Realm::SHARED, 'I'),
    Early(Realm::SHARED | DATA_IPA, 'I'),
    Early(Realm::SHARED - PAGE, 'I'),
    Early(EMPTY_IPA, 'I'),
    Early(DEVICE_IPA, 'I'),
    Early(MISSING_IPA, 'P'),
    Early(DESTROYED_IPA, 'P'),
];

const BASES: &[Wrong] = &[
    Early(1, 'I'),
    Early(0x800, 'I'),
    Early(4 * PAGE, 'I'),
    Early(5 * PAGE, 'I'),
    Early(Realm::SHARED, 'I'),
    Early(IPA_TOP, 'I'),
    Early(LAST, 'I'),
    Early(u64::MAX, 'I'),
];

const TOPS: &[Wrong] = &[
    Early(0, 'I'),
    Early(1, 'I'),
    Early(4 * PAGE - 1, 'I'),
    Early(Realm::SHARED + PAGE, 'I'),
    Early(IPA_TOP, 'I'),
    Early(IPA_TOP + PAGE, 'I'),
    Early(LAST, 'I'),
    Early(u64::MAX, 'I'),
];

const IDS: &[Wrong] = &[
    Late(0, 'I'),
    Late(VDEV_ID + 1, 'I'),
    Late(VDEV_ID | 1 << 32, 'I'),
    Late(VDEV_ID | 1 << 63, 'I'),
    Late(u64::MAX, 'I'),
];

const NONCES: &[Wrong] = &[
    Changed(1, 'D'),
    Changed(1 << 31, 'D'),
    Changed(1 << 63, 'D'),
    Changed(u64::MAX, 'D'),
];

/// Of an argument of which every value is taken.
const IGNORED: &[Wrong] = &[];

pub const TABLE: &[Cells] = &[
    Cells {
        name: "RSI_VERSION",
        states: "...............",
        arguments: &[argument(
            "requested",
            Value(1 << 16),
            &[
                Early(0, 'I'),
                Early(0xffff, 'I'),
                Early(1 << 16 | 2, 'I'),
                Early(1 << 32 | 1 << 16, 'I'),
                Early(u64::MAX, 'I'),
            ],
        )],
    },
    Cells {
        name: "RSI_FEATURES",
        states: "...............",
        arguments: &[argument(
            "index",
            Value(0),
            &[Early(1, '.'), Early(1 << 32, '.'), Early(u64::MAX, '.')],
        )],
    },
    Cells {
        name: "RSI_MEASUREMENT_READ",
        states: "...............",
        arguments: &[argument(
            "index",
            Value(0),
            &[Early(5, 'I'), Early(1 << 32, 'I'), Early(u64::MAX, 'I')],
        )],
    },
    Cells {
        name: "RSI_MEASUREMENT_EXTEND",
        states: "...............",
        arguments: &[
            argument(
                "index",
                Value(1),
                &[
                    Early(0, 'I'),
                    Early(5, 'I'),
                    Early(1 << 32 | 1, 'I'),
                    Early(u64::MAX, 'I'),
                ],
            ),
            argument(
                "size",
                Value(48),
                &[
                    Early(65, 'I'),
                    Early(1 << 32, 'I'),
                    Early(1 << 63 | 48, 'I'),
                    Early(u64::MAX, 'I'),
                ],
            ),
            argument("value_0", Value(7), IGNORED),
            argument("value_1", Value(0), IGNORED),
            argument("value_2", Value(0), IGNORED),
            argument("value_3", Value(0), IGNORED),
            argument("value_4", Value(0), IGNORED),
            argument("value_5", Value(0), IGNORED),
            argument("value_6", Value(0), IGNORED),
            argument("value_7", Value(9), IGNORED),
        ],
    },
    Cells {
        name: "RSI_REALM_CONFIG",
        states: "...............",
        arguments: &[argument("ipa", Value(DATA_IPA), PAGES)],
    },
    Cells {
        name: "RSI_IPA_STATE_SET",
        states: "rrrrrrrrrrrrrrr",
        arguments: &[
            argument("base", Value(0), BASES),
            argument("top", Value(4 * PAGE), TOPS),
            argument(
                "ripas",
                Value(1),
                &[
                    Early(2, 'I'),
                    Early(3, 'I'),
                    Early(1 << 8, 'I'),
                    Early(1 << 32 | 1, 'I'),
                    Early(u64::MAX, 'I'),
                ],
            ),
            // What is asked for is not done before the host says so.
            argument(
                "flags",
                Value(0),
                &[Early(CHANGE_DESTROYED, 'r'), Early(u64::MAX, 'r')],
            ),
        ],
    },
    Cells {
        name: "RSI_IPA_STATE_GET",
        states: "...............",
        arguments: &[
            argument("base", Value(0), BASES),
            argument("top", Value(4 * PAGE), TOPS),
        ],
    },
    Cells {
        name: "RSI_HOST_CALL",
        states: "hhhhhhhhhhhhhhh",
        arguments: &[argument("ipa", Value(DATA_IPA), PAGES)],
    },
    Cells {
        name: "RSI_VDEV_DMA_ENABLE",
        states: "SIIIDIDDDDDD..D",
        arguments: &[
            argument("vdev_id", Value(VDEV_ID), IDS),
            argument(
                "flags",
                Value(0),
                &[
                    Early(1, 'I'),
                    Early(2, 'I'),
                    Early(1 << 63, 'I'),
                    Early(u64::MAX, 'I'),
                ],
            ),
            argument("non_ats_plane", Value(0), IGNORED),
            argument("lock_nonce", Nonce(0), NONCES),
            argument("meas_nonce", Nonce(1), NONCES),
            argument("report_nonce", Nonce(2), NONCES),
        ],
    },
    Cells {
        name: "RSI_VDEV_GET_INFO",
        states: "SIII.I.........",
        arguments: &[
            argument("vdev_id", Value(VDEV_ID), IDS),
            argument(
                "ipa",
                Value(INFO_IPA),
                &[
                    Early(INFO_IPA | 1, 'I'),
                    Early(INFO_IPA | 0x100, 'I'),
                    Early(LAST, 'I'),
                    Early(u64::MAX, 'I'),
                    Early(IPA_TOP, 'I'),
                    Early(IPA_TOP | DATA_IPA, 'I'),
                    Early(1 << 63 | DATA_IPA, 'I'),
                    Early(Realm::SHARED, 'I'),
                    Early(Realm::SHARED | DATA_IPA, 'I'),
                    Late(Realm::SHARED - PAGE, 'I'),
                    Late(EMPTY_IPA, 'I'),
                    Late(DEVICE_IPA, 'I'),
                ],
            ),
        ],
    },
    Cells {
        name: "RSI_VDEV_VALIDATE_MAPPING",
        states: "SIIIIIIDDmmmmmI",
        arguments: &[
            argument("vdev_id", Value(VDEV_ID), IDS),
            argument(
                "ipa_base",
                Value(DEVICE_IPA),
                &[
                    Early(DEVICE_IPA | 1, 'I'),
                    Early(DEVICE_IPA | 0x800, 'I'),
                    Early(DEVICE_IPA + PRIVATE_PAGES * PAGE, 'I'),
                    Early(Realm::SHARED, 'I'),
                    Early(LAST, 'I'),
                    Early(u64::MAX, 'I'),
                    Late(DEVICE_IPA - PAGE, 'I'),
                    Late(0, 'I'),
                ],
            ),
            argument(
                "ipa_top",
                Value(DEVICE_IPA + PRIVATE_PAGES * PAGE),
                &[
                    Early(0, 'I'),
                    Early(DEVICE_IPA, 'I'),
                    Early(DEVICE_IPA + PAGE + 1, 'I'),
                    Early(Realm::SHARED + PAGE, 'I'),
                    Early(IPA_TOP, 'I'),
                    Early(LAST, 'I'),
                    Early(u64::MAX, 'I'),
                    Late(DEVICE_IPA + (PRIVATE_PAGES + 1) * PAGE, 'I'),
                    Late(Realm::SHARED, 'I'),
                ],
            ),
            argument(
                "pa_base",
                Value(ENDPOINT_BAR),
                &[
                    Early(ENDPOINT_BAR | 1, 'I'),
                    Early(ENDPOINT_BAR | 0x800, 'I'),
                    Early(u64::MAX, 'I'),
                    Late(0, 'I'),
                    Late(ENDPOINT_BAR + PAGE, 'I'),
                    Late(ENDPOINT_BAR + PRIVATE_PAGES * PAGE, 'I'),
                    Late(ENDPOINT_BAR - PAGE, 'I'),
                    Late(ENDPOINT_BAR | 1 << 52, 'I'),
                    Late(MMIO_BASE, 'I'),
                    Late(DRAM_BASE, 'I'),
                    Late(LAST, 'I'),
                ],
            ),
            argument("flags", Value(0), &[Late(u64::MAX, 'm')]),
            argument("lock_nonce", Nonce(0), NONCES),
            argument("meas_nonce", Nonce(1), NONCES),
            argument("report_nonce", Nonce(2), NONCES),
        ],
    },
    Cells {
        name: "RSI_VDEV_DMA_DISABLE",
        states: "SIII.I.........",
        arguments: &[argument("vdev_id", Value(VDEV_ID), IDS)],
    },
];
