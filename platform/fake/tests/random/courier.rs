// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A host that brings a device up and takes it down again, one call at a time, and does something
//! else now and then.

use tsm_abi::rmi::{
    AddressRange, BlockSize, Call, CommStatus, PdevCategory, PdevStreamParams, PsmmuParams,
    PublicKeyParams, RangeDescriptor, SignatureAlgorithm, StreamType, VdevMeasureParams,
};
use tsm_abi::{RmiCode, RmiStatus};
use tsm_platform::{Iommu, StreamId};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, ENDPOINT_BAR_BYTES, Host, ROOT_PORT, Stream};
use zerocopy::{FromZeros, IntoBytes};

use crate::oracle::Tables;
use crate::playground::{PAGE, Random, Tally};
use crate::rig::{DATA_IPA, DEVICE_IPA, PRIVATE_PAGES, Rig, STREAM};

pub const TOP: u64 = DEVICE_IPA + PRIVATE_PAGES * PAGE;
pub const STARTED: u64 = 3;

/// Who is pumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Port,
    Device,
    Interface,
}

/// A stream operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    Connect,
    Change,
    Disconnect,
}

/// Pages that hold objects or parameters.
pub struct Pages {
    pub port: u64,
    pub device: u64,
    pub vdev: u64,
    pub port_params: u64,
    pub device_params: u64,
    pub vdev_params: u64,
    pub stream_params: u64,
    pub measure_params: u64,
    pub unit_params: u64,
    pub key_params: u64,
    /// A list of the memory for the device's object.
    pub memory: u64,
}

/// A request that the device has not answered.
pub struct Waiting {
    pub target: Target,
    protocol: u8,
    request: Vec<u8>,
}

/// The host's half of everything about one device.
pub struct Courier {
    pub rig: Rig,
    pub pages: Pages,
    pub waiting: Option<Waiting>,
    /// Whose exchange was begun.
    pub asked: Option<Target>,
    /// The stream operation that was begun, and how often its end was refused.
    streaming: Option<(Streaming, u32)>,
    is_going_down: bool,
    /// Whether the guest has turned DMA on, and nothing has ended that.
    pub enabled: bool,
    pub succeeded: Tally,
    pub calls: u64,
    unit: u64,
}

fn pages(host: &Host, rig: &Rig) -> Pages {
    let mut stream = PdevStreamParams::new_zeroed();
    stream.stream_type = StreamType::NonCoherent.word().into();
    stream.ide_sid = u64::from(STREAM).into();
    stream.num_addr_range = 1.into();
    stream.addr_range[0] = AddressRange {
        base: ENDPOINT_BAR.into(),
        top: (ENDPOINT_BAR + ENDPOINT_BAR_BYTES).into(),
    };
    let [port, device] = [(); 2].map(|()| host.pages(Host::PDEV_GRANULES));
    for object in [port, device] {
        host.delegate(object, Host::PDEV_GRANULES);
    }
    let vdev = host.delegated();
    let memory = [1, 2, 3, 4].map(|index| device + index * PAGE);
    let memory = memory.map(|page| {
        RangeDescriptor::new(page, BlockSize::Page, 1)
            .0
            .to_le_bytes()
    });
    (stream.pdev_1, stream.pdev_2) = (device.into(), port.into());
    let mut measure = VdevMeasureParams::new_zeroed();
    measure.nonce = [0x42; 32];
    let endpoint = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    let root_port = Rig::pdev_params(PdevCategory::RootPort, ROOT_PORT);
    Pages {
        port,
        device,
        vdev,
        port_params: host.page_with(root_port.as_bytes()),
        device_params: host.page_with(endpoint.as_bytes()),
        vdev_params: host.page_with(rig.vdev_params().as_bytes()),
        stream_params: host.page_with(stream.as_bytes()),
        measure_params: host.page_with(measure.as_bytes()),
        unit_params: host.page_with(PsmmuParams::new_zeroed().as_bytes()),
        key_params: host.pages(1),
        memory: host.page_with(&memory.concat()),
    }
}

impl Courier {
    pub fn new() -> Self {
        let rig = Rig::new();
        rig.host.fake.show_unit();
        let unit = rig.host.fake.units()[0].0;
        Self {
            pages: pages(&rig.host, &rig),
            rig,
            waiting: None,
            asked: None,
            streaming: None,
            is_going_down: false,
            enabled: false,
            succeeded: Tally::new(),
            calls: 0,
            unit,
        }
    }

    pub fn call(&mut self, call: Call) -> RmiStatus {
        let (function, registers) = call.encode();
        let [status, ..] = self.rig.host.raw(function, &registers);
        self.calls += 1;
        let status = RmiStatus::from_word(status).expect("a status");
        if [RmiCode::Success, RmiCode::Incomplete].contains(&status.code) {
            let name = tsm_abi::rmi::name(function);
            *self.succeeded.entry(name).or_default() += 1;
        }
        status
    }

    pub fn works(&mut self, call: Call) -> bool {
        self.call(call) == RmiStatus::SUCCESS
    }

    /// Makes a call that begins an exchange.
    pub fn ask(&mut self, target: Target, call: Call) {
        if self.works(call) {
            self.asked = Some(target);
        }
    }

    /// Begins a stream operation.
    pub fn ask_both(&mut self, what: Streaming, call: Call) -> bool {
        let works = self.works(call);
        if works {
            self.streaming = Some((what, 0));
        }
        works
    }

    pub fn state_of(&mut self, object: u64, is_interface: bool) -> u64 {
        let call = if is_interface {
            Call::VdevGetState { vdev: object }
        } else {
            Call::PdevGetState { pdev: object }
        };
        let (function, registers) = call.encode();
        self.calls += 1;
        let [status, state, ..] = self.rig.host.raw(function, &registers);
        if status == 0 {
            *self
                .succeeded
                .entry(tsm_abi::rmi::name(function))
                .or_default() += 1;
            state
        } else {
            u64::MAX
        }
    }

    pub fn pump(&mut self, random: &mut Random, target: Target) {
        let call = match target {
            Target::Port => self.rig.device_pump(self.pages.port),
            Target::Device => self.rig.device_pump(self.pages.device),
            Target::Interface => self.rig.interface_pump(),
        };
        let mut answer = None;
        let mut status = CommStatus::None;
        if let Some(waiting) = self.waiting.take_if(|waiting| waiting.target == target) {
            // The device answers; the courier is not always honest.
            answer = self.rig.carry(waiting.protocol, &waiting.request);
            if random.once_in(1500) {
                answer = None;
            }
            if let Some(answer) = &mut answer
                && random.once_in(1500)
            {
                let at = random.below(answer.len() as u64) as usize;
                answer[at] ^= 1 << random.below(8);
            }
            status = match answer {
                Some(_) => CommStatus::Response,
                None => CommStatus::Error,
            };
        }
        self.calls += 1;
        let name = tsm_abi::rmi::name(call.encode().0);
        match self.rig.pump_once(call, answer.as_deref(), status) {
            Ok((request, waits)) => {
                *self.succeeded.entry(name).or_default() += 1;
                if let Some((protocol, request)) = request {
                    self.waiting = Some(Waiting {
                        target,
                        protocol,
                        request,
                    });
                } else if !waits && self.asked == Some(target) {
                    self.asked = None;
                }
            }
            Err(_) if self.asked == Some(target) => self.asked = None,
            Err(_) => {}
        }
        self.rig.traffic.clear();
        self.rig.objects.retain(|object, _| *object == 1);
    }

    /// Makes one step: the next one on the way, mostly.
    pub fn step(&mut self, random: &mut Random) {
        if random.once_in(25) {
            self.wander(random);
        } else {
            self.go_on(random);
        }
        if random.once_in(400) {
            self.is_going_down ^= true;
        }
        self.judge();
    }

    fn go_on(&mut self, random: &mut Random) {
        if let Some(waiting) = &self.waiting {
            let target = waiting.target;
            return self.pump(random, target);
        }
        if self.streaming.is_some() {
            return match random.below(5) {
                0 | 1 => self.pump(random, Target::Port),
                2 | 3 => self.pump(random, Target::Device),
                _ => self.complete(),
            };
        }
        if let Some(target) = self.asked {
            return self.pump(random, target);
        }
        if self.is_going_down {
            self.go_down(random);
        } else {
            self.go_up(random);
        }
    }

    pub fn complete(&mut self) {
        let (pdev_1, pdev_2) = (self.pages.device, self.pages.port);
        let handle = self.rig.handle;
        let is_over = self.works(Call::PdevStreamComplete {
            pdev_1,
            pdev_2,
            handle,
        });
        match &mut self.streaming {
            Some((what, _)) if is_over => {
                if *what == Streaming::Disconnect {
                    self.rig.handle = 0;
                }
                self.streaming = None;
            }
            Some((_, refused)) if *refused < 50 => *refused += 1,
            // It failed and was ended for us.
            Some(_) => {
                self.streaming = None;
                self.is_going_down = true;
            }
            None => assert!(!is_over, "nothing was begun"),
        }
    }

    fn go_up(&mut self, random: &mut Random) {
        let Pages { port, device, .. } = self.pages;
        if self.rig.port == 0 {
            let params = self.pages.port_params;
            if self.works(Call::PdevCreate { pdev: port, params }) {
                self.rig.port = port;
                self.asked = Some(Target::Port);
            }
            return;
        }
        if self.rig.device == 0 {
            return self.create_device(random);
        }
        match self.state_of(device, false) {
            0 | 2 => return self.pump(random, Target::Device),
            1 => return self.set_key(),
            3 => {}
            _ => {
                self.is_going_down = true;
                return;
            }
        }
        if self.rig.handle == 0 {
            return self.connect();
        }
        if self.rig.vdev == 0 {
            return self.create_interface();
        }
        self.use_interface(random);
    }

    /// Creates the device's object, or gives that up halfway.
    fn create_device(&mut self, random: &mut Random) {
        let (handle, list) = (self.pages.device, self.pages.memory);
        let (pdev, params) = (handle, self.pages.device_params);
        if self.call(Call::PdevCreate { pdev, params }).code != RmiCode::Incomplete {
            return;
        }
        let first = 1 + random.below(4);
        for (start, count) in [(0, first), (first, 4 - first)] {
            self.call(Call::OpMemDonate {
                handle,
                list: list + start * 8,
                count,
            });
        }
        let gives_up = random.once_in(8);
        if !gives_up && self.works(Call::OpContinue { handle, flags: 0 }) {
            self.rig.device = handle;
            self.asked = Some(Target::Device);
        } else {
            assert!(self.works(Call::OpCancel { handle }));
        }
    }

    fn set_key(&mut self) {
        if !self.rig.objects.contains_key(&1) {
            self.is_going_down = true;
            return;
        }
        let key = self.rig.device_key();
        let mut params = PublicKeyParams::new_zeroed();
        params.key[..key.len()].copy_from_slice(&key);
        params.key_len = u64::try_from(key.len()).unwrap().into();
        params.algo = SignatureAlgorithm::EcdsaP384 as u8;
        let page = self.pages.key_params;
        self.rig.host.fake.host_store(page, params.as_bytes());
        let pdev = self.pages.device;
        self.ask(Target::Device, Call::PdevSetPubkey { pdev, params: page });
        self.rig.objects.clear();
    }

    fn connect(&mut self) {
        let params = self.pages.stream_params;
        let handle = self.pages.device | StreamType::NonCoherent.word();
        if self.ask_both(Streaming::Connect, Call::PdevStreamConnect { params }) {
            self.rig.handle = handle;
        }
    }

    fn create_interface(&mut self) {
        // The host prepares the IOMMU first, in two calls that are refused once it is prepared.
        let (psmmu, params) = (self.unit, self.pages.unit_params);
        self.call(Call::PsmmuActivate { psmmu, params });
        let sid = u64::from(ENDPOINT.0);
        self.call(Call::PsmmuStL2Create { psmmu, sid });
        let call = Call::VdevCreate {
            rd: self.rig.realm.rd,
            pdev: self.pages.device,
            vdev: self.pages.vdev,
            params: self.pages.vdev_params,
        };
        if self.works(call) {
            self.rig.vdev = self.pages.vdev;
            self.asked = Some(Target::Interface);
        } else {
            self.is_going_down = true;
        }
    }

    fn go_down(&mut self, random: &mut Random) {
        if self.rig.vdev != 0 {
            return self.drop_interface(random);
        }
        let (pdev_1, pdev_2) = (self.pages.device, self.pages.port);
        if self.rig.handle != 0 && self.rig.device != 0 && self.rig.port != 0 {
            let handle = self.rig.handle;
            let call = Call::PdevStreamDisconnect {
                pdev_1,
                pdev_2,
                handle,
            };
            if self.ask_both(Streaming::Disconnect, call) {
                return;
            }
        }
        for (object, target) in [(pdev_1, Target::Device), (pdev_2, Target::Port)] {
            let exists = match target {
                Target::Device => self.rig.device != 0,
                _ => self.rig.port != 0,
            };
            if exists {
                return self.drop_device(random, object, target);
            }
        }
        self.is_going_down = false;
    }

    fn drop_interface(&mut self, random: &mut Random) {
        let (rd, pdev, vdev) = self.rig.names();
        self.unmap();
        if self.works(Call::VdevDestroy { rd, pdev, vdev }) {
            self.rig.vdev = 0;
            let (psmmu, sid) = (self.unit, u64::from(ENDPOINT.0));
            if random.once_in(2) && self.works(Call::PsmmuStL2Destroy { psmmu, sid }) {
                self.call(Call::PsmmuDeactivate { psmmu });
            }
            return;
        }
        self.unlock();
        if random.once_in(4) {
            self.call(Call::VdevAbort { rd, pdev, vdev });
            self.call(Call::PdevAbort { pdev });
            self.waiting = None;
        }
    }

    fn drop_device(&mut self, random: &mut Random, pdev: u64, target: Target) {
        if self.works(Call::PdevDestroy { pdev }) {
            match target {
                Target::Device => (self.rig.device, self.rig.handle) = (0, 0),
                _ => self.rig.port = 0,
            }
            return;
        }
        if self.works(Call::PdevStop { pdev }) {
            self.asked = Some(target);
        } else if random.once_in(3) {
            self.call(Call::PdevAbort { pdev });
            self.waiting = None;
        }
    }

    /// Checks P1 and P4 after a step.
    fn judge(&mut self) {
        let stream = self.rig.host.fake.stream(StreamId(u32::from(ENDPOINT.0)));
        if self.rig.vdev == 0 {
            assert_eq!(stream, Stream::Host, "no interface");
            self.enabled = false;
        } else {
            let state = self.rig.state();
            self.enabled &= state == STARTED;
            match stream {
                Stream::Host => panic!("an interface's stream is never the host's"),
                Stream::Blocked => assert_eq!(self.rig.dma(DATA_IPA), None),
                Stream::Guest(stage2) => {
                    assert!(
                        self.enabled,
                        "P1: attached in state {state} without acceptance"
                    );
                    assert_eq!(stage2.root.0, self.rig.realm.root);
                }
            }
        }
        if self.rig.handle == 0 {
            assert_eq!(self.rig.host.fake.keys(), 0, "P4: keys without a stream");
        }
    }

    /// Checks P2 with what the tables were found to hold.
    pub fn judge_memory(&self, tables: &Tables) {
        let own = ENDPOINT_BAR..ENDPOINT_BAR + PRIVATE_PAGES * PAGE;
        for (page, (root, is_reached)) in &tables.mapped {
            assert!(own.contains(page));
            assert_eq!(*root, self.rig.realm.root);
            let is_bound = self.rig.vdev != 0 && [2, STARTED].contains(&self.rig.state());
            assert!(!is_reached || is_bound, "P2: {page:#x} is reached");
        }
    }

    /// Lets the device down and gives everything back.
    pub fn take_back(&mut self) {
        self.rig.forget_script();
        if self.rig.vdev == 0 {
            self.rig.host.undelegate(self.pages.vdev, 1);
        }
        for (object, page) in [
            (self.rig.device, self.pages.device),
            (self.rig.port, self.pages.port),
        ] {
            if object == 0 {
                self.rig.host.undelegate(page, Host::PDEV_GRANULES);
            }
        }
        self.rig.take_back();
    }
}
