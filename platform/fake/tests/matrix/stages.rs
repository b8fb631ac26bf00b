// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Machines in which the objects that calls take are in a certain state, and right arguments.

use tsm_abi::rmi::{
    BlockSize, Call, DevCommEnter, MapFlags, PdevCategory, PdevStreamParams, PsmmuParams,
    PublicKeyParams, RangeDescriptor, RmmConfig, SignatureAlgorithm, StreamType, VERSION,
    VdevMeasureParams,
};
use tsm_abi::{RmiCode, rsi};
use tsm_platform::Iommu;
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Host, Realm, success};
use zerocopy::{FromZeros, IntoBytes};

use crate::rig::{DEVICE_IPA, PAGE, PRIVATE_PAGES, Pumped, Rig, STREAM, VDEV_ID};

/// A machine, and what calls are given.
pub struct Stage {
    pub rig: Rig,
    /// A realm in the state that the stage is about, or the one that has the device.
    pub realm: Realm,
    /// Another virtual CPU of that realm.
    pub second_rec: u64,
    /// Delegated granules, a run of four.
    pub free: u64,
    /// Granules of the host, a run of four.
    pub plain: u64,
    /// A granule that held a virtual CPU, and one that held a device: both delegated now.
    pub stale: u64,
    /// Private memory of the realm, mapped at [`PAGE`].
    pub data: u64,
    params: Params,
}

struct Params {
    config: u64,
    realm: u64,
    rec: u64,
    pdev: u64,
    key: u64,
    stream: u64,
    vdev: u64,
    measure: u64,
    unit: u64,
    list: u64,
    page: u64,
}

fn params(rig: &Rig) -> Params {
    let host = &rig.host;
    let mut stream = PdevStreamParams::new_zeroed();
    stream.stream_type = StreamType::NonCoherent.word().into();
    stream.ide_sid = u64::from(STREAM).into();
    (stream.pdev_1, stream.pdev_2) = (rig.device.into(), rig.port.into());
    let mut key = PublicKeyParams::new_zeroed();
    let point = crate::a_key();
    key.key[..point.len()].copy_from_slice(&point);
    key.key_len = (point.len() as u64).into();
    key.algo = SignatureAlgorithm::EcdsaP384 as u8;
    let memory = host.pages(4);
    host.delegate(memory, 4);
    let memory = RangeDescriptor::new(memory, BlockSize::Page, 4).0;
    let mut enter = DevCommEnter::new_zeroed();
    enter.req_addr = host.pages(1).into();
    enter.resp_addr = host.pages(1).into();
    let mut measure = VdevMeasureParams::new_zeroed();
    measure.nonce = [7; 32];
    let pdev = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    Params {
        config: host.page_with(RmmConfig::new_zeroed().as_bytes()),
        realm: host.page_with(host.realm_params().as_bytes()),
        rec: host.page_with(Host::rec_params(2).as_bytes()),
        pdev: host.page_with(pdev.as_bytes()),
        key: host.page_with(key.as_bytes()),
        stream: host.page_with(stream.as_bytes()),
        vdev: host.page_with(rig.vdev_params().as_bytes()),
        measure: host.page_with(measure.as_bytes()),
        unit: host.page_with(PsmmuParams::new_zeroed().as_bytes()),
        list: host.page_with(&memory.to_le_bytes()),
        page: host.page_with(enter.as_bytes()),
    }
}

/// Makes a realm with two virtual CPUs, memory and an empty table at 2 MiB.
fn shape(host: &Host) -> (Realm, u64) {
    let realm = host.new_realm();
    host.add_table(&realm, 0x20_0000, 3);
    host.init_ripas(&realm, 0, 8 * PAGE);
    let (rd, rec) = (realm.rd, host.delegated());
    let params = host.page_with(Host::rec_params(1).as_bytes());
    success(host.call(Call::RecCreate { rd, rec, params }));
    (realm, rec)
}

impl Stage {
    /// Puts a stage around `rig`; `prepare` brings the new realm into its state.
    fn around(rig: Rig, prepare: impl FnOnce(&Host, &Realm)) -> Self {
        rig.forget_script();
        let host = &rig.host;
        let (realm, second_rec) = shape(host);
        let data = host.map_private(&realm, PAGE);
        host.map_shared(&realm, Realm::SHARED);
        prepare(host, &realm);
        let (spare, stale) = shape(host);
        success(host.call(Call::RecDestroy { rec: stale }));
        success(host.call(Call::RecDestroy { rec: spare.rec }));
        let free = host.pages(4);
        host.delegate(free, 4);
        let plain = host.pages(4);
        Self {
            params: params(&rig),
            realm,
            second_rec,
            free,
            plain,
            stale,
            data,
            rig,
        }
    }

    /// A realm that is being built.
    pub fn new_realm() -> Self {
        Self::around(Rig::new(), |_, _| ())
    }

    /// A realm that runs and waits for a change of RIPAS.
    pub fn active_realm() -> Self {
        Self::around(Rig::new(), activate)
    }

    /// A realm whose guest waits for the state of another virtual CPU.
    pub fn realm_that_asked_for_power() -> Self {
        Self::around(Rig::new(), |host, realm| {
            success(host.call(Call::RealmActivate { rd: realm.rd }));
            host.fake.script().call(&[0xc400_0004, 1, 0]);
            assert_eq!(host.enter(realm).exit_reason.get(), 3);
        })
    }

    /// A realm of which only the descriptor and the root table are left.
    pub fn empty_realm() -> Self {
        let stage = Self::new_realm();
        let host = &stage.rig.host;
        for rec in [stage.realm.rec, stage.second_rec] {
            success(host.call(Call::RecDestroy { rec }));
        }
        host.reclaim_tables(stage.realm.rd);
        stage
    }

    /// A realm whose guest has switched everything off.
    pub fn realm_that_is_off() -> Self {
        Self::around(Rig::new(), |host, realm| {
            success(host.call(Call::RealmActivate { rd: realm.rd }));
            host.fake.script().call(&[0x8400_0008]);
            host.enter(realm);
        })
    }

    /// A realm that was terminated.
    pub fn terminated_realm() -> Self {
        Self::around(Rig::new(), |host, realm| {
            activate(host, realm);
            success(host.call(Call::RealmTerminate { rd: realm.rd }));
        })
    }

    /// A TSM that was not activated, with the arguments of one that was.
    pub fn before_activation() -> Self {
        let mut stage = Self::active_realm();
        stage.rig.host = Host::new();
        stage
    }

    /// A machine whose device was brought to somewhere.
    pub fn with_device(rig: Rig) -> Self {
        Self::around(rig, activate)
    }

    /// Returns the arguments that are right but for the state of what they name, or `None` if the
    /// call is not known.
    pub fn arguments(&self, name: &str) -> Option<Vec<u64>> {
        let Params { config, page, .. } = self.params;
        let (rd, rec, free, plain) = (self.realm.rd, self.realm.rec, self.free, self.plain);
        let single = MapFlags::single().0;
        let run = |pa, count| RangeDescriptor::new(pa, BlockSize::Page, count).0;
        let rig = &self.rig;
        let (owner, guest) = (rig.realm.rd, rig.realm.rec);
        let [port, device, vdev] = [rig.port, rig.device, rig.vdev].map(|named| match named {
            // A device that is not there is a granule that is none.
            0 => free,
            object => object,
        });
        let (base, top) = (DEVICE_IPA, DEVICE_IPA + PRIVATE_PAGES * PAGE);
        let unit = rig.host.fake.units().first().map_or(plain, |unit| unit.0);
        let shared = Realm::SHARED;
        let handle = device | StreamType::NonCoherent.word();
        Some(match name {
            "RMI_VERSION" => vec![VERSION],
            "RMI_FEATURES" => vec![0],
            "RMI_RMM_CONFIG_SET" | "RMI_RMM_CONFIG_GET" => vec![config],
            "RMI_RMM_ACTIVATE" | "PORTCULLIS_IOMMU_FAULT_GET" => vec![],
            "RMI_GRANULE_RANGE_DELEGATE" => vec![plain, plain + 4 * PAGE],
            "RMI_GRANULE_RANGE_UNDELEGATE" => vec![free, free + 4 * PAGE],
            "RMI_GRANULE_TRACKING_GET" => vec![free, free + PAGE],
            "RMI_REALM_CREATE" => vec![free, self.params.realm],
            "RMI_REALM_ACTIVATE" | "RMI_REALM_TERMINATE" | "RMI_REALM_DESTROY" => vec![rd],
            "RMI_REC_CREATE" => vec![rd, free, self.params.rec],
            "RMI_REC_DESTROY" => vec![self.second_rec],
            "RMI_REC_ENTER" => vec![rec, self.realm.run],
            "RMI_PSCI_COMPLETE" => vec![rec, self.second_rec, 0],
            "RMI_RTT_CREATE" => vec![rd, free, 0x40_0000, 3],
            "RMI_RTT_DESTROY" | "RMI_RTT_FOLD" => vec![rd, 0x20_0000, 3],
            "RMI_RTT_READ_ENTRY" => vec![rd, 0, 3],
            "RMI_RTT_INIT_RIPAS" => vec![rd, 0, 4 * PAGE],
            "RMI_RTT_SET_RIPAS" => vec![rd, rec, 4 * PAGE, 6 * PAGE],
            "RMI_RTT_DATA_MAP_INIT" => vec![rd, free, 0, plain, 1],
            "RMI_RTT_DATA_MAP" => vec![rd, 2 * PAGE, 3 * PAGE, single, run(free, 1)],
            "RMI_RTT_DATA_UNMAP" => vec![rd, PAGE, 2 * PAGE, single, 0],
            "RMI_RTT_UNPROT_MAP" => {
                let (at, flags) = (shared + PAGE, Host::shared_flags());
                vec![rd, at, at + PAGE, flags, Host::shared_range(plain)]
            }
            "RMI_RTT_UNPROT_UNMAP" => vec![rd, shared, shared + PAGE, single, 0],
            "RMI_RTT_DEV_MAP" => vec![owner, vdev, base, top, single, run(ENDPOINT_BAR, 2)],
            "RMI_RTT_DEV_UNMAP" => vec![owner, base, top, single, 0],
            "RMI_RTT_DEV_VALIDATE" => vec![owner, guest, base, top],
            "RMI_OP_CONTINUE" => vec![device, 0],
            "RMI_OP_MEM_DONATE" => vec![device, self.params.list, 1],
            "RMI_OP_MEM_RECLAIM" => vec![device, plain, 1],
            "RMI_OP_CANCEL" => vec![device],
            "RMI_PDEV_CREATE" => vec![free, self.params.pdev],
            "RMI_PDEV_GET_STATE" | "RMI_PDEV_STOP" | "RMI_PDEV_ABORT" | "RMI_PDEV_DESTROY" => {
                vec![device]
            }
            "RMI_PDEV_COMMUNICATE" => vec![device, page],
            "RMI_PDEV_SET_PUBKEY" => vec![device, self.params.key],
            "RMI_PDEV_STREAM_CONNECT" => vec![self.params.stream],
            "RMI_PDEV_STREAM_COMPLETE"
            | "RMI_PDEV_STREAM_KEY_REFRESH"
            | "RMI_PDEV_STREAM_KEY_PURGE"
            | "RMI_PDEV_STREAM_DISCONNECT" => vec![device, port, handle],
            "RMI_VDEV_CREATE" => vec![owner, device, free, self.params.vdev],
            "RMI_VDEV_GET_STATE" => vec![vdev],
            "RMI_VDEV_COMMUNICATE" => vec![owner, device, vdev, page],
            "RMI_VDEV_GET_MEASUREMENTS" => vec![owner, device, vdev, self.params.measure],
            "RMI_VDEV_LOCK"
            | "RMI_VDEV_GET_INTERFACE_REPORT"
            | "RMI_VDEV_START"
            | "RMI_VDEV_UNLOCK"
            | "RMI_VDEV_ABORT"
            | "RMI_VDEV_DESTROY" => vec![owner, device, vdev],
            "RMI_VDEV_COMPLETE" => vec![guest, vdev],
            "RMI_PSMMU_ACTIVATE" => vec![unit, self.params.unit],
            "RMI_PSMMU_DEACTIVATE" => vec![unit],
            "RMI_PSMMU_ST_L2_CREATE" | "RMI_PSMMU_ST_L2_DESTROY" => vec![unit, 0x100],
            _ => return None,
        })
    }
}

fn activate(host: &Host, realm: &Realm) {
    success(host.call(Call::RealmActivate { rd: realm.rd }));
    host.fake.script().guest_call(rsi::Call::IpaStateSet {
        base: 4 * PAGE,
        top: 6 * PAGE,
        ripas: 0,
        flags: 0,
    });
    assert_eq!(host.enter(realm).exit_reason.get(), 4);
}

/// A way to a device in a certain state: a letter, a name and the way.
pub type Way = (&'static str, fn() -> Rig);

fn ends() -> Rig {
    let mut rig = Rig::new();
    rig.create_ends();
    rig
}

fn forming() -> Rig {
    let mut rig = Rig::new();
    let host = &rig.host;
    let params = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    let (pdev, params) = (host.delegated(), host.page_with(params.as_bytes()));
    let created = host.status(Call::PdevCreate { pdev, params });
    assert_eq!(created.code, RmiCode::Incomplete);
    rig.device = pdev;
    rig
}

fn needs_key() -> Rig {
    let mut rig = ends();
    assert_eq!(rig.pump_device(rig.device), Pumped::Done);
    rig
}

fn has_key() -> Rig {
    let rig = needs_key();
    let key = rig.device_key();
    assert_eq!(rig.set_key(&key).code, RmiCode::Success);
    rig
}

fn ready() -> Rig {
    let mut rig = ends();
    rig.open_session();
    rig
}

fn stopped() -> Rig {
    let mut rig = ready();
    let pdev = rig.device;
    success(rig.host.call(Call::PdevStop { pdev }));
    assert_eq!(rig.pump_device(pdev), Pumped::Done);
    rig
}

fn failed_device() -> Rig {
    let mut rig = ready();
    let pdev = rig.device;
    success(rig.host.call(Call::PdevStop { pdev }));
    success(rig.host.call(Call::PdevAbort { pdev }));
    rig.handle = 0;
    rig
}

fn connecting() -> Rig {
    let mut rig = ready();
    rig.ask_for_stream();
    rig
}

fn refreshing() -> Rig {
    let rig = Rig::connected();
    assert_eq!(rig.refresh_keys().code, RmiCode::Success);
    rig
}

fn disconnecting() -> Rig {
    let rig = Rig::connected();
    assert_eq!(rig.disconnect_stream().code, RmiCode::Success);
    rig
}

/// An IOMMU that the host sees.
fn unit() -> Rig {
    let rig = Rig::new();
    rig.host.fake.show_unit();
    rig
}

fn activate_unit(rig: &Rig) {
    let psmmu = rig.host.fake.units()[0].0;
    let params = PsmmuParams::new_zeroed();
    let params = rig.host.page_with(params.as_bytes());
    success(rig.host.call(Call::PsmmuActivate { psmmu, params }));
}

fn active_unit() -> Rig {
    let rig = unit();
    activate_unit(&rig);
    rig
}

/// A stream, and an IOMMU that is prepared for an interface.
fn connected() -> Rig {
    let rig = Rig::connected();
    rig.host.fake.show_unit();
    activate_unit(&rig);
    let psmmu = rig.host.fake.units()[0].0;
    let sid = u64::from(ENDPOINT.0);
    success(rig.host.call(Call::PsmmuStL2Create { psmmu, sid }));
    rig
}

/// A stream that both ends have brought up.
fn brought_up() -> Rig {
    let mut rig = connecting();
    for pdev in [rig.port, rig.device, rig.port, rig.device] {
        rig.pump_device(pdev);
    }
    rig
}

fn has_memory() -> Rig {
    let rig = forming();
    let memory = rig.host.pages(4);
    rig.host.delegate(memory, 4);
    let memory = RangeDescriptor::new(memory, BlockSize::Page, 4).0;
    let list = rig.host.page_with(&memory.to_le_bytes());
    let handle = rig.device;
    let donated = rig.host.status(Call::OpMemDonate {
        handle,
        list,
        count: 1,
    });
    assert_eq!(donated.code, RmiCode::Incomplete);
    rig
}

/// An interface of which memory can be mapped.
fn unlocked() -> Rig {
    let rig = Rig::assigned();
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    rig
}

/// An interface about which the guest has asked.
fn locked() -> Rig {
    let rig = Rig::locked();
    let call = rsi::Call::VdevDmaDisable { vdev_id: VDEV_ID };
    rig.host.fake.script().guest_call(call);
    assert_eq!(rig.host.enter(&rig.realm).exit_reason.get(), 8);
    rig
}

/// An interface whose memory is mapped, and the guest waits for it.
fn mapped() -> Rig {
    let rig = started();
    rig.host.delegate(ENDPOINT_BAR, PRIVATE_PAGES);
    let nonces = rig.nonces();
    let (exit, _) = rig.ask_memory(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES, nonces);
    assert_eq!(exit.exit_reason.get(), 9);
    let mapped = rig.map(DEVICE_IPA, ENDPOINT_BAR, PRIVATE_PAGES);
    assert_eq!(mapped.code, RmiCode::Success);
    rig
}

fn new_interface() -> Rig {
    let mut rig = Rig::connected();
    rig.vdev = rig.create_interface(&rig.vdev_params()).unwrap();
    rig
}

fn started() -> Rig {
    let mut rig = Rig::locked();
    rig.start();
    rig
}

fn failed_interface() -> Rig {
    let rig = Rig::running();
    let host = &rig.host;
    let off = Some(0);
    host.tsm.host_config_access(&host.fake, ENDPOINT, 4, 2, off);
    rig
}

/// A lock whose first request is with the device.
fn locking() -> Rig {
    let mut rig = Rig::assigned();
    assert_eq!(rig.ask_lock().code, RmiCode::Success);
    let call = rig.interface_pump();
    rig.begin(call);
    rig
}

/// Every state that a device, its stream, its interface or an IOMMU may be in, in the order of the
/// letters of a row.
pub const DEVICES: [Way; 23] = [
    ("no device", Rig::new),
    ("IOMMU INACTIVE", unit),
    ("IOMMU ACTIVE", active_unit),
    ("device waits for memory", forming),
    ("device has its memory", has_memory),
    ("device NEW", ends),
    ("device NEEDS_KEY", needs_key),
    ("device HAS_KEY", has_key),
    ("device READY", ready),
    ("device STOPPED", stopped),
    ("device ERROR", failed_device),
    ("stream CONNECTING", connecting),
    ("stream CONNECTING, up", brought_up),
    ("stream CONNECTED", connected),
    ("stream KEY_REFRESHING", refreshing),
    ("stream DISCONNECTING", disconnecting),
    ("interface NEW", new_interface),
    ("interface UNLOCKED", unlocked),
    ("interface UNLOCKED, request out", locking),
    ("interface LOCKED", locked),
    ("interface STARTED", started),
    ("interface STARTED, memory mapped", mapped),
    ("interface ERROR, memory mapped", failed_interface),
];

/// A state of a realm, and a way to it.
pub type RealmWay = (&'static str, fn() -> Stage);

/// Every state of a realm, and of the TSM before realms, in the order of the letters of a row.
pub const REALMS: [RealmWay; 7] = [
    ("before activation", Stage::before_activation),
    ("realm NEW, empty", Stage::empty_realm),
    ("realm NEW", Stage::new_realm),
    ("realm ACTIVE", Stage::active_realm),
    (
        "realm ACTIVE, power asked",
        Stage::realm_that_asked_for_power,
    ),
    ("realm SYSTEM_OFF", Stage::realm_that_is_off),
    ("realm TERMINATED", Stage::terminated_realm),
];
