// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the kernel tries for us, by the module that is for tests only.

use std::fs::OpenOptions;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

use crate::sys::request;

/// `struct portcullis_attempt` of `host/linux/module/portcullis_attacks.h`.
#[repr(C)]
struct Attempt {
    kind: u32,
    faulted: u32,
    place: u64,
    value: u64,
}

const TRY: u64 = request(0x10, size_of::<Attempt>());
const READ_MSR: u32 = 0;
const WRITE_MSR: u32 = 1;
const READ_MEMORY: u32 = 2;
const WRITE_MEMORY: u32 = 3;
const EXECUTE: u32 = 4;

fn attempt(kind: u32, place: u64, value: u64) -> Result<Attempt> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/portcullis-attacks")?;
    let mut attempt = Attempt {
        kind,
        faulted: 0,
        place,
        value,
    };
    // SAFETY: the driver reads and writes this structure.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TRY as _, &raw mut attempt) };
    if result != 0 {
        return Err(Error::last_os_error());
    }
    Ok(attempt)
}

fn read(kind: u32, place: u64) -> Result<Option<u64>> {
    let attempt = attempt(kind, place, 0)?;
    Ok((attempt.faulted == 0).then_some(attempt.value))
}

/// Reads a model-specific register; none if that is an exception.
pub fn read_register(number: u64) -> Result<Option<u64>> {
    read(READ_MSR, number)
}

/// Writes a model-specific register; returns whether there was no exception.
pub fn write_register(number: u64, value: u64) -> Result<bool> {
    Ok(attempt(WRITE_MSR, number, value)?.faulted == 0)
}

/// Reads a word of a device; none if that is an exception.
pub fn read_memory(address: u64) -> Result<Option<u64>> {
    read(READ_MEMORY, address)
}

/// Writes a word of a device; returns whether there was no exception.
pub fn write_memory(address: u64, value: u32) -> Result<bool> {
    Ok(attempt(WRITE_MEMORY, address, value.into())?.faulted == 0)
}

/// Executes an instruction by its number in the header; returns whether it was an exception.
pub fn execute(number: u64) -> Result<bool> {
    Ok(attempt(EXECUTE, number, 0)?.faulted != 0)
}
