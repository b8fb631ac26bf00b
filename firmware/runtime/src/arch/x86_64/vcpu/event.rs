// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Exceptions that a virtual CPU takes on its next entry (AMD64 APM volume 2, 15.20).
//!
//! Nobody sends a realm interrupts, so exceptions are all there is.

use crate::arch::vmcb::event::{HAS_ERROR, VALID};

const VECTOR: u64 = 0xff;
const TYPE: u64 = 7 << 8;
const EXCEPTION: u64 = 3 << 8;

const BREAKPOINT: u64 = 3;
const OVERFLOW: u64 = 4;
const DOUBLE_FAULT: u64 = 8;

/// Returns the event of exception `vector`, with `error` if it has an error code.
pub const fn exception(vector: u64, error: Option<u32>) -> u64 {
    let event = VALID | EXCEPTION | vector & VECTOR;
    match error {
        Some(error) => event | HAS_ERROR | (error as u64) << 32,
        None => event,
    }
}

/// An instruction that is not there.
pub const UNDEFINED: u64 = exception(6, None);
/// An access that is not allowed.
pub const PROTECTION: u64 = exception(13, Some(0));

/// Returns what to deliver on the next entry when an exit interrupted the delivery of `interrupted`
/// (the field EXITINTINFO): the exception itself, or nothing (0).
///
/// The instruction pointer is still at an instruction that raised the event on purpose (INT n, INT3,
/// INTO): it runs again.
pub const fn again(interrupted: u64) -> u64 {
    let is_exception = interrupted & VALID != 0 && interrupted & TYPE == EXCEPTION;
    if is_exception && !matches!(interrupted & VECTOR, BREAKPOINT | OVERFLOW) {
        interrupted
    } else {
        0
    }
}

/// Returns the event of a general protection exception that comes while `pending` (an event, or 0) is
/// being delivered (AMD64 APM volume 2, 8.2.9): it, a double fault, or `None` for a shutdown.
pub const fn protection_during(pending: u64) -> Option<u64> {
    // Divide error, those of segments and pages: with a further one they are a double fault.
    const CONTRIBUTORY: u64 = 1 << 0 | 0b1_1111 << 10;
    match pending & VECTOR {
        _ if pending & VALID == 0 => Some(PROTECTION),
        DOUBLE_FAULT => None,
        vector if vector < 64 && CONTRIBUTORY >> vector & 1 == 1 => {
            Some(exception(DOUBLE_FAULT, Some(0)))
        }
        _ => Some(PROTECTION),
    }
}

#[cfg(test)]
mod tests {
    use super::{again, exception, protection_during};

    const GENERAL_PROTECTION: u64 = 0x8000_0b0d;

    #[test]
    fn an_exception_whose_delivery_was_interrupted_is_delivered_again() {
        let page_fault = exception(14, Some(6));
        assert_eq!(page_fault, 0x6_8000_0b0e);
        assert_eq!(again(page_fault), page_fault);
        assert_eq!(again(exception(6, None)), 0x8000_0306);
        assert_eq!(again(0x30e), 0, "not valid");
    }

    #[test]
    fn an_instruction_that_interrupts_runs_again_instead() {
        // INT 0x80, INT3, INTO.
        for event in [0x8000_0480, exception(3, None), exception(4, None)] {
            assert_eq!(again(event), 0, "{event:#x}");
        }
    }

    #[test]
    fn nothing_of_the_hosts_is_delivered_to_a_realm() {
        // An interrupt, an NMI.
        for event in [0x8000_0030, 0x8000_0202] {
            assert_eq!(again(event), 0, "{event:#x}");
        }
    }

    #[test]
    fn faults_on_faults_become_double_faults_and_then_the_end() {
        assert_eq!(protection_during(0), Some(GENERAL_PROTECTION));
        for benign in [1, 3, 5, 6, 7, 9, 16, 17, 19] {
            assert_eq!(
                protection_during(exception(benign, None)),
                Some(GENERAL_PROTECTION)
            );
        }
        for contributory in [0, 10, 11, 12, 13, 14] {
            let double = Some(exception(8, Some(0)));
            assert_eq!(
                protection_during(exception(contributory, Some(0))),
                double,
                "{contributory}"
            );
        }
        assert_eq!(protection_during(exception(8, Some(0))), None);
    }
}
