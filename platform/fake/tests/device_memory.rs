// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory that the host donates to a physical device.

mod rig;

use rig::{PAGE, Pumped, Rig};
use sha2::{Digest, Sha384};
use tsm_abi::rmi::{
    BlockSize, Call, DonateRequest, PdevCategory, RangeDescriptor, SignatureAlgorithm,
};
use tsm_abi::{MemoryRequest, RmiStatus};
use tsm_core::State;
use tsm_devices::{Identity, IdentityPlan, Offer, Signing, Version};
use tsm_platform_fake::{ENDPOINT, ENDPOINT_BAR, FaultPoint, Host, success};
use zerocopy::IntoBytes;

const WANTS_MEMORY: RmiStatus = RmiStatus::incomplete(MemoryRequest::Donate, true);
const WANTS_NOTHING: RmiStatus = RmiStatus::incomplete(MemoryRequest::None, true);

/// An endpoint whose creation waits, and four more delegated granules.
struct Forming {
    host: Host,
    params: u64,
    pdev: u64,
    memory: u64,
}

impl Forming {
    fn new() -> Self {
        let host = Host::activated();
        let params = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
        let params = host.page_with(params.as_bytes());
        let (pdev, memory) = (host.delegated(), host.pages(8));
        host.delegate(memory, 4);
        let forming = Self {
            host,
            params,
            pdev,
            memory,
        };
        assert_eq!(forming.create(), [WANTS_MEMORY.word(), pdev, 4 << 2]);
        forming
    }

    fn create(&self) -> [u64; 3] {
        let (pdev, params) = (self.pdev, self.params);
        let [status, handle, request, ..] = self.host.call(Call::PdevCreate { pdev, params });
        [status, handle, request]
    }

    fn donate(&self, entries: &[u64]) -> [u64; 3] {
        let list = self.host.page_with(entries.as_bytes());
        let (handle, count) = (self.pdev, entries.len().try_into().unwrap());
        let call = Call::OpMemDonate {
            handle,
            list,
            count,
        };
        let [status, consumed, request, ..] = self.host.call(call);
        [status, consumed, request]
    }

    fn page(&self, index: u64) -> u64 {
        pages(self.memory + index * PAGE, 1)
    }

    fn proceed(&self) -> RmiStatus {
        let handle = self.pdev;
        self.host.status(Call::OpContinue { handle, flags: 0 })
    }

    fn cancel(&self) -> RmiStatus {
        let handle = self.pdev;
        self.host.status(Call::OpCancel { handle })
    }

    fn state(&self, granule: u64) -> State {
        self.host.tsm.granules().state(granule).unwrap()
    }

    fn take_back(&self) {
        self.host.undelegate(self.pdev, 1);
        self.host.undelegate(self.memory, 4);
        assert!(self.host.has_everything_back());
    }
}

fn pages(address: u64, count: u64) -> u64 {
    RangeDescriptor::new(address, BlockSize::Page, count).0
}

#[test]
fn a_device_exists_once_it_has_its_memory_and_was_continued() {
    let forming = Forming::new();
    let pdev = forming.pdev;
    let no_device = |forming: &Forming| {
        let status = forming.host.status(Call::PdevGetState { pdev });
        assert_eq!(status, RmiStatus::INPUT);
        assert_eq!(
            forming.host.status(Call::PdevDestroy { pdev }),
            RmiStatus::INPUT
        );
    };
    no_device(&forming);
    assert_eq!(forming.proceed(), RmiStatus::INPUT, "it has no memory");
    let one = forming.donate(&[forming.page(3)]);
    assert_eq!(one, [WANTS_MEMORY.word(), 1, DonateRequest::pages(3).0]);
    assert_eq!(forming.proceed(), RmiStatus::INPUT, "it has one granule");
    let rest = forming.donate(&[forming.page(2), pages(forming.memory, 2)]);
    assert_eq!(rest, [WANTS_NOTHING.word(), 3, 0]);
    no_device(&forming);
    let flags = Call::OpContinue {
        handle: pdev,
        flags: 1,
    };
    assert_eq!(forming.host.status(flags), RmiStatus::INPUT);
    assert_eq!(forming.proceed(), RmiStatus::SUCCESS);
    let state = success(forming.host.call(Call::PdevGetState { pdev }))[0];
    assert_eq!(state, 0);
    assert_eq!(forming.proceed(), RmiStatus::INPUT, "it is over");
    assert_eq!(forming.cancel(), RmiStatus::INPUT, "it is over");
}

#[test]
fn a_list_that_is_wrong_anywhere_gives_nothing() {
    let forming = Forming::new();
    let (good, memory) = (forming.page(0), forming.memory);
    let undelegated = memory + 4 * PAGE;
    forming.host.delegate(ENDPOINT_BAR, 1);
    let wrong: [(&str, &[u64]); 14] = [
        ("nothing", &[]),
        ("an empty range", &[good, pages(memory, 0)]),
        ("the same granule twice", &[good, good]),
        ("ranges that overlap", &[good, pages(memory, 2)]),
        ("the host's", &[good, pages(undelegated, 1)]),
        (
            "said to be the host's",
            &[good, RangeDescriptor(good).undelegated().0],
        ),
        ("a run into the host's", &[pages(memory + 2 * PAGE, 3)]),
        ("the device itself", &[good, pages(forming.pdev, 1)]),
        ("a device's memory", &[good, pages(ENDPOINT_BAR, 1)]),
        ("reserved bits", &[good | 1 << 52]),
        ("a large block", &[good | 1]),
        ("nowhere", &[good, pages(0xff_ffff_f000, 1)]),
        ("one more than wanted", &[good; 5]),
        ("more than wanted", &[pages(memory, 1023)]),
    ];
    let before = forming.host.snapshot();
    for (what, entries) in wrong {
        let [status, ..] = forming.donate(entries);
        assert_eq!(status, RmiStatus::INPUT.word(), "{what}");
        let after = forming.host.snapshot();
        assert_eq!(after.states, before.states, "{what}");
    }
    forming.host.undelegate(ENDPOINT_BAR, 1);
    assert_eq!(forming.cancel(), RmiStatus::SUCCESS);
    forming.take_back();
}

#[test]
fn the_list_is_read_once_and_only_where_the_host_owns_it() {
    let forming = Forming::new();
    let handle = forming.pdev;
    let list = forming.host.page_with(forming.page(0).as_bytes());
    let wrong = [
        (list + 4, 1),
        (list, 0),
        (list, 5),
        (list, u64::MAX),
        (list + 0xff8, 2),
        (forming.memory, 1),
        (forming.pdev, 1),
        (ENDPOINT_BAR, 1),
        (u64::MAX - 7, 1),
    ];
    let before = forming.host.snapshot();
    for (list, count) in wrong {
        let call = Call::OpMemDonate {
            handle,
            list,
            count,
        };
        assert_eq!(forming.host.status(call), RmiStatus::INPUT, "{list:#x}");
    }
    forming.host.fake.fail_kind_after(FaultPoint::HostRead, 0);
    let call = Call::OpMemDonate {
        handle,
        list,
        count: 1,
    };
    assert_eq!(forming.host.status(call), RmiStatus::INPUT);
    assert!(forming.host.fake.disarm().is_some());
    assert!(forming.host.snapshot() == before);
    assert_eq!(forming.host.status(call), WANTS_MEMORY);
    let reclaim = Call::OpMemReclaim {
        handle,
        list,
        count: 1,
    };
    assert_eq!(forming.host.status(reclaim), RmiStatus::INPUT);
}

/// F04, B04
#[test]
fn while_a_creation_waits_nobody_else_creates_the_device() {
    let forming = Forming::new();
    let again = forming.host.delegated();
    let call = Call::PdevCreate {
        pdev: again,
        params: forming.params,
    };
    assert_eq!(forming.host.status(call), RmiStatus::INPUT);
    assert_eq!(forming.create()[0], RmiStatus::INPUT.word());
    assert_eq!(forming.cancel(), RmiStatus::SUCCESS);
    assert_eq!(forming.host.status(call), WANTS_MEMORY);
    let handle = again;
    success(forming.host.call(Call::OpCancel { handle }));
    forming.host.undelegate(again, 1);
    forming.take_back();
}

#[test]
fn a_creation_is_cancelled_at_every_step() {
    for given in 0..=4 {
        let forming = Forming::new();
        for index in 0..given {
            forming.donate(&[forming.page(index)]);
            let granule = forming.memory + index * PAGE;
            assert_eq!(forming.state(granule), State::PdevAux);
            let taken = Call::GranuleRangeUndelegate {
                start: granule,
                end: granule + PAGE,
            };
            assert_eq!(forming.host.status(taken), RmiStatus::INPUT);
        }
        assert_eq!(forming.cancel(), RmiStatus::SUCCESS);
        assert_eq!(forming.cancel(), RmiStatus::INPUT);
        for index in 0..4 {
            let granule = forming.memory + index * PAGE;
            assert_eq!(forming.state(granule), State::Delegated);
        }
        forming.take_back();
    }
}

#[test]
fn destruction_gives_the_memory_back_scrubbed() {
    let mut rig = Rig::connected();
    let memory: Vec<u64> = (1..Host::PDEV_GRANULES)
        .map(|index| rig.device + index * PAGE)
        .collect();
    let states = |rig: &Rig| {
        let state = |granule: &u64| rig.host.tsm.granules().state(*granule).unwrap();
        memory.iter().map(state).collect::<Vec<_>>()
    };
    assert_eq!(states(&rig), [State::PdevAux; 4]);
    assert_eq!(rig.disconnect_stream(), RmiStatus::SUCCESS);
    rig.pump_stream();
    let pdev = rig.device;
    success(rig.host.call(Call::PdevStop { pdev }));
    rig.pump_device(pdev);
    success(rig.host.call(Call::PdevDestroy { pdev }));
    assert_eq!(states(&rig), [State::Delegated; 4]);
    let contents = rig.host.fake.contents();
    assert!(memory.iter().all(|granule| !contents.contains_key(granule)));
    rig.host.release_pdev(pdev);
    rig.device = 0;
    rig.take_back();
}

/// Returns a rig whose device has post-quantum keys in slot 3.
fn post_quantum(signing: Signing) -> Rig {
    Rig::with_config(|config| {
        let mut plan = IdentityPlan::new(signing).unwrap();
        plan.slots = vec![3];
        config.identity = Identity::new(&plan);
        config.offer = Offer::suite(signing, &[Version::V1_4]);
    })
}

/// Returns the digest of the device's raw key of `length` bytes, as the last certificate has it.
fn fingerprint(rig: &Rig, length: usize) -> [u8; 48] {
    let chain = &rig.objects[&1];
    let [high, low] = u16::try_from(length + 1).unwrap().to_be_bytes();
    let header = [0x03, 0x82, high, low, 0x00];
    let start = chain.windows(5).rposition(|window| window == header);
    let start = start.expect("a key") + header.len();
    Sha384::digest(&chain[start..start + length]).into()
}

/// B14, W6
#[test]
fn a_device_with_long_keys_keeps_what_it_needs_in_its_own_memory() {
    let suites = [
        (Signing::MlDsa65, SignatureAlgorithm::MlDsa65, 1952),
        (Signing::MlDsa87, SignatureAlgorithm::MlDsa87, 2592),
    ];
    for (signing, algorithm, length) in suites {
        let mut rig = post_quantum(signing);
        let mut params = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
        params.id_index = 3.into();
        rig.create_ends_with(&params).unwrap();
        assert_eq!(rig.pump_device(rig.device), Pumped::Done);
        assert_eq!(rig.device_state(rig.device), 1);
        let digest = fingerprint(&rig, length);
        assert_eq!(
            rig.set_key_of(algorithm, &digest[..47]),
            RmiStatus::INPUT,
            "a short digest"
        );
        assert_eq!(rig.set_key_of(algorithm, &digest), RmiStatus::SUCCESS);
        assert_eq!(rig.pump_device(rig.device), Pumped::Done);
        assert_eq!(rig.device_state(rig.device), 3, "{signing:?}");
        assert_ne!(rig.donated_contents(), 0, "the key is there");
        rig.ask_for_stream();
        rig.pump_stream();
        rig.assign();
        rig.lock();
        rig.measure();
        rig.report();
        rig.take_back();
    }
}

#[test]
fn another_digest_than_the_devices_opens_no_session() {
    let mut rig = post_quantum(Signing::MlDsa65);
    let mut params = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    params.id_index = 3.into();
    rig.create_ends_with(&params).unwrap();
    assert_eq!(rig.pump_device(rig.device), Pumped::Done);
    let mut digest = fingerprint(&rig, 1952);
    digest[7] ^= 1;
    let key = SignatureAlgorithm::MlDsa65;
    assert_eq!(rig.set_key_of(key, &digest), RmiStatus::SUCCESS);
    assert_eq!(rig.pump_device(rig.device), Pumped::Done);
    assert_eq!(rig.device_state(rig.device), 5);
    rig.take_back();
}

#[test]
fn a_certificate_slot_is_one_of_eight_and_the_devices() {
    let rig = Rig::new();
    let mut params = Rig::pdev_params(PdevCategory::EndpointOffChip, ENDPOINT);
    for slot in [8, 255, 256, u64::MAX] {
        params.id_index = slot.into();
        assert_eq!(rig.create_device(&params), Err(RmiStatus::INPUT));
    }
    let mut rig = Rig::new();
    params.id_index = 5.into();
    rig.create_ends_with(&params).unwrap();
    assert_eq!(rig.pump_device(rig.device), Pumped::Done);
    assert_eq!(rig.device_state(rig.device), 5, "it has no such slot");
    rig.take_back();
}
