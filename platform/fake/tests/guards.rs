// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Each attack fails, and would work if one protection were not there.

mod rig;

use rig::{DATA_IPA, DEVICE_IPA, PAGE, PRIVATE_PAGES, Rig};
use tsm_abi::RmiStatus;
use tsm_platform::{ConfigSpace, StreamId};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Guard};

/// Another function of the host that can do DMA.
const HOST_STREAM: StreamId = StreamId(0x18);
const SECRET: &[u8] = b"known to the guest alone";

/// A guest that has put a secret into its memory and uses its device.
fn victim() -> Rig {
    let rig = Rig::running();
    rig.host.fake.script().look(|fake, vcpu| {
        vcpu.store(fake, DATA_IPA, SECRET).unwrap();
    });
    rig.host.enter(&rig.realm);
    rig
}

/// Asserts that `attack` fails, and works without `guard`.
#[track_caller]
fn assert_stopped_by(guard: Guard, attack: impl Fn(&mut Rig) -> bool) {
    let mut rig = victim();
    assert!(!attack(&mut rig), "it must fail");
    let mut rig = victim();
    rig.host.fake.remove_guard(guard);
    assert!(attack(&mut rig), "without {guard:?} it must work");
}

#[test]
fn reading_guest_memory_is_stopped_by_granule_protection() {
    assert_stopped_by(Guard::GranuleProtection, |rig| {
        let page = rig.reach(DATA_IPA).unwrap();
        let read = rig.host.fake.host_load(page, SECRET.len());
        read.is_some_and(|bytes| bytes == SECRET)
    });
}

#[test]
fn writing_guest_memory_is_stopped_by_granule_protection() {
    assert_stopped_by(Guard::GranuleProtection, |rig| {
        let page = rig.reach(DATA_IPA).unwrap();
        let _ = rig.host.fake.host_store(page, b"forged");
        rig.host.fake.peek(page).unwrap().starts_with(b"forged")
    });
}

#[test]
fn reaching_the_guests_device_is_stopped_by_granule_protection() {
    assert_stopped_by(Guard::GranuleProtection, |rig| {
        rig.host.fake.host_reaches(ENDPOINT_BAR)
    });
}

#[test]
fn dma_of_another_device_is_stopped_by_the_hosts_translation() {
    assert_stopped_by(Guard::HostTranslation, |rig| {
        let page = rig.reach(DATA_IPA).unwrap();
        rig.host.fake.dma(HOST_STREAM, page) == Some(page)
    });
    assert_stopped_by(Guard::HostTranslation, |rig| {
        rig.host.fake.dma(HOST_STREAM, ENDPOINT_BAR).is_some()
    });
}

#[test]
fn dma_after_the_guest_has_given_its_device_up_is_stopped_by_the_block() {
    assert_stopped_by(Guard::StreamBlock, |rig| {
        assert_eq!(rig.disable_dma(), 0);
        rig.dma(DATA_IPA).is_some()
    });
}

#[test]
fn dma_of_a_device_that_was_cut_off_is_stopped_by_the_block() {
    assert_stopped_by(Guard::StreamBlock, |rig| {
        rig.host
            .tsm
            .host_config_access(&rig.host.fake, ENDPOINT, 4, 2, Some(0));
        rig.dma(DATA_IPA).is_some()
    });
}

#[test]
fn dma_to_a_page_that_the_host_took_back_is_stopped_by_invalidation() {
    assert_stopped_by(Guard::IommuInvalidation, |rig| {
        let page = rig.dma(DATA_IPA).unwrap();
        assert_eq!(rig.host.unmap_private(&rig.realm, DATA_IPA), page);
        rig.dma(DATA_IPA) == Some(page)
    });
}

#[test]
fn a_stale_translation_of_the_guest_is_stopped_by_invalidation() {
    assert_stopped_by(Guard::CpuInvalidation, |rig| {
        assert_eq!(rig.reach(DEVICE_IPA + PAGE), Some(ENDPOINT_BAR + PAGE));
        assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
        rig.reach(DEVICE_IPA + PAGE).is_some()
    });
    assert_stopped_by(Guard::CpuInvalidation, |rig| {
        assert!(rig.reach(DEVICE_IPA).is_some());
        rig.host
            .tsm
            .host_config_access(&rig.host.fake, ENDPOINT, 4, 2, Some(0));
        rig.reach(DEVICE_IPA).is_some()
    });
}

#[test]
fn moving_a_running_device_is_stopped_by_mediation() {
    let moved = 0x1018_0004;
    let rig = victim();
    rig.host
        .tsm
        .host_config_access(&rig.host.fake, ENDPOINT, 0x10, 4, Some(moved));
    assert_ne!(rig.host.fake.config_read(ENDPOINT, 0x10, 4), moved);
    // A host that reaches configuration space directly.
    let rig = victim();
    rig.host.fake.config_write(ENDPOINT, 0x10, 4, moved);
    assert_eq!(rig.host.fake.config_read(ENDPOINT, 0x10, 4), moved);
    assert!(
        rig.reach(DEVICE_IPA).is_some(),
        "the guest's page shows something else now"
    );
    assert_eq!(rig.state(), 3);
}
