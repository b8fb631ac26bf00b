// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The monitor on a machine that is a few cells.

extern crate std;

mod access;
mod services;

use std::cell::{Cell, RefCell};
use std::{boxed::Box, panic, vec, vec::Vec};

use tsm_abi::el3;

use super::Monitor;
use crate::abort::{Delivery, Level, State};
use crate::context::{Context, Cpu, El2, World};
use crate::gpt::{Gpi, Gpt, Level0, Level1};
use crate::keys::{self, Registers};
use crate::machine::{Board, Event, FaultAddress, Layout, Processor};
use crate::manifest::Region;
use crate::psci::Start;
use crate::token::Measurements;

const DRAM: Region = Region {
    base: 0x4000_0000,
    size: 0x3f00_0000,
};
const MMIO: Region = Region {
    base: 0x1000_0000,
    size: 0x2e00_0000,
};
const ECAM: u64 = 0x40_1000_0000;
const SHARED: u64 = 0x7fff_f000;
/// A granule whose accesses the monitor performs itself.
const EMULATED: u64 = 0x080a_0000;
const HOST_ENTRY: u64 = 0x4800_0000;
const SMC: u64 = 0x17 << 26;
const READ_FAULT: u64 = 0x7a03_4028;
const WRITE_FAULT: u64 = 0x7a03_4068;
const UNKNOWN: u64 = u64::MAX;
/// ldr w0, [x1] and str w0, [x1], #4.
const LDR: u32 = 0xb940_0020;
const STR_POST: u32 = 0xb800_4420;

#[derive(Default)]
struct Unit(RefCell<Vec<u32>>);

impl Registers for Unit {
    fn read(&self, offset: u32) -> u32 {
        self.0.borrow()[offset as usize / 4]
    }
    fn write(&self, offset: u32, value: u32) {
        self.0.borrow_mut()[offset as usize / 4] = value;
    }
    fn zero(&self, first: u32, end: u32) {
        self.0.borrow_mut()[first as usize / 4..end as usize / 4].fill(0);
    }
}

#[derive(Default)]
struct Machine {
    unit: Unit,
    shared: RefCell<Vec<(usize, Vec<u8>)>>,
    log: RefCell<Vec<u8>>,
    events: RefCell<Vec<Event>>,
    woken: RefCell<Vec<usize>>,
    stored: Cell<Option<u64>>,
}

impl Board for Machine {
    type Keys = Unit;
    const ECAM: Region = Region {
        base: ECAM,
        size: 0x1000_0000,
    };
    const SHARED_PAGE: u64 = SHARED;
    const REALM_ENTRY: u64 = 0x7f00_0000;

    fn processor_index(&self, affinity: u64) -> Option<usize> {
        usize::try_from(affinity).ok()
    }
    fn wake(&self, index: usize) {
        self.woken.borrow_mut().push(index);
    }
    fn park(&self) -> ! {
        panic::panic_any("parked")
    }
    fn power_off(&self) -> ! {
        panic::panic_any("off")
    }
    fn reset(&self) -> ! {
        panic::panic_any("reset")
    }
    fn keys(&self) -> Option<&Unit> {
        Some(&self.unit)
    }
    fn emulates(&self, granule: u64) -> bool {
        granule == EMULATED
    }
    fn emulate(&self, address: u64, bytes: u8, store: Option<u64>) -> u64 {
        self.stored.set(store);
        (address & 0xfff) << 8 | u64::from(bytes)
    }
    fn fetch(&self, _: usize, out: &mut [u8]) {
        out.fill(0xc5);
    }
    fn share(&self, offset: usize, data: &[u8]) {
        self.shared.borrow_mut().push((offset, data.to_vec()));
    }
    fn realm_log(&self, data: &[u8]) {
        self.log.borrow_mut().extend(data);
    }
    fn note(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

/// What `set_exception` was told.
type Raised = (Level, Delivery, Option<u64>, u64, u64);

#[derive(Default)]
struct Cells {
    fault: Cell<FaultAddress>,
    instruction: Cell<Option<u32>>,
    invalidations: Cell<u32>,
    raised: Cell<Option<Raised>>,
}

impl Processor for Cells {
    fn initial_el2(&self) -> El2 {
        El2 {
            vpidr: 0x41,
            ..El2::default()
        }
    }
    fn security_configuration(&self, world: World) -> u64 {
        world as u64
    }
    fn hcr(&self) -> u64 {
        1 << 31
    }
    fn fault_address(&self) -> FaultAddress {
        self.fault.get()
    }
    fn instruction(&self, _spsr: u64, _address: u64) -> Option<u32> {
        self.instruction.get()
    }
    fn exception_state(&self, _level: Level, spsr: u64) -> State {
        State {
            spsr,
            vbar: 0x5000_0000,
            ..State::default()
        }
    }
    fn set_exception(
        &self,
        level: Level,
        delivery: &Delivery,
        fault: Option<u64>,
        elr: u64,
        spsr: u64,
    ) {
        self.raised.set(Some((level, *delivery, fault, elr, spsr)));
    }
    fn granules_changed(&self) {
        self.invalidations.set(self.invalidations.get() + 1);
    }
    fn random(&self) -> Option<u64> {
        Some(0x1122_3344_5566_7788)
    }
    fn wait(&self) {}
}

type Fake = Monitor<Machine, Cells>;

/// A machine of three processors whose R-EL2 has not booted.
fn fresh() -> Fake {
    let machine = Machine::default();
    machine.unit.0.replace(vec![0; keys::SIZE as usize / 4]);
    let monitor = Monitor::new(machine, Cells::default());
    let pool: Vec<Level1> = (0..2).map(|_| Level1::new()).collect();
    let mut gpt = Gpt::new(
        Box::leak(Box::new(Level0::new())),
        Vec::leak(pool),
        Gpi::NonSecure,
    );
    gpt.split(0).unwrap();
    gpt.assign(0x7f00_0000, 0x0100_0000, Gpi::Realm).unwrap();
    let layout = Layout {
        processors: 3,
        dram: [
            DRAM,
            Region::default(),
            Region::default(),
            Region::default(),
        ],
        device_memory: [MMIO, Region::default()],
        reserved: Region {
            base: 0x3e00_0000,
            size: 0x20_0000,
        },
        hidden: Some(0x80),
    };
    let measurements = Measurements {
        monitor: [0xe3; 48],
        realm: [0xe2; 48],
    };
    monitor.configure(layout, gpt, measurements);
    monitor
}

/// The same, with R-EL2 up and the host running on processor 0.
fn running() -> (Fake, Cpu) {
    let monitor = fresh();
    let mut cpu = Cpu::new(0);
    monitor.cold_boot(
        &mut cpu,
        Start {
            entry: HOST_ENTRY,
            context: 0x4000_0000,
        },
    );
    assert_eq!(
        realm(&monitor, &mut cpu, &[el3::BOOT_COMPLETE, 0, 0x77]),
        World::NonSecure
    );
    (monitor, cpu)
}

/// Lets an exception happen, and returns the world that goes on.
fn exception(monitor: &Fake, cpu: &mut Cpu, esr: u64) -> World {
    let next: *const Context = monitor.exception(cpu, esr);
    assert!(core::ptr::eq(next, cpu.context()));
    cpu.current
}

fn host(monitor: &Fake, cpu: &mut Cpu, arguments: &[u64]) -> World {
    assert_eq!(cpu.current, World::NonSecure);
    cpu.host.x = core::array::from_fn(|index| 0x100 + index as u64);
    cpu.host.x[..arguments.len()].copy_from_slice(arguments);
    exception(monitor, cpu, SMC)
}

fn realm(monitor: &Fake, cpu: &mut Cpu, arguments: &[u64]) -> World {
    assert_eq!(cpu.current, World::Realm);
    cpu.realm.x = core::array::from_fn(|index| 0x200 + index as u64);
    cpu.realm.x[..arguments.len()].copy_from_slice(arguments);
    exception(monitor, cpu, SMC)
}

/// Enters R-EL2 by a call of the host.
fn in_realm() -> (Fake, Cpu) {
    let (monitor, mut cpu) = running();
    assert_eq!(host(&monitor, &mut cpu, &[0xc400_0150]), World::Realm);
    (monitor, cpu)
}

#[test]
fn r_el2_boots_before_the_host() {
    let monitor = fresh();
    let mut cpu = Cpu::new(0);
    monitor.cold_boot(
        &mut cpu,
        Start {
            entry: HOST_ENTRY,
            context: 0x4000_0000,
        },
    );
    assert_eq!(cpu.current, World::Realm);
    assert_eq!(cpu.realm.elr, 0x7f00_0000);
    assert_eq!(cpu.realm.x[..6], [0, 2 << 16, 3, SHARED, 0, 0]);
    assert_eq!(
        realm(&monitor, &mut cpu, &[el3::BOOT_COMPLETE, 0, 0x77]),
        World::NonSecure
    );
    assert_eq!(
        (cpu.host.elr, cpu.host.x[0], cpu.host.spsr),
        (HOST_ENTRY, 0x4000_0000, 0x3c9)
    );
    assert_eq!(cpu.activation_token, 0x77);
    assert_eq!(*monitor.board().events.borrow(), [Event::RealmUp(0)]);
}

#[test]
fn the_host_runs_without_an_r_el2_that_failed() {
    let monitor = fresh();
    let mut cpu = Cpu::new(0);
    monitor.cold_boot(
        &mut cpu,
        Start {
            entry: HOST_ENTRY,
            context: 0,
        },
    );
    assert_eq!(
        realm(&monitor, &mut cpu, &[el3::BOOT_COMPLETE, 0xffff_fffe]),
        World::NonSecure
    );
    assert_eq!(host(&monitor, &mut cpu, &[0xc400_0150]), World::NonSecure);
    assert_eq!(cpu.host.x[0], UNKNOWN);
    // Its configuration space is empty, and the host lives.
    monitor.processor().instruction.set(Some(LDR));
    fault(&monitor, ECAM, ECAM);
    assert_eq!(exception(&monitor, &mut cpu, READ_FAULT), World::NonSecure);
    assert_eq!(cpu.host.x[0], 0xffff_ffff);
}

#[test]
fn r_el2_that_failed_on_one_processor_is_entered_on_none() {
    let (monitor, mut cpu) = running();
    for target in 1..3 {
        host(&monitor, &mut cpu, &[0xc400_0003, target, HOST_ENTRY, 0]);
    }
    let (mut one, mut other) = (Cpu::new(1), Cpu::new(2));
    assert!(monitor.warm_boot(&mut one) && monitor.warm_boot(&mut other));
    realm(&monitor, &mut one, &[el3::BOOT_COMPLETE, 0xffff_ffff]);
    realm(&monitor, &mut other, &[el3::BOOT_COMPLETE, 0]);
    for cpu in [&mut cpu, &mut one, &mut other] {
        assert_eq!(host(&monitor, cpu, &[0xc400_0150]), World::NonSecure);
        assert_eq!(cpu.host.x[0], UNKNOWN);
    }
}

#[test]
fn a_call_brings_seven_arguments_and_eight_results_and_nothing_else() {
    let (monitor, mut cpu) = running();
    cpu.realm.x[8] = 0xaaaa;
    assert_eq!(
        host(&monitor, &mut cpu, &[0xc401_0150, 1, 2, 3, 4, 5, 6, 7]),
        World::Realm
    );
    // The hint about SVE is not R-EL2's business.
    assert_eq!(cpu.realm.x[..9], [0xc400_0150, 1, 2, 3, 4, 5, 6, 7, 0xaaaa]);
    let before = cpu.host.x;
    let results = [el3::REQUEST_COMPLETE, 10, 11, 12, 13, 14, 15, 16, 17, 18];
    assert_eq!(realm(&monitor, &mut cpu, &results), World::NonSecure);
    assert_eq!(cpu.host.x[..8], [10, 11, 12, 13, 14, 15, 16, 17]);
    assert_eq!(cpu.host.x[8..], before[8..]);
}

#[test]
fn the_host_cannot_make_the_calls_of_r_el2() {
    let (monitor, mut cpu) = running();
    let calls = [
        el3::GTSI_DELEGATE,
        el3::GTSI_UNDELEGATE,
        el3::GET_REALM_ATTEST_KEY,
        el3::RP_IDE_KEY_PROG,
        el3::BOOT_COMPLETE,
        el3::REQUEST_COMPLETE,
        el3::FIRME_GM_GPI_SET,
        el3::PORTCULLIS_FEATURES,
        el3::PORTCULLIS_CONSOLE_WRITE,
        el3::PORTCULLIS_STREAM_WRITE,
        el3::PORTCULLIS_STREAM_READ,
        el3::PORTCULLIS_STREAM_CLEAR,
        el3::PORTCULLIS_CONFIG_ACCESS,
    ];
    for call in calls {
        assert_eq!(
            host(&monitor, &mut cpu, &[call, 0x5000_0000]),
            World::NonSecure
        );
        assert_eq!(cpu.host.x[..2], [UNKNOWN, 0x5000_0000], "{call:#x}");
    }
    assert_eq!(monitor.processor().invalidations.get(), 0);
}

#[test]
fn an_answer_without_a_question_is_refused() {
    let monitor = fresh();
    let mut cpu = Cpu::new(0);
    monitor.cold_boot(
        &mut cpu,
        Start {
            entry: HOST_ENTRY,
            context: 0,
        },
    );
    assert_eq!(
        realm(&monitor, &mut cpu, &[el3::REQUEST_COMPLETE, 0]),
        World::Realm
    );
    assert_eq!(cpu.realm.x[0], UNKNOWN);
    let (monitor, mut cpu) = in_realm();
    assert_eq!(
        realm(&monitor, &mut cpu, &[el3::BOOT_COMPLETE, 0]),
        World::Realm
    );
    assert_eq!(cpu.realm.x[0], UNKNOWN);
}

fn fault(monitor: &Fake, granule: u64, address: u64) {
    // As QEMU reports it: the physical address has the world in its top bits.
    monitor.processor().fault.set(FaultAddress {
        virtual_address: address,
        physical: granule | 1 << 63,
    });
}

#[test]
fn a_processor_is_started_where_the_host_has_memory() {
    let (monitor, mut cpu) = running();
    let mut call = |arguments: &[u64]| {
        assert_eq!(host(&monitor, &mut cpu, arguments), World::NonSecure);
        cpu.host.x[0] as i64
    };
    const CPU_ON: u64 = 0xc400_0003;
    for entry in [0, 0x7f00_0000, 0x3fff_fffc, 0x7eff_fffe, u64::MAX] {
        assert_eq!(call(&[CPU_ON, 1, entry, 7]), -9, "{entry:#x}");
    }
    for target in [3, 0x100, u64::MAX] {
        assert_eq!(call(&[CPU_ON, target, HOST_ENTRY, 7]), -2, "{target:#x}");
    }
    assert_eq!(call(&[CPU_ON, 0, HOST_ENTRY, 7]), -4);
    assert!(monitor.board().woken.borrow().is_empty());
    assert_eq!(call(&[0xc400_0004, 1, 0]), 1);
    assert_eq!(call(&[CPU_ON, 1, HOST_ENTRY, 7]), 0);
    assert_eq!(call(&[CPU_ON, 1, HOST_ENTRY, 7]), -5);
    assert_eq!(*monitor.board().woken.borrow(), [1]);

    let mut second = Cpu::new(1);
    second.activation_token = 0x99;
    assert!(monitor.warm_boot(&mut second));
    assert!(!monitor.warm_boot(&mut Cpu::new(1)), "once only");
    assert_eq!(second.current, World::Realm);
    assert_eq!(second.realm.x[..5], [1, 0x99, 0, 0, 0]);
    assert_eq!(
        realm(&monitor, &mut second, &[el3::BOOT_COMPLETE, 0, 0x99]),
        World::NonSecure
    );
    assert_eq!((second.host.elr, second.host.x[0]), (HOST_ENTRY, 7));
}

#[test]
fn power_calls_answer_as_they_must() {
    let (monitor, mut cpu) = running();
    let mut call = |arguments: &[u64]| {
        assert_eq!(host(&monitor, &mut cpu, arguments), World::NonSecure);
        cpu.host.x[0] as i64
    };
    assert_eq!(call(&[0x8400_0000]), 0x1_0001);
    assert_eq!(call(&[0x8000_0000]), 0x1_0002);
    assert_eq!(call(&[0x8000_0001, 0x8000_0000]), 0);
    assert_eq!(call(&[0x8000_0001, 0x8000_8000]), -1);
    assert_eq!(call(&[0x8400_000a, 0xc400_0003]), 0);
    assert_eq!(call(&[0x8400_000a, 0x8400_0005]), -1);
    assert_eq!(call(&[0x8400_0006]), 2);
    assert_eq!(call(&[0xc400_0001, 0]), 0);
    assert_eq!(call(&[0xc400_0001, 1 << 16]), -2);
    assert_eq!(call(&[0xc400_0004, 0, 1]), -2);
    assert_eq!(call(&[0x8400_0050]), -1);
    for (function, end) in [
        (0x8400_0002, "parked"),
        (0x8400_0008, "off"),
        (0x8400_0009, "reset"),
    ] {
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            host(&monitor, &mut cpu, &[function])
        }));
        assert_eq!(*result.unwrap_err().downcast::<&str>().unwrap(), end);
    }
}

#[test]
fn a_reset_does_not_hand_memory_of_realms_to_the_next_host() {
    for (granule, end) in [
        (DRAM.base, "off"),
        (DRAM.top() - 0x1000, "off"),
        (MMIO.base, "reset"),
    ] {
        let (monitor, mut cpu) = in_realm();
        realm(&monitor, &mut cpu, &[el3::GTSI_DELEGATE, granule]);
        assert_eq!(cpu.realm.x[0], 0);
        realm(&monitor, &mut cpu, &[el3::REQUEST_COMPLETE]);
        let call = panic::AssertUnwindSafe(|| host(&monitor, &mut cpu, &[0x8400_0009]));
        let ended = panic::catch_unwind(call).unwrap_err();
        assert_eq!(ended.downcast_ref::<&str>(), Some(&end), "{granule:#x}");
    }
}
