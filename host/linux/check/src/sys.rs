// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! System calls: the TSM's door, physical memory, and processes.

use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;

use tsm_abi::RmiStatus;
use tsm_abi::rmi::Call;

/// Registers of a call; `host/linux/module/portcullis.h` has the same.
const REGISTERS: usize = 15;
/// `_IOWR('P', 1, struct portcullis_call)`.
const CALL: u64 = request(1, size_of::<[u64; REGISTERS]>());
/// `_IOWR('P', 2, struct portcullis_memory)`.
const ALLOCATE: u64 = request(2, size_of::<[u64; 2]>());

/// Encodes the number of an ioctl that reads and writes `size` bytes (`asm-generic/ioctl.h`).
pub const fn request(number: u64, size: usize) -> u64 {
    3 << 30 | (size as u64) << 16 | (b'P' as u64) << 8 | number
}

/// The driver's character device.
pub struct Door(File);

impl Door {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/portcullis")?;
        Ok(Self(file))
    }

    /// Makes a call and returns all registers.
    pub fn call(&self, call: &Call) -> Result<Reply> {
        let (function, arguments) = call.encode();
        self.raw(function, &arguments)
    }

    /// Makes a call of any function that the driver lets through.
    pub fn raw(&self, function: u64, arguments: &[u64]) -> Result<Reply> {
        let mut registers = [0; REGISTERS];
        registers[0] = function;
        registers[1..=arguments.len()].copy_from_slice(arguments);
        // SAFETY: the driver reads and writes as many registers as the request says.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), CALL as _, registers.as_mut_ptr()) };
        if result != 0 {
            return Err(Error::last_os_error());
        }
        Ok(Reply(registers))
    }

    /// Allocates memory of the kernel for this open file; returns its physical address.
    pub fn allocate(&self, size: u64) -> Result<u64> {
        let mut memory = [size, 0];
        // SAFETY: the driver reads and writes both words.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), ALLOCATE as _, memory.as_mut_ptr()) };
        if result != 0 {
            return Err(Error::last_os_error());
        }
        Ok(memory[1])
    }

    /// Maps that memory.
    pub fn map(&self, size: usize) -> Result<Mapping> {
        Mapping::new(&self.0, 0, size)
    }
}

/// What a call returned.
pub struct Reply([u64; REGISTERS]);

impl Reply {
    /// Returns one register.
    pub fn register(&self, index: usize) -> u64 {
        self.0[index]
    }

    /// Returns the status, if the first register holds one.
    pub fn status(&self) -> Option<RmiStatus> {
        RmiStatus::from_word(self.0[0])
    }

    /// Returns whether the call was done.
    pub fn is_success(&self) -> bool {
        self.status() == Some(RmiStatus::SUCCESS)
    }
}

/// Memory mapped from a device file.
pub struct Mapping {
    base: *mut u8,
    size: usize,
}

impl Mapping {
    fn new(file: &File, offset: u64, size: usize) -> Result<Self> {
        // SAFETY: a new mapping, at no address of our choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let base = base.cast();
        Ok(Self { base, size })
    }

    /// Maps the page of physical memory that holds `address`.
    pub fn physical(address: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_SYNC)
            .open("/dev/mem")?;
        Self::new(&file, address & !0xfff, 0x1000)
    }

    /// Maps the start of a file of sysfs that is a BAR.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code))]
    pub fn resource(path: &str, size: usize) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Self::new(&file, 0, size)
    }

    fn place(&self, offset: usize) -> *mut u32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.size);
        // SAFETY: within the mapping, as was just checked.
        unsafe { self.base.add(offset).cast() }
    }

    /// Reads a word, which may end this process.
    pub fn read(&self, offset: usize) -> u32 {
        // SAFETY: aligned and within the mapping; a fault is what some callers wait for.
        unsafe { self.place(offset).read_volatile() }
    }

    /// Writes a word, which may end this process.
    pub fn write(&self, offset: usize, value: u32) {
        // SAFETY: as above; this program keeps nothing of its own there.
        unsafe { self.place(offset).write_volatile(value) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, which nobody uses any more.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

/// Makes a copy of this process; returns its id, and 0 to the copy.
pub fn fork() -> Result<i32> {
    // SAFETY: this program has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        id => Ok(id),
    }
}

/// Ends this process at once.
pub fn end() -> ! {
    // SAFETY: nothing is left to be done.
    unsafe { libc::_exit(0) }
}

/// Waits for the end of a copy; returns its status as the system has it.
pub fn wait(id: i32) -> Result<i32> {
    let mut status = 0;
    // SAFETY: the status is written, nothing else.
    match unsafe { libc::waitpid(id, &mut status, 0) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(status),
    }
}
