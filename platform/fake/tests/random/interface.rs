// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the courier does about the interface, and the guest's part of it.

use tsm_abi::rmi::{BlockSize, Call, MapFlags, RangeDescriptor, RecEnter};
use tsm_abi::rsi;
use tsm_platform_fake::ENDPOINT_BAR;
use zerocopy::FromZeros;

use crate::courier::{Courier, STARTED, Streaming, TOP, Target};
use crate::playground::{PAGE, Random};
use crate::rig::{DEVICE_IPA, INFO_IPA, PRIVATE_PAGES, VDEV_ID};

impl Courier {
    pub fn use_interface(&mut self, random: &mut Random) {
        let (rd, pdev, vdev) = self.rig.names();
        match self.state_of(vdev, true) {
            0 => self.pump(random, Target::Interface),
            1 => self.ask(Target::Interface, Call::VdevLock { rd, pdev, vdev }),
            2 => match random.below(6) {
                0 | 1 => self.measure(),
                2 | 3 => self.ask(
                    Target::Interface,
                    Call::VdevGetInterfaceReport { rd, pdev, vdev },
                ),
                4 => self.accept(random),
                _ => self.ask(Target::Interface, Call::VdevStart { rd, pdev, vdev }),
            },
            STARTED => match random.below(10) {
                0 => self.measure(),
                1 => self.ask(
                    Target::Interface,
                    Call::VdevGetInterfaceReport { rd, pdev, vdev },
                ),
                2 | 3 => self.accept(random),
                4..7 => self.enable(random),
                7 => self.disable(),
                8 => self.change_keys(random),
                _ => self.unlock(),
            },
            _ => self.unlock(),
        }
    }

    pub fn measure(&mut self) {
        let (rd, pdev, vdev) = self.rig.names();
        let params = self.pages.measure_params;
        self.ask(
            Target::Interface,
            Call::VdevGetMeasurements {
                rd,
                pdev,
                vdev,
                params,
            },
        );
    }

    pub fn change_keys(&mut self, random: &mut Random) {
        let (pdev_1, pdev_2) = (self.pages.device, self.pages.port);
        let handle = self.rig.handle;
        let call = if random.below(3) == 0 {
            Call::PdevStreamKeyPurge {
                pdev_1,
                pdev_2,
                handle,
            }
        } else {
            Call::PdevStreamKeyRefresh {
                pdev_1,
                pdev_2,
                handle,
            }
        };
        self.ask_both(Streaming::Change, call);
    }

    pub fn unlock(&mut self) {
        let (rd, pdev, vdev) = self.rig.names();
        self.unmap();
        let call = Call::VdevUnlock { rd, pdev, vdev };
        if self.works(call) {
            self.enabled = false;
            self.asked = Some(Target::Interface);
        }
    }

    pub fn unmap(&mut self) {
        let flags = MapFlags::single().0;
        let unmapped = self.works(Call::RttDevUnmap {
            rd: self.rig.realm.rd,
            base: DEVICE_IPA,
            top: TOP,
            flags,
            oaddr: 0,
        });
        if unmapped {
            self.rig.forget_script();
            self.give_up();
        }
    }

    /// Has the guest give the addresses of its device up.
    pub fn give_up(&mut self) {
        let call = rsi::Call::IpaStateSet {
            base: DEVICE_IPA,
            top: TOP,
            ripas: 0,
            flags: rsi::CHANGE_DESTROYED,
        };
        self.rig.host.fake.script().guest_call(call);
        if self.enter() != Some(4) {
            return;
        }
        let (rd, rec) = (self.rig.realm.rd, self.rig.realm.rec);
        self.call(Call::RttSetRipas {
            rd,
            rec,
            base: DEVICE_IPA,
            top: TOP,
        });
        self.enter();
    }

    /// Enters the guest; returns why it left.
    pub fn enter(&mut self) -> Option<u64> {
        self.calls += 1;
        let entry = RecEnter::new_zeroed();
        let exit = self.rig.host.enter_with(&self.rig.realm, &entry).ok()?;
        Some(exit.exit_reason.get())
    }

    /// Has the guest make `call` about its device; returns the status, if it got one.
    pub fn guest(&mut self, call: rsi::Call) -> Option<u64> {
        self.rig.forget_script();
        // What it was in before comes to an end.
        self.enter();
        self.rig.host.fake.script().guest_call(call);
        if self.enter() != Some(8) {
            return None;
        }
        let (rec, vdev) = (self.rig.realm.rec, self.rig.vdev);
        self.call(Call::VdevComplete { rec, vdev });
        let reason = self.enter()?;
        let name = tsm_abi::rsi::name(call.encode().0);
        // It waits for memory: entered again, it would go on without.
        let status = if reason == 9 {
            Some(0)
        } else {
            self.rig.vcpu_register()
        };
        if status == Some(0) {
            *self.succeeded.entry(name).or_default() += 1;
        }
        status
    }

    pub fn nonces(&mut self) -> Option<[u64; 3]> {
        let call = rsi::Call::VdevGetInfo {
            vdev_id: VDEV_ID,
            ipa: INFO_IPA,
        };
        if self.guest(call) != Some(0) {
            return None;
        }
        self.rig.read_nonces()
    }

    pub fn enable(&mut self, random: &mut Random) {
        self.delegate();
        let Some(mut nonces) = self.nonces() else {
            return;
        };
        let is_stale = random.once_in(10);
        if is_stale {
            nonces[random.below(3) as usize] ^= 1 << random.below(64);
        }
        let [lock_nonce, meas_nonce, report_nonce] = nonces;
        let enable = rsi::Call::VdevDmaEnable {
            vdev_id: VDEV_ID,
            flags: 0,
            non_ats_plane: 0,
            lock_nonce,
            meas_nonce,
            report_nonce,
        };
        let granted = self.guest(enable) == Some(0);
        assert!(!granted || !is_stale, "stale evidence grants nothing");
        self.enabled |= granted;
    }

    pub fn disable(&mut self) {
        if self.guest(rsi::Call::VdevDmaDisable { vdev_id: VDEV_ID }) == Some(0) {
            self.enabled = false;
        }
    }

    pub fn delegate(&mut self) {
        let (start, end) = (ENDPOINT_BAR, ENDPOINT_BAR + PRIVATE_PAGES * PAGE);
        self.call(Call::GranuleRangeDelegate { start, end });
    }

    pub fn accept(&mut self, random: &mut Random) {
        self.delegate();
        let Some([lock_nonce, meas_nonce, report_nonce]) = self.nonces() else {
            return;
        };
        self.guest(rsi::Call::VdevValidateMapping {
            vdev_id: VDEV_ID,
            ipa_base: DEVICE_IPA,
            ipa_top: TOP,
            pa_base: ENDPOINT_BAR,
            flags: 0,
            lock_nonce,
            meas_nonce,
            report_nonce,
        });
        self.map();
        if !random.once_in(8) {
            self.validate();
        }
        self.rig.forget_script();
        self.enter();
    }

    pub fn map(&mut self) {
        let (rd, _, vdev) = self.rig.names();
        let oaddr = RangeDescriptor::new(ENDPOINT_BAR, BlockSize::Page, PRIVATE_PAGES);
        self.call(Call::RttDevMap {
            rd,
            vdev,
            base: DEVICE_IPA,
            top: TOP,
            flags: MapFlags::single().0,
            oaddr: oaddr.0,
        });
    }

    pub fn validate(&mut self) {
        let (rd, rec) = (self.rig.realm.rd, self.rig.realm.rec);
        self.call(Call::RttDevValidate {
            rd,
            rec,
            base: DEVICE_IPA,
            top: TOP,
        });
    }
}
