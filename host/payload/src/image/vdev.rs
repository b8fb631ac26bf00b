// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device interface that a guest gets.

use tsm_abi::rmi::{
    AddressRange, AddressType, Call, MapFlags, RangeDescriptor, VdevParams, VdevState,
};
use zerocopy::FromZeros;

use super::comm::{Courier, Target};
use super::layout::{Page, Slot};
use super::memory;
use super::pci::Topology;
use super::rmi::{self, Refused, Result};

/// Bytes of the disk's registers.
pub const BAR_SIZE: u64 = 0x4000;

const RD: u64 = Slot::Rd.address();
const PDEV: u64 = Slot::Endpoint.address();
const VDEV: u64 = Slot::Vdev.address();
/// What an exchange about the interface belongs to.
pub const TARGET: Target = Target::Vdev(RD, PDEV, VDEV);

/// Returns the id by which the guest knows the interface.
pub fn id(topology: &Topology) -> u64 {
    u64::from(topology.disk.0)
}

/// Returns the state of the interface, if there is one.
pub fn state() -> Option<VdevState> {
    let reply = rmi::call(&Call::VdevGetState { vdev: VDEV });
    VdevState::from_word(reply.success().ok()?.register(1))
}

/// Makes the call that begins an operation and pumps it to its end, which must be `wanted`.
fn operate(request: &Call, courier: &mut Courier, wanted: VdevState) -> Result<()> {
    rmi::must(request)?;
    courier.pump(TARGET)?;
    if state() == Some(wanted) {
        Ok(())
    } else {
        Err(Refused::wrong_state(request))
    }
}

/// Creates the interface's object and finds out that it is unlocked.
pub fn create(topology: &Topology, courier: &mut Courier) -> Result<()> {
    let mut params = VdevParams::new_zeroed();
    params.vdev_id.set(id(topology));
    params.tdi_id.set(u64::from(topology.disk.0));
    params.num_addr_range.set(1);
    let mut range = AddressRange::new_zeroed();
    range.base.set(topology.disk.bar0());
    range.top.set(topology.disk.bar0() + BAR_SIZE);
    params.addr_range[0] = range;
    memory::store(Page::Parameters.address(), &params);
    let request = Call::VdevCreate {
        rd: RD,
        pdev: PDEV,
        vdev: VDEV,
        params: Page::Parameters.address(),
    };
    operate(&request, courier, VdevState::Unlocked)
}

/// Locks the interface.
pub fn lock(courier: &mut Courier) -> Result<()> {
    let (rd, pdev, vdev) = (RD, PDEV, VDEV);
    operate(
        &Call::VdevLock { rd, pdev, vdev },
        courier,
        VdevState::Locked,
    )
}

/// Starts the interface.
pub fn start(courier: &mut Courier) -> Result<()> {
    let (rd, pdev, vdev) = (RD, PDEV, VDEV);
    operate(
        &Call::VdevStart { rd, pdev, vdev },
        courier,
        VdevState::Started,
    )
}

/// Fetches measurements with the parameters at `params`, in whatever state.
pub fn measure(params: u64, courier: &mut Courier) -> Result<()> {
    let request = Call::VdevGetMeasurements {
        rd: RD,
        pdev: PDEV,
        vdev: VDEV,
        params,
    };
    let before = state().ok_or(Refused::wrong_state(&request))?;
    operate(&request, courier, before)
}

/// Fetches the interface report, in whatever state.
pub fn report(courier: &mut Courier) -> Result<()> {
    let (rd, pdev, vdev) = (RD, PDEV, VDEV);
    let request = Call::VdevGetInterfaceReport { rd, pdev, vdev };
    let before = state().ok_or(Refused::wrong_state(&request))?;
    operate(&request, courier, before)
}

/// Maps device memory at the guest addresses from `base` on.
pub fn map(base: u64, top: u64, address: u64) -> Result<()> {
    rmi::over_range(base, top, |next| Call::RttDevMap {
        rd: RD,
        vdev: VDEV,
        base: next,
        top,
        flags: MapFlags::single().0,
        oaddr: rmi::pages(address + (next - base), address + (top - base)).0,
    })
}

/// Carries out the validation that the guest asked for.
pub fn validate(base: u64, top: u64) -> Result<()> {
    rmi::over_range(base, top, |next| Call::RttDevValidate {
        rd: RD,
        rec: Slot::Rec.address(),
        base: next,
        top,
    })
}

/// Unmaps device memory.
pub fn unmap(base: u64, top: u64) -> Result<()> {
    rmi::over_range(base, top, |next| Call::RttDevUnmap {
        rd: RD,
        base: next,
        top,
        flags: AddressType::None.word(),
        oaddr: RangeDescriptor::default().0,
    })
}

/// Unlocks the interface.
pub fn unlock(courier: &mut Courier) -> Result<()> {
    let (rd, pdev, vdev) = (RD, PDEV, VDEV);
    operate(
        &Call::VdevUnlock { rd, pdev, vdev },
        courier,
        VdevState::Unlocked,
    )
}

/// Destroys the interface's object.
pub fn destroy() -> Result {
    rmi::must(&Call::VdevDestroy {
        rd: RD,
        pdev: PDEV,
        vdev: VDEV,
    })
}
