// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Hardware that fails, or a device or courier that lies, once, somewhere on the way of a device.

mod rig;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use rig::{DATA_IPA, DEVICE_IPA, PRIVATE_PAGES, Rig};
use tsm_abi::RmiStatus;

/// The whole way; panics where a call does not answer as it would without a fault.
fn go(rig: &mut Rig) {
    rig.connect();
    rig.assign();
    rig.lock();
    rig.measure();
    rig.report();
    rig.accept_memory();
    rig.start();
    let nonces = rig.nonces();
    assert_eq!(rig.enable_dma(nonces), 0);
    assert_eq!(rig.refresh_keys(), RmiStatus::SUCCESS);
    rig.pump_stream();
    assert_eq!(rig.disable_dma(), 0);
    assert_eq!(rig.unmap(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
    rig.unlock();
}

/// Runs `one` for each number until it says that there is nothing left to try; quietly, because each
/// run makes some assertion of [`go`] fail: that is expected, and not news.
fn sweep(stride: u64, one: impl Fn(u64) -> bool + std::panic::RefUnwindSafe) {
    std::panic::set_hook(Box::new(|_| {}));
    let at = AtomicU64::new(0);
    let outcome = catch_unwind(|| {
        for number in (0..).step_by(usize::try_from(stride).unwrap()) {
            at.store(number, Ordering::Relaxed);
            if !one(number) {
                return;
            }
        }
    });
    if let Err(panic) = outcome {
        let message = panic.downcast_ref::<String>().map_or("?", String::as_str);
        let _ = std::panic::take_hook();
        panic!("at {at:?}: {message}")
    }
    let last = at.into_inner();
    assert!(last > 10 * stride, "only {last} were tried");
}

/// Asserts that the device has the guest's memory only if the guest has the device, and takes
/// everything back.
fn settle(mut rig: Rig) {
    rig.forget_script();
    rig.tamper = None;
    if rig.vdev != 0 && rig.dma(DATA_IPA).is_some() {
        assert_eq!(rig.state(), 3);
        assert!(rig.root_port_keys() >= 6);
    }
    rig.take_back();
    assert_eq!(rig.root_port_keys(), 0);
}

#[test]
fn wherever_hardware_fails_the_host_gets_everything_back() {
    sweep(13, |passed| {
        let mut rig = Rig::new();
        rig.host.fake.fail_after(passed);
        let finished = catch_unwind(AssertUnwindSafe(|| go(&mut rig))).is_ok();
        let failed = rig.host.fake.disarm().is_some();
        assert!(finished || failed);
        settle(rig);
        failed
    });
}

#[test]
fn whatever_an_answer_becomes_on_its_way_the_host_gets_everything_back() {
    sweep(3, |number| {
        let mut rig = Rig::new();
        let hit = usize::try_from(number).unwrap();
        rig.tamper = Some(Box::new(move |carried, answer| {
            if carried == hit {
                let middle = answer.len() / 2;
                match hit % 4 {
                    0 => answer[middle] ^= 0x10,
                    1 => answer.truncate(middle),
                    2 => *answer = vec![0x5a; 64],
                    _ => answer[..4].fill(0xff),
                }
            }
            true
        }));
        let finished = catch_unwind(AssertUnwindSafe(|| go(&mut rig))).is_ok();
        let reached = rig.carried > hit;
        assert!(finished != reached, "a changed answer is not good enough");
        settle(rig);
        reached
    });
}
