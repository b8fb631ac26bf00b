// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host learns of requests that an IOMMU refused.

mod rig;

use rig::{DEVICE_IPA, PAGE, PRIVATE_PAGES, Rig};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, IommuFaultFlags};
use tsm_platform::StreamId;
use tsm_platform_fake::{ENDPOINT, Host, success};

const STREAM: StreamId = StreamId(ENDPOINT.0 as u32);

fn next(host: &Host) -> [u64; 5] {
    let [flags, stream, page, count, lost, ..] = success(host.call(Call::IommuFaultGet {}));
    [flags, stream, page, count, lost]
}

#[test]
fn the_host_learns_what_its_own_device_was_refused() {
    let host = Host::activated();
    assert_eq!(next(&host), [0; 5]);
    let taken = host.delegated();
    for _ in 0..3 {
        assert_eq!(host.fake.dma(STREAM, taken + 8), None);
    }
    let valid = IommuFaultFlags::VALID.bits();
    assert_eq!(next(&host), [valid, STREAM.0.into(), taken, 3, 0]);
    assert_eq!(next(&host), [0; 5]);
}

#[test]
fn the_host_never_learns_which_addresses_a_guest_uses() {
    let mut rig = Rig::running();
    let hidden = 0x7_0000;
    for page in 0..3 {
        assert_eq!(rig.dma(hidden + page * PAGE), None);
    }
    let of_guest = (IommuFaultFlags::VALID | IommuFaultFlags::OF_GUEST).bits();
    assert_eq!(next(&rig.host), [of_guest, STREAM.0.into(), 0, 3, 0]);
    // Also not after the interface was given back.
    assert_eq!(rig.dma(hidden), None);
    rig.unmap(DEVICE_IPA, PRIVATE_PAGES);
    rig.unlock();
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    let [flags, _, page, ..] = next(&rig.host);
    assert_eq!((flags, page), (of_guest, 0));
    let taken = rig.host.delegated();
    assert_eq!(rig.dma(taken), None);
    let [flags, _, page, ..] = next(&rig.host);
    assert_eq!((flags, page), (IommuFaultFlags::VALID.bits(), taken));
}
