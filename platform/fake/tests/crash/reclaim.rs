// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A host that was not there before, and takes everything back by what a journal tells.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, TeardownOrder};
use tsm_core::State;
use tsm_platform_fake::{
    DRAM_BASE, DRAM_TOP, ENDPOINT_BAR, MMIO_BASE, MMIO_TOP, Owner, Realm, START_LEVEL,
};

use super::rig::{DEVICE_IPA, PAGE, PRIVATE_PAGES, Rig};
use super::watch::Journal;

/// How often something is tried again that a silent device or an exchange in doubt may delay.
const ROUNDS: usize = 4;

pub const ORDERS: [TeardownOrder; 3] = [
    TeardownOrder::UnmapFirst,
    TeardownOrder::StopFirst,
    TeardownOrder::MaskAndReap,
];

/// Takes everything back in the order that the host of the realm stated. What does not exist any more is refused, which is fine; what
/// must not be left is checked by the caller.
pub fn reclaim(rig: &mut Rig, journal: &Journal, order: TeardownOrder) {
    rig.realm.rd = journal.realm;
    rig.realm.rec = journal.rec;
    (rig.port, rig.device) = (journal.port, journal.device);
    (rig.vdev, rig.handle) = (journal.interface, journal.handle);
    // An exchange that was begun and that nobody will finish.
    for pdev in [rig.port, rig.device] {
        asked(rig, Call::PdevAbort { pdev });
    }
    match order {
        TeardownOrder::UnmapFirst => {
            unmap_device(rig);
            end_interface(rig);
        }
        TeardownOrder::StopFirst => {
            stop_interface(rig);
            unmap_device(rig);
            end_interface(rig);
        }
        TeardownOrder::MaskAndReap => {
            stop_interface(rig);
            end_interface(rig);
            assert_masked(rig);
        }
    }
    end_realm(rig);
    end_stream(rig);
    end_device(rig, rig.device);
    end_device(rig, rig.port);
}

/// Ends a realm whose virtual machine monitor has died, as far as its interface lets it.
pub fn terminate(rig: &Rig, journal: &Journal) {
    let rd = journal.realm;
    asked(rig, Call::RealmTerminate { rd });
    asked(rig, Call::RecDestroy { rec: journal.rec });
    let is_empty = !asked(
        rig,
        Call::VdevGetState {
            vdev: journal.interface,
        },
    );
    let is_gone = asked(rig, Call::RealmDestroy { rd });
    assert!(is_empty || !is_gone, "a realm goes after its interface");
}

/// Undelegates whatever is left anywhere.
pub fn sweep(rig: &Rig) {
    for (base, top) in [(DRAM_BASE, DRAM_TOP), (MMIO_BASE, MMIO_TOP)] {
        rig.host.undelegate(base, (top - base) / PAGE);
    }
}

fn asked(rig: &Rig, call: Call) -> bool {
    rig.host.status(call) == RmiStatus::SUCCESS
}

/// Unmaps the memory of the interface, if any is mapped.
fn unmap_device(rig: &Rig) {
    let _ = rig.unmap(DEVICE_IPA, PRIVATE_PAGES);
}

/// Ends what the interface can reach and what reaches it, though its memory may be mapped.
fn stop_interface(rig: &mut Rig) {
    // Of an exchange in doubt.
    let _ = rig.abort();
    if rig.ask_unlock() == RmiStatus::SUCCESS {
        rig.pump_interface();
    }
}

/// Checks that memory of an interface that is gone is out of everybody's reach while it is mapped.
fn assert_masked(rig: &Rig) {
    for page in 0..PRIVATE_PAGES {
        let address = ENDPOINT_BAR + page * PAGE;
        let state = rig.host.tsm.granules().state(address).unwrap();
        assert_ne!(state, State::Mapped, "{address:#x}");
        if state == State::Masked {
            assert_eq!(rig.host.fake.owner(address), Owner::Realm);
            assert_eq!(rig.reach(DEVICE_IPA + page * PAGE), None);
            let (start, end) = (address, address + PAGE);
            assert!(!asked(rig, Call::GranuleRangeUndelegate { start, end }));
        }
    }
}

fn end_interface(rig: &mut Rig) {
    let vdev = rig.vdev;
    for _ in 0..ROUNDS {
        let exists = asked(rig, Call::VdevGetState { vdev });
        if !exists || rig.destroy_interface() == RmiStatus::SUCCESS {
            rig.vdev = 0;
            return;
        }
        let _ = rig.abort();
        if rig.ask_unlock() == RmiStatus::SUCCESS {
            rig.pump_interface();
        }
    }
    panic!("the interface stays in state {}", rig.state());
}

fn end_realm(rig: &Rig) {
    let rd = rig.realm.rd;
    asked(rig, Call::RealmTerminate { rd });
    asked(rig, Call::RecDestroy { rec: rig.realm.rec });
    for half in [0, Realm::SHARED] {
        end_tables(rig, half);
    }
    asked(rig, Call::RealmDestroy { rd });
}

/// Unmaps everything in one half of the realm's addresses and removes the tables.
fn end_tables(rig: &Rig, half: u64) {
    let rd = rig.realm.rd;
    let (mut ipa, end) = (half, half + Realm::SHARED);
    while ipa < end {
        let [status, level, ..] = rig.host.call(Call::RttReadEntry { rd, ipa, level: 3 });
        if status != RmiStatus::SUCCESS.word() {
            return;
        }
        let covered = 1_u64 << (12 + 9 * (4 - level));
        let base = ipa - ipa % covered;
        let top = end.min(base + covered);
        while ipa < top {
            ipa = unmap_some(rig, ipa, top);
        }
        if level > START_LEVEL.into() {
            let call = Call::RttDestroy {
                rd,
                ipa: base,
                level,
            };
            assert_eq!(rig.host.status(call), RmiStatus::SUCCESS);
            ipa = base;
        }
    }
}

/// Unmaps from `base` on what is of one kind, and returns where that ends.
fn unmap_some(rig: &Rig, base: u64, top: u64) -> u64 {
    // What was unmapped need not be listed: the sweep finds it.
    let (rd, flags, oaddr) = (rig.realm.rd, 0, 0);
    let kinds: &[Call] = if base >= Realm::SHARED {
        &[Call::RttUnprotUnmap {
            rd,
            base,
            top,
            flags,
            oaddr,
        }]
    } else {
        &[
            Call::RttDataUnmap {
                rd,
                base,
                top,
                flags,
                oaddr,
            },
            Call::RttDevUnmap {
                rd,
                base,
                top,
                flags,
                oaddr,
            },
        ]
    };
    for call in kinds {
        let (function, registers) = call.encode();
        if let [0, next, ..] = rig.host.raw(function, &registers) {
            return next;
        }
    }
    panic!("nothing unmaps {base:#x} to {top:#x}");
}

fn end_stream(rig: &mut Rig) {
    for _ in 0..ROUNDS {
        // An operation that only waits for its end.
        let _ = rig.complete_stream();
        if rig.disconnect_stream() != RmiStatus::SUCCESS {
            return;
        }
        for pdev in [rig.port, rig.device, rig.port, rig.device] {
            rig.pump_device(pdev);
        }
        if rig.complete_stream() == RmiStatus::SUCCESS {
            return;
        }
        for pdev in [rig.port, rig.device] {
            asked(rig, Call::PdevAbort { pdev });
        }
    }
}

fn end_device(rig: &mut Rig, pdev: u64) {
    for _ in 0..ROUNDS {
        if !asked(rig, Call::PdevGetState { pdev }) {
            // Its creation may wait for memory.
            asked(rig, Call::OpCancel { handle: pdev });
            return;
        }
        if asked(rig, Call::PdevDestroy { pdev }) {
            return;
        }
        if asked(rig, Call::PdevStop { pdev }) {
            rig.pump_device(pdev);
        } else {
            asked(rig, Call::PdevAbort { pdev });
        }
    }
    let state = rig.device_state(pdev);
    assert!(
        asked(rig, Call::PdevDestroy { pdev }),
        "{pdev:#x} in {state}"
    );
}
