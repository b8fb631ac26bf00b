// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bringing the TSM up on the first CPU.

use core::cell::UnsafeCell;

use heapless::Vec;
use spin::Once;
use tsm_core::Tsm;
use tsm_platform::{GRANULE_SIZE, GranuleRange, Pa};

use super::reach::{self, Reach};
use super::{cpu, exception, extended, host, start};
use crate::arch::acpi::{self, Tables};
use crate::arch::keys;
use crate::arch::pvh::{RESERVED, Source, StartInfo};
use crate::board::board;
use crate::ecam::{BUSES, ECAM_BYTES, Ecam};
use crate::layout::{DEVICE_WINDOW, HOST_WINDOW, MAX_CPUS};
use crate::log::{info, warning};
use crate::machine::{MOST_RESERVED, Machine};
use crate::paging::Use;
use crate::setup::{self, Failure, Setup};

/// What the firmware before the TSM left, as it was found before the host ran.
pub struct Findings {
    /// Memory map, command line and module.
    pub start: StartInfo,
    /// ACPI tables.
    pub tables: Tables,
}

/// What the part that runs on provisional tables leaves for the next.
struct Early {
    setup: Setup,
    findings: Findings,
}

struct EarlyCell(UnsafeCell<Option<Early>>);

// SAFETY: only the first CPU uses it, while it is the only one.
unsafe impl Sync for EarlyCell {}

static EARLY: EarlyCell = EarlyCell(UnsafeCell::new(None));

static FINDINGS: Once<Findings> = Once::new();
static MACHINE: Once<Machine> = Once::new();
static TSM: Once<Tsm> = Once::new();

/// Returns what was found at boot.
pub fn findings() -> Option<&'static Findings> {
    FINDINGS.get()
}

/// Returns the machine and the TSM.
pub fn tsm() -> Option<(&'static Machine, &'static Tsm)> {
    Some((MACHINE.get()?, TSM.get()?))
}

/// Memory at its physical addresses, as the provisional tables of entry code show it.
struct Physical;

impl Source for Physical {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        /// What the provisional tables show.
        const TOP: u64 = 4 << 30;
        let end = address.checked_add(out.len() as u64);
        if address == 0 || end.is_none_or(|end| end > TOP) {
            return false;
        }
        // SAFETY: everything below `TOP` is mapped, and `out` is on the stack.
        unsafe { super::copy(out.as_mut_ptr(), address as *const u8, out.len()) }.is_ok()
    }
}

/// Reads what the firmware left, and makes the tables for the image and its region. Runs on provisional
/// tables. Returns the root, or zero.
#[unsafe(no_mangle)]
extern "C" fn tsm_early_map(start_info: u64) -> u64 {
    let early = look_around(start_info).and_then(|findings| {
        let region = setup::region()?;
        let setup = Setup::map_image(region.top()).ok()?;
        // The rest of the region was memory like any other until now.
        findings
            .start
            .has(region)
            .then_some(Early { setup, findings })
    });
    let Some(early) = early else {
        warning!("the firmware left no start info and ACPI tables that can be used");
        return 0;
    };
    let root = early.setup.root();
    // SAFETY: this is the only CPU, and nothing else refers to the cell now.
    unsafe { *EARLY.0.get() = Some(early) };
    root
}

fn look_around(start_info: u64) -> Option<Findings> {
    let start = StartInfo::read(&Physical, start_info)?;
    let tables = acpi::read(&Physical, start.rsdp).ok()?;
    Some(Findings { start, tables })
}

/// Boots the first CPU, and runs the host on it.
#[unsafe(no_mangle)]
extern "C" fn tsm_cold_main() -> ! {
    boot();
    host::run()
}

/// Boots the first CPU, or stops. The host runs without this frame below it.
#[inline(never)]
fn boot() {
    // SAFETY: this is the first CPU, and the only one that begins here.
    unsafe { cpu::start(0) };
    start::bring_up();
    // SAFETY: as in `tsm_early_map`.
    let early = unsafe { (*EARLY.0.get()).take() };
    let outcome = early.ok_or(Failure::Layout).and_then(cold_boot);
    if let Err(failure) = outcome {
        let memory = failure == Failure::NoMemory;
        warning!("boot failed; too little memory: {=bool}", memory);
        exception::stop();
    }
}

fn cold_boot(early: Early) -> Result<(), Failure> {
    let Early {
        mut setup,
        findings,
    } = early;
    let processors = findings.tables.processors.len();
    if processors != board().processors() || processors > MAX_CPUS {
        warning!("ACPI knows {=usize} processors", processors);
        return Err(Failure::Layout);
    }
    if !extended::is_supported() {
        warning!("the processor's extended state cannot be switched");
        return Err(Failure::Layout);
    }
    let region = setup::region().ok_or(Failure::Layout)?;
    let banks = findings.start.banks(region).ok_or(Failure::Layout)?;
    let devices = [board().device_window()];
    let root = setup.root();
    let machine = build(&mut setup, &findings, &banks, &devices)?;
    let regions = setup.regions(&banks, &devices)?;
    info!(
        "tsm: {=usize} CPUs, {=u64} KiB of the region left",
        processors,
        setup.left() >> 10
    );
    MACHINE.call_once(|| machine);
    TSM.call_once(|| Tsm::new(regions));
    let findings = FINDINGS.call_once(|| findings);
    // SAFETY: the firmware before the TSM left the others waiting, and this one has joined.
    if unsafe { start::others(&findings.tables.processors, root) } {
        Ok(())
    } else {
        Err(Failure::Layout)
    }
}

fn build(
    setup: &mut Setup,
    findings: &Findings,
    banks: &[GranuleRange],
    devices: &[GranuleRange],
) -> Result<Machine, Failure> {
    let (memory, host) = setup.memory(banks, devices)?;
    map_reserved(setup, findings)?;
    let ecam = match findings.tables.ecam {
        Some((physical, BUSES)) => {
            let base = setup.map(DEVICE_WINDOW, physical, ECAM_BYTES, Use::Device)?;
            // SAFETY: the window was just mapped.
            Some(unsafe { Ecam::new(base, physical) })
        }
        _ => None,
    };
    let mut reserved: Vec<GranuleRange, MOST_RESERVED> = Vec::new();
    if let Some(unit) = start_key_unit(setup, ecam.as_ref())? {
        reserved.push(unit).map_err(|_| Failure::Layout)?;
    }
    let (configuration, _) = findings.tables.ecam.ok_or(Failure::Layout)?;
    let reach = Reach {
        banks,
        devices,
        region: setup::region().ok_or(Failure::Layout)?,
        reserved: &reserved,
        hidden: board().key_unit().0,
        ecam: configuration,
        units: &findings.tables.units,
        io_apics: &findings.tables.io_apics,
    };
    for page in reach.io_apics {
        setup.map(DEVICE_WINDOW, *page, GRANULE_SIZE, Use::Device)?;
    }
    reach::nested(setup, &reach)?;
    let iommu = reach::iommu(setup, &reach)?;
    let kept = reach::kept(&reach)?;
    let units = findings.tables.units.iter().copied().map(Pa);
    Ok(Machine {
        memory,
        host,
        units: units.take(iommu.iter().count()).collect(),
        iommu,
        ecam,
        mediated: true,
        reserved: kept,
        hidden: Some(board().key_unit().0),
    })
}

/// Takes the key configuration unit, if the machine has one, and returns where it is.
fn start_key_unit(setup: &mut Setup, ecam: Option<&Ecam>) -> Result<Option<GranuleRange>, Failure> {
    let (rid, identity) = board().key_unit();
    let Some(unit) = ecam.and_then(|ecam| keys::locate(ecam, rid, identity)) else {
        warning!("there is no key configuration unit");
        return Ok(None);
    };
    let base = setup.map(DEVICE_WINDOW, unit.base(), unit.bytes(), Use::Device)?;
    // SAFETY: it was just mapped, all of it. The function is hidden from the host, which does not run
    // yet, and the machine keeps its registers from the host.
    unsafe { keys::start(base) };
    Ok(Some(unit))
}

/// Maps what firmware reserves below the configuration window, ACPI tables among it, in the window of host
/// memory. The host is given changed tables there.
fn map_reserved(setup: &mut Setup, findings: &Findings) -> Result<(), Failure> {
    let (limit, _) = findings.tables.ecam.ok_or(Failure::Layout)?;
    for range in &findings.start.memory {
        let top = range.base.saturating_add(range.size);
        let Some(base) = range.base.checked_next_multiple_of(GRANULE_SIZE) else {
            continue;
        };
        let top = top & !(GRANULE_SIZE - 1);
        if range.kind == RESERVED && base < top && top <= limit {
            setup.map(HOST_WINDOW, base, top - base, Use::HostData)?;
        }
    }
    Ok(())
}
