// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One row of data for each way in which a device can misbehave.
//!
//! A row is a fault plan for the device and what becomes of the way of an interface: the whole TSM
//! goes it against the device, both as they are, with a host between them. Whatever happens, no
//! access remains, the host takes everything back while the device still misbehaves, and the way
//! can be gone again with a device that behaves.

mod evidence;
mod flow;
mod interface;
mod link;
mod refusals;
#[path = "../rig/mod.rs"]
mod rig;
mod session;

use flow::{READY, STARTED, Step, access_remains, go};
use rig::Rig;
use tsm_devices::{FaultPlan, TdiState};

const DEVICE_ERROR: u64 = 5;
const INTERFACE_ERROR: u64 = 4;

/// What becomes of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is gone to its end.
    Completes,
    /// New keys are refused, and the guest works on under the old ones.
    OldKeys,
    /// The device is never connected.
    Refused(Step),
    /// The device stays connected, and its interface is in ERROR or was never locked.
    Interface(Step),
    /// The session is over, and what rests on it.
    Session(Step),
}

/// Tests: identifier, faults as TOML tables separated by commas, outcome.
macro_rules! rows {
    ($($(#[$note:meta])* $name:ident: $faults:expr => $outcome:expr;)*) => {
        $(
            $(#[$note])*
            #[test]
            fn $name() {
                $crate::run($faults, $outcome);
            }
        )*
    };
}
pub(crate) use rows;

/// Goes the way with a device that has these faults.
#[track_caller]
fn run(faults: &str, expected: Outcome) {
    let plan: FaultPlan = format!("fault = [{faults}]").parse().unwrap();
    let mut rig = Rig::new();
    rig.dsm.load_faults(plan);
    let outcome = outcome(&mut rig);
    let fired = rig.dsm.state().faults;
    assert!(
        fired.iter().any(|fault| fault.fired != 0),
        "nothing went wrong: {fired:?}, {outcome:?}"
    );
    assert_eq!(outcome, expected);
    rig.forget_script();
    rig.take_back();
    assert_eq!(rig.root_port_keys(), 0);
    rig.start_over();
    assert_eq!(go(&mut rig), Ok(()), "with a device that behaves");
    rig.take_back();
}

/// Goes the way and judges what is left of it.
fn outcome(rig: &mut Rig) -> Outcome {
    let Err(step) = go(rig) else {
        return Outcome::Completes;
    };
    if step == Step::Refresh && rig.vdev != 0 && rig.state() == STARTED {
        rig.refresh();
        assert!(rig.is_secure() && access_remains(rig));
        assert_eq!((rig.root_port_keys(), rig.tdi()), (6, TdiState::Run));
        return Outcome::OldKeys;
    }
    assert!(!access_remains(rig), "{step:?}");
    let lost = match rig.device {
        0 => true,
        device => rig.device_state(device) != READY,
    };
    if lost {
        assert_eq!(rig.device_state(rig.device), DEVICE_ERROR, "{step:?}");
        assert_eq!(rig.device_state(rig.port), READY, "the port serves others");
        assert_eq!(rig.root_port_keys(), 0, "{step:?}");
    }
    if rig.vdev == 0 {
        return Outcome::Refused(step);
    }
    if lost {
        assert_eq!(rig.state(), INTERFACE_ERROR, "{step:?}");
        return Outcome::Session(step);
    }
    assert_ne!(rig.state(), STARTED, "{step:?}");
    assert!(rig.root_port_keys() >= 6, "the stream serves others");
    Outcome::Interface(step)
}

#[test]
fn without_a_fault_the_way_is_gone_to_its_end() {
    let mut rig = Rig::new();
    assert_eq!(outcome(&mut rig), Outcome::Completes);
    rig.take_back();
}
