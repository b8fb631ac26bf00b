// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bringing the TSM up, and the calls of EL3 after that.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use heapless::Vec;
use spin::Once;
use tsm_abi::RmiCode;
use tsm_abi::el3::{self, BootStatus, ConfigAccess, Features};
use tsm_core::{Region, Tsm};
use tsm_iommu::{HostMap, host_map};
use tsm_platform::{GRANULE_SIZE, Granule, GranuleRange, Pa, Rid};

use super::cpu::{self, MAX_CPUS};
use super::entry::{STACK_SIZE, STACK_STRIDE, STACK_WINDOW};
#[cfg(feature = "isolation-tests")]
use super::isolation_tests;
use super::smmu::{self, Smmu};
use super::{exception, isolation, monitor, zero_granule};
use crate::carve::Carver;
use crate::ecam::{ECAM_BYTES, Ecam};
use crate::kinds::{Kinds, Span};
use crate::log::info;
use crate::machine::Machine;
use crate::manifest::{self, MOST, Manifest, PAGE};
use crate::memory::{Memory, Window};
use crate::paging::{self, CannotMap, Frames, Use};

/// Where granules are seen: physical address plus this.
const REALM_WINDOW: u64 = 1 << 39;
/// Where host memory is seen.
const HOST_WINDOW: u64 = 2 << 39;
/// Where devices are seen.
const DEVICE_WINDOW: u64 = 4 << 39;
/// Size of each window.
const WINDOW_SIZE: u64 = 1 << 39;
/// Size of the two register pages of an SMMU.
const SMMU_BYTES: u64 = 128 << 10;
/// Most runs of granules: banks and device regions.
const SPANS: usize = 2 * MOST;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __bss_end: u8;
    static __stacks_start: u8;
    static __image_end: u8;
    static __region_top: u8;
}

/// Returns the address of a symbol of the linker script.
macro_rules! symbol {
    ($name:ident) => {
        (&raw const $name) as u64
    };
}

/// Root of the TSM's tables; zero until the first CPU has booted. It is in `.data` because `.bss`
/// is cleared after it was looked at.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
static tsm_translation_root: AtomicU64 = AtomicU64::new(0);

/// Memory for tables, addressed as it is mapped: at its physical address.
struct Identity<'a>(&'a mut Carver);

impl Frames for Identity<'_> {
    fn take(&mut self) -> Option<u64> {
        let table = self.0.take(GRANULE_SIZE, GRANULE_SIZE)?;
        for index in 0..512 {
            self.write(table, index, 0);
        }
        Some(table)
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        // SAFETY: `table` came from `take` and is reached by these two functions only.
        unsafe { (table as *const u64).add(index).read_volatile() }
    }
    fn write(&mut self, table: u64, index: usize, value: u64) {
        // SAFETY: as in `read`. New entries only make more memory reachable.
        unsafe { (table as *mut u64).add(index).write_volatile(value) };
    }
}

/// What the part that runs with the MMU off leaves for the next.
struct Early {
    carver: Carver,
    root: u64,
}

struct EarlyCell(UnsafeCell<Option<Early>>);

// SAFETY: only the first CPU uses it, while it is the only one.
unsafe impl Sync for EarlyCell {}

static EARLY: EarlyCell = EarlyCell(UnsafeCell::new(None));

static MACHINE: Once<Machine> = Once::new();
static TSM: Once<Tsm> = Once::new();

/// Makes the tables for the image and its region, with the MMU off. `page` is the page shared with
/// EL3. Returns the root, or zero.
#[unsafe(no_mangle)]
extern "C" fn tsm_early_map(page: u64) -> u64 {
    let image_end = symbol!(__image_end);
    let region_top = symbol!(__region_top);
    let top = if (image_end..region_top).contains(&page) {
        page
    } else {
        region_top
    };
    let Some(range) = GranuleRange::new(image_end, top) else {
        return 0;
    };
    let mut carver = Carver::new(range);
    let Ok(root) = map_image(&mut Identity(&mut carver), region_top) else {
        return 0;
    };
    // SAFETY: this is the only CPU, and nothing else refers to the cell now.
    unsafe { *EARLY.0.get() = Some(Early { carver, root }) };
    root
}

fn map_image(frames: &mut Identity<'_>, region_top: u64) -> Result<u64, CannotMap> {
    let root = frames.take().ok_or(CannotMap)?;
    let parts = [
        (symbol!(__image_start), symbol!(__text_end), Use::Text),
        (symbol!(__text_end), symbol!(__rodata_end), Use::Constants),
        (symbol!(__rodata_end), symbol!(__stacks_start), Use::Data),
        (symbol!(__image_end), region_top, Use::Data),
    ];
    for (base, end, usage) in parts {
        let size = end.checked_sub(base).ok_or(CannotMap)?;
        paging::map(frames, root, base, base, size, usage)?;
    }
    let mut physical = symbol!(__stacks_start);
    for cpu in 0..MAX_CPUS as u64 {
        let virt = STACK_WINDOW + cpu * STACK_STRIDE;
        paging::map(frames, root, virt, physical, STACK_SIZE, Use::Data)?;
        physical = physical.checked_add(STACK_SIZE).ok_or(CannotMap)?;
    }
    let (base, size) = (isolation::BASE, isolation::SIZE);
    paging::map(frames, root, base, physical, size, Use::Data)?;
    Ok(root)
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
    let Early { mut carver, root } = early.ok_or(BootStatus::Unknown)?;
    let manifest = read_manifest(&mut carver, root, page)?;
    let machine = build(&mut carver, root, &manifest)?;
    let regions = regions(&mut carver, &manifest)?;
    info!(
        "tsm: {=u64} CPUs, {=u64} KiB of the region left",
        count,
        carver.left() >> 10
    );
    MACHINE.call_once(|| machine);
    TSM.call_once(|| Tsm::new(regions));
    tsm_translation_root.store(root, Ordering::Release);
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

fn read_manifest(carver: &mut Carver, root: u64, page: u64) -> Result<Manifest, BootStatus> {
    let region = GranuleRange::new(symbol!(__image_start), symbol!(__region_top))
        .ok_or(BootStatus::Unknown)?;
    let image_end = symbol!(__image_end);
    if Granule::new(page).is_none() || page < image_end && region.contains(page) {
        return Err(BootStatus::InvalidSharedBuffer);
    }
    if !region.contains(page) {
        map(carver, root, 0, page, GRANULE_SIZE, Use::Data)
            .map_err(|_| BootStatus::InvalidSharedBuffer)?;
    }
    let mut bytes = [0; PAGE];
    // SAFETY: the page is mapped and outside the image; EL3 fills it before it enters.
    unsafe { super::copy(bytes.as_mut_ptr(), page as *const u8, PAGE) }
        .map_err(|_| BootStatus::InvalidSharedBuffer)?;
    manifest::parse(&bytes, page, region)
}

/// Maps physical `[base, base + size)` in `window`.
fn map(
    carver: &mut Carver,
    root: u64,
    window: u64,
    base: u64,
    size: u64,
    usage: Use,
) -> Result<*mut u8, BootStatus> {
    if base.checked_add(size).is_none_or(|end| end > WINDOW_SIZE) {
        return Err(BootStatus::ManifestDataError);
    }
    let virt = window
        .checked_add(base)
        .ok_or(BootStatus::ManifestDataError)?;
    paging::map(&mut Identity(carver), root, virt, base, size, usage)
        .map_err(|CannotMap| BootStatus::NoMemory)?;
    // SAFETY: barriers have no other effect. They make the new entries usable.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
    Ok(virt as *mut u8)
}

/// Takes zeroed memory for `count` values for which zero is a value.
///
/// # Safety
///
/// All-zero bytes must be a valid `T`.
unsafe fn zeroed<T>(
    carver: &mut Carver,
    count: usize,
    align: u64,
) -> Result<&'static [T], BootStatus> {
    let size = (count as u64)
        .checked_mul(size_of::<T>() as u64)
        .ok_or(BootStatus::NoMemory)?;
    let base = carver.take(size, align).ok_or(BootStatus::NoMemory)?;
    for page in (base..base.saturating_add(size)).step_by(GRANULE_SIZE as usize) {
        // SAFETY: the memory is fresh from the carver and mapped at its physical address.
        unsafe { zero_granule(page as *mut u8) };
    }
    // SAFETY: aligned, zeroed, never used otherwise; the caller promises that zero is valid.
    Ok(unsafe { core::slice::from_raw_parts(base as *const T, count) })
}

/// Moves `values` to memory that lives for ever.
fn keep<T, const N: usize>(
    carver: &mut Carver,
    values: Vec<T, N>,
) -> Result<&'static [T], BootStatus> {
    let count = values.len();
    let base = carver
        .take(size_of_val(values.as_slice()) as u64, GRANULE_SIZE)
        .ok_or(BootStatus::NoMemory)?;
    let base = base as *mut T;
    for (index, value) in values.into_iter().enumerate() {
        // SAFETY: fresh memory, large enough, aligned to a granule.
        unsafe { base.add(index).write(value) };
    }
    // SAFETY: `count` values were written, and nothing else uses the memory.
    Ok(unsafe { core::slice::from_raw_parts(base, count) })
}

fn build(carver: &mut Carver, root: u64, manifest: &Manifest) -> Result<Machine, BootStatus> {
    let mut spans: Vec<Span, SPANS> = Vec::new();
    let banks = manifest.dram.iter().map(|range| (range, false));
    let devices = manifest.devices.iter().map(|range| (range, true));
    for (range, device) in banks.chain(devices) {
        // SAFETY: zero is a value of an integer.
        let bytes = unsafe { zeroed::<AtomicU8>(carver, range.count() as usize, 1) }?;
        let span = Span::new(*range, bytes, device).ok_or(BootStatus::Unknown)?;
        spans.push(span).map_err(|_| BootStatus::Unknown)?;
    }
    for range in &manifest.dram {
        let (base, size) = (range.base(), range.bytes());
        map(carver, root, REALM_WINDOW, base, size, Use::Data)?;
        map(carver, root, HOST_WINDOW, base, size, Use::HostData)?;
    }
    let kinds = Kinds::new(keep(carver, spans)?);
    // SAFETY: the mappings were made above for all memory that `kinds` knows, and are never
    // changed; the image itself is in no bank (`manifest::parse`).
    let (memory, host) = unsafe {
        let realm = Window::new(REALM_WINDOW as *mut u8, 0, WINDOW_SIZE);
        let host = Window::new(HOST_WINDOW as *mut u8, 0, WINDOW_SIZE);
        (Memory::new(kinds, realm), host)
    };
    let offer = monitor::offer();
    let mut reserved = Vec::new();
    if let Some(range) = offer.reserved {
        reserved.push(range).map_err(|_| BootStatus::Unknown)?;
    }
    let iommu = start_smmu(carver, root, manifest, offer.features)?;
    let units = manifest.smmus.iter().copied().map(Pa);
    Ok(Machine {
        memory,
        host,
        units: units.take(iommu.iter().count()).collect(),
        iommu,
        ecam: start_ecam(carver, root, manifest, offer.features)?,
        mediated: offer.features.contains(Features::CONFIG_MEDIATION),
        reserved,
        hidden: offer.hidden.map(Rid),
    })
}

fn start_ecam(
    carver: &mut Carver,
    root: u64,
    manifest: &Manifest,
    features: Features,
) -> Result<Option<Ecam>, BootStatus> {
    let Some(&physical) = manifest.ecams.first() else {
        return Ok(None);
    };
    if !features.contains(Features::ECAM_IS_REALM) {
        return Ok(None);
    }
    let base = map(
        carver,
        root,
        DEVICE_WINDOW,
        physical,
        ECAM_BYTES,
        Use::Device,
    )?;
    // SAFETY: the window was just mapped.
    Ok(Some(unsafe { Ecam::new(base, physical) }))
}

fn start_smmu(
    carver: &mut Carver,
    root: u64,
    manifest: &Manifest,
    features: Features,
) -> Result<Option<Smmu>, BootStatus> {
    let Some(&physical) = manifest.smmus.first() else {
        return Ok(None);
    };
    if !features.contains(Features::SMMU_IS_REALM) {
        return Ok(None);
    }
    let (dram, holes) = cover(manifest)?;
    let entries = host_map::table_count(dram)
        .and_then(|count| count.checked_mul(512))
        .ok_or(BootStatus::NoMemory)?;
    let words = |bytes: u64| (bytes / 8) as usize;
    // SAFETY: zero is a value of an integer.
    let parts = unsafe {
        smmu::Parts {
            streams: zeroed(
                carver,
                words(smmu::STREAM_TABLE_BYTES),
                smmu::STREAM_TABLE_BYTES,
            )?,
            commands: zeroed(
                carver,
                words(smmu::COMMAND_QUEUE_BYTES),
                smmu::COMMAND_QUEUE_BYTES,
            )?,
            events: zeroed(
                carver,
                words(smmu::EVENT_QUEUE_BYTES),
                smmu::EVENT_QUEUE_BYTES,
            )?,
            tables: zeroed(carver, entries, GRANULE_SIZE)?,
        }
    };
    let tables = Granule::containing(parts.tables.as_ptr() as u64);
    let host = HostMap::new(dram, tables).ok_or(BootStatus::NoMemory)?;
    let base = map(
        carver,
        root,
        DEVICE_WINDOW,
        physical,
        SMMU_BYTES,
        Use::Device,
    )?;
    // SAFETY: the registers were just mapped and the monitor gave them to the TSM; the tables are
    // those that `host` describes.
    let unit = unsafe { Smmu::start(base, parts, host, &holes) };
    unit.map(Some).map_err(|_| BootStatus::Unknown)
}

/// Returns the range from the first to the last byte of DRAM, and the gaps between its banks.
fn cover(manifest: &Manifest) -> Result<(GranuleRange, Vec<GranuleRange, MOST>), BootStatus> {
    let by_base = |bank: &&GranuleRange| bank.base();
    let banks = manifest.dram.iter();
    let mut last = banks
        .clone()
        .min_by_key(by_base)
        .ok_or(BootStatus::ManifestDataError)?;
    let base = last.base();
    let mut holes = Vec::new();
    // Banks are disjoint, so the next one starts where the last one ends or later.
    while let Some(next) = banks
        .clone()
        .filter(|bank| bank.base() >= last.top())
        .min_by_key(by_base)
    {
        if let Some(hole) = GranuleRange::new(last.top(), next.base()) {
            holes
                .push(hole)
                .map_err(|_| BootStatus::ManifestDataError)?;
        }
        last = next;
    }
    let all = GranuleRange::new(base, last.top()).ok_or(BootStatus::ManifestDataError)?;
    Ok((all, holes))
}

fn regions(carver: &mut Carver, manifest: &Manifest) -> Result<&'static [Region], BootStatus> {
    let mut regions: Vec<Region, SPANS> = Vec::new();
    let banks = manifest
        .dram
        .iter()
        .map(|range| (range, tsm_core::Kind::Memory));
    let devices = manifest
        .devices
        .iter()
        .map(|range| (range, tsm_core::Kind::Device));
    for (range, kind) in banks.chain(devices) {
        // SAFETY: zero is a value of an integer.
        let words = unsafe { zeroed::<AtomicU32>(carver, range.count() as usize, 1) }?;
        let region = Region::new(*range, kind, words).ok_or(BootStatus::Unknown)?;
        regions.push(region).map_err(|_| BootStatus::Unknown)?;
    }
    keep(carver, regions)
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
