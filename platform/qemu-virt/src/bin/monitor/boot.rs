// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From reset to the first world.

use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::mutex::SpinMutex;
use tsm_monitor::arch::el3::{El3, Extensions};
use tsm_monitor::arch::enter;
use tsm_monitor::fdt::{self, Edits, Fdt};
use tsm_monitor::gpt::{GRANULE, Gpi, Gpt, Level0, Level1};
use tsm_monitor::manifest::{self, Region};
use tsm_monitor::psci::Start;
use tsm_monitor::read_register;
use tsm_monitor::token::Measurements;
use tsm_monitor::{Board, Context, Cpu, Layout, MAX_PROCESSORS, Monitor};

use crate::board::{self, PROCESSOR, QemuVirt};
use crate::log::OrStop as _;
use crate::translation::HOST_WINDOW;
use crate::{gic, log, pci};

/// The monitor of this machine.
pub static MONITOR: Monitor<QemuVirt, El3> = Monitor::new(QemuVirt::new(), PROCESSOR);

/// Level 1 tables that fit into SRAM beside everything else: DRAM up to 104 GiB can be delegated.
const TABLES: usize = 106;
static LEVEL0: Level0 = Level0::new();
// Not zeroed at boot: a table is filled when it is taken.
#[unsafe(link_section = ".bss.tables")]
static LEVEL1: [Level1; TABLES] = [const { Level1::new() }; TABLES];

/// Value of GPTBR_EL3, once the tables are made and other processors may start. The word that says so
/// is not zero by accident of an uninitialised SRAM.
#[unsafe(link_section = ".bss.ready")]
static READY: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
const MAGIC: u64 = 0x5472_6f70_7469_4d21;

/// Tells the other processors that they may start, with this value of GPTBR_EL3, or that they may not.
pub fn set_ready(base: Option<u64>) {
    READY[1].store(base.unwrap_or(0), Ordering::Relaxed);
    READY[0].store(if base.is_some() { MAGIC } else { 0 }, Ordering::Release);
}

/// Where the edited device tree is put together.
static SCRATCH: SpinMutex<[u8; 0x1_0000]> = SpinMutex::new([0; 0x1_0000]);

/// Boots the machine on the first processor. `cpu` is its block of SRAM, which nobody else uses.
#[unsafe(no_mangle)]
extern "C" fn monitor_boot(cpu: *mut Cpu) -> ! {
    let began = read_register!("cntpct_el0");
    set_ready(None);
    board::block_dma();
    log::start();
    let extensions = Extensions::read().or_stop("processor extensions");
    let (machine, tree_size) = read_tree();
    let processors = machine.processors;
    // The host would look for the interrupt controller's part of each processor that the tree names.
    if !(1..=MAX_PROCESSORS).contains(&processors) {
        log::stop("number of processors");
    }
    gic::start(processors).or_stop("interrupt controller");

    let measurements = measure();
    let (layout, gpt) = make_layout(&machine, processors);
    let base = gpt.base_register();
    PROCESSOR.prepare(base);
    let layout = take_devices(layout);
    edit_tree(tree_size, &layout);
    write_manifest(&layout);
    MONITOR.configure(layout, gpt, measurements);
    defmt::info!(
        "{=usize} processors, {=u64} MiB for the host, keys {=bool}, {=u64} ticks of the counter",
        processors,
        layout
            .dram
            .iter()
            .fold(0, |sum: u64, bank| sum.saturating_add(bank.size >> 20)),
        layout.hidden.is_some(),
        read_register!("cntpct_el0").wrapping_sub(began)
    );

    set_ready(Some(base));
    PROCESSOR.prepare_interrupts();
    PROCESSOR.set_parked(false);
    // SAFETY: the block is this processor's; `make_cpu` writes it before anybody reads it.
    let cpu = unsafe { make_cpu(cpu, 0, extensions) };
    MONITOR.cold_boot(
        cpu,
        Start {
            entry: board::HOST_ENTRY,
            context: board::DEVICE_TREE,
        },
    );
    go(cpu)
}

/// Parks a processor until the host starts it.
#[unsafe(no_mangle)]
extern "C" fn monitor_parked(cpu: *mut Cpu, index: usize) -> ! {
    PROCESSOR.prepare_interrupts();
    // After a reset SRAM still says that it is ready, so the first wait comes before the first look:
    // what ends it is a request of the host, which runs only when SRAM is ready again.
    loop {
        board::park_once();
        if READY[0].load(Ordering::Acquire) == MAGIC {
            break;
        }
    }
    PROCESSOR.prepare(READY[1].load(Ordering::Relaxed));
    let extensions = Extensions::read().or_stop("processor extensions");
    // SAFETY: the block is this processor's; `make_cpu` writes it before anybody reads it.
    let cpu = unsafe { make_cpu(cpu, index, extensions) };
    while !MONITOR.warm_boot(cpu) {
        board::park_once();
    }
    PROCESSOR.set_parked(false);
    go(cpu)
}

/// Writes the state of a processor that starts.
///
/// # Safety
/// `cpu` is aligned, writable, and nobody else's.
unsafe fn make_cpu<'a>(cpu: *mut Cpu, index: usize, extensions: Extensions) -> &'a mut Cpu {
    // SAFETY: the caller's promise.
    let cpu = unsafe {
        cpu.write(Cpu::new(index));
        &mut *cpu
    };
    cpu.extensions = extensions.word();
    cpu
}

/// Enters the world that `cpu` says.
fn go(cpu: &mut Cpu) -> ! {
    let context: *mut Context = cpu.context();
    // SAFETY: TPIDR_EL3 was set to this processor's `Cpu` at reset, of which this is a context; the stack
    // of the boot is not needed any more.
    unsafe { enter(context) }
}

/// Handles a synchronous exception; the vectors call it.
#[unsafe(no_mangle)]
extern "C" fn monitor_exception(cpu: &mut Cpu, esr: u64) -> *mut Context {
    MONITOR.exception(cpu, esr)
}

/// Ends everything: an exception that the monitor cannot have caused.
#[unsafe(no_mangle)]
extern "C" fn monitor_unexpected(vector: u64) -> ! {
    let esr = read_register!("esr_el3");
    let elr = read_register!("elr_el3");
    let far = read_register!("far_el3");
    defmt::error!(
        "vector {=u64}: ESR {=u64:#x} ELR {=u64:#x} FAR {=u64:#x}",
        vector,
        esr,
        elr,
        far
    );
    MONITOR.board().power_off()
}

/// Returns the host's memory that holds the device tree; only the monitor runs.
fn tree_memory<'a>(size: usize) -> &'a mut [u8] {
    // SAFETY: DRAM starts there, at least 64 MiB of it, mapped writable in the host window. No other
    // processor and no device touches it before the first world is entered, and callers hold one
    // slice at a time.
    unsafe { slice::from_raw_parts_mut((HOST_WINDOW + board::DEVICE_TREE) as *mut u8, size) }
}

/// Largest device tree, in bytes: QEMU's room for it.
const LARGEST_TREE: usize = 0x10_0000;

fn read_tree() -> (fdt::Machine, usize) {
    let tree = Fdt::new(tree_memory(LARGEST_TREE)).or_stop("device tree");
    let machine = tree.machine().or_stop("device tree");
    (machine, tree.total_size() as usize)
}

/// Measures the images as they were loaded. Granules are not protected yet, and nobody else runs.
fn measure() -> Measurements {
    /// Where an R-EL2 image says how many bytes of it were loaded.
    const SIZE: usize = 8;
    let image = (HOST_WINDOW + board::TSM.base) as *const u8;
    // SAFETY: memory of the TSM's region, mapped and aligned; nobody writes it now.
    let size = unsafe { image.add(SIZE).cast::<u64>().read_volatile() };
    if size <= SIZE as u64 || size > board::TSM.size {
        log::stop("size of the R-EL2 image");
    }
    // SAFETY: as above; the size was checked against the region.
    let realm = unsafe { slice::from_raw_parts(image, size as usize) };
    unsafe extern "C" {
        static __flash_end: u8;
    }
    // SAFETY: flash is mapped from address zero, read-only, to the end that the linker script says;
    // only the first word is left out, because a slice does not start at zero.
    let monitor = unsafe {
        let length = (&raw const __flash_end).addr().saturating_sub(8);
        slice::from_raw_parts(8 as *const u8, length)
    };
    Measurements::of(monitor, realm)
}

/// Makes the granule protection tables and what the monitor knows of memory.
fn make_layout(machine: &fdt::Machine, processors: usize) -> (Layout, Gpt) {
    let mut layout = Layout {
        processors,
        ..Layout::default()
    };
    let mut banks = layout.dram.iter_mut();
    let mut add = |region: Region| {
        if region.size != 0 {
            *banks.next().or_stop("too many banks of memory") = region;
        }
    };
    let mut gpt = Gpt::new(&LEVEL0, &LEVEL1, Gpi::NonSecure);
    for (region, owner) in board::OWNERS {
        gpt.assign(region.base, region.size, *owner)
            .or_stop("granule tables");
    }
    for granule in gic::control_frames() {
        gpt.assign(granule, GRANULE, Gpi::Root)
            .or_stop("granule tables");
    }
    for bank in &machine.memory {
        // A bank around the TSM is two for the host.
        let (below, above) = (
            board::TSM.base.min(bank.top()),
            board::TSM.top().max(bank.base),
        );
        if bank.base < below {
            add(Region {
                base: bank.base,
                size: below - bank.base,
            });
        }
        if above < bank.top() {
            add(Region {
                base: above,
                size: bank.top() - above,
            });
        }
        for gib in (bank.base >> 30 << 30..bank.top()).step_by(1 << 30) {
            // Memory beyond the last table stays the host's for good.
            let _full = gpt.split(gib);
        }
    }
    if !machine
        .memory
        .iter()
        .any(|bank| bank.covers(board::TSM.base, board::TSM.size))
    {
        log::stop("memory for the TSM");
    }
    // The window without its end, which the key configuration unit has; and what is above that.
    let unit = board::KEY_UNIT;
    let window = board::PCI_MMIO;
    layout.device_memory = [
        Region {
            base: window.base,
            size: unit.base - window.base,
        },
        Region {
            base: unit.top(),
            size: window.top() - unit.top(),
        },
    ];
    (layout, gpt)
}

/// Takes the key configuration unit, if there is one.
fn take_devices(mut layout: Layout) -> Layout {
    if pci::take_key_unit() {
        MONITOR.board().set_keys();
        layout.reserved = board::KEY_UNIT;
        layout.hidden = Some(pci::KEY_UNIT);
    }
    layout
}

/// Tells the host what it has and what it has not.
fn edit_tree(size: usize, layout: &Layout) {
    let edits = Edits {
        reserved: board::TSM,
        reserved_mmio: layout.reserved,
        window_limit: 1 << 32,
        nodes: &[b"fw-cfg", b"virtio_mmio", b"smmuv3", b"its"],
        properties: &[b"iommu-map", b"msi-map"],
    };
    let mut scratch = SCRATCH.lock();
    let edited = {
        let tree = Fdt::new(tree_memory(size)).or_stop("device tree");
        tree.edit(&mut *scratch, &edits)
            .or_stop("room for the device tree")
    };
    let edited = scratch.get(..edited).or_stop("room for the device tree");
    tree_memory(size)
        .get_mut(..edited.len())
        .or_stop("room for the device tree")
        .copy_from_slice(edited);
}

fn write_manifest(layout: &Layout) {
    let mut ports = [0; 8];
    let count = pci::root_ports(&mut ports);
    let banks = layout.dram.split(|bank| bank.size == 0).next();
    let machine = manifest::Machine {
        dram: banks.unwrap_or_default(),
        device_memory: &[board::PCI_MMIO],
        smmu: board::SMMU.base,
        ecam: board::ECAM.base,
        root_ports: ports.get(..count).unwrap_or_default(),
    };
    let mut words = [0; manifest::WORDS];
    manifest::write(&mut words, QemuVirt::SHARED_PAGE, &machine).or_stop("manifest");
    for (index, word) in words.iter().enumerate() {
        MONITOR.board().share(8 * index, &word.to_le_bytes());
    }
}
