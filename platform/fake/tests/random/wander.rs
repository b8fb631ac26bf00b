// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the courier does out of place.

use tsm_abi::rmi::Call;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR};

use crate::courier::{Courier, Target};
use crate::playground::{PAGE, Random};
use crate::rig::PRIVATE_PAGES;

impl Courier {
    /// Makes a call that may be out of place.
    pub fn wander(&mut self, random: &mut Random) {
        let (rd, pdev, vdev) = self.rig.names();
        match random.below(16) {
            0 => self.complete(),
            1 => self.change_keys(random),
            2 => self.unmap(),
            3 => self.map(),
            4 => self.validate(),
            5 => self.connect_again(),
            6 => self.ask(Target::Interface, Call::VdevStart { rd, pdev, vdev }),
            7 => self.ask(Target::Interface, Call::VdevLock { rd, pdev, vdev }),
            8 => self.unlock(),
            9 => self.disable(),
            10 => self.enable(random),
            11 => self.release_memory(),
            12 => {
                let target = random.pick(&[Target::Port, Target::Device, Target::Interface]);
                self.pump(random, target);
            }
            13 if random.once_in(6) => self.disturb(random),
            14 if random.once_in(6) => {
                self.call(Call::VdevAbort { rd, pdev, vdev });
                self.waiting
                    .take_if(|waiting| waiting.target == Target::Interface);
            }
            15 if random.once_in(6) => {
                let pdev = self.pages.device;
                self.call(Call::PdevAbort { pdev });
                self.waiting
                    .take_if(|waiting| waiting.target != Target::Interface);
            }
            _ => self.measure(),
        }
    }

    pub fn connect_again(&mut self) {
        let params = self.pages.stream_params;
        assert!(self.rig.handle == 0 || !self.works(Call::PdevStreamConnect { params }));
    }

    /// Takes the device's memory, which cuts the interface off.
    pub fn release_memory(&mut self) {
        let (start, end) = (ENDPOINT_BAR, ENDPOINT_BAR + PRIVATE_PAGES * PAGE);
        self.call(Call::GranuleRangeUndelegate { start, end });
    }

    /// Writes to configuration space.
    pub fn disturb(&mut self, random: &mut Random) {
        let host = &self.rig.host;
        let write = Some(random.next() as u32);
        let offset = random.pick(&[4, 0x10, 0x48]);
        host.tsm
            .host_config_access(&host.fake, ENDPOINT, offset, 2, write);
        host.tsm
            .host_config_access(&host.fake, ENDPOINT, 4, 2, Some(6));
        let bar = Some(ENDPOINT_BAR as u32);
        host.tsm
            .host_config_access(&host.fake, ENDPOINT, 0x10, 4, bar);
    }
}
