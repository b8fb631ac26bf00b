// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bringing the TSM up, and the calls of EL3 after that.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec;
use spin::Once;
use tsm_abi::RmiCode;
use tsm_abi::el3::{self, BootStatus, ConfigAccess, Features};
use tsm_core::Tsm;
use tsm_iommu::{HostMap, host_map};
use tsm_platform::{GRANULE_SIZE, Granule, Pa, Rid};

use super::smmu::{self, Smmu};
use super::{cpu, exception, monitor};
use crate::ecam::{ECAM_BYTES, Ecam};
#[cfg(feature = "isolation-tests")]
use crate::isolation_tests;
use crate::layout::{DEVICE_WINDOW, MAX_CPUS};
use crate::log::info;
use crate::machine::Machine;
use crate::manifest::{self, Manifest, PAGE};
use crate::paging::Use;
use crate::setup::{self, Failure, Setup};

/// Size of the two register pages of an SMMU.
const SMMU_BYTES: u64 = 128 << 10;

/// Root of the TSM's tables; zero until the first CPU has booted. It is in `.data` because `.bss`
/// is cleared after it was looked at.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
static tsm_translation_root: AtomicU64 = AtomicU64::new(0);

/// What the part that runs with the MMU off leaves for the next.
struct EarlyCell(UnsafeCell<Option<Setup>>);

// SAFETY: only the first CPU uses it, while it is the only one.
unsafe impl Sync for EarlyCell {}

static EARLY: EarlyCell = EarlyCell(UnsafeCell::new(None));

static MACHINE: Once<Machine> = Once::new();
static TSM: Once<Tsm> = Once::new();

/// Makes the tables for the image and its region, with the MMU off. `page` is the page shared with
/// EL3. Returns the root, or zero.
#[unsafe(no_mangle)]
extern "C" fn tsm_early_map(page: u64) -> u64 {
    let Some(region) = setup::region() else {
        return 0;
    };
    let top = if (setup::image_end()..region.top()).contains(&page) {
        page
    } else {
        region.top()
    };
    let Ok(setup) = Setup::map_image(top) else {
        return 0;
    };
    let root = setup.root();
    // SAFETY: this is the only CPU, and nothing else refers to the cell now.
    unsafe { *EARLY.0.get() = Some(setup) };
    root
}

/// Boots the first CPU and returns the status for BOOT_COMPLETE.
#[unsafe(no_mangle)]
extern "C" fn tsm_cold_main(index: u64, version: u64, count: u64, page: u64) -> i64 {
    cpu::start(index);
    match cold_boot(index, version, count, page) {
        Ok(()) => BootStatus::Success as i64,
        Err(status) => {
            info!("boot refused: {=i64}", status as i64);
            status as i64
        }
    }
}

/// Boots another CPU and returns the status for BOOT_COMPLETE.
#[unsafe(no_mangle)]
extern "C" fn tsm_warm_main(index: u64) -> i64 {
    cpu::start(index);
    BootStatus::Success as i64
}

fn cold_boot(index: u64, version: u64, count: u64, page: u64) -> Result<(), BootStatus> {
    if version >> 16 != el3::INTERFACE_VERSION >> 16 {
        return Err(BootStatus::VersionNotValid);
    }
    if count > MAX_CPUS as u64 {
        return Err(BootStatus::CpusOutOfRange);
    }
    if index >= count {
        return Err(BootStatus::CpuIdOutOfRange);
    }
    // SAFETY: as in `tsm_early_map`.
    let early = unsafe { (*EARLY.0.get()).take() };
    let mut setup = early.ok_or(BootStatus::Unknown)?;
    let manifest = read_manifest(&mut setup, page)?;
    let machine = build(&mut setup, &manifest)?;
    let regions = setup.regions(&manifest.dram, &manifest.devices)?;
    info!(
        "tsm: {=u64} CPUs, {=u64} KiB of the region left",
        count,
        setup.left() >> 10
    );
    MACHINE.call_once(|| machine);
    TSM.call_once(|| Tsm::new(regions));
    tsm_translation_root.store(setup.root(), Ordering::Release);
    // Other CPUs read it with their MMU off.
    // SAFETY: cleaning a line changes no content.
    unsafe {
        asm!(
            "dc civac, {}",
            "dsb sy",
            in(reg) tsm_translation_root.as_ptr(),
            options(nostack, preserves_flags),
        );
    }
    Ok(())
}

fn read_manifest(setup: &mut Setup, page: u64) -> Result<Manifest, BootStatus> {
    let region = setup::region().ok_or(BootStatus::Unknown)?;
    if Granule::new(page).is_none() || page < setup::image_end() && region.contains(page) {
        return Err(BootStatus::InvalidSharedBuffer);
    }
    if !region.contains(page) {
        setup
            .map(0, page, GRANULE_SIZE, Use::Data)
            .map_err(|_| BootStatus::InvalidSharedBuffer)?;
    }
    let mut bytes = [0; PAGE];
    // SAFETY: the page is mapped and outside the image; EL3 fills it before it enters.
    unsafe { super::copy(bytes.as_mut_ptr(), page as *const u8, PAGE) }
        .map_err(|_| BootStatus::InvalidSharedBuffer)?;
    manifest::parse(&bytes, page, region)
}

impl From<Failure> for BootStatus {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoMemory => Self::NoMemory,
            Failure::Layout => Self::ManifestDataError,
        }
    }
}

fn build(setup: &mut Setup, manifest: &Manifest) -> Result<Machine, BootStatus> {
    let (memory, host) = setup.memory(&manifest.dram, &manifest.devices)?;
    let offer = monitor::offer();
    let mut reserved = Vec::new();
    if let Some(range) = offer.reserved {
        reserved.push(range).map_err(|_| BootStatus::Unknown)?;
    }
    let iommu = start_smmu(setup, manifest, offer.features)?;
    let units = manifest.smmus.iter().copied().map(Pa);
    Ok(Machine {
        memory,
        host,
        units: units.take(iommu.iter().count()).collect(),
        iommu,
        ecam: start_ecam(setup, manifest, offer.features)?,
        mediated: offer.features.contains(Features::CONFIG_MEDIATION),
        reserved,
        hidden: offer.hidden.map(Rid),
    })
}

fn start_ecam(
    setup: &mut Setup,
    manifest: &Manifest,
    features: Features,
) -> Result<Option<Ecam>, BootStatus> {
    let Some(&physical) = manifest.ecams.first() else {
        return Ok(None);
    };
    if !features.contains(Features::ECAM_IS_REALM) {
        return Ok(None);
    }
    let base = setup.map(DEVICE_WINDOW, physical, ECAM_BYTES, Use::Device)?;
    // SAFETY: the window was just mapped.
    Ok(Some(unsafe { Ecam::new(base, physical) }))
}

fn start_smmu(
    setup: &mut Setup,
    manifest: &Manifest,
    features: Features,
) -> Result<Option<Smmu>, BootStatus> {
    let Some(&physical) = manifest.smmus.first() else {
        return Ok(None);
    };
    if !features.contains(Features::SMMU_IS_REALM) {
        return Ok(None);
    }
    let (dram, holes) = setup::cover(&manifest.dram).ok_or(BootStatus::ManifestDataError)?;
    let entries = host_map::table_count(dram)
        .and_then(|count| count.checked_mul(512))
        .ok_or(BootStatus::NoMemory)?;
    let words = |bytes: u64| (bytes / 8) as usize;
    // SAFETY: zero is a value of an integer.
    let parts = unsafe {
        smmu::Parts {
            streams: setup.zeroed(words(smmu::STREAM_TABLE_BYTES), smmu::STREAM_TABLE_BYTES)?,
            commands: setup.zeroed(words(smmu::COMMAND_QUEUE_BYTES), smmu::COMMAND_QUEUE_BYTES)?,
            events: setup.zeroed(words(smmu::EVENT_QUEUE_BYTES), smmu::EVENT_QUEUE_BYTES)?,
            tables: setup.zeroed(entries, GRANULE_SIZE)?,
        }
    };
    let tables = Granule::containing(parts.tables.as_ptr() as u64);
    let host = HostMap::new(dram, tables).ok_or(BootStatus::NoMemory)?;
    let base = setup.map(DEVICE_WINDOW, physical, SMMU_BYTES, Use::Device)?;
    // SAFETY: the registers were just mapped and the monitor gave them to the TSM; the tables are
    // those that `host` describes.
    let unit = unsafe { Smmu::start(base, parts, host, &holes) };
    unit.map(Some).map_err(|_| BootStatus::Unknown)
}

/// Handles one call of EL3: `frame` holds x0 to x7 on entry, and x0 to x8 of the answer on return.
#[unsafe(no_mangle)]
extern "C" fn tsm_handle_call(frame: &mut [u64; 10]) {
    exception::stay_if_stopped();
    let [function, arguments @ .., _, _] = frame;
    let results = match (MACHINE.get(), TSM.get()) {
        (Some(machine), Some(tsm)) if *function == el3::PORTCULLIS_CONFIG_ACCESS => {
            config_access(machine, tsm, arguments)
        }
        #[cfg(feature = "isolation-tests")]
        (Some(machine), _) if *function == isolation_tests::FUNCTION => {
            isolation_tests::run(machine, arguments[0])
        }
        (Some(machine), Some(tsm)) => tsm.host_call(machine, *function, arguments),
        _ => [RmiCode::NotSupported as u64, 0, 0, 0, 0, 0, 0, 0],
    };
    let [code, values @ .., _] = frame;
    *code = el3::REQUEST_COMPLETE;
    *values = results;
}

fn config_access(machine: &Machine, tsm: &Tsm, arguments: &[u64; 7]) -> [u64; 8] {
    let [rid, word, value, ..] = *arguments;
    let access = ConfigAccess::from_word(word);
    let write = access.write.then_some(value as u32);
    let read = match (u16::try_from(rid), access.width) {
        (Ok(rid), 1 | 2 | 4) => {
            tsm.host_config_access(machine, Rid(rid), access.offset, access.width, write)
        }
        _ => u32::MAX,
    };
    [0, u64::from(read), 0, 0, 0, 0, 0, 0]
}
