// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A host, a guest and a device around the TSM: every byte of every message is real.

#![allow(dead_code, reason = "each test file uses its own part")]

mod connect;
mod guest;
mod interface;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tsm_abi::RmiStatus;
use tsm_abi::rmi::{Call, CommStatus, DevCommEnter, DevCommExit, DevCommExitFlags, TeardownOrder};
use tsm_abi::rsi;
use tsm_devices::{
    Bar, Confidant, Config, Dsm, EndKeys, FaultPlan, Function, FunctionSource, FunctionView,
    KEYS_PER_STREAM, LinkKey, LinkKeys, LinkStatus, TdiState,
};
use tsm_platform::{ConfigSpace, KeySlot, StreamId};
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

/// A message, and by which protocol it goes.
pub type Message = (u8, Vec<u8>);

/// Secrets, as the device tells them.
pub type Secrets = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

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
    /// In which order the host takes the device from guests that are built from now on.
    pub order: TeardownOrder,
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
    /// Every secret that the device knows or knew, by name.
    pub secrets: Secrets,
    /// How long the host was to wait before each request, in microseconds.
    pub delays: Vec<u64>,
    /// Every call that the guest made about its device.
    pub asked: Arc<Mutex<Vec<rsi::Call>>>,
    /// The guest's way of translating.
    vcpu: Option<Vcpu>,
    data: u64,
    request: u64,
    response: u64,
}

impl Rig {
    /// Boots a machine with a realm; nothing is connected.
    pub fn new() -> Self {
        Self::with_functions(Vec::new())
    }

    /// Boots a machine whose device has `others` besides its first function.
    pub fn with_functions(others: Vec<Function>) -> Self {
        Self::with_config(|config| config.others = others)
    }

    /// Boots a machine with a realm, and a device as `change` makes it.
    pub fn with_config(change: impl FnOnce(&mut Config)) -> Self {
        let mut rig = Self::configured(change);
        rig.build_guest();
        rig
    }

    /// Boots a machine whose host takes devices away in `order`, and goes on to a guest that uses its
    /// device.
    pub fn running_in(order: TeardownOrder) -> Self {
        let mut rig = Self::bare(Vec::new());
        rig.order = order;
        rig.build_guest();
        rig.connect();
        rig.assign();
        rig.run();
        rig
    }

    /// Boots a machine without a realm.
    pub fn bare(others: Vec<Function>) -> Self {
        Self::configured(|config| config.others = others)
    }

    fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let host = Host::activated();
        let shared = Shared::default();
        let mut config = Config::new(b"firmware", FunctionView::default()).unwrap();
        config.function = Box::new(shared.clone());
        config.link = Box::new(shared.clone());
        let secrets = Secrets::default();
        let told = secrets.clone();
        config.confidant = Confidant::new(move |name, secret| {
            told.lock()
                .unwrap()
                .push((name.to_owned(), secret.to_vec()));
        });
        change(&mut config);
        let pages = [(); 3].map(|()| host.pages(1));
        Self {
            dsm: Dsm::new(config),
            shared,
            order: TeardownOrder::UnmapFirst,
            realm: NO_REALM,
            port: 0,
            device: 0,
            vdev: 0,
            handle: 0,
            objects: BTreeMap::new(),
            carried: 0,
            tamper: None,
            lie: None,
            traffic: Vec::new(),
            secrets,
            delays: Vec::new(),
            asked: Arc::default(),
            vcpu: None,
            data: pages[0],
            request: pages[1],
            response: pages[2],
            host,
        }
    }

    /// Begins anew with another guest and a device that behaves, once everything was taken back.
    pub fn start_over(&mut self) {
        self.clear();
        self.build_guest();
    }

    /// Forgets everything that is gone, and restarts the device as one that behaves.
    pub fn clear(&mut self) {
        (self.realm, self.vcpu) = (NO_REALM, None);
        (self.port, self.device, self.vdev, self.handle) = (0, 0, 0, 0);
        self.objects.clear();
        self.asked.lock().unwrap().clear();
        self.tamper = None;
        self.dsm.load_faults(FaultPlan::default());
        self.dsm.reset();
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
        Self::running_in(TeardownOrder::UnmapFirst)
    }

    /// Goes from an unlocked interface to a guest that uses it.
    pub fn run(&mut self) {
        self.lock();
        self.measure();
        self.report();
        self.accept_memory();
        self.start();
        let nonces = self.nonces();
        assert_eq!(self.enable_dma(nonces), 0);
    }

    /// Lets the device see the machine as it is.
    pub fn refresh(&mut self) {
        let view = self.view();
        let mut wires = self.shared.0.lock().unwrap();
        wires.view = view;
        wires.keys.clear();
        for stream in 0..=u8::MAX {
            let registers = self.host.fake.stream_registers(ROOT_PORT, stream);
            if !registers.is_some_and(|registers| registers.enabled) {
                continue;
            }
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
    pub fn carry(&mut self, protocol: u8, request: &[u8]) -> Option<Vec<u8>> {
        self.refresh();
        let mut object = vec![1, 0, protocol + 1, 0];
        let words = (8 + request.len()).div_ceil(4);
        object.extend(u32::try_from(words).unwrap().to_le_bytes());
        object.extend(request);
        object.resize(words * 4, 0);
        let mut answer = mailbox(self.dsm.handle_doe(&object)?, self.dsm.take_delay())?;
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

    /// Pumps an exchange once. Returns what the device is to be asked, if anything, and whether the
    /// other end of a stream has to be pumped first.
    pub fn pump_once(
        &mut self,
        call: Call,
        answer: Option<&[u8]>,
        status: CommStatus,
    ) -> Result<(Option<Message>, bool), RmiStatus> {
        let exit = match self.step(call, answer, status) {
            Step::Failed(status) => return Err(status),
            Step::Exit(exit) => exit,
        };
        let flags = DevCommExitFlags::from_bits(exit.flags.get()).expect("known flags");
        let waits = flags.contains(DevCommExitFlags::STREAM_WAIT);
        self.keep_response_first(&exit);
        if !flags.contains(DevCommExitFlags::REQ_SEND) {
            return Ok((None, waits));
        }
        let length = usize::try_from(exit.req_len.get()).unwrap();
        let request = self.host.fake.host_load(self.request, length).unwrap();
        Ok((Some((exit.protocol, request)), waits))
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
            self.delays.push(exit.req_delay.get());
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

    /// Returns the call that pumps the device `pdev`.
    pub fn device_pump(&self, pdev: u64) -> Call {
        let data = self.data;
        Call::PdevCommunicate { pdev, data }
    }

    /// Returns the physical address that the guest reaches at `ipa`. Cached translations count.
    pub fn reach(&self, ipa: u64) -> Option<u64> {
        let vcpu = self.vcpu.as_ref()?;
        vcpu.translate(&self.host.fake, ipa)
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
        self.unmap_if_mapped();
        if self.vdev != 0 {
            self.take_interface_back();
            self.unmap_if_mapped();
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
        let realm = std::mem::replace(&mut self.realm, NO_REALM);
        self.host.reclaim(&realm);
        assert!(self.host.has_everything_back());
    }

    /// Unmaps the interface's memory. Refused where nothing is mapped, and before its turn.
    fn unmap_if_mapped(&self) {
        for ipa in [DEVICE_IPA, DEVICE_IPA + PAGE] {
            let _ = self.unmap(ipa, 1);
        }
    }

    fn take_interface_back(&mut self) {
        for round in 0..4 {
            if self.destroy_interface() == RmiStatus::SUCCESS {
                self.host.undelegate(self.vdev, 1);
                return;
            }
            if round == 2 && self.ask_unlock() == RmiStatus::SUCCESS {
                // The device does not let go. Without a session nobody asks it.
                self.begin(self.interface_pump());
            }
            let _ = self.abort();
            let _ = self.ask_unlock();
            let pumped = self.pump_interface();
            self.unmap_if_mapped();
            if pumped == Pumped::Failed(RmiStatus::BUSY) {
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
                self.host.release_pdev(pdev);
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

const NO_REALM: Realm = Realm {
    rd: 0,
    root: 0,
    rec: 0,
    run: 0,
};

/// How long a host waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads an object as a mailbox and its driver do: one that is late, that lies about its length or
/// that no call takes is none.
fn mailbox(mut object: Vec<u8>, delay: Duration) -> Option<Vec<u8>> {
    let words = u32::from_le_bytes(*object.get(4..)?.first_chunk()?);
    let whole = usize::try_from(words).unwrap() * 4 == object.len();
    let known = object.starts_with(&[1, 0, 1, 0]) || object.starts_with(&[1, 0, 2, 0]);
    let payload = object.split_off(8);
    let taken = (1..=PAGE as usize).contains(&payload.len());
    (whole && known && taken && delay <= PATIENCE).then_some(payload)
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

    pub fn set(&self, registers: [u64; 3]) {
        *self.0.lock().unwrap() = Some(registers);
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
