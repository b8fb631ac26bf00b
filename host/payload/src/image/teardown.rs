// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Taking a device from a guest that uses it, in the orders of hosts that stop it before they unmap
//! its registers (`docs/teardown.md`). The flow itself is in the order that unmaps first.

use tsm_abi::RmiCode;
use tsm_abi::rmi::{Call, TeardownOrder, features};

use super::flow::{Host, build_realm_for, renew_keys};
use super::layout::Slot;
use super::processor::vectors;
use super::rec::{Event, Vcpu};
use super::report::{self, attack, check};
use super::rmi::{self, Result, undelegate};
use super::{realm, vdev};

/// Runs a guest for each order that is not RMI's own.
///
/// # Errors
/// A call that the order has, and that was refused.
pub fn other_orders(host: &mut Host) -> Result<()> {
    let index = features::TEARDOWN;
    let accepted = rmi::must(&Call::Features { index })?.register(1);
    let accepted = features::TEARDOWN_ORDERS.of(accepted);
    check(
        "teardown-orders-are-published",
        format_args!("accepted orders {accepted:#05b}"),
        accepted == 0b111,
    );
    report::set_quiet(true);
    let orders = [TeardownOrder::StopFirst, TeardownOrder::MaskAndReap];
    let result = orders
        .into_iter()
        .try_for_each(|order| take_away(host, order));
    report::set_quiet(false);
    result
}

/// Lets a guest work with its device, and takes it away in `order` without asking the guest.
fn take_away(host: &mut Host, order: TeardownOrder) -> Result<()> {
    build_realm_for(order)?;
    let mut vcpu = Vcpu::new();
    let event = vcpu.run(host)?;
    let works = matches!(event, Event::Workload);
    check(
        "guest-works-in-this-order",
        format_args!("{order:?}: {event:?}"),
        works,
    );
    unmap_too_early(host, order);
    // Its registers are still mapped.
    vdev::unlock(&mut host.endpoint)?;
    if order == TeardownOrder::MaskAndReap {
        vdev::destroy()?;
        host.bound = false;
    }
    nobody_reaches(host, &mut vcpu, order);
    while let Some((base, top, address)) = host.mapped.pop() {
        vdev::unmap(base, top)?;
        undelegate(address, address + (top - base))?;
    }
    if host.bound {
        vdev::destroy()?;
        host.bound = false;
    }
    check(
        "registers-are-the-hosts-again",
        format_args!("{order:?}"),
        vectors::read(host.topology.disk.bar0()).is_ok(),
    );
    renew_keys(host)?;
    realm::destroy()
}

/// In these orders the registers of a running interface stay mapped until it is stopped.
fn unmap_too_early(host: &mut Host, order: TeardownOrder) {
    let Some((base, top, address)) = host.mapped.pop() else {
        return;
    };
    host.mapped.push(base, top, address);
    let outcome = vdev::unmap(base, top).map_err(|refused| refused.code());
    attack(
        "unmap-before-stop",
        format_args!("{order:?}: unmap registers of an interface that is started"),
        format_args!("{outcome:?}"),
        outcome == Err(Some(RmiCode::Device)),
    );
}

/// The interface is stopped and its registers are still mapped: they serve neither host nor guest.
fn nobody_reaches(host: &mut Host, vcpu: &mut Vcpu, order: TeardownOrder) {
    let bar = host.topology.disk.bar0();
    let read = vectors::read(bar);
    let returned = undelegate(bar, bar + 0x1000).map_err(|refused| refused.code());
    attack(
        "use-masked-registers",
        format_args!("{order:?}: read registers that are still mapped, ask for them back"),
        format_args!("{read:x?}, {returned:?}"),
        read.is_err() && returned.is_err(),
    );
    vcpu.make_careless();
    let event = vcpu.run(host);
    check(
        "guest-loses-the-registers",
        format_args!("{order:?}: {event:?}"),
        matches!(event, Ok(Event::Lost("an exception", _))),
    );
    let state = rmi::call(&Call::VdevGetState {
        vdev: Slot::Vdev.address(),
    });
    check(
        "interface-is-as-the-order-has-it",
        format_args!("{order:?}: {:?}", state.status()),
        state.success().is_ok() == (order == TeardownOrder::StopFirst),
    );
}
