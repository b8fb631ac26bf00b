// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest's calls, and the host's part in them.

use std::sync::{Arc, Mutex};

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{
    BlockSize, Call, MapFlags, RangeDescriptor, RecEnter, RecEnterFlags, RecExit, TeardownOrder,
};
use tsm_abi::rsi;
use tsm_platform_fake::{ENDPOINT_BAR, Fake, Host, Realm, Vcpu, success};
use zerocopy::{FromBytes, FromZeros};

use super::{DATA_IPA, DEVICE_IPA, INFO_IPA, PAGE, PRIVATE_PAGES, Registers, Rig, VDEV_ID};

impl Rig {
    /// Builds and activates the realm, and lets its guest run.
    pub fn build_guest(&mut self) {
        let (realm, vcpu) = guest(&self.host, self.order);
        (self.realm, self.vcpu) = (realm, Some(vcpu));
    }

    /// Returns the guest's way of translating, once it is built.
    pub const fn vcpu(&self) -> Option<&Vcpu> {
        self.vcpu.as_ref()
    }

    /// Has the guest make a call; the host names the object. Returns how the guest left next; its
    /// registers are in the cell once it has run.
    pub fn guest_call(&self, call: rsi::Call) -> (RecExit, Registers) {
        let (function, arguments) = call.encode();
        let registers: Vec<u64> = std::iter::once(function).chain(arguments).collect();
        self.asked.lock().unwrap().push(call);
        self.host.fake.script().call(&registers);
        let exit = self.host.enter(&self.realm);
        assert_eq!(exit.exit_reason.get(), 8, "VDEV_REQUEST");
        assert_eq!(exit.vdev_id_1.get(), VDEV_ID);
        let (rec, vdev) = (self.realm.rec, self.vdev);
        success(self.host.call(Call::VdevComplete { rec, vdev }));
        let seen = Registers::default();
        let into = seen.clone();
        self.host.fake.script().look(move |_, vcpu| {
            *into.0.lock().unwrap() = Some([vcpu.gprs[0], vcpu.gprs[1], vcpu.gprs[2]]);
        });
        (self.host.enter(&self.realm), seen)
    }

    /// Returns what the TSM tells the guest.
    pub fn info(&self) -> rsi::VdevInfo {
        let call = rsi::Call::VdevGetInfo {
            vdev_id: VDEV_ID,
            ipa: INFO_IPA,
        };
        let (_, registers) = self.guest_call(call);
        assert_eq!(registers.get()[0], 0);
        let seen = Arc::new(Mutex::new([0; 512]));
        let into = seen.clone();
        self.host.fake.script().look(move |fake, vcpu| {
            *into.lock().unwrap() = vcpu.load::<512>(fake, INFO_IPA).unwrap();
        });
        self.host.enter(&self.realm);
        let bytes = *seen.lock().unwrap();
        rsi::VdevInfo::read_from_bytes(&bytes).unwrap()
    }

    /// Returns register x0 of the guest, if the guest runs.
    pub fn vcpu_register(&self) -> Option<u64> {
        let seen = Arc::new(Mutex::new(None));
        let into = seen.clone();
        let look = move |_: &Fake, vcpu: &mut Vcpu| *into.lock().unwrap() = Some(vcpu.gprs[0]);
        self.host.fake.script().look(look);
        let entry = RecEnter::new_zeroed();
        self.host.enter_with(&self.realm, &entry).ok()?;
        seen.lock().unwrap().take()
    }

    /// Returns the nonces in the structure that the guest was told last.
    pub fn read_nonces(&self) -> Option<[u64; 3]> {
        let seen = Arc::new(Mutex::new(None));
        let into = seen.clone();
        self.host.fake.script().look(move |fake, vcpu| {
            *into.lock().unwrap() = vcpu.load::<24>(fake, INFO_IPA + 0x18).ok();
        });
        let entry = RecEnter::new_zeroed();
        self.host.enter_with(&self.realm, &entry).ok()?;
        let bytes = seen.lock().unwrap().take()?;
        let (words, _) = bytes.as_chunks::<8>();
        Some([0, 1, 2].map(|index| u64::from_le_bytes(words[index])))
    }

    pub fn nonces(&self) -> [u64; 3] {
        let info = self.info();
        [
            info.lock_nonce.get(),
            info.meas_nonce.get(),
            info.report_nonce.get(),
        ]
    }

    pub fn enable_dma(&self, nonces: [u64; 3]) -> u64 {
        let [lock_nonce, meas_nonce, report_nonce] = nonces;
        let call = rsi::Call::VdevDmaEnable {
            vdev_id: VDEV_ID,
            flags: 0,
            non_ats_plane: 0,
            lock_nonce,
            meas_nonce,
            report_nonce,
        };
        self.guest_call(call).1.get()[0]
    }

    pub fn disable_dma(&self) -> u64 {
        self.guest_call(rsi::Call::VdevDmaDisable { vdev_id: VDEV_ID })
            .1
            .get()[0]
    }

    /// Has the guest ask for memory; returns how it left.
    pub fn ask_memory(
        &self,
        ipa: u64,
        physical: u64,
        pages: u64,
        nonces: [u64; 3],
    ) -> (RecExit, Registers) {
        let [lock_nonce, meas_nonce, report_nonce] = nonces;
        self.guest_call(rsi::Call::VdevValidateMapping {
            vdev_id: VDEV_ID,
            ipa_base: ipa,
            ipa_top: ipa + pages * PAGE,
            pa_base: physical,
            flags: 0,
            lock_nonce,
            meas_nonce,
            report_nonce,
        })
    }

    pub fn map(&self, ipa: u64, physical: u64, pages: u64) -> RmiStatus {
        let oaddr = RangeDescriptor::new(physical, BlockSize::Page, pages).0;
        self.host.status(Call::RttDevMap {
            rd: self.realm.rd,
            vdev: self.vdev,
            base: ipa,
            top: ipa + pages * PAGE,
            flags: MapFlags::single().0,
            oaddr,
        })
    }

    pub fn validate(&self, ipa: u64, pages: u64) -> RmiStatus {
        self.host.status(Call::RttDevValidate {
            rd: self.realm.rd,
            rec: self.realm.rec,
            base: ipa,
            top: ipa + pages * PAGE,
        })
    }

    pub fn unmap(&self, ipa: u64, pages: u64) -> RmiStatus {
        self.host.status(Call::RttDevUnmap {
            rd: self.realm.rd,
            base: ipa,
            top: ipa + pages * PAGE,
            flags: MapFlags::single().0,
            oaddr: 0,
        })
    }

    /// Gives the guest the private part of the BAR.
    pub fn accept_memory(&self) {
        self.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
        self.accept_again();
    }

    /// Gives the guest the private part of the BAR, which is delegated.
    pub fn accept_again(&self) {
        let nonces = self.nonces();
        let (exit, registers) = self.ask_memory(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES, nonces);
        assert_eq!(exit.exit_reason.get(), 9, "DEV_MEM_MAP");
        assert_eq!(exit.dev_mem_pa.get(), ENDPOINT_BAR);
        assert_eq!(
            self.map(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES),
            RmiStatus::SUCCESS
        );
        assert_eq!(self.reach(DEVICE_IPA), None, "not before it is validated");
        assert_eq!(self.validate(DEVICE_IPA, PRIVATE_PAGES), RmiStatus::SUCCESS);
        self.host.enter(&self.realm);
        assert_eq!(registers.get(), [0, DEVICE_IPA + PRIVATE_PAGES * PAGE, 0]);
    }

    /// Has the guest give up the addresses of its device, of which the host has unmapped the memory.
    pub fn give_up_addresses(&self) {
        let (base, top) = (DEVICE_IPA, DEVICE_IPA + PRIVATE_PAGES * PAGE);
        let flags = rsi::CHANGE_DESTROYED;
        let call = rsi::Call::IpaStateSet {
            base,
            top,
            ripas: 0,
            flags,
        };
        let (function, arguments) = call.encode();
        let registers: Vec<u64> = std::iter::once(function).chain(arguments).collect();
        self.host.fake.script().call(&registers);
        assert_eq!(
            self.host.enter(&self.realm).exit_reason.get(),
            4,
            "RIPAS_CHANGE"
        );
        let Realm { rd, rec, .. } = self.realm;
        success(self.host.call(Call::RttSetRipas { rd, rec, base, top }));
        self.host.enter(&self.realm);
    }

    /// Has the host reject what the guest asked for.
    pub fn reject(&self) {
        let mut enter = RecEnter::new_zeroed();
        enter.flags = RecEnterFlags::DEV_MEM_RESPONSE.bits().into();
        self.host.enter_with(&self.realm, &enter).unwrap();
    }
}

/// Makes a realm that is ready to run, and shows how its guest translates.
fn guest(host: &Host, order: TeardownOrder) -> (Realm, Vcpu) {
    let mut params = host.realm_params();
    params.teardown_order = order.word().into();
    let realm = host.new_realm_with(&params);
    host.init_ripas(&realm, 0, 4 * PAGE);
    success(host.call(Call::RealmActivate { rd: realm.rd }));
    host.map_private(&realm, DATA_IPA);
    let seen = Arc::new(Mutex::new(None));
    let into = seen.clone();
    host.fake
        .script()
        .look(move |_, vcpu| *into.lock().unwrap() = Some(vcpu.clone()));
    host.enter(&realm);
    let vcpu = seen.lock().unwrap().take().unwrap();
    (realm, vcpu)
}
