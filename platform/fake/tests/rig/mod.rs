// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A host, a guest and a device around the TSM: every byte of every message is real.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{
    AddressRange, BlockSize, Call, CommStatus, DevCommEnter, DevCommExit, DevCommExitFlags,
    HashAlgorithm, MapFlags, PdevCategory, PdevFlags, PdevParams, PdevStreamParams,
    PublicKeyParams, RangeDescriptor, RecEnter, RecEnterFlags, RecExit, SignatureAlgorithm,
    StreamType, VdevMeasureParams, VdevParams,
};
use tsm_abi::rsi;
use tsm_devices::{
    Bar, Config, Dsm, EndKeys, FunctionSource, FunctionView, KEYS_PER_STREAM, LinkKey, LinkKeys,
    LinkStatus, TdiState,
};
use tsm_platform::{ConfigSpace, KeySlot, Rid, StreamId};
use tsm_platform_fake::{
    ENDPOINT, ENDPOINT_BAR, ENDPOINT_BAR_BYTES, Host, ROOT_PORT, Realm, Vcpu, success,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub const PAGE: u64 = 0x1000;
/// Where the guest puts the device's memory.
pub const DEVICE_IPA: u64 = 0x10_0000;
/// A page of private memory of the guest.
pub const DATA_IPA: u64 = 0x1000;
/// Where the guest wants to be told about the device.
pub const INFO_IPA: u64 = DATA_IPA + 0x200;
/// Pages of the BAR that only the guest may reach.
pub const PRIVATE_PAGES: u64 = 2;
/// The guest's id for the device.
pub const VDEV_ID: u64 = 0x77;
pub const STREAM: u8 = 5;

/// What the device learns of the machine besides messages.
#[derive(Default)]
struct Wires {
    view: FunctionView,
    keys: BTreeMap<(u8, usize), ([u8; 32], u64)>,
    secure: BTreeMap<u8, bool>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Wires>>);

impl FunctionSource for Shared {
    fn view(&mut self) -> Option<FunctionView> {
        Some(self.0.lock().unwrap().view.clone())
    }
}

impl LinkKeys for Shared {
    fn keys(&mut self, stream: u8) -> EndKeys {
        let wires = self.0.lock().unwrap();
        let mut keys = [const { None }; KEYS_PER_STREAM];
        for (index, slot) in keys.iter_mut().enumerate() {
            *slot = wires.keys.get(&(stream, index)).map(|(key, iv)| LinkKey {
                key: (*key).into(),
                iv: *iv,
            });
        }
        keys
    }

    fn publish(&mut self, stream: u8, status: LinkStatus) {
        self.0.lock().unwrap().secure.insert(stream, status.secure);
    }
}

/// What a pump came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// The exchange is over.
    Done,
    /// The other end of the stream has to be pumped.
    Wait,
    /// A call failed.
    Failed(RmiStatus),
}

/// Changes the answer with this number; returns false to lose it.
pub type Tamper = Box<dyn FnMut(usize, &mut Vec<u8>) -> bool>;

pub struct Rig {
    pub host: Host,
    pub dsm: Dsm,
    shared: Shared,
    pub realm: Realm,
    pub port: u64,
    pub device: u64,
    pub vdev: u64,
    pub handle: u64,
    /// What the host keeps for the guest, by object.
    pub objects: BTreeMap<u8, Vec<u8>>,
    /// Answers carried so far.
    pub carried: usize,
    pub tamper: Option<Tamper>,
    /// Where the device claims that its BAR is, if it lies.
    pub lie: Option<u64>,
    /// Everything that was carried, both ways.
    pub traffic: Vec<Vec<u8>>,
    /// The guest's way of translating.
    vcpu: Vcpu,
    data: u64,
    request: u64,
    response: u64,
}

impl Rig {
    /// Boots a machine with a realm; nothing is connected.
    pub fn new() -> Self {
        let host = Host::activated();
        let realm = host.new_realm();
        host.init_ripas(&realm, 0, 4 * PAGE);
        success(host.call(Call::RealmActivate { rd: realm.rd }));
        host.map_private(&realm, DATA_IPA);
        let shared = Shared::default();
        let mut config = Config::new(b"firmware", FunctionView::default()).unwrap();
        config.function = Box::new(shared.clone());
        config.link = Box::new(shared.clone());
        let pages = [(); 3].map(|()| host.pages(1));
        let seen = Arc::new(Mutex::new(None));
        let into = seen.clone();
        host.fake
            .script()
            .look(move |_, vcpu| *into.lock().unwrap() = Some(vcpu.clone()));
        host.enter(&realm);
        let vcpu = seen.lock().unwrap().take().unwrap();
        Self {
            dsm: Dsm::new(config),
            shared,
            realm,
            port: 0,
            device: 0,
            vdev: 0,
            handle: 0,
            objects: BTreeMap::new(),
            carried: 0,
            tamper: None,
            lie: None,
            traffic: Vec::new(),
            vcpu,
            data: pages[0],
            request: pages[1],
            response: pages[2],
            host,
        }
    }

    /// Boots and goes on to a connected device.
    pub fn connected() -> Self {
        let mut rig = Self::new();
        rig.connect();
        rig
    }

    /// Boots and goes on to an unlocked interface.
    pub fn assigned() -> Self {
        let mut rig = Self::connected();
        rig.assign();
        rig
    }

    /// Boots and goes on to a locked interface whose evidence was fetched.
    pub fn locked() -> Self {
        let mut rig = Self::assigned();
        rig.lock();
        rig.measure();
        rig.report();
        rig
    }

    /// Boots and goes on to a guest that uses its device.
    pub fn running() -> Self {
        let mut rig = Self::locked();
        rig.accept_memory();
        rig.start();
        let nonces = rig.nonces();
        assert_eq!(rig.enable_dma(nonces), 0);
        rig
    }

    /// Lets the device see the machine as it is.
    pub fn refresh(&mut self) {
        let view = self.view();
        let mut wires = self.shared.0.lock().unwrap();
        wires.view = view;
        wires.keys.clear();
        for stream in 0..=u8::MAX {
            for index in 0..KEYS_PER_STREAM {
                let slot = slot(stream, index);
                let record = self.host.fake.key(ROOT_PORT, slot);
                if let (Some(key), true) = (record.key, record.going) {
                    wires.keys.insert((stream, index), key);
                }
            }
        }
        drop(wires);
        self.dsm.tick(std::time::Instant::now());
    }

    fn view(&self) -> FunctionView {
        let read = |offset| self.host.fake.config_read(ENDPOINT, offset, 4);
        let decodes = read(4) & 2 != 0;
        let address = u64::from(read(0x10) & !0xf) | u64::from(read(0x14)) << 32;
        let address = self.lie.unwrap_or(address);
        let bar = Bar {
            index: 0,
            address,
            size: ENDPOINT_BAR_BYTES,
        };
        FunctionView {
            rid: Some(ENDPOINT.0),
            bars: if decodes { vec![bar] } else { Vec::new() },
        }
    }

    /// Carries one request to the device and returns its answer.
    fn carry(&mut self, protocol: u8, request: &[u8]) -> Option<Vec<u8>> {
        self.refresh();
        let mut object = vec![1, 0, protocol + 1, 0];
        let words = (8 + request.len()).div_ceil(4);
        object.extend(u32::try_from(words).unwrap().to_le_bytes());
        object.extend(request);
        object.resize(words * 4, 0);
        let mut answer = self.dsm.handle_doe(&object)?.split_off(8);
        self.traffic.extend([request.to_vec(), answer.clone()]);
        let number = self.carried;
        self.carried += 1;
        let arrives = self
            .tamper
            .as_mut()
            .is_none_or(|tamper| tamper(number, &mut answer));
        arrives.then_some(answer)
    }

    /// Calls COMMUNICATE once with what the device answered last.
    fn step(&mut self, call: Call, answer: Option<&[u8]>, status: CommStatus) -> Step {
        let mut enter = DevCommEnter::new_zeroed();
        enter.status = status as u8;
        enter.req_addr = self.request.into();
        enter.resp_addr = self.response.into();
        if let Some(answer) = answer {
            enter.resp_len = u64::try_from(answer.len()).unwrap().into();
            self.host.fake.host_store(self.response, answer).unwrap();
        }
        self.host
            .fake
            .host_store(self.data, enter.as_bytes())
            .unwrap();
        let result = self.host.status(call);
        if result != RmiStatus::SUCCESS {
            return Step::Failed(result);
        }
        let bytes = self
            .host
            .fake
            .host_load(self.data + 0x800, size_of::<DevCommExit>());
        let exit = DevCommExit::read_from_bytes(&bytes.unwrap()).unwrap();
        Step::Exit(exit)
    }

    fn keep(&mut self, exit: &DevCommExit) {
        let flags = DevCommExitFlags::from_bits(exit.flags.get()).expect("known flags");
        let object = self.objects.entry(exit.cache_obj_id).or_default();
        if flags.contains(DevCommExitFlags::REQ_CACHE) {
            let at = self.request + exit.cache_req_offset.get();
            let length = usize::try_from(exit.cache_req_len.get()).unwrap();
            object.extend(self.host.fake.host_load(at, length).unwrap());
        }
        if flags.contains(DevCommExitFlags::RSP_CACHE) {
            if flags.contains(DevCommExitFlags::RSP_RESET) {
                object.clear();
            }
            let at = self.response + exit.cache_rsp_offset.get();
            let length = usize::try_from(exit.cache_rsp_len.get()).unwrap();
            object.extend(self.host.fake.host_load(at, length).unwrap());
        }
    }

    fn keep_response_first(&mut self, exit: &DevCommExit) {
        // What was sent comes before what was answered, but this exit names the answer to the
        // request before and the request that is next.
        let flags = DevCommExitFlags::from_bits(exit.flags.get()).expect("known flags");
        let mut response = exit.clone();
        response.flags = (flags - DevCommExitFlags::REQ_CACHE).bits().into();
        self.keep(&response);
        let mut request = exit.clone();
        request.flags = (flags - DevCommExitFlags::RSP_CACHE).bits().into();
        self.keep(&request);
    }

    /// Pumps an exchange as far as it goes.
    pub fn pump(&mut self, call: Call) -> Pumped {
        let mut answer: Option<Vec<u8>> = None;
        let mut status = CommStatus::None;
        for _ in 0..200 {
            let exit = match self.step(call, answer.as_deref(), status) {
                Step::Failed(status) => return Pumped::Failed(status),
                Step::Exit(exit) => exit,
            };
            self.keep_response_first(&exit);
            let flags = DevCommExitFlags::from_bits(exit.flags.get()).expect("known flags");
            if flags.contains(DevCommExitFlags::STREAM_WAIT) {
                return Pumped::Wait;
            }
            if !flags.contains(DevCommExitFlags::REQ_SEND) {
                return Pumped::Done;
            }
            let length = usize::try_from(exit.req_len.get()).unwrap();
            let request = self.host.fake.host_load(self.request, length).unwrap();
            answer = self.carry(exit.protocol, &request);
            status = match answer {
                Some(_) => CommStatus::Response,
                None => CommStatus::Error,
            };
        }
        panic!("an exchange without end");
    }

    /// Sends the first request of an exchange and keeps the device's answer back.
    pub fn begin(&mut self, call: Call) -> Vec<u8> {
        let Step::Exit(exit) = self.step(call, None, CommStatus::None) else {
            panic!("refused");
        };
        let length = usize::try_from(exit.req_len.get()).unwrap();
        let request = self.host.fake.host_load(self.request, length).unwrap();
        self.carry(exit.protocol, &request).expect("an answer")
    }

    /// Calls COMMUNICATE with an answer that is not this exchange's, or none.
    pub fn answer(&mut self, call: Call, answer: Option<&[u8]>) -> RmiStatus {
        let status = match answer {
            Some(_) => CommStatus::Response,
            None => CommStatus::Error,
        };
        match self.step(call, answer, status) {
            Step::Failed(status) => status,
            Step::Exit(_) => RmiStatus::SUCCESS,
        }
    }

    pub fn pump_device(&mut self, pdev: u64) -> Pumped {
        let data = self.data;
        self.pump(Call::PdevCommunicate { pdev, data })
    }

    pub fn pump_interface(&mut self) -> Pumped {
        self.pump(self.interface_pump())
    }

    pub fn interface_pump(&self) -> Call {
        Call::VdevCommunicate {
            rd: self.realm.rd,
            pdev: self.device,
            vdev: self.vdev,
            data: self.data,
        }
    }

    pub fn device_state(&self, pdev: u64) -> u64 {
        success(self.host.call(Call::PdevGetState { pdev }))[0]
    }

    pub fn state(&self) -> u64 {
        success(self.host.call(Call::VdevGetState { vdev: self.vdev }))[0]
    }

    pub fn tdi(&self) -> TdiState {
        self.dsm.state().interface
    }

    pub fn pdev_params(category: PdevCategory, rid: Rid) -> PdevParams {
        let mut params = PdevParams::new_zeroed();
        params.flags = PdevFlags::SPDM.with_category(category).bits().into();
        params.pdev_id = u64::from(rid.0).into();
        params.rid_base = u32::from(rid.0).into();
        params.rid_top = (u32::from(rid.0) + 1).into();
        params.hash_algo = HashAlgorithm::Sha384 as u8;
        params
    }

    /// Creates a device object in a new granule.
    pub fn create_device(&self, params: &PdevParams) -> Result<u64, RmiStatus> {
        let pdev = self.host.delegated();
        let params = self.host.page_with(params.as_bytes());
        match self.host.status(Call::PdevCreate { pdev, params }) {
            RmiStatus::SUCCESS => Ok(pdev),
            status => {
                self.host.undelegate(pdev, 1);
                Err(status)
            }
        }
    }

    /// Creates both ends of the link and opens the root port.
    pub fn create_ends(&mut self) {
        let port = Self::pdev_params(PdevCategory::RootPort, ROOT_PORT);
        self.port = self.create_device(&port).unwrap();
        assert_eq!(self.pump_device(self.port), Pumped::Done);
        assert_eq!(self.device_state(self.port), 3);
        let device = Self::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
        self.device = self.create_device(&device).unwrap();
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
        let mut params = PublicKeyParams::new_zeroed();
        params.key[..key.len()].copy_from_slice(key);
        params.key_len = u64::try_from(key.len()).unwrap().into();
        params.algo = SignatureAlgorithm::EcdsaP384 as u8;
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

    pub fn refresh_keys(&self) -> RmiStatus {
        let (pdev_1, pdev_2) = (self.device, self.port);
        self.host.status(Call::PdevStreamKeyRefresh {
            pdev_1,
            pdev_2,
            handle: self.handle,
        })
    }

    pub fn connect(&mut self) {
        self.create_ends();
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
        params.nonce = [0x42; 32];
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

    /// Has the guest make a call; the host names the object. Returns how the guest left next; its
    /// registers are in the cell once it has run.
    pub fn guest_call(&self, call: rsi::Call) -> (RecExit, Registers) {
        let (function, arguments) = call.encode();
        let registers: Vec<u64> = std::iter::once(function).chain(arguments).collect();
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

    /// Returns the physical address that the guest reaches at `ipa`. Cached translations count.
    pub fn reach(&self, ipa: u64) -> Option<u64> {
        self.vcpu.translate(&self.host.fake, ipa)
    }

    /// Returns where DMA of the device to `address` goes.
    pub fn dma(&self, address: u64) -> Option<u64> {
        self.host.fake.dma(StreamId(u32::from(ENDPOINT.0)), address)
    }

    /// Forgets what the guest was to do next.
    pub fn forget_script(&self) {
        self.host.fake.script().clear();
    }

    /// Takes everything back, from any state, with or without the device's help.
    pub fn take_back(&mut self) {
        let mapped = [DEVICE_IPA, DEVICE_IPA + PAGE];
        for ipa in mapped {
            // Refused where nothing is mapped.
            let _ = self.unmap(ipa, 1);
        }
        if self.vdev != 0 {
            self.take_interface_back();
        }
        // Twice: a stream that was coming up comes up first.
        for _ in 0..2 {
            let _ = self.disconnect_stream();
            for pdev in [self.port, self.device, self.port, self.device] {
                let _ = self.pump_device(pdev);
            }
            let _ = self.complete_stream();
        }
        for pdev in [self.device, self.port] {
            if pdev != 0 {
                self.take_device_back(pdev);
            }
        }
        self.host
            .undelegate(ENDPOINT_BAR, ENDPOINT_BAR_BYTES / PAGE);
        let realm = std::mem::replace(
            &mut self.realm,
            Realm {
                rd: 0,
                root: 0,
                rec: 0,
                run: 0,
            },
        );
        self.host.reclaim(&realm);
        assert!(self.host.has_everything_back());
    }

    fn take_interface_back(&mut self) {
        for _ in 0..4 {
            if self.destroy_interface() == RmiStatus::SUCCESS {
                self.host.undelegate(self.vdev, 1);
                return;
            }
            let _ = self.abort();
            let _ = self.ask_unlock();
            if self.pump_interface() == Pumped::Failed(RmiStatus::BUSY) {
                // The device's own exchange is stuck.
                let pdev = self.device;
                assert_eq!(
                    self.host.status(Call::PdevAbort { pdev }),
                    RmiStatus::SUCCESS
                );
            }
        }
        panic!(
            "the interface cannot be destroyed from state {}",
            self.state()
        );
    }

    fn take_device_back(&mut self, pdev: u64) {
        for _ in 0..4 {
            if self.host.status(Call::PdevDestroy { pdev }) == RmiStatus::SUCCESS {
                self.host.undelegate(pdev, 1);
                return;
            }
            let _ = self.host.status(Call::PdevAbort { pdev });
            let _ = self.host.status(Call::PdevStop { pdev });
            let _ = self.pump_device(pdev);
        }
        panic!(
            "the device cannot be destroyed from state {}",
            self.device_state(pdev)
        );
    }
}

enum Step {
    Exit(DevCommExit),
    Failed(RmiStatus),
}

/// Registers x0 to x2 of the guest, once it has run.
#[derive(Clone, Default)]
pub struct Registers(Arc<Mutex<Option<[u64; 3]>>>);

impl Registers {
    pub fn get(&self) -> [u64; 3] {
        self.0.lock().unwrap().expect("the guest has run")
    }
}

/// Returns the root port's slot with the number `index` of the device's table.
fn slot(stream: u8, index: usize) -> KeySlot {
    let slots = (0..2).flat_map(tsm_devices::KeySlot::of_set);
    let found = slots
        .into_iter()
        .find(|slot| slot.index() == index)
        .expect("a slot");
    KeySlot {
        stream,
        key_set: found.key_set,
        sub_stream: found.sub_stream,
        transmit: found.transmit,
    }
}
