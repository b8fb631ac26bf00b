// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Devices, their session and their stream.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{
    AddressRange, Call, HashAlgorithm, PdevCategory, PdevFlags, PdevParams, PdevStreamParams,
    PublicKeyParams, SignatureAlgorithm, StreamType,
};
use tsm_devices::KEYS_PER_STREAM;
use tsm_platform::Rid;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Host, ROOT_PORT, success};
use zerocopy::{FromZeros, IntoBytes};

use super::{PAGE, Pumped, Rig, STREAM, slot};

impl Rig {
    pub fn pdev_params(category: PdevCategory, rid: Rid) -> PdevParams {
        let mut params = PdevParams::new_zeroed();
        params.flags = PdevFlags::SPDM.with_category(category).bits().into();
        params.pdev_id = u64::from(rid.0).into();
        params.rid_base = u32::from(rid.0).into();
        params.rid_top = (u32::from(rid.0) + 1).into();
        params.hash_algo = HashAlgorithm::Sha384 as u8;
        params
    }

    /// Creates a device object in new granules.
    pub fn create_device(&self, params: &PdevParams) -> Result<u64, RmiStatus> {
        self.host.create_pdev(params)
    }

    /// Creates both ends of the link and opens the root port.
    pub fn create_ends(&mut self) {
        self.try_create_ends().unwrap();
    }

    /// Does the same.
    ///
    /// # Errors
    /// The status, if the TSM finds no such device.
    pub fn try_create_ends(&mut self) -> Result<(), RmiStatus> {
        let device = Self::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
        self.create_ends_with(&device)
    }

    /// Does the same for the device that `device` describes.
    ///
    /// # Errors
    /// The status, if the TSM finds no such device.
    pub fn create_ends_with(&mut self, device: &PdevParams) -> Result<(), RmiStatus> {
        let port = Self::pdev_params(PdevCategory::RootPort, ROOT_PORT);
        self.port = self.create_device(&port).unwrap();
        assert_eq!(self.pump_device(self.port), Pumped::Done);
        assert_eq!(self.device_state(self.port), 3);
        self.device = self.create_device(device)?;
        Ok(())
    }

    /// Returns the public key of the last certificate that the host has kept.
    pub fn device_key(&self) -> Vec<u8> {
        let chain = &self.objects[&1];
        let start = chain
            .windows(4)
            .rposition(|window| window == [0x03, 0x62, 0x00, 0x04])
            .expect("a P-384 key");
        chain[start + 3..][..97].to_vec()
    }

    pub fn set_key(&self, key: &[u8]) -> RmiStatus {
        self.set_key_of(SignatureAlgorithm::EcdsaP384, key)
    }

    pub fn set_key_of(&self, algorithm: SignatureAlgorithm, key: &[u8]) -> RmiStatus {
        let mut params = PublicKeyParams::new_zeroed();
        params.key[..key.len()].copy_from_slice(key);
        params.key_len = u64::try_from(key.len()).unwrap().into();
        params.algo = algorithm as u8;
        let params = self.host.page_with(params.as_bytes());
        self.host.status(Call::PdevSetPubkey {
            pdev: self.device,
            params,
        })
    }

    /// Opens the session.
    pub fn open_session(&mut self) {
        assert_eq!(self.pump_device(self.device), Pumped::Done);
        assert_eq!(self.device_state(self.device), 1);
        let key = self.device_key();
        assert_eq!(self.set_key(&key), RmiStatus::SUCCESS);
        assert_eq!(self.pump_device(self.device), Pumped::Done);
        assert_eq!(self.device_state(self.device), 3);
    }

    pub fn ask_for_stream(&mut self) {
        let mut params = PdevStreamParams::new_zeroed();
        params.stream_type = StreamType::NonCoherent.word().into();
        params.pdev_1 = self.device.into();
        params.pdev_2 = self.port.into();
        params.ide_sid = u64::from(STREAM).into();
        params.num_addr_range = 1.into();
        // What the root port forwards.
        params.addr_range[0] = AddressRange {
            base: ENDPOINT_BAR.into(),
            top: (ENDPOINT_BAR + 0x70_0000).into(),
        };
        let params = self.host.page_with(params.as_bytes());
        [self.handle, ..] = success(self.host.call(Call::PdevStreamConnect { params }));
    }

    /// Pumps a stream operation on both ends until it can be completed.
    pub fn pump_stream(&mut self) {
        assert_eq!(self.pump_device(self.port), Pumped::Wait);
        assert_eq!(self.pump_device(self.device), Pumped::Wait);
        assert_eq!(self.pump_device(self.port), Pumped::Done);
        assert_eq!(self.pump_device(self.device), Pumped::Done);
        assert_eq!(self.complete_stream(), RmiStatus::SUCCESS);
    }

    pub fn complete_stream(&self) -> RmiStatus {
        let (pdev_1, pdev_2) = (self.device, self.port);
        self.host.status(Call::PdevStreamComplete {
            pdev_1,
            pdev_2,
            handle: self.handle,
        })
    }

    pub fn disconnect_stream(&self) -> RmiStatus {
        let (pdev_1, pdev_2) = (self.device, self.port);
        self.host.status(Call::PdevStreamDisconnect {
            pdev_1,
            pdev_2,
            handle: self.handle,
        })
    }

    /// Returns how many of the granules that were donated to the device hold anything.
    pub fn donated_contents(&self) -> usize {
        let contents = self.host.fake.contents();
        let memory = (1..Host::PDEV_GRANULES).map(|index| self.device + index * PAGE);
        memory
            .filter(|granule| contents.contains_key(granule))
            .count()
    }

    /// Replaces the keys of the stream.
    #[track_caller]
    pub fn renew_keys(&mut self) {
        assert_eq!(self.refresh_keys(), RmiStatus::SUCCESS);
        self.pump_stream();
    }

    /// Returns packets that flowed on the stream, and how many of them were lost.
    pub fn packets(&self) -> (u32, u32) {
        let state = self.dsm.state();
        let mut streams = state.streams.iter();
        let stream = streams.find(|stream| stream.id == STREAM);
        stream.map_or((0, 0), |stream| {
            (stream.sent, stream.lost + stream.status.failed)
        })
    }

    pub fn purge_keys(&self) -> RmiStatus {
        let (pdev_1, pdev_2) = (self.device, self.port);
        self.host.status(Call::PdevStreamKeyPurge {
            pdev_1,
            pdev_2,
            handle: self.handle,
        })
    }

    pub fn refresh_keys(&self) -> RmiStatus {
        let (pdev_1, pdev_2) = (self.device, self.port);
        self.host.status(Call::PdevStreamKeyRefresh {
            pdev_1,
            pdev_2,
            handle: self.handle,
        })
    }

    pub fn connect(&mut self) {
        let device = Self::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
        self.connect_device(&device);
    }

    /// Connects the device that `device` describes.
    pub fn connect_device(&mut self, device: &PdevParams) {
        self.create_ends_with(device).unwrap();
        self.open_session();
        self.ask_for_stream();
        self.pump_stream();
        self.refresh();
        assert!(self.is_secure());
    }

    /// Returns whether test packets pass under the keys of both ends.
    pub fn is_secure(&self) -> bool {
        let wires = self.shared.0.lock().unwrap();
        wires.secure.get(&STREAM).copied().unwrap_or(false)
    }

    /// Returns the keys that the root port holds.
    pub fn keys(&self) -> Vec<[u8; 32]> {
        let slots = (0..KEYS_PER_STREAM).map(|index| slot(STREAM, index));
        let keys = slots.filter_map(|slot| self.host.fake.key(ROOT_PORT, slot).key);
        keys.map(|(key, _)| key).collect()
    }

    /// Returns how many keys the root port holds.
    pub fn root_port_keys(&self) -> usize {
        self.keys().len()
    }
}
