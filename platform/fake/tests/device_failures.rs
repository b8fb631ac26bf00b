// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a failure takes with it, and that the host gets everything back all the same.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PRIVATE_PAGES, Pumped, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, CommStatus};
use tsm_devices::{Config, Dsm, FunctionView, Identity, IdentityPlan, Offer, Signing, TdiState};
use tsm_platform::ConfigSpace;
use tsm_platform_fake::{ENDPOINT, FaultPoint};

const READY: u64 = 3;
const DEVICE_ERROR: u64 = 5;
const LOCKED: u64 = 2;
const STARTED: u64 = 3;
const ERROR: u64 = 4;

/// Asserts that neither side reaches the other any more.
#[track_caller]
fn assert_cut_off(rig: &Rig) {
    assert_eq!(rig.state(), ERROR);
    assert_eq!(rig.dma(DATA_IPA), None);
    assert_eq!(rig.reach(DEVICE_IPA), None);
    assert_eq!(rig.nonces(), [0; 3]);
}

/// Asserts that the session took everything with it that rests on it.
#[track_caller]
fn assert_lost(rig: &mut Rig) {
    assert_cut_off(rig);
    assert_eq!(rig.device_state(rig.device), DEVICE_ERROR);
    assert_eq!(
        rig.device_state(rig.port),
        READY,
        "the port serves other devices"
    );
    assert_eq!(rig.root_port_keys(), 0);
    assert_eq!(rig.ask_measurements(), RmiStatus::DEVICE);
}

#[test]
fn an_answer_that_was_changed_ends_the_session_and_cuts_everything_off() {
    let mut rig = Rig::running();
    assert!(rig.reach(DEVICE_IPA).is_some() && rig.dma(DATA_IPA).is_some());
    rig.tamper = Some(Box::new(|_, answer| {
        let last = answer.len() - 5;
        answer[last] ^= 1;
        true
    }));
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.state(), STARTED);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_lost(&mut rig);
    rig.take_back();
}

#[test]
fn an_answer_that_is_lost_does_the_same() {
    let mut rig = Rig::running();
    rig.tamper = Some(Box::new(|_, _| false));
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_lost(&mut rig);
    rig.take_back();
}

#[test]
fn an_answer_that_is_played_again_does_the_same() {
    let mut rig = Rig::running();
    let pump = rig.interface_pump();
    assert_eq!(rig.ask_measurements(), RmiStatus::SUCCESS);
    let old = rig.begin(pump);
    assert_eq!(rig.answer(pump, Some(&old)), RmiStatus::SUCCESS);
    assert_eq!(rig.state(), STARTED, "the first time it is good");
    assert_eq!(rig.ask_measurements(), RmiStatus::SUCCESS);
    rig.begin(pump);
    assert_eq!(rig.answer(pump, Some(&old)), RmiStatus::SUCCESS);
    assert_lost(&mut rig);
    rig.take_back();
}

#[test]
fn cryptography_that_panics_over_an_answer_does_the_same() {
    let mut rig = Rig::running();
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    // The first piece of work makes the request.
    rig.host.fake.fail_kind_after(FaultPoint::Isolation, 1);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.host.fake.disarm(), Some(FaultPoint::Isolation));
    assert_lost(&mut rig);
    rig.take_back();
}

#[test]
fn cryptography_may_panic_at_any_step_to_a_session() {
    const NEEDS_KEY: u64 = 1;
    for passed in 0.. {
        let mut rig = Rig::new();
        rig.create_ends();
        rig.host.fake.fail_kind_after(FaultPoint::Isolation, passed);
        assert_eq!(rig.pump_device(rig.device), Pumped::Done);
        let mut refused = false;
        if rig.device_state(rig.device) == NEEDS_KEY {
            refused = rig.set_key(&rig.device_key()) != RmiStatus::SUCCESS;
            if !refused {
                assert_eq!(rig.pump_device(rig.device), Pumped::Done);
            }
        }
        let panicked = rig.host.fake.disarm().is_some();
        let expected = match (panicked, refused) {
            (false, _) => READY,
            (true, false) => DEVICE_ERROR,
            (true, true) => NEEDS_KEY,
        };
        assert_eq!(rig.device_state(rig.device), expected, "{passed}");
        rig.take_back();
        if !panicked {
            assert!(passed > 8, "only {passed} were tried");
            break;
        }
    }
}

#[test]
fn aborting_with_a_request_out_gives_the_session_up() {
    let mut rig = Rig::running();
    assert_eq!(rig.abort(), RmiStatus::DEVICE, "there is nothing to abort");
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    rig.begin(rig.interface_pump());
    assert_eq!(rig.abort(), RmiStatus::SUCCESS);
    assert_lost(&mut rig);
    rig.take_back();
}

#[test]
fn aborting_before_a_request_is_out_leaves_the_session_alone() {
    let mut rig = Rig::running();
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.abort(), RmiStatus::SUCCESS);
    assert_cut_off(&rig);
    assert_eq!(rig.device_state(rig.device), READY);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    rig.unlock();
    assert_eq!(rig.tdi(), TdiState::ConfigUnlocked, "the device was told");
    rig.lock();
    rig.take_back();
}

#[test]
fn a_device_in_another_state_than_believed_is_not_believed() {
    let mut rig = Rig::running();
    // Behind the TSM's back, as a device that fails would.
    rig.host.fake.config_write(ENDPOINT, 4, 2, 0);
    rig.refresh();
    rig.host.fake.config_write(ENDPOINT, 4, 2, 6);
    assert_eq!(rig.tdi(), TdiState::Error);
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_cut_off(&rig);
    assert_eq!(rig.device_state(rig.device), READY, "the session holds");
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    rig.unlock();
    assert_eq!(rig.tdi(), TdiState::ConfigUnlocked);
    rig.take_back();
}

#[test]
fn a_device_that_falls_to_error_between_lock_and_start_does_not_start() {
    let mut rig = Rig::locked();
    rig.host.fake.config_write(ENDPOINT, 4, 2, 0);
    rig.refresh();
    rig.host.fake.config_write(ENDPOINT, 4, 2, 6);
    assert_eq!(rig.ask_start(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.state(), ERROR);
    rig.take_back();
}

#[test]
fn an_interface_in_error_is_unlocked_without_the_device() {
    let mut rig = Rig::running();
    rig.tamper = Some(Box::new(|_, _| false));
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    let carried = rig.carried;
    rig.unlock();
    assert_eq!(rig.carried, carried, "the device is not asked");
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    rig.host.undelegate(rig.vdev, 1);
    rig.vdev = 0;
    rig.take_back();
}

#[test]
fn unlocking_with_a_silent_device_takes_two_tries() {
    let mut rig = Rig::running();
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    assert_eq!(rig.ask_unlock(), RmiStatus::SUCCESS);
    assert_eq!(
        rig.dma(DATA_IPA),
        None,
        "DMA is off before the device is told"
    );
    rig.tamper = Some(Box::new(|_, _| false));
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(
        rig.state(),
        ERROR,
        "the device did not say that it is unlocked"
    );
    rig.unlock();
    rig.take_back();
}

#[test]
fn a_cut_that_hardware_does_not_confirm_grants_nothing_and_is_tried_again() {
    let mut rig = Rig::running();
    let nonces = rig.nonces();
    rig.host.fake.fail_kind_after(FaultPoint::Iommu, 0);
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.abort(), RmiStatus::DEVICE, "not cut off, so not said");
    assert_eq!(rig.state(), STARTED);
    assert_eq!(rig.host.fake.disarm(), Some(FaultPoint::Iommu));
    // Whoever names the interface next finishes the work.
    rig.host.fake.fail_kind_after(FaultPoint::Iommu, 0);
    assert_eq!(rig.ask_report(), RmiStatus::DEVICE);
    assert_eq!(rig.state(), STARTED);
    rig.host.fake.disarm();
    assert_ne!(rig.enable_dma(nonces), 0);
    assert_cut_off(&rig);
    rig.take_back();
}

#[test]
fn an_unlock_whose_dma_cannot_be_stopped_is_refused() {
    let mut rig = Rig::running();
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    rig.host.fake.fail_kind_after(FaultPoint::Iommu, 0);
    assert_eq!(rig.ask_unlock(), RmiStatus::DEVICE);
    rig.host.fake.disarm();
    assert_eq!(rig.state(), STARTED, "nothing changed");
    assert!(rig.dma(DATA_IPA).is_some());
    rig.unlock();
    rig.take_back();
}

#[test]
fn without_entropy_there_is_no_lock() {
    let mut rig = Rig::assigned();
    assert_eq!(rig.ask_lock(), RmiStatus::SUCCESS);
    // The last exchange of a lock needs random bytes for the nonce; messages need none.
    rig.host.fake.fail_kind_after(FaultPoint::Entropy, 0);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    assert_eq!(rig.host.fake.disarm(), Some(FaultPoint::Entropy));
    assert_eq!(rig.state(), ERROR);
    rig.unlock();
    rig.lock();
    rig.take_back();
}

#[test]
fn a_root_port_that_fails_leaves_no_key_on_either_end() {
    // Six keys are programmed, six receivers and six transmitters started on each side.
    for passed in [0, 3, 5, 6, 9, 11] {
        let mut rig = Rig::new();
        rig.create_ends();
        rig.open_session();
        rig.ask_for_stream();
        rig.host.fake.fail_kind_after(FaultPoint::RootPort, passed);
        assert_eq!(rig.pump_device(rig.port), Pumped::Wait);
        assert_eq!(rig.pump_device(rig.device), Pumped::Done);
        assert_eq!(
            rig.host.fake.disarm(),
            Some(FaultPoint::RootPort),
            "{passed}"
        );
        assert_eq!(rig.device_state(rig.device), DEVICE_ERROR);
        assert_eq!(rig.device_state(rig.port), READY);
        assert_eq!(rig.root_port_keys(), 0, "{passed}");
        let programmed: usize = rig
            .dsm
            .state()
            .streams
            .iter()
            .map(|stream| stream.programmed)
            .sum();
        assert_eq!(programmed, 0, "{passed}");
        rig.refresh();
        assert!(!rig.is_secure());
        assert_eq!(rig.complete_stream(), RmiStatus::INPUT);
        rig.take_back();
    }
}

#[test]
fn a_device_that_fails_while_keys_are_set_leaves_none_at_the_root_port() {
    for lost in [0, 1, 4, 7, 12] {
        let mut rig = Rig::new();
        rig.create_ends();
        rig.open_session();
        rig.ask_for_stream();
        let first = rig.carried;
        rig.tamper = Some(Box::new(move |number, _| number != first + lost));
        assert_eq!(rig.pump_device(rig.port), Pumped::Wait);
        assert_eq!(rig.pump_device(rig.device), Pumped::Done);
        assert_eq!(rig.device_state(rig.device), DEVICE_ERROR);
        assert_eq!(rig.root_port_keys(), 0, "{lost}");
        rig.take_back();
    }
}

#[test]
fn a_refresh_that_fails_keeps_the_old_keys_or_ends_the_stream() {
    for passed in [0, 2, 5, 6, 8, 9, 11, 12, 15] {
        let mut rig = Rig::running();
        assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
        rig.host.fake.fail_kind_after(FaultPoint::RootPort, passed);
        assert_eq!(rig.pump_device(rig.port), Pumped::Wait);
        let pumped = rig.pump_device(rig.device);
        assert_eq!(
            rig.host.fake.disarm(),
            Some(FaultPoint::RootPort),
            "{passed}"
        );
        assert_eq!(pumped, Pumped::Done);
        rig.refresh();
        if rig.device_state(rig.device) == READY {
            assert!(rig.is_secure(), "{passed}");
            assert_eq!(rig.root_port_keys(), 6, "{passed}");
            assert_eq!(rig.state(), STARTED);
            assert_eq!(rig.tdi(), TdiState::Run);
            assert_eq!(
                rig.complete_stream(),
                RmiStatus::DEVICE,
                "there is nothing to complete"
            );
            assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
            rig.pump_stream();
        } else {
            assert_cut_off(&rig);
            assert!(!rig.is_secure());
        }
        rig.take_back();
    }
}

#[test]
fn a_new_session_works_after_one_was_lost() {
    let mut rig = Rig::running();
    rig.tamper = Some(Box::new(|_, _| false));
    assert_eq!(rig.ask_report(), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_interface(), Pumped::Done);
    rig.tamper = None;
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    rig.unlock();
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    assert_eq!(rig.disconnect_stream(), RmiStatus::SUCCESS);
    rig.pump_stream();
    let (vdev, old) = (rig.vdev, [rig.device, rig.port]);
    for pdev in [rig.device, rig.port] {
        assert_eq!(rig.host.status(Call::PdevStop { pdev }), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_device(pdev), Pumped::Done);
        assert_eq!(
            rig.host.status(Call::PdevDestroy { pdev }),
            RmiStatus::SUCCESS
        );
    }
    rig.objects.clear();
    rig.dsm.reset();
    rig.connect();
    rig.assign();
    rig.lock();
    assert_eq!(rig.state(), LOCKED);
    rig.host.undelegate(vdev, 1);
    for pdev in old {
        rig.host.release_pdev(pdev);
    }
    rig.take_back();
}

#[test]
fn a_connect_that_is_aborted_anywhere_is_taken_back() {
    for answers in 0..6 {
        let mut rig = Rig::new();
        rig.create_ends();
        let last = rig.carried + answers;
        rig.tamper = Some(Box::new(move |number, _| number != last));
        assert_eq!(rig.pump_device(rig.device), Pumped::Done);
        if rig.device_state(rig.device) != DEVICE_ERROR {
            assert_eq!(rig.device_state(rig.device), 1);
        }
        rig.take_back();
    }
}

#[test]
fn another_key_than_the_devices_opens_no_session() {
    let mut rig = Rig::new();
    rig.create_ends();
    assert_eq!(rig.pump_device(rig.device), Pumped::Done);
    // The root's key is a good key of somebody else.
    let chain = rig.objects[&1].clone();
    let start = chain
        .windows(4)
        .position(|window| window == [3, 0x62, 0, 4])
        .unwrap();
    let other = chain[start + 3..][..97].to_vec();
    assert_ne!(other, rig.device_key());
    assert_eq!(rig.set_key(&other), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_device(rig.device), Pumped::Done);
    assert_eq!(rig.device_state(rig.device), DEVICE_ERROR);
    assert!(rig.dsm.state().sessions.is_empty());
    rig.take_back();
}

/// Boots a machine with a device at its place that offers `offer`, and has a chain for each of its
/// kinds of keys.
fn with_offer(offer: Offer) -> Rig {
    let mut rig = Rig::new();
    let view = FunctionView {
        rid: Some(ENDPOINT.0),
        bars: Vec::new(),
    };
    let mut config = Config::new(b"firmware", view).unwrap();
    let mut plan = IdentityPlan::new(Signing::EcdsaP384).unwrap();
    plan.signings.clone_from(&offer.signings);
    config.identity = Identity::new(&plan);
    config.offer = offer;
    rig.dsm = Dsm::new(config);
    rig
}

/// P4: the answer to a lock carries the nonce that starts the interface.
#[test]
fn no_message_outlives_its_call() {
    let mut rig = Rig::assigned();
    assert!(rig.host.tsm.keeps_no_message());
    rig.lock();
    assert!(rig.host.tsm.keeps_no_message());
    rig.measure();
    rig.report();
    assert!(rig.host.tsm.keeps_no_message());
    rig.take_back();
}

/// P4: a device of small transfers takes a key of its link in chunks.
#[test]
fn a_key_that_is_half_sent_is_erased_when_the_host_gives_up() {
    let mut rig = with_offer(Offer {
        transfer_size: 64,
        ..Offer::default()
    });
    rig.create_ends();
    rig.open_session();
    rig.ask_for_stream();
    assert_eq!(rig.pump_device(rig.port), Pumped::Wait);
    let pump = rig.device_pump(rig.device);
    let (mut answer, mut status) = (None, CommStatus::None);
    // Until the port's capabilities are in and the first key is on its way.
    while rig.root_port_keys() == 0 || rig.donated_contents() == 0 {
        let (message, _) = rig.pump_once(pump, answer.as_deref(), status).unwrap();
        assert!(rig.host.tsm.keeps_no_message());
        let (protocol, request) = message.expect("a request");
        answer = rig.carry(protocol, &request);
        status = CommStatus::Response;
    }
    let pdev = rig.device;
    assert_eq!(
        rig.host.status(Call::PdevAbort { pdev }),
        RmiStatus::SUCCESS
    );
    assert_eq!(rig.donated_contents(), 0);
    rig.take_back();
}
