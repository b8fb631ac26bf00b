// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which device objects exist, and the lock that all device calls take first.
//!
//! One lock, before every granule lock, makes each device call and each mediated configuration
//! access one indivisible step. Device objects are reached only while it is held, so they need no
//! order among themselves, and a failure can cut off every interface of a device at once. A holder
//! does at most one protocol step, which bounds the wait.

use core::hash::{Hash, Hasher};

use heapless::Vec;
use spin::{Mutex, MutexGuard};
use tsm_platform::{Granule, Rid};
use tsm_spdm::Workspace;
use zerocopy::{FromBytes, Immutable, IntoBytes};
use zeroize::Zeroize;

use super::pdev::MEMORY_GRANULES;
use super::psmmu::Units;
use super::sizes::{BarSizes, KnownSizes};
use super::standing::Standing;
use super::tdisp::{Grant, Request};
use crate::context::{Context, Machine};
use crate::error::Error;
use crate::granule::GRANULE_BYTES;

/// Most physical devices and root ports at a time.
pub(crate) const MOST_DEVICES: usize = 32;
/// Most device interfaces at a time.
pub(crate) const MOST_INTERFACES: usize = 64;
/// Longest message in either direction, in bytes.
pub(crate) const MESSAGE_BYTES: usize = 4096;

/// A physical device or root port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Address of its object.
    pub object: u64,
    /// Its function.
    pub rid: Rid,
}

/// A device interface that is assigned to a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Address of its object.
    pub object: u64,
    /// Its function.
    pub rid: Rid,
    /// Address of its device's object.
    pub device: u64,
    /// What was completed, as a second opinion.
    pub standing: Standing,
}

/// Longest vendor-defined request: `START_INTERFACE` and `KEY_PROG` have about fifty bytes.
pub(crate) const PAYLOAD_BYTES: usize = 64;

/// Where messages are composed and taken apart. Shared, because one step runs at a time.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Messages {
    /// The request on its way out.
    pub request: [u8; MESSAGE_BYTES],
    /// The response on its way in.
    pub response: [u8; MESSAGE_BYTES],
    /// What a conversation needs beyond its requester. Empty but during a step: each endpoint has
    /// memory of its own for it.
    pub workspace: Workspace,
    /// The payload of a vendor-defined request, until it is sealed.
    pub payload: [u8; PAYLOAD_BYTES],
}

impl Messages {
    /// Takes the workspace out of the granules that the host donated to its device.
    pub fn load<P: Machine>(
        &mut self,
        context: &Context<'_, P>,
        memory: &[Granule],
    ) -> Result<(), Error> {
        let parts = self.workspace.as_mut_bytes().chunks_mut(GRANULE_BYTES);
        parts.zip(memory).try_for_each(|(part, granule)| {
            context.platform.read(*granule, 0, part)?;
            Ok(())
        })
    }

    /// Puts the workspace there, for the device's next step.
    pub fn save<P: Machine>(
        &self,
        context: &Context<'_, P>,
        memory: &[Granule],
    ) -> Result<(), Error> {
        let parts = self.workspace.as_bytes().chunks(GRANULE_BYTES);
        parts.zip(memory).try_for_each(|(part, granule)| {
            context.platform.write(*granule, 0, part)?;
            Ok(())
        })
    }

    /// Erases what a step left: messages stand open here, and they carry keys and nonces.
    pub fn wipe(&mut self) {
        self.request.zeroize();
        self.response.zeroize();
        self.payload.zeroize();
        if self.workspace.as_bytes().iter().any(|byte| *byte != 0) {
            self.workspace.zeroize();
        }
    }

    /// Returns whether no part of a message is here.
    fn is_empty(&self) -> bool {
        self.as_bytes().iter().all(|byte| *byte == 0)
    }
}

// What an endpoint is given holds a workspace.
const _: () = assert!(size_of::<Workspace>() <= MEMORY_GRANULES * GRANULE_BYTES);

/// Every device object, by address.
pub(crate) struct Registry {
    devices: Vec<Device, MOST_DEVICES>,
    interfaces: Vec<Interface, MOST_INTERFACES>,
    /// IOMMUs.
    pub units: Units,
    /// Sizes of functions' memory.
    pub sizes: KnownSizes,
    /// Message buffers.
    pub buffers: Messages,
}

/// Reports that a table has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Registry {
    const fn new() -> Self {
        Self {
            devices: Vec::new(),
            interfaces: Vec::new(),
            units: Units::new(),
            sizes: KnownSizes::new(),
            buffers: Messages {
                request: [0; MESSAGE_BYTES],
                response: [0; MESSAGE_BYTES],
                workspace: Workspace::new(),
                payload: [0; PAYLOAD_BYTES],
            },
        }
    }

    /// Feeds which objects exist to `hasher`.
    pub fn observe(&self, hasher: &mut impl Hasher) {
        for device in &self.devices {
            (device.object, device.rid.0).hash(hasher);
        }
        for interface in &self.interfaces {
            (interface.object, interface.rid.0, interface.device).hash(hasher);
        }
        self.units.observe(hasher);
    }

    /// Returns whether no part of a message is kept.
    pub fn is_quiet(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Returns every device.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Returns every interface.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Returns whether another device and another interface can be added.
    pub fn has_room(&self) -> (bool, bool) {
        (!self.devices.is_full(), !self.interfaces.is_full())
    }

    /// Adds a device.
    pub fn add_device(&mut self, device: Device) -> Result<(), Full> {
        self.devices.push(device).map_err(|_| Full)
    }

    /// Removes a device.
    pub fn remove_device(&mut self, object: u64) {
        self.devices.retain(|device| device.object != object);
    }

    /// Adds an interface, of a function that has the id `id` and regions of `sizes`.
    pub fn add_interface(
        &mut self,
        interface: Interface,
        id: u32,
        sizes: BarSizes,
    ) -> Result<(), Full> {
        self.interfaces.push(interface).map_err(|_| Full)?;
        // There are as many places.
        if self.sizes.keep((interface.rid, id), sizes) {
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// Takes note that the exchange of the interface `object` for `request` was completed; the nonce of
    /// the present lock is `lock`.
    pub fn note(&mut self, object: u64, request: Request, lock: u64) {
        let mut all = self.interfaces.iter_mut();
        if let Some(own) = all.find(|interface| interface.object == object) {
            own.standing = own.standing.after(request, lock);
        }
    }

    /// Returns whether the interface `object` may be given `grant` under the lock with the nonce
    /// `lock`, whatever its object says.
    pub fn allows(&self, object: u64, grant: Grant, lock: u64) -> bool {
        let own = self.interfaces.iter().find(|own| own.object == object);
        own.is_some_and(|own| own.standing.allows(grant, lock))
    }

    /// Removes an interface.
    pub fn remove_interface(&mut self, object: u64) {
        let sizes = &mut self.sizes;
        self.interfaces.retain(|interface| {
            let stays = interface.object != object;
            if !stays {
                sizes.release(interface.rid);
            }
            stays
        });
    }
}

/// State of devices that is not in donated granules.
pub(crate) struct Devices {
    registry: Mutex<Registry>,
}

impl Devices {
    /// Makes the state: no device is known.
    pub const fn new() -> Self {
        Self {
            registry: Mutex::new(Registry::new()),
        }
    }

    /// Takes the device lock, calling `relax` while another call has it. No granule lock may be
    /// held.
    pub fn lock(&self, relax: impl Fn()) -> MutexGuard<'_, Registry> {
        loop {
            if let Some(registry) = self.registry.try_lock() {
                return registry;
            }
            relax();
        }
    }
}
