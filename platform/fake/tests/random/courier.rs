// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A host that brings a device up and takes it down again, one call at a time, and does something
//! else now and then.

use tsm_abi::rmi::{
    BlockSize, Call, CommStatus, PdevCategory, PdevStreamParams, PsmmuParams, PublicKeyParams,
    RangeDescriptor, SignatureAlgorithm, StreamType, VdevMeasureParams,
};
use tsm_abi::{RmiCode, RmiStatus, rsi};
use tsm_platform::{Iommu, StreamId};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, Host, ROOT_PORT, Stream};
use zerocopy::{FromZeros, IntoBytes};

use crate::oracle::Tables;
use crate::playground::{PAGE, Random, Tally};
use crate::rig::{DATA_IPA, DEVICE_IPA, INFO_IPA, PRIVATE_PAGES, Rig, STREAM, VDEV_ID};

const TOP: u64 = DEVICE_IPA + PRIVATE_PAGES * PAGE;
const STARTED: u64 = 3;

/// Who is pumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Port,
    Device,
    Interface,
}

/// A stream operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streaming {
    Connect,
    Refresh,
    Disconnect,
}

/// Pages that hold objects or parameters.
struct Pages {
    port: u64,
    device: u64,
    vdev: u64,
    port_params: u64,
    device_params: u64,
    vdev_params: u64,
    stream_params: u64,
    measure_params: u64,
    unit_params: u64,
    key_params: u64,
    /// A list of the memory for the device's object.
    memory: u64,
}

/// A request that the device has not answered.
struct Waiting {
    target: Target,
    protocol: u8,
    request: Vec<u8>,
}

/// The host's half of everything about one device.
pub struct Courier {
    pub rig: Rig,
    pages: Pages,
    waiting: Option<Waiting>,
    /// Whose exchange was begun.
    asked: Option<Target>,
    /// The stream operation that was begun, and how often its end was refused.
    streaming: Option<(Streaming, u32)>,
    is_going_down: bool,
    /// Whether the guest has turned DMA on, and nothing has ended that.
    enabled: bool,
    pub succeeded: Tally,
    pub calls: u64,
    unit: u64,
}

fn pages(host: &Host, rig: &Rig) -> Pages {
    let mut stream = PdevStreamParams::new_zeroed();
    stream.stream_type = StreamType::NonCoherent.word().into();
    stream.ide_sid = u64::from(STREAM).into();
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

    fn call(&mut self, call: Call) -> RmiStatus {
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

    fn works(&mut self, call: Call) -> bool {
        self.call(call) == RmiStatus::SUCCESS
    }

    /// Makes a call that begins an exchange.
    fn ask(&mut self, target: Target, call: Call) {
        if self.works(call) {
            self.asked = Some(target);
        }
    }

    /// Begins a stream operation.
    fn ask_both(&mut self, what: Streaming, call: Call) -> bool {
        let works = self.works(call);
        if works {
            self.streaming = Some((what, 0));
        }
        works
    }

    fn state_of(&mut self, object: u64, is_interface: bool) -> u64 {
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

    fn pump(&mut self, random: &mut Random, target: Target) {
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

    fn complete(&mut self) {
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

    fn use_interface(&mut self, random: &mut Random) {
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
                8 => self.refresh(),
                _ => self.unlock(),
            },
            _ => self.unlock(),
        }
    }

    fn measure(&mut self) {
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

    fn refresh(&mut self) {
        let (pdev_1, pdev_2) = (self.pages.device, self.pages.port);
        let handle = self.rig.handle;
        let call = Call::PdevStreamKeyRefresh {
            pdev_1,
            pdev_2,
            handle,
        };
        self.ask_both(Streaming::Refresh, call);
    }

    fn unlock(&mut self) {
        let (rd, pdev, vdev) = self.rig.names();
        self.unmap();
        let call = Call::VdevUnlock { rd, pdev, vdev };
        if self.works(call) {
            self.enabled = false;
            self.asked = Some(Target::Interface);
        }
    }

    fn unmap(&mut self) {
        let flags = tsm_abi::rmi::MapFlags::single().0;
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
    fn give_up(&mut self) {
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
    fn enter(&mut self) -> Option<u64> {
        self.calls += 1;
        let entry = tsm_abi::rmi::RecEnter::new_zeroed();
        let exit = self.rig.host.enter_with(&self.rig.realm, &entry).ok()?;
        Some(exit.exit_reason.get())
    }

    /// Has the guest make `call` about its device; returns the status, if it got one.
    fn guest(&mut self, call: rsi::Call) -> Option<u64> {
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

    fn nonces(&mut self) -> Option<[u64; 3]> {
        let call = rsi::Call::VdevGetInfo {
            vdev_id: VDEV_ID,
            ipa: INFO_IPA,
        };
        if self.guest(call) != Some(0) {
            return None;
        }
        self.rig.read_nonces()
    }

    fn enable(&mut self, random: &mut Random) {
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

    fn disable(&mut self) {
        if self.guest(rsi::Call::VdevDmaDisable { vdev_id: VDEV_ID }) == Some(0) {
            self.enabled = false;
        }
    }

    fn delegate(&mut self) {
        let (start, end) = (ENDPOINT_BAR, ENDPOINT_BAR + PRIVATE_PAGES * PAGE);
        self.call(Call::GranuleRangeDelegate { start, end });
    }

    fn accept(&mut self, random: &mut Random) {
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

    fn map(&mut self) {
        let (rd, _, vdev) = self.rig.names();
        let oaddr = RangeDescriptor::new(ENDPOINT_BAR, BlockSize::Page, PRIVATE_PAGES);
        self.call(Call::RttDevMap {
            rd,
            vdev,
            base: DEVICE_IPA,
            top: TOP,
            flags: tsm_abi::rmi::MapFlags::single().0,
            oaddr: oaddr.0,
        });
    }

    fn validate(&mut self) {
        let (rd, rec) = (self.rig.realm.rd, self.rig.realm.rec);
        self.call(Call::RttDevValidate {
            rd,
            rec,
            base: DEVICE_IPA,
            top: TOP,
        });
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

    /// Makes a call that may be out of place.
    fn wander(&mut self, random: &mut Random) {
        let (rd, pdev, vdev) = self.rig.names();
        match random.below(16) {
            0 => self.complete(),
            1 => self.refresh(),
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

    fn connect_again(&mut self) {
        let params = self.pages.stream_params;
        assert!(self.rig.handle == 0 || !self.works(Call::PdevStreamConnect { params }));
    }

    /// Takes the device's memory, which cuts the interface off.
    fn release_memory(&mut self) {
        let (start, end) = (ENDPOINT_BAR, ENDPOINT_BAR + PRIVATE_PAGES * PAGE);
        self.call(Call::GranuleRangeUndelegate { start, end });
    }

    /// Writes to configuration space.
    fn disturb(&mut self, random: &mut Random) {
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
