// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Something that may end the process that does it, done by a copy of this one.

use std::fmt;
use std::io::{self, Read, Result, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::sys::{self, Mapping};

/// What came of an attempt.
pub enum Outcome {
    /// It went through, and brought this value.
    Value(u64),
    /// The kernel killed the process for a fault, with this signal.
    Fault(i32),
    /// The kernel did not even try.
    Refused(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(out, "it worked: {value:#x}"),
            Self::Fault(signal) => write!(out, "fault, signal {signal}"),
            Self::Refused(reason) => write!(out, "{reason}"),
        }
    }
}

/// Lets a copy of this process do something.
pub fn attempt(act: impl FnOnce() -> Result<u64>) -> Outcome {
    run(act).unwrap_or_else(|error| Outcome::Refused(error.to_string()))
}

fn run(act: impl FnOnce() -> Result<u64>) -> Result<Outcome> {
    let (mut reader, mut writer) = io::pipe()?;
    let id = sys::fork()?;
    if id == 0 {
        let text = match act() {
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        };
        // Whether it arrives, the other side sees.
        let _ = writer.write_all(text.as_bytes());
        sys::end();
    }
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    let status = ExitStatus::from_raw(sys::wait(id)?);
    Ok(match (status.signal(), text.parse()) {
        (Some(signal), _) => Outcome::Fault(signal),
        (None, Ok(value)) => Outcome::Value(value),
        (None, Err(_)) => Outcome::Refused(text),
    })
}

/// Reads a word of physical memory, as far as the kernel lets its user.
pub fn read(address: u64) -> Outcome {
    attempt(|| {
        let page = Mapping::physical(address)?;
        Ok(u64::from(page.read((address & 0xffc) as usize)))
    })
}

/// Writes a word of physical memory, as far as the kernel lets its user.
pub fn write(address: u64, value: u32) -> Outcome {
    attempt(|| {
        let page = Mapping::physical(address)?;
        page.write((address & 0xffc) as usize, value);
        Ok(0)
    })
}
