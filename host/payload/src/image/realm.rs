// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Building a realm and taking it apart.
//!
//! Guest addresses are 39 bits wide. The lower half is private: 4 MiB of memory from 0, the device
//! at `DEVICE`. The upper half is shared: 16 pages.

use tsm_abi::rmi::{
    AddressType, Call, HashAlgorithm, MEASURE_CONTENT, MapFlags, RealmFlags0, RealmParams,
    RecParams, RecParamsFlags, TeardownOrder, features,
};
use zerocopy::FromZeros;

use super::board::{GUEST_IMAGE, POLICY};
use super::layout::{GUEST_IMAGE_MAX, Page, REALM_DATA, SHARED, SHARED_PAGES, Slot};
use super::memory::{self, PAGE};
use super::processor::START_LEVEL;
use super::rmi::{self, Result, must};

/// Bits of a guest address.
const IPA_BITS: u32 = 39;
/// Private memory, in bytes.
pub const MEMORY: u64 = 0x40_0000;
/// Guest address of the policy page.
pub const POLICY_IPA: u64 = 0x20_0000;
/// First guest address of the shared pages.
pub const SHARED_IPA: u64 = 1 << (IPA_BITS - 1);
/// Guest address of the device's registers.
pub const DEVICE_IPA: u64 = 0x1000_0000;
/// Stage 2 memory attribute: normal, write-back.
const WRITE_BACK: u64 = 6;
const PAGE_BYTES: u64 = PAGE as u64;
const RD: u64 = Slot::Rd.address();

/// Tables that a start level of 0 needs: guest address, level, granule. A table comes after the one
/// above it.
const TABLES: [(u64, u64, Slot); 7] = [
    (0, 1, Slot::RttTop),
    (0, 2, Slot::RttLow),
    (0, 3, Slot::RttMemory0),
    (0x20_0000, 3, Slot::RttMemory1),
    (DEVICE_IPA, 3, Slot::RttDevice),
    (SHARED_IPA, 2, Slot::RttHigh),
    (SHARED_IPA, 3, Slot::RttShared),
];

/// Returns the tables below the root.
fn tables() -> &'static [(u64, u64, Slot)] {
    &TABLES[START_LEVEL..]
}

/// Returns the bytes of the guest's image: up to the last page that is not all zero.
pub fn image_bytes() -> u64 {
    let image = memory::words(GUEST_IMAGE as u64);
    let last = (0..GUEST_IMAGE_MAX)
        .step_by(8)
        .rev()
        .find(|&offset| image.read64(offset) != 0);
    last.map_or(0, |offset| (offset + 8).next_multiple_of(PAGE) as u64)
}

fn hash_algorithm() -> HashAlgorithm {
    let reply = rmi::call(&Call::Features { index: 1 });
    if features::R1_HASH_SHA_384.of(reply.register(1)) == 1 {
        HashAlgorithm::Sha384
    } else {
        HashAlgorithm::Sha256
    }
}

/// Returns the call that creates the realm's descriptor; its parameters are in place. `order` is the
/// order in which this host will take devices away.
pub fn create_call(order: TeardownOrder) -> Call {
    let mut params = RealmParams::new_zeroed();
    params.flags0.set(RealmFlags0::DA.bits());
    params.s2sz.set(IPA_BITS);
    params.hash_algo = hash_algorithm() as u8;
    params.rtt_base.set(Slot::RttRoot.address());
    params.rtt_level_start.set(START_LEVEL as u64);
    params.rtt_num_start.set(1);
    params.teardown_order.set(order as u64);
    memory::store(Page::Parameters.address(), &params);
    Call::RealmCreate {
        rd: RD,
        params: Page::Parameters.address(),
    }
}

/// Creates the realm's descriptor and tables in granules that are delegated.
pub fn create(order: TeardownOrder) -> Result<()> {
    must(&create_call(order))?;
    for (ipa, level, slot) in tables() {
        must(&Call::RttCreate {
            rd: RD,
            rtt: slot.address(),
            ipa: *ipa,
            level: *level,
        })?;
    }
    Ok(())
}

fn measured_page(ipa: u64, source: u64) -> Result {
    must(&Call::RttDataMapInit {
        rd: RD,
        data: REALM_DATA + ipa,
        ipa,
        src: source,
        flags: MEASURE_CONTENT,
    })
}

fn data_map(base: u64, top: u64) -> Result<()> {
    rmi::over_range(base, top, |next| Call::RttDataMap {
        rd: RD,
        base: next,
        top,
        flags: MapFlags::single().0,
        oaddr: rmi::pages(REALM_DATA + next, REALM_DATA + top).0,
    })
}

/// Fills the realm with the guest: see [`populate_from`].
pub fn populate() -> Result<u64> {
    populate_from(GUEST_IMAGE as u64, image_bytes())
}

/// Fills the realm: measured image and policy, empty memory, shared pages. Returns the number of
/// measured pages.
pub fn populate_from(source: u64, image: u64) -> Result<u64> {
    rmi::over_range(0, MEMORY, |base| Call::RttInitRipas {
        rd: RD,
        base,
        top: MEMORY,
    })?;
    for offset in (0..image).step_by(PAGE) {
        measured_page(offset, source + offset)?;
    }
    measured_page(POLICY_IPA, POLICY as u64)?;
    data_map(image, POLICY_IPA)?;
    data_map(POLICY_IPA + PAGE_BYTES, MEMORY)?;
    let shared_top = SHARED_IPA + SHARED_PAGES * PAGE_BYTES;
    let flags = MapFlags::single().with_access(WRITE_BACK, MapFlags::READ | MapFlags::WRITE);
    rmi::over_range(SHARED_IPA, shared_top, |base| Call::RttUnprotMap {
        rd: RD,
        base,
        top: shared_top,
        flags: flags.0,
        oaddr: rmi::pages(
            SHARED + (base - SHARED_IPA),
            SHARED + SHARED_PAGES * PAGE_BYTES,
        )
        .undelegated()
        .0,
    })?;
    Ok(image / PAGE_BYTES + 1)
}

/// Creates the virtual CPU and ends the building.
pub fn activate() -> Result<()> {
    let mut params = RecParams::new_zeroed();
    params.flags.set(RecParamsFlags::RUNNABLE.bits());
    memory::store(Page::Parameters.address(), &params);
    must(&Call::RecCreate {
        rd: RD,
        rec: Slot::Rec.address(),
        params: Page::Parameters.address(),
    })?;
    must(&Call::RealmActivate { rd: RD })?;
    Ok(())
}

/// Takes the realm apart. Its device interface is gone already.
pub fn destroy() -> Result<()> {
    must(&Call::RealmTerminate { rd: RD })?;
    must(&Call::RecDestroy {
        rec: Slot::Rec.address(),
    })?;
    rmi::over_range(0, MEMORY, |base| Call::RttDataUnmap {
        rd: RD,
        base,
        top: MEMORY,
        flags: AddressType::None.word(),
        oaddr: 0,
    })?;
    let shared_top = SHARED_IPA + SHARED_PAGES * PAGE_BYTES;
    rmi::over_range(SHARED_IPA, shared_top, |base| Call::RttUnprotUnmap {
        rd: RD,
        base,
        top: shared_top,
        flags: AddressType::None.word(),
        oaddr: 0,
    })?;
    abandon()
}

/// Destroys tables and descriptor of a realm that holds nothing and does not run.
pub fn abandon() -> Result<()> {
    for (ipa, level, _) in tables().iter().rev() {
        must(&Call::RttDestroy {
            rd: RD,
            ipa: *ipa,
            level: *level,
        })?;
    }
    must(&Call::RealmDestroy { rd: RD })?;
    Ok(())
}

/// Returns the host address of `bytes` bytes at a shared guest address, if they are shared.
pub fn shared_address(ipa: u64, bytes: u64) -> Option<u64> {
    let offset = ipa.checked_sub(SHARED_IPA)?;
    let end = offset.checked_add(bytes)?;
    (end <= SHARED_PAGES * PAGE_BYTES).then_some(SHARED + offset)
}
