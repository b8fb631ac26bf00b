// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The pump: the TSM says what to send to a device and what to keep, the host does it.

use tsm_abi::rmi::{
    Call, CommObject, CommProtocol, CommStatus, DevCommEnter, DevCommExit, DevCommExitFlags,
};
use tsm_payload_support::time::delay_us;
use zerocopy::FromZeros;

use super::cache::Caches;
use super::doe::{self, Mailbox, Protocol};
use super::layout::Page;
use super::memory;
use super::rmi::{self, Result};

/// Size of the request and response buffers, in bytes.
const BUFFER: usize = 0x2000;
/// Where the TSM's part of the exchange page starts.
const EXIT_OFFSET: u64 = 0x800;
/// An operation takes fewer messages than this, or something is wrong.
const MOST_STEPS: u32 = 1000;

/// The object that an operation belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A physical device.
    Pdev(u64),
    /// A device interface: realm, physical device, interface.
    Vdev(u64, u64, u64),
}

impl Target {
    fn communicate(self, data: u64) -> Call {
        match self {
            Self::Pdev(pdev) => Call::PdevCommunicate { pdev, data },
            Self::Vdev(rd, pdev, vdev) => Call::VdevCommunicate {
                rd,
                pdev,
                vdev,
                data,
            },
        }
    }
}

/// How the host misbehaves, for attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tamper {
    /// Not at all.
    Honest,
    /// It answers with the response before.
    Replay,
    /// It flips a bit of each response.
    Flip,
}

/// How an operation ended as far as the pump knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The TSM wants nothing more.
    Done,
    /// The other end of the stream has to be advanced first.
    StreamWait,
}

/// The courier between the TSM and one device.
#[derive(Debug)]
pub struct Courier {
    /// The device's mailbox. A root port has none.
    pub mailbox: Option<Mailbox>,
    /// Evidence.
    pub caches: Caches,
    /// Misbehavior.
    pub tamper: Tamper,
    /// Messages carried so far.
    pub messages: u32,
    response: [u8; BUFFER],
    response_length: usize,
}

impl Courier {
    /// Returns a courier that knows `mailbox`.
    pub const fn new(mailbox: Option<Mailbox>) -> Self {
        Self {
            mailbox,
            caches: Caches::new(),
            tamper: Tamper::Honest,
            messages: 0,
            response: [0; BUFFER],
            response_length: 0,
        }
    }

    /// Advances the operation of `target` until it is done.
    ///
    /// # Errors
    /// What the TSM answers. The object has moved to its error state then.
    pub fn pump(&mut self, target: Target) -> Result<End> {
        let mut status = CommStatus::None;
        let mut length = 0;
        for _ in 0..MOST_STEPS {
            let exit = self.step(target, status, length)?;
            let flags = DevCommExitFlags::from_bits_retain(exit.flags.get());
            self.keep(&exit, flags);
            if flags.contains(DevCommExitFlags::REQ_SEND) {
                (status, length) = self.carry(&exit);
            } else if flags.contains(DevCommExitFlags::STREAM_WAIT) {
                return Ok(End::StreamWait);
            } else {
                return Ok(End::Done);
            }
        }
        panic!("an operation that never ends");
    }

    fn step(&self, target: Target, status: CommStatus, length: usize) -> Result<DevCommExit> {
        let mut enter = DevCommEnter::new_zeroed();
        enter.status = status as u8;
        enter.req_addr.set(Page::Request.address());
        enter.resp_addr.set(Page::Response.address());
        enter.resp_len.set(length as u64);
        let page = Page::Comm.address();
        memory::store(page, &enter);
        rmi::must(&target.communicate(page))?;
        Ok(memory::load(page + EXIT_OFFSET))
    }

    fn keep(&mut self, exit: &DevCommExit, flags: DevCommExitFlags) {
        let request = flags.contains(DevCommExitFlags::REQ_CACHE);
        let response = flags.contains(DevCommExitFlags::RSP_CACHE);
        let Some(object) = CommObject::from_word(u64::from(exit.cache_obj_id)) else {
            return;
        };
        if flags.contains(DevCommExitFlags::RSP_RESET) {
            self.caches.reset(object);
        }
        let slices = [
            (
                request,
                Page::Request,
                exit.cache_req_offset.get(),
                exit.cache_req_len.get(),
            ),
            (
                response,
                Page::Response,
                exit.cache_rsp_offset.get(),
                exit.cache_rsp_len.get(),
            ),
        ];
        // The response is older than the request in the buffer.
        for (_, page, offset, length) in slices.into_iter().rev().filter(|slice| slice.0) {
            let (offset, length) = (offset as usize, length as usize);
            assert!(offset <= BUFFER && length <= BUFFER - offset);
            let from = page.address() + offset as u64;
            assert!(self.caches.append(object, from, length));
        }
    }

    /// Sends the request and puts the response into its buffer.
    fn carry(&mut self, exit: &DevCommExit) -> (CommStatus, usize) {
        let protocol = match CommProtocol::from_word(u64::from(exit.protocol)) {
            Some(CommProtocol::SecureSpdm) => Protocol::SecureSpdm,
            _ => Protocol::Spdm,
        };
        let length = (exit.req_len.get() as usize).min(BUFFER);
        let mut request = [0; BUFFER];
        memory::read(Page::Request.address(), &mut request[..length]);
        delay_us(exit.req_delay.get());
        self.messages += 1;
        if self.tamper != Tamper::Replay {
            let timeout = exit.timeout.get().max(doe::TIMEOUT_MS);
            let answer = self.mailbox.map(|mailbox| {
                mailbox.exchange(protocol, &request[..length], &mut self.response, timeout)
            });
            let Some(Ok(received)) = answer else {
                return (CommStatus::Error, 0);
            };
            self.response_length = received;
        }
        if self.tamper == Tamper::Flip {
            // In the middle: the last bytes may be padding, which nobody protects.
            self.response[self.response_length / 2] ^= 1;
        }
        let response = &self.response[..self.response_length];
        memory::write(Page::Response.address(), response);
        (CommStatus::Response, response.len())
    }
}
