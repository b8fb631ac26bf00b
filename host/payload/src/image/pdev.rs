// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Physical devices and the stream between them.

use sha2::{Digest as _, Sha384};
use tsm_abi::rmi::{
    AddressRange, BlockSize, Call, CommObject, DonateRequest, HashAlgorithm, PdevCategory,
    PdevFlags, PdevParams, PdevState, PdevStreamParams, PublicKeyParams, RangeDescriptor,
    SignatureAlgorithm, StreamType,
};
use tsm_abi::{MemoryRequest, RmiStatus};
use tsm_payload_support::certificate::leaf_public_key;
use zerocopy::FromZeros;

use super::board::ECAM;
use super::comm::{Courier, End, Target};
use super::layout::{Page, Slot};
use super::memory;
use super::pci::Topology;
use super::rmi::{self, Reply, Result};

/// Id of the only stream.
pub const STREAM: u64 = 1;

/// Returns the state of a physical device.
pub fn state(pdev: Slot) -> Option<PdevState> {
    let reply = rmi::call(&Call::PdevGetState {
        pdev: pdev.address(),
    });
    PdevState::from_word(reply.success().ok()?.register(1))
}

fn create(pdev: Slot, params: &PdevParams) -> Reply {
    memory::store(Page::Parameters.address(), params);
    rmi::call(&Call::PdevCreate {
        pdev: pdev.address(),
        params: Page::Parameters.address(),
    })
}

/// Gives an incomplete operation the delegated pages from `base` on that it asks for, one to an
/// entry of the list, and continues it.
fn finish_creation(begun: &Reply, base: u64) -> Result {
    let (handle, count) = (begun.register(1), DonateRequest(begun.register(2)).count());
    let mut list = [0; 512];
    for (address, entry) in (base..)
        .step_by(0x1000)
        .zip(list.iter_mut().take(count as usize))
    {
        *entry = RangeDescriptor::new(address, BlockSize::Page, 1).0;
    }
    memory::store(Page::Parameters.address(), &list);
    let donate = Call::OpMemDonate {
        handle,
        list: Page::Parameters.address(),
        count,
    };
    let given = rmi::call(&donate);
    if given.status() != Some(RmiStatus::incomplete(MemoryRequest::None, true)) {
        return Err(rmi::Refused::new(&donate, given.register(0)));
    }
    rmi::must(&Call::OpContinue { handle, flags: 0 })
}

/// Creates the root port's object in a delegated granule.
pub fn create_root_port(topology: &Topology) -> Result {
    let rid = u64::from(topology.root_port.0);
    let mut params = PdevParams::new_zeroed();
    let flags = PdevFlags::empty().with_category(PdevCategory::RootPort);
    params.flags.set(flags.bits());
    params.hb_base.set(ECAM as u64);
    params.pdev_id.set(rid);
    params.routing_id.set(rid);
    // The requester ids behind the port.
    params.rid_base.set(u32::from(topology.disk.0));
    params.rid_top.set(u32::from(topology.disk.0) + 0x100);
    params.hash_algo = HashAlgorithm::Sha384 as u8;
    create(Slot::RootPort, &params).success()
}

/// Creates the disk's object in a delegated granule, with memory of its own.
pub fn create_endpoint(topology: &Topology) -> Result {
    let rid = u64::from(topology.disk.0);
    let mut params = PdevParams::new_zeroed();
    let flags = PdevFlags::SPDM.with_category(PdevCategory::EndpointOffChip);
    params.flags.set(flags.bits());
    params.hb_base.set(ECAM as u64);
    params.pdev_id.set(rid);
    params.routing_id.set(u64::from(topology.root_port.0));
    params.rid_base.set(u32::from(topology.disk.0));
    params.rid_top.set(u32::from(topology.disk.0) + 1);
    params.hash_algo = HashAlgorithm::Sha384 as u8;
    let begun = create(Slot::Endpoint, &params);
    if begun.status() != Some(RmiStatus::incomplete(MemoryRequest::Donate, true)) {
        return begun.success();
    }
    finish_creation(&begun, Slot::EndpointMemory.address())
}

/// Tells the TSM the key of the last certificate that the device showed. Returns whether one was
/// found.
pub fn set_public_key(courier: &Courier) -> Result<bool> {
    let mut chain = [0; 0x8000];
    let chain = courier.caches.read(CommObject::Certificate, &mut chain);
    let Some(key) = leaf_public_key(chain) else {
        return Ok(false);
    };
    let digest = Sha384::digest(key);
    // Keys that the page has no room for go by their digest.
    let (algorithm, key) = match key.len() {
        65 => (SignatureAlgorithm::EcdsaP256, key),
        97 => (SignatureAlgorithm::EcdsaP384, key),
        1952 => (SignatureAlgorithm::MlDsa65, &digest[..]),
        2592 => (SignatureAlgorithm::MlDsa87, &digest[..]),
        _ => return Ok(false),
    };
    let mut params = PublicKeyParams::new_zeroed();
    params.key[..key.len()].copy_from_slice(key);
    params.key_len.set(key.len() as u64);
    params.algo = algorithm as u8;
    memory::store(Page::Parameters.address(), &params);
    rmi::must(&Call::PdevSetPubkey {
        pdev: Slot::Endpoint.address(),
        params: Page::Parameters.address(),
    })?;
    Ok(true)
}

/// Begins the stream; returns its handle.
pub fn stream_connect(topology: &Topology) -> Result<u64> {
    let mut params = PdevStreamParams::new_zeroed();
    params.stream_type.set(StreamType::NonCoherent.word());
    params.pdev_1.set(Slot::RootPort.address());
    params.pdev_2.set(Slot::Endpoint.address());
    params.ide_sid.set(STREAM);
    params.num_addr_range.set(1);
    let mut range = AddressRange::new_zeroed();
    range.base.set(topology.window_base);
    range.top.set(topology.window_top);
    params.addr_range[0] = range;
    memory::store(Page::Parameters.address(), &params);
    let reply = rmi::must(&Call::PdevStreamConnect {
        params: Page::Parameters.address(),
    })?;
    Ok(reply.register(1))
}

/// Pumps both ends of the stream until neither waits for the other, then completes the operation.
pub fn stream_finish(root_port: &mut Courier, endpoint: &mut Courier, handle: u64) -> Result {
    for _ in 0..16 {
        let first = root_port.pump(Target::Pdev(Slot::RootPort.address()))?;
        let second = endpoint.pump(Target::Pdev(Slot::Endpoint.address()))?;
        if (first, second) == (End::Done, End::Done) {
            break;
        }
    }
    rmi::must(&Call::PdevStreamComplete {
        pdev_1: Slot::RootPort.address(),
        pdev_2: Slot::Endpoint.address(),
        handle,
    })
}

/// Begins to replace the keys of the stream.
pub fn stream_refresh(handle: u64) -> Result {
    rmi::must(&Call::PdevStreamKeyRefresh {
        pdev_1: Slot::RootPort.address(),
        pdev_2: Slot::Endpoint.address(),
        handle,
    })
}

/// Begins to make both ends forget the key set that is not in use.
pub fn stream_purge(handle: u64) -> Result {
    rmi::must(&Call::PdevStreamKeyPurge {
        pdev_1: Slot::RootPort.address(),
        pdev_2: Slot::Endpoint.address(),
        handle,
    })
}

/// Begins to stop the stream.
pub fn stream_disconnect(handle: u64) -> Result {
    rmi::must(&Call::PdevStreamDisconnect {
        pdev_1: Slot::RootPort.address(),
        pdev_2: Slot::Endpoint.address(),
        handle,
    })
}

/// Ends the session with a device, if it can be ended, and destroys the object.
pub fn stop_and_destroy(pdev: Slot, courier: &mut Courier) -> Result {
    let address = pdev.address();
    rmi::must(&Call::PdevStop { pdev: address })?;
    courier.pump(Target::Pdev(address))?;
    rmi::must(&Call::PdevDestroy { pdev: address })
}
