// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! QEMU's configuration device, fw_cfg (QEMU `docs/specs/fw_cfg.rst`). Only the first processor uses it,
//! before the host runs.

use core::sync::atomic::{Ordering, fence};

use tsm_runtime::File;
use x86_64::instructions::port::{PortReadOnly, PortWriteOnly};

/// Its first port.
pub const FIRST_PORT: u16 = 0x510;
/// Its last port.
pub const LAST_PORT: u16 = 0x51b;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA: u16 = 0x514;

const PROCESSORS: u16 = 0x05;
const DIRECTORY: u16 = 0x19;
/// Files that are looked at; a device that claims more is not believed.
const MOST_FILES: u32 = 256;

// Bits of the control word of a transfer.
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;

fn select(key: u16) {
    // SAFETY: the device chooses an item and touches no memory.
    unsafe { PortWriteOnly::new(SELECTOR).write(key) };
}

fn read<const N: usize>() -> [u8; N] {
    // SAFETY: the device gives the next byte of the item.
    core::array::from_fn(|_| unsafe { PortReadOnly::new(DATA).read() })
}

/// Returns how many processors the machine has.
pub fn processors() -> usize {
    select(PROCESSORS);
    usize::from(u16::from_le_bytes(read()))
}

/// Returns the file of that name.
pub fn file(name: &str) -> Option<File> {
    select(DIRECTORY);
    let count = u32::from_be_bytes(read()).min(MOST_FILES);
    (0..count).find_map(|_| {
        let size = u32::from_be_bytes(read());
        let key = u16::from_be_bytes(read());
        let _reserved: [u8; 2] = read();
        let found: [u8; 56] = read();
        let found = found.split(|byte| *byte == 0).next().unwrap_or_default();
        (found == name.as_bytes()).then_some(File {
            key: u64::from(key),
            bytes: u64::from(size),
        })
    })
}

/// One transfer, in the byte order of the device.
#[repr(C, align(16))]
struct Transfer {
    control: u32,
    length: u32,
    address: u64,
}

/// Reads a part of a file to physical memory; see [`tsm_runtime::Board::load`].
///
/// # Safety
///
/// The memory must be nobody else's.
pub unsafe fn load(file: File, offset: u32, to: u64, bytes: u32) -> bool {
    let end = u64::from(offset).saturating_add(u64::from(bytes));
    let Ok(key) = u32::try_from(file.key) else {
        return false;
    };
    if end > file.bytes {
        return false;
    }
    // SAFETY: the first moves on in the file and touches no memory; for the second the caller promises it.
    unsafe { transfer(key << 16 | SELECT | SKIP, offset, 0) && transfer(READ, bytes, to) }
}

/// Has the device carry out one transfer.
///
/// # Safety
///
/// If `control` reads, the memory must be nobody else's.
unsafe fn transfer(control: u32, length: u32, address: u64) -> bool {
    static TRANSFER: spin::Mutex<Transfer> = spin::Mutex::new(Transfer {
        control: 0,
        length: 0,
        address: 0,
    });
    let mut transfer = TRANSFER.lock();
    *transfer = Transfer {
        control: control.to_be(),
        length: length.to_be(),
        address: address.to_be(),
    };
    // Variables of the image are mapped at their physical addresses.
    let place = &raw mut *transfer;
    fence(Ordering::SeqCst);
    // SAFETY: the device reads the transfer, which is a variable of the image that is held here, and
    // writes its control word and the memory of the caller. It is done when the second write returns.
    unsafe {
        PortWriteOnly::new(DMA).write(((place as u64 >> 32) as u32).to_be());
        PortWriteOnly::new(DMA + 4).write((place as u32).to_be());
        fence(Ordering::SeqCst);
        (&raw const (*place).control).read_volatile() == 0
    }
}
