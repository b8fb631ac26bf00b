// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The DOE mailbox of a function.

use tsm_payload_support::mmio::Mmio;
use tsm_payload_support::time::wait_until;

use super::pci::Function;

/// Extended capability id of a mailbox.
const CAPABILITY: u16 = 0x2e;
const CONTROL: usize = 0x08;
const STATUS: usize = 0x0c;
const WRITE: usize = 0x10;
const READ: usize = 0x14;
const CONTROL_ABORT: u32 = 1;
const CONTROL_GO: u32 = 1 << 31;
const STATUS_BUSY: u32 = 1;
const STATUS_ERROR: u32 = 1 << 2;
const STATUS_READY: u32 = 1 << 31;
const VENDOR_PCI_SIG: u32 = 1;
/// Time in which a mailbox must answer, in milliseconds (PCIe 6.30.2).
pub const TIMEOUT_MS: u64 = 1000;
/// A discovery must end: data object types fit into a byte.
const MOST_TYPES: usize = 256;

/// Data object types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// Discovery.
    Discovery = 0,
    /// SPDM.
    Spdm = 1,
    /// Secured SPDM.
    SecureSpdm = 2,
}

/// Why an exchange failed. The mailbox has been aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The function is gone.
    Absent,
    /// No answer in time.
    Timeout,
    /// The mailbox reports an error.
    Reported,
    /// The answer is of another type or malformed.
    Malformed,
    /// The answer is longer than the buffer.
    TooLong,
}

/// A mailbox.
#[derive(Clone, Copy, Debug)]
pub struct Mailbox {
    config: Mmio,
    base: usize,
}

impl Mailbox {
    /// Finds the mailbox of `function`.
    pub fn find(function: Function) -> Option<Self> {
        Some(Self {
            config: function.config(),
            base: function.extended_capability(CAPABILITY)?,
        })
    }

    fn read(&self, offset: usize) -> u32 {
        self.config.read32(self.base + offset)
    }

    fn write(&self, offset: usize, value: u32) {
        self.config.write32(self.base + offset, value);
    }

    fn abort(&self) {
        self.write(CONTROL, CONTROL_ABORT);
        let _ = wait_until(TIMEOUT_MS, || self.read(STATUS) & STATUS_BUSY == 0);
    }

    /// Sends `request` and receives the answer into `response`; returns its length, which counts
    /// the padding to whole words.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn exchange(
        &self,
        protocol: Protocol,
        request: &[u8],
        response: &mut [u8],
        timeout_ms: u64,
    ) -> Result<usize, Error> {
        let status = self.read(STATUS);
        if status == u32::MAX {
            return Err(Error::Absent);
        }
        if status & (STATUS_BUSY | STATUS_ERROR | STATUS_READY) != 0 {
            self.abort();
        }
        let result = self.try_exchange(protocol, request, response, timeout_ms);
        if result.is_err() {
            self.abort();
        }
        result
    }

    fn try_exchange(
        &self,
        protocol: Protocol,
        request: &[u8],
        response: &mut [u8],
        timeout_ms: u64,
    ) -> Result<usize, Error> {
        let words = request.len().div_ceil(4) + 2;
        self.write(WRITE, VENDOR_PCI_SIG | (protocol as u32) << 16);
        self.write(WRITE, words as u32);
        for chunk in request.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.write(WRITE, u32::from_le_bytes(bytes));
        }
        self.write(CONTROL, CONTROL_GO);
        let mut status = 0;
        let answered = wait_until(timeout_ms, || {
            status = self.read(STATUS);
            status & (STATUS_READY | STATUS_ERROR) != 0
        });
        if status & STATUS_ERROR != 0 {
            return Err(Error::Reported);
        }
        if !answered {
            return Err(Error::Timeout);
        }
        self.receive(protocol, response)
    }

    fn pop(&self) -> u32 {
        let word = self.read(READ);
        self.write(READ, 0);
        word
    }

    fn receive(&self, protocol: Protocol, response: &mut [u8]) -> Result<usize, Error> {
        let header = self.pop();
        if header & 0x00ff_ffff != VENDOR_PCI_SIG | (protocol as u32) << 16 {
            return Err(Error::Malformed);
        }
        let words = (self.pop() & 0x3_ffff) as usize;
        let payload = words.checked_sub(2).ok_or(Error::Malformed)? * 4;
        let target = response.get_mut(..payload).ok_or(Error::TooLong)?;
        for chunk in target.chunks_mut(4) {
            if self.read(STATUS) & STATUS_READY == 0 {
                return Err(Error::Malformed);
            }
            chunk.copy_from_slice(&self.pop().to_le_bytes()[..chunk.len()]);
        }
        Ok(payload)
    }

    /// Returns whether the mailbox offers SPDM and secured SPDM.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn offers_spdm(&self) -> Result<bool, Error> {
        let mut found = [false; 3];
        let mut index = 0;
        for _ in 0..MOST_TYPES {
            let mut answer = [0; 4];
            let length = self.exchange(
                Protocol::Discovery,
                &[index, 0, 0, 0],
                &mut answer,
                TIMEOUT_MS,
            )?;
            let [vendor_low, vendor_high, kind, next] = answer;
            if length != 4 {
                return Err(Error::Malformed);
            }
            if (vendor_low, vendor_high) == (1, 0)
                && let Some(slot) = found.get_mut(usize::from(kind))
            {
                *slot = true;
            }
            if next == 0 {
                break;
            }
            index = next;
        }
        Ok(found[1] && found[2])
    }
}
