// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! QEMU's `q35` machine, with the TSM in SVM root mode.

use std::fs::{self, OpenOptions};
use std::io::Result;
use std::os::unix::fs::FileExt;

use tsm_abi::rmi::{self, Call};

use crate::attempt::attempt;
use crate::report::Tally;
use crate::sys::{Door, Mapping};
use crate::{attacks, cpu};

/// First page of the TSM.
pub const TSM: u64 = 0x1000_0000;
/// The BIOS in memory: nobody needs it.
pub const UNPROTECTED: u64 = 0xf_0000;
/// What must not be read.
pub const READS: &[(&str, &str, u64)] = &[
    ("read-tsm", "load from the TSM's memory", TSM),
    ("read-iommu", "load from the IOMMU's registers", IOMMU),
];
/// What must not be written.
pub const WRITES: &[(&str, &str, u64)] = &[
    ("write-tsm", "store to the TSM's memory", TSM),
    (
        "write-iommu",
        "store to the IOMMU's registers",
        IOMMU + 0x18,
    ),
];
/// The function that the key configuration unit is.
pub const KEY_UNIT_FUNCTION: &str = "0000:00:10.0";
/// A function whose BAR 0 no driver uses: the one that copies memory.
pub const MOVED_FUNCTION: &str = "0000:00:04.0";
/// Address space of BARs in which nothing is.
pub const FREE_MMIO: u32 = 0xe000_0000;
/// Where no BAR may go.
pub const BAR_TARGETS: &[(&str, &str, u32)] = &[
    (
        "overlap-iommu",
        "move a BAR over the IOMMU's registers",
        0xfed0_0000,
    ),
    (
        "overlap-tsm",
        "move a BAR over the TSM's memory",
        TSM as u32,
    ),
];

const IOMMU: u64 = 0xfed9_0000;
const LOCAL_APIC: u64 = 0xfee0_0000;
/// Configuration space in memory of [`MOVED_FUNCTION`], and its BAR.
const ECAM: u64 = 0xb000_0000 + (4 << 15);
const ECAM_BAR: u64 = ECAM + 0x10;

/// Tries what needs more than a load or a store.
pub fn check(tally: &mut Tally, door: &Door) {
    let told = instructions(tally)
        .and_then(|()| registers(tally))
        .and_then(|()| memory(tally))
        .and_then(|()| ports(tally))
        .and_then(|()| moved_otherwise(tally))
        .and_then(|()| firmware_configuration(tally, door))
        .and_then(|()| processors(tally));
    if let Err(error) = told {
        tally.check("confinement", error, false);
    }
}

/// SVM's instructions in the kernel, and the call from where it is not allowed.
fn instructions(tally: &mut Tally) -> Result<()> {
    const NAMES: [&str; 7] = [
        "vmrun", "vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga",
    ];
    for (number, name) in NAMES.iter().enumerate() {
        let seen = attacks::execute(number as u64)?;
        let told = if seen { "exception" } else { "it worked" };
        let tried = format!("{name} in the kernel");
        tally.attack("svm-instruction", &tried, told, seen);
    }
    tally.must_fault(
        "call-at-level-3",
        "VMMCALL by a process",
        &attempt(|| Ok(cpu::vmmcall(rmi::VERSION))),
    );
    Ok(())
}

/// Registers that decide who is below whom.
fn registers(tally: &mut Tally) -> Result<()> {
    const EFER: u64 = 0xc000_0080;
    const SVME: u64 = 1 << 12;
    const APIC_BASE: u64 = 0x1b;
    const SMM_BASE: u64 = 0xc001_0111;
    const TSC_AUX: u64 = 0xc000_0103;
    const HIDDEN: [(&str, u64); 2] = [("vm-cr", 0xc001_0114), ("vm-hsave-pa", 0xc001_0117)];
    let control = attacks::read_register(TSC_AUX)?;
    tally.check(
        "control-register-is-read",
        format!("{control:x?}"),
        control.is_some(),
    );
    for (name, register) in HIDDEN {
        let seen = attacks::read_register(register)?;
        tally.attack(
            name,
            "RDMSR in the kernel",
            format!("{seen:x?}"),
            seen.is_none(),
        );
        let done = attacks::write_register(register, 0)?;
        tally.attack(name, "WRMSR in the kernel", format!("done: {done}"), !done);
    }
    let done = attacks::write_register(SMM_BASE, TSM)?;
    tally.attack(
        "smm-base",
        "WRMSR in the kernel",
        format!("done: {done}"),
        !done,
    );
    let efer = attacks::read_register(EFER)?.unwrap_or(SVME);
    tally.check("svm-looks-off", format!("EFER {efer:#x}"), efer & SVME == 0);
    let same = attacks::write_register(EFER, efer)?;
    tally.check("control-efer-is-written", format!("done: {same}"), same);
    let done = attacks::write_register(EFER, efer | SVME)?;
    tally.attack(
        "efer-svme",
        "WRMSR of EFER.SVME",
        format!("done: {done}"),
        !done,
    );
    let base = attacks::read_register(APIC_BASE)?.unwrap_or(0);
    let done = attacks::write_register(APIC_BASE, (base & 0xfff) | TSM)?;
    let after = attacks::read_register(APIC_BASE)?.unwrap_or(0);
    tally.attack(
        "apic-base",
        "WRMSR of APIC_BASE, over the TSM",
        format!("done: {done}, at {after:#x}"),
        !done && after == base,
    );
    Ok(())
}

/// Ports that move addresses about.
fn ports(tally: &mut Tally) -> Result<()> {
    const SYSTEM_CONTROL: u16 = 0x92;
    const A20: u8 = 1 << 1;
    cpu::allow_ports()?;
    let before = cpu::in8(SYSTEM_CONTROL);
    cpu::out8(SYSTEM_CONTROL, before & !A20 & !1);
    let after = cpu::in8(SYSTEM_CONTROL);
    tally.attack(
        "a20-gate",
        "close the A20 gate by port 0x92",
        format!("{before:#x}, then {after:#x}"),
        after & A20 != 0,
    );
    // Each would bring something else of its own: the letter that its memory begins with, its number.
    const SELECTOR: u16 = 0x510;
    const LOG: u16 = 0xe9;
    cpu::out16(SELECTOR, 0);
    for (name, tried, port) in [
        ("read-fw-cfg", "read fw_cfg by its port", SELECTOR + 1),
        ("log-port", "read the port of the firmware's log", LOG),
    ] {
        let seen = cpu::in8(port);
        tally.attack(name, tried, format!("{seen:#x}"), seen == 0xff);
    }
    cpu::out8(LOG, b'!');
    let hpet =
        fs::read_to_string("/sys/devices/system/clocksource/clocksource0/available_clocksource")?;
    tally.check("event-timer", hpet.trim(), !hpet.contains("hpet"));
    Ok(())
}

/// Loads and stores of the kernel.
fn memory(tally: &mut Tally) -> Result<()> {
    let id = attacks::read_memory(ECAM)?;
    tally.check("control-kernel-reads", format!("{id:x?}"), id.is_some());
    for (name, tried, address) in [
        (
            "kernel-reads-tsm",
            "load from the TSM's memory in the kernel",
            TSM,
        ),
        (
            "kernel-reads-iommu",
            "load from the IOMMU's registers in the kernel",
            IOMMU,
        ),
        (
            "local-apic-page",
            "load from the local APIC's page in the kernel",
            LOCAL_APIC,
        ),
    ] {
        let seen = attacks::read_memory(address)?;
        tally.attack(name, tried, format!("{seen:x?}"), seen.is_none());
    }
    for (name, tried, address) in [
        (
            "kernel-writes-tsm",
            "store to the TSM's memory in the kernel",
            TSM,
        ),
        (
            "kernel-writes-iommu",
            "store to the IOMMU's registers in the kernel",
            IOMMU + 0x18,
        ),
    ] {
        let done = attacks::write_memory(address, 0)?;
        tally.attack(name, tried, format!("done: {done}"), !done);
    }
    Ok(())
}

/// The BAR that configuration space did not move: by its ports, and in memory.
fn moved_otherwise(tally: &mut Tally) -> Result<()> {
    const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;
    cpu::allow_ports()?;
    cpu::out32(ADDRESS, 1 << 31 | 4 << 11 | 0x10);
    let before = cpu::in32(DATA);
    let by_port = |value| {
        cpu::out32(DATA, value);
        cpu::in32(DATA)
    };
    let free = by_port(FREE_MMIO);
    tally.check(
        "control-bar-moves-by-ports",
        format!("to {free:#x}"),
        free == FREE_MMIO,
    );
    for (name, tried, place) in BAR_TARGETS {
        let after = by_port(*place);
        let name = format!("{name}-by-ports");
        tally.attack(&name, tried, format!("BAR {after:#x}"), after == free);
    }
    by_port(before);
    let in_memory = |value| -> Result<Option<u64>> {
        attacks::write_memory(ECAM_BAR, value)?;
        attacks::read_memory(ECAM_BAR)
    };
    let free = in_memory(FREE_MMIO)?;
    let moved = free == Some(u64::from(FREE_MMIO));
    tally.check(
        "control-bar-moves-in-memory",
        format!("to {free:x?}"),
        moved,
    );
    for (name, tried, place) in BAR_TARGETS {
        let after = in_memory(*place)?;
        let name = format!("{name}-in-memory");
        tally.attack(&name, tried, format!("BAR {after:x?}"), after == free);
    }
    let back = in_memory(before)?;
    tally.check(
        "bar-is-back-in-memory",
        format!("{back:x?}"),
        back == Some(before.into()),
    );
    Ok(())
}

/// QEMU's configuration device copies memory past every table.
fn firmware_configuration(tally: &mut Tally, door: &Door) -> Result<()> {
    const SELECT_AND_READ: u32 = 1 << 3 | 1 << 1;
    const HIGH: u16 = 0x514;
    const LOW: u16 = 0x518;
    let own = Door::open()?;
    let base = own.allocate(0x1000)?;
    let page = own.map(0x1000)?;
    // Control, length, address: all big-endian. Item 0 is four letters.
    let words = [SELECT_AND_READ, 4, (base >> 32) as u32, base as u32 + 0x100];
    for (index, word) in words.iter().enumerate() {
        page.write(4 * index, word.to_be());
    }
    cpu::allow_ports()?;
    cpu::out32(HIGH, ((base >> 32) as u32).to_be());
    cpu::out32(LOW, (base as u32).to_be());
    let told = page.read(0x100);
    tally.attack(
        "fw-cfg-dma",
        "have fw_cfg write memory",
        format!("{told:#x} in memory"),
        told == 0,
    );
    let reply = door.call(&Call::Features { index: 0 })?;
    tally.check(
        "tsm-survives",
        format!("{:#x}", reply.register(0)),
        reply.is_success(),
    );
    Ok(())
}

/// A processor that goes and comes gets INIT and a start by the local APIC.
fn processors(tally: &mut Tally) -> Result<()> {
    let path = "/sys/devices/system/cpu/cpu1/online";
    if fs::metadata(path).is_err() {
        return Ok(());
    }
    for _ in 0..2 {
        fs::write(path, "0")?;
        fs::write(path, "1")?;
    }
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let wanted = std::thread::available_parallelism().map_or(0, usize::from);
    tally.check(
        "processor-goes-and-comes",
        format!("{} online", online.trim()),
        online.trim() == format!("0-{}", wanted - 1),
    );
    Ok(())
}

/// The device that copies memory, as its registers are.
struct Copier(Mapping);

impl Copier {
    const SOURCE: usize = 0x80;
    const TARGET: usize = 0x88;
    const COUNT: usize = 0x90;
    const COMMAND: usize = 0x98;
    /// The device's own memory, as its commands name it.
    const BUFFER: u64 = 0x4_0000;
    const START: u32 = 1;
    const TO_MEMORY: u32 = 2;

    fn new() -> Result<Self> {
        const COMMAND: u64 = 4;
        const MEMORY_AND_MASTER: u16 = 6;
        let function = super::function(MOVED_FUNCTION);
        let config = OpenOptions::new()
            .write(true)
            .open(format!("{function}/config"))?;
        config.write_all_at(&MEMORY_AND_MASTER.to_le_bytes(), COMMAND)?;
        Ok(Self(Mapping::resource(
            &format!("{function}/resource0"),
            0x1000,
        )?))
    }

    fn run(&self, source: u64, target: u64, command: u32) {
        for (at, value) in [
            (Self::SOURCE, source),
            (Self::TARGET, target),
            (Self::COUNT, 64),
        ] {
            self.0.write(at, value as u32);
            self.0.write(at + 4, (value >> 32) as u32);
        }
        self.0.write(Self::COMMAND, command | Self::START);
        // It takes a tenth of a second for each.
        while self.0.read(Self::COMMAND) & Self::START != 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Copies 64 bytes of memory by the device, and returns the first word.
    fn copy(&self, from: u64, page: &Mapping, base: u64) -> u32 {
        page.write(0x800, 0);
        self.run(from, Self::BUFFER, 0);
        self.run(Self::BUFFER, base + 0x800, Self::TO_MEMORY);
        page.read(0x800)
    }
}

/// What is tried while memory at `delegated` is the TSM's: `mapping` is the host's memory at `base`.
pub fn while_delegated(
    tally: &mut Tally,
    door: &Door,
    mapping: &Mapping,
    (base, delegated): (u64, u64),
) -> Result<()> {
    const MARK: u32 = 0x0ddc_0ffe;
    mapping.write(0, MARK);
    let copier = Copier::new()?;
    let own = copier.copy(base, mapping, base);
    tally.check("edu-copies-host-memory", format!("{own:#x}"), own == MARK);
    for (name, tried, place) in [
        (
            "edu-dma-read",
            "a device copies delegated memory",
            delegated,
        ),
        ("edu-dma-read", "a device copies the TSM's memory", TSM),
    ] {
        let seen = copier.copy(place, mapping, base);
        // What it had before, or nothing.
        let pass = seen == MARK || seen == 0;
        tally.attack(name, tried, format!("{seen:#x}"), pass);
    }
    copier.run(Copier::BUFFER, TSM, Copier::TO_MEMORY);
    let reply = door.call(&Call::Features { index: 0 });
    let lives = reply.is_ok_and(|reply| reply.is_success());
    tally.attack(
        "edu-dma-write",
        "a device stores to the TSM's memory",
        format!("the TSM answers: {lives}"),
        lives,
    );
    mapping.write(0, 0);
    Ok(())
}
