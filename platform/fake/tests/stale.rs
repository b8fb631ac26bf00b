// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Names of what is gone, when something else has the name.

mod rig;

use rig::{DATA_IPA, Pumped, Rig, VDEV_ID};
use tsm_abi::RmiStatus;
use tsm_abi::rmi::Call;
use tsm_abi::rsi;
use tsm_platform_fake::success;
use zerocopy::IntoBytes;

/// A07: an interface is destroyed and another one is made in the same granule, with the same id,
/// between what a guest asks and what it gets.
#[test]
fn what_a_guest_asked_of_an_interface_is_not_done_to_its_successor() {
    let mut rig = Rig::locked();
    rig.start();
    let [lock_nonce, meas_nonce, report_nonce] = rig.nonces();
    rig.forget_script();
    rig.host.fake.script().guest_call(rsi::Call::VdevDmaEnable {
        vdev_id: VDEV_ID,
        flags: 0,
        non_ats_plane: 0,
        lock_nonce,
        meas_nonce,
        report_nonce,
    });
    assert_eq!(rig.host.enter(&rig.realm).exit_reason.get(), 8);
    let (rec, vdev) = (rig.realm.rec, rig.vdev);
    success(rig.host.call(Call::VdevComplete { rec, vdev }));
    rig.unlock();
    assert_eq!(rig.destroy_interface(), RmiStatus::SUCCESS);
    let params = rig.host.page_with(rig.vdev_params().as_bytes());
    let (rd, pdev) = (rig.realm.rd, rig.device);
    success(rig.host.call(Call::VdevCreate {
        rd,
        pdev,
        vdev,
        params,
    }));
    assert_eq!(rig.pump_interface(), Pumped::Done);
    // Nobody gets behind keys that an interface which is gone has used.
    rig.renew_keys();
    rig.lock();
    rig.measure();
    rig.report();
    rig.start();
    rig.host.enter(&rig.realm);
    assert_eq!(rig.vcpu_register(), Some(5), "RSI_ERROR_DEVICE");
    assert_eq!(rig.dma(DATA_IPA), None);
    rig.take_back();
}

/// A07: a stream's handle, when its device was destroyed and made again in the same granule.
#[test]
fn the_handle_of_a_stream_that_is_gone_names_nothing() {
    let mut rig = Rig::connected();
    assert_eq!(rig.disconnect_stream(), RmiStatus::SUCCESS);
    rig.pump_stream();
    for ask in [
        Rig::disconnect_stream,
        Rig::refresh_keys,
        Rig::complete_stream,
    ] {
        assert_eq!(ask(&rig), RmiStatus::INPUT);
    }
    rig.take_back();
}
