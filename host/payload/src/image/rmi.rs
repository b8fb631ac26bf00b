// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls to the TSM.

use core::fmt;

use tsm_abi::rmi::{self, Call, RangeDescriptor};
use tsm_abi::{RmiCode, RmiStatus};
use tsm_payload_support::arch;

/// The registers that a call returned.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    function: u64,
    registers: [u64; arch::CALL_REGISTERS],
}

/// A call that did not succeed, or that left its object in another state than it must.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    function: u64,
    word: u64,
}

/// Stands in for the status word of an operation that ended in another state.
const WRONG_STATE: u64 = u64::MAX;

impl Refused {
    /// Returns the failure of `request`, which answered `word`.
    pub fn new(request: &Call, word: u64) -> Self {
        Self {
            function: request.encode().0,
            word,
        }
    }

    /// Returns the failure of an operation whose calls all succeeded but which ended in another
    /// state; `request` began it.
    pub fn wrong_state(request: &Call) -> Self {
        Self::new(request, WRONG_STATE)
    }

    /// Returns the status code, if the word is a status.
    pub fn code(&self) -> Option<RmiCode> {
        RmiStatus::from_word(self.word).map(|status| status.code)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = rmi::name(self.function);
        match RmiStatus::from_word(self.word) {
            Some(status) => write!(out, "{name}: {:?}({})", status.code, status.index),
            None if self.word == WRONG_STATE => write!(out, "{name}: ended in another state"),
            None => write!(out, "{name}: {:#x}", self.word),
        }
    }
}

/// What a call or a series of calls returns.
pub type Result<T = Reply> = core::result::Result<T, Refused>;

impl Reply {
    /// Returns result register `index`; 0 is the status.
    pub fn register(&self, index: usize) -> u64 {
        self.registers.get(index).copied().unwrap_or(0)
    }

    /// Returns the status, if the word is one.
    pub fn status(&self) -> Option<RmiStatus> {
        RmiStatus::from_word(self.register(0))
    }

    /// Turns the reply into an error unless it is a success.
    pub fn success(self) -> Result {
        match self.status() {
            Some(RmiStatus::SUCCESS) => Ok(self),
            _ => Err(Refused {
                function: self.function,
                word: self.register(0),
            }),
        }
    }
}

/// Makes a call.
pub fn call(call: &Call) -> Reply {
    let (function, arguments) = call.encode();
    Reply {
        function,
        registers: arch::call(function, &arguments),
    }
}

/// Makes a call that must succeed.
pub fn must(request: &Call) -> Result {
    call(request).success()
}

/// Repeats a range call until it has reached `top`. `make` gets the address to go on from; the call
/// answers in register 1 how far it came.
pub fn over_range(base: u64, top: u64, mut make: impl FnMut(u64) -> Call) -> Result<()> {
    let mut next = base;
    while next < top {
        let reply = must(&make(next))?;
        let reached = reply.register(1);
        if reached <= next {
            return Err(Refused {
                function: reply.function,
                word: WRONG_STATE,
            });
        }
        next = reached;
    }
    Ok(())
}

/// Gives `[base, top)` to the TSM.
pub fn delegate(base: u64, top: u64) -> Result<()> {
    over_range(base, top, |start| Call::GranuleRangeDelegate {
        start,
        end: top,
    })
}

/// Takes `[base, top)` back.
pub fn undelegate(base: u64, top: u64) -> Result<()> {
    over_range(base, top, |start| Call::GranuleRangeUndelegate {
        start,
        end: top,
    })
}

/// Returns the descriptor of at most [`RangeDescriptor::MAX_COUNT`] pages from `base` to `top`.
pub fn pages(base: u64, top: u64) -> RangeDescriptor {
    let count = ((top - base) / 0x1000).min(RangeDescriptor::MAX_COUNT);
    RangeDescriptor::new(base, rmi::BlockSize::Page, count)
}
