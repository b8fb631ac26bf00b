// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Loading the host.

use core::cell::UnsafeCell;

use tsm_platform::{GRANULE_SIZE, HostMemory, HostPa};

use super::super::boot;
use crate::arch;
use crate::arch::confine::start::{self, Entry};
use crate::arch::loader::linux::{Handover, Image, Refusal};
use crate::arch::loader::{PAGE, identity, place, tables};
use crate::arch::pvh::Source;
use crate::board::{File, board};
use crate::layout::HOST_WINDOW;
use crate::log::warning;
use crate::machine::Machine;
use crate::setup;

/// The file with the host.
const NAME: &str = "opt/portcullis/host";

/// The first page of the file.
#[repr(C, align(4096))]
struct Head(UnsafeCell<[u8; PAGE]>);

// SAFETY: the first CPU uses it once, before any other has work.
unsafe impl Sync for Head {}

static HEAD: Head = Head(UnsafeCell::new([0; PAGE]));

/// Memory of the machine before the host runs, in the window of host memory.
struct Window;

impl Source for Window {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        let Some(place) = HOST_WINDOW
            .checked_add(address)
            .filter(|_| address < HOST_WINDOW)
        else {
            return false;
        };
        // SAFETY: `out` is ours; a fault in the window ends the copy.
        unsafe { arch::copy(out.as_mut_ptr(), place as *const u8, out.len()) }.is_ok()
    }
}

/// Loads the host into its memory and returns where it starts, or none if that is not possible. Its frame
/// is large, and gone when the host runs.
#[inline(never)]
pub fn load() -> Option<Entry> {
    let (machine, _) = boot::tsm()?;
    let file = board().file(NAME)?;
    // SAFETY: nothing else uses the page, and no reference to it is there yet.
    if !unsafe { board().load(file, 0, HEAD.0.get() as u64, PAGE as u32) } {
        return None;
    }
    // SAFETY: nothing writes the page from here on.
    let head = unsafe { &*HEAD.0.get() };
    match place_host(machine, file, head) {
        Ok(entry) => Some(entry),
        Err(refusal) => {
            warning!("host: refused, reason {=u8}", refusal as u8);
            None
        }
    }
}

fn place_host(machine: &Machine, file: File, head: &[u8; PAGE]) -> Result<Entry, Refusal> {
    let found = boot::findings().ok_or(Refusal::NoRoom)?;
    let image = Image::parse(head, file.bytes)?;
    let region = setup::region().ok_or(Refusal::NoRoom)?;
    let root_tables = tables::hide_iommu(&Window, found.start.rsdp);
    let handover = Handover {
        memory: &found.start.memory,
        region: (region.base(), region.top()),
        ramdisk: found.start.module,
        command_line: found.start.command_line.len(),
        acpi: root_tables.is_some(),
    };
    image.fits(&handover)?;
    let parameters = handover.parameters(&image)?;
    let write = |at, bytes: &[u8]| {
        let written = machine.host_write(HostPa(at), bytes);
        written.map_err(|_| Refusal::NoRoom)
    };
    for page in (place::PARAMETERS..place::END).step_by(PAGE) {
        write(page, &[0; PAGE])?;
    }
    write(place::PARAMETERS, &parameters)?;
    if !found.start.command_line.is_empty() {
        write(place::COMMAND_LINE, &found.start.command_line)?;
    }
    if let Some(page) = root_tables {
        write(place::ACPI, &page)?;
    }
    let (root, directory) = identity();
    for (at, words) in [
        (place::DESCRIPTORS, &start::gdt()[..]),
        (place::ROOT, &root),
        (place::DIRECTORY, &directory),
    ] {
        let mut at = at;
        for word in words {
            write(at, &word.to_le_bytes())?;
            at = at.wrapping_add(size_of::<u64>() as u64);
        }
    }
    load_image(file, &image)?;
    Ok(Entry {
        rip: image.entry(),
        rsi: place::PARAMETERS,
        cr3: place::ROOT,
        gdt: place::DESCRIPTORS,
        gdt_limit: start::GDT_BYTES as u32 - 1,
    })
}

/// Puts the image where it belongs, and zeroes the memory that it needs beyond its file.
fn load_image(file: File, image: &Image<'_>) -> Result<(), Refusal> {
    let top = image.load.saturating_add(image.needed);
    for granule in (image.load..top).step_by(GRANULE_SIZE as usize) {
        let Some(granule) = HOST_WINDOW.checked_add(granule) else {
            return Err(Refusal::NoRoom);
        };
        // SAFETY: `Image::fits` has found usable memory there, which is mapped in the window; the
        // host does not run yet.
        unsafe { arch::zero_granule(granule as *mut u8) };
    }
    // SAFETY: as above.
    let loaded = unsafe { board().load(file, image.offset, image.load, image.bytes) };
    loaded.then_some(()).ok_or(Refusal::Damaged)
}
