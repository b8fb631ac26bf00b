// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The flow with a device that misbehaves on order: whatever it does, the host gets everything
//! back.
//!
//! Rounds of connect, guest, and taking back go on until a guest has worked with its device. What a
//! round comes to is for the device to decide; that everything comes back is not.

use tsm_abi::rmi::{Call, PdevState};
use tsm_payload_support::println;

use super::comm::Target;
use super::flow::{
    Host, build_realm, connect, discover, start_tsm, stop_tsm, touch_everything, use_disk,
};
use super::layout::{DONATED_TOP, REALM_DATA, Slot};
use super::rec::{Event, Vcpu};
use super::report::{self, check, verdict};
use super::rmi::{self, Result, delegate, undelegate};
use super::{pdev, realm, vdev};

/// Most rounds: a device that always misbehaves never gets a guest.
const ROUNDS: u32 = 6;
/// Times that giving an object up is tried; each can take one more step.
const TRIES: u32 = 4;

const RD: u64 = Slot::Rd.address();
const PDEV: u64 = Slot::Endpoint.address();
const VDEV: u64 = Slot::Vdev.address();

/// Runs the flow and ends the machine.
pub fn run() -> ! {
    let Some(mut host) = discover() else {
        verdict(
            false,
            format_args!("the disk behind the root port is missing"),
        );
    };
    match whole(&mut host) {
        Ok(()) if report::failures() == 0 => {
            verdict(true, format_args!("everything is the host's again"));
        }
        Ok(()) => verdict(false, format_args!("{} failed", report::failures())),
        Err(refused) => verdict(false, format_args!("{refused}")),
    }
}

fn whole(host: &mut Host) -> Result<()> {
    start_tsm()?;
    delegate(REALM_DATA, DONATED_TOP)?;
    let mut refused = 0;
    let mut rounds = 0;
    while rounds < ROUNDS && rounds == refused {
        rounds += 1;
        // What the device does wrong fails checks on the way: that is what they are for.
        report::set_lenient(true);
        let Round { realm, worked } = round(host);
        report::set_lenient(false);
        println!("NOTE round {rounds}: the guest worked with its device: {worked}");
        refused += u32::from(!worked);
        take_back(host, realm)?;
        check(
            "device-reclaimed",
            format_args!("after round {rounds}"),
            pdev::state(Slot::Endpoint).is_none() && pdev::state(Slot::RootPort).is_none(),
        );
    }
    check(
        "misbehaving-device-refused",
        format_args!("{refused} of {rounds} rounds"),
        refused != 0,
    );
    stop_tsm()?;
    undelegate(REALM_DATA, DONATED_TOP)?;
    touch_everything(host);
    use_disk(host, "host-uses-disk-again");
    Ok(())
}

/// How far a round came.
#[derive(Default)]
struct Round {
    /// Whether there is a realm.
    realm: bool,
    /// Whether its guest worked with the device to the end.
    worked: bool,
}

/// Connects the device and lets a guest work with it.
fn round(host: &mut Host) -> Round {
    let mut round = Round::default();
    if let Err(refused) = connect(host).and_then(|()| build_realm()) {
        println!("NOTE {refused}");
        return round;
    }
    round.realm = true;
    let mut vcpu = Vcpu::new();
    let mut began = false;
    loop {
        match vcpu.run(host) {
            Ok(Event::Workload) => began = true,
            Ok(Event::Off) => {
                round.worked = began;
                return round;
            }
            Ok(Event::Lost(what, detail)) => {
                println!("NOTE {what} {detail:#x}");
                return round;
            }
            Err(refused) => {
                println!("NOTE {refused}");
                return round;
            }
        }
    }
}

/// Takes everything back from any state, whether the device helps or not.
fn take_back(host: &mut Host, realm: bool) -> Result<()> {
    while let Some((base, top, address)) = host.mapped.pop() {
        vdev::unmap(base, top)?;
        undelegate(address, address + (top - base))?;
    }
    if host.bound || vdev::state().is_some() {
        give_up_interface(host);
        host.bound = false;
    }
    if realm {
        realm::destroy()?;
    }
    // Twice: a stream that was coming up comes up first.
    for _ in 0..2 {
        let _ = pdev::stream_disconnect(host.stream);
        let _ = pdev::stream_finish(&mut host.root_port, &mut host.endpoint, host.stream);
    }
    for slot in [Slot::Endpoint, Slot::RootPort] {
        give_up_device(host, slot);
    }
    Ok(())
}

fn give_up_interface(host: &mut Host) {
    let (rd, pdev, vdev) = (RD, PDEV, VDEV);
    for _ in 0..TRIES {
        if vdev::destroy().is_ok() {
            return;
        }
        let _ = rmi::call(&Call::VdevAbort { rd, pdev, vdev });
        let _ = vdev::unlock(&mut host.endpoint);
        if pdev::state(Slot::Endpoint) != Some(PdevState::Ready) {
            let _ = rmi::call(&Call::PdevAbort { pdev });
        }
    }
}

fn give_up_device(host: &mut Host, slot: Slot) {
    let pdev = slot.address();
    for _ in 0..TRIES {
        if pdev::state(slot).is_none() || rmi::call(&Call::PdevDestroy { pdev }).success().is_ok() {
            return;
        }
        let _ = rmi::call(&Call::PdevAbort { pdev });
        let _ = rmi::call(&Call::PdevStop { pdev });
        let courier = match slot {
            Slot::RootPort => &mut host.root_port,
            _ => &mut host.endpoint,
        };
        let _ = courier.pump(Target::Pdev(pdev));
    }
}
