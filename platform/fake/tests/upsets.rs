// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One bit flips in the word that says what state an interface is in.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Rig};
use tsm_platform_fake::ENDPOINT_BAR;

const LOCKED: u64 = 2;
const STARTED: u64 = 3;

/// A way to an interface, and its state.
type Way = (fn() -> Rig, u64);

fn started() -> Rig {
    let mut rig = Rig::locked();
    rig.start();
    rig
}

fn unlocked_again() -> Rig {
    let mut rig = started();
    rig.unlock();
    rig
}

const WAYS: [Way; 4] = [
    (Rig::assigned, 1),
    (unlocked_again, 1),
    (Rig::locked, LOCKED),
    (started, STARTED),
];

/// F06: a flipped bit of the state grants no DMA before the device runs, and no memory before it is
/// locked.
#[test]
fn a_bit_that_flips_in_a_state_grants_nothing() {
    let mut flipped = 0;
    for (make, state) in WAYS {
        for bit in 0..8 {
            let rig = make();
            rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
            let nonces = rig.nonces();
            assert_eq!(rig.state(), state);
            rig.host.fake.upset(rig.vdev, bit);
            let believed = rig.state();
            flipped += u32::from(believed != state);
            let granted = rig.enable_dma(nonces) == 0;
            assert!(!granted || state == STARTED, "bit {bit} of {state}");
            assert_eq!(rig.dma(DATA_IPA).is_some(), granted);
            assert!(!granted || believed == STARTED);
            let (exit, _) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES, nonces);
            if exit.exit_reason.get() == 9 {
                rig.map(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES);
                rig.validate(DEVICE_IPA, PRIVATE_PAGES);
            }
            let reached = rig.reach(DEVICE_IPA + PAGE).is_some();
            assert!(
                !reached || [LOCKED, STARTED].contains(&state),
                "bit {bit} of {state}"
            );
        }
    }
    assert!(flipped >= 6, "only {flipped} flips gave another state");
}
