// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host's calls about an interface.

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{AddressRange, Call, VdevMeasureParams, VdevParams};
use tsm_devices::TdiState;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, ENDPOINT_BAR_BYTES};
use zerocopy::{FromZeros, IntoBytes};

use super::{Pumped, Rig, VDEV_ID};

impl Rig {
    pub fn vdev_params(&self) -> VdevParams {
        let mut params = VdevParams::new_zeroed();
        params.vdev_id = VDEV_ID.into();
        params.tdi_id = u64::from(ENDPOINT.0).into();
        params.num_addr_range = 1.into();
        params.addr_range[0] = AddressRange {
            base: ENDPOINT_BAR.into(),
            top: (ENDPOINT_BAR + ENDPOINT_BAR_BYTES).into(),
        };
        params
    }

    pub fn create_interface(&self, params: &VdevParams) -> Result<u64, RmiStatus> {
        let vdev = self.host.delegated();
        let params = self.host.page_with(params.as_bytes());
        let (rd, pdev) = (self.realm.rd, self.device);
        match self.host.status(Call::VdevCreate {
            rd,
            pdev,
            vdev,
            params,
        }) {
            RmiStatus::SUCCESS => Ok(vdev),
            status => {
                self.host.undelegate(vdev, 1);
                Err(status)
            }
        }
    }

    pub fn assign(&mut self) {
        self.vdev = self.create_interface(&self.vdev_params()).unwrap();
        assert_eq!(self.pump_interface(), Pumped::Done);
        assert_eq!(self.state(), 1);
    }

    pub fn names(&self) -> (u64, u64, u64) {
        (self.realm.rd, self.device, self.vdev)
    }

    pub fn ask_lock(&self) -> RmiStatus {
        let (rd, pdev, vdev) = self.names();
        self.host.status(Call::VdevLock { rd, pdev, vdev })
    }

    pub fn ask_start(&self) -> RmiStatus {
        let (rd, pdev, vdev) = self.names();
        self.host.status(Call::VdevStart { rd, pdev, vdev })
    }

    pub fn ask_unlock(&self) -> RmiStatus {
        let (rd, pdev, vdev) = self.names();
        self.host.status(Call::VdevUnlock { rd, pdev, vdev })
    }

    pub fn ask_report(&self) -> RmiStatus {
        let (rd, pdev, vdev) = self.names();
        self.host
            .status(Call::VdevGetInterfaceReport { rd, pdev, vdev })
    }

    pub fn ask_measurements(&self) -> RmiStatus {
        let mut params = VdevMeasureParams::new_zeroed();
        // A guest's nonce is fresh.
        let number = u64::try_from(self.carried).unwrap().to_le_bytes();
        params.nonce[..8].copy_from_slice(&number);
        let params = self.host.page_with(params.as_bytes());
        let (rd, pdev, vdev) = self.names();
        self.host.status(Call::VdevGetMeasurements {
            rd,
            pdev,
            vdev,
            params,
        })
    }

    pub fn abort(&self) -> RmiStatus {
        let (rd, pdev, vdev) = self.names();
        self.host.status(Call::VdevAbort { rd, pdev, vdev })
    }

    pub fn destroy_interface(&self) -> RmiStatus {
        let (rd, pdev, vdev) = self.names();
        self.host.status(Call::VdevDestroy { rd, pdev, vdev })
    }

    pub fn lock(&mut self) {
        assert_eq!(self.ask_lock(), RmiStatus::SUCCESS);
        assert_eq!(self.state(), 1, "not before the device has said so");
        assert_eq!(self.pump_interface(), Pumped::Done);
        assert_eq!(self.state(), 2);
        assert_eq!(self.tdi(), TdiState::ConfigLocked);
    }

    pub fn measure(&mut self) {
        assert_eq!(self.ask_measurements(), RmiStatus::SUCCESS);
        assert_eq!(self.pump_interface(), Pumped::Done);
    }

    pub fn report(&mut self) {
        assert_eq!(self.ask_report(), RmiStatus::SUCCESS);
        assert_eq!(self.pump_interface(), Pumped::Done);
    }

    pub fn start(&mut self) {
        assert_eq!(self.ask_start(), RmiStatus::SUCCESS);
        assert_eq!(self.state(), 2, "not before the device has said so");
        assert_eq!(self.pump_interface(), Pumped::Done);
        assert_eq!(self.state(), 3);
        assert_eq!(self.tdi(), TdiState::Run);
    }

    pub fn unlock(&mut self) {
        assert_eq!(self.ask_unlock(), RmiStatus::SUCCESS);
        assert_eq!(self.pump_interface(), Pumped::Done);
        assert_eq!(self.state(), 1);
    }
}
