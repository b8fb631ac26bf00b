// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Isolated work that goes wrong on request. Only images for tests have this; a released one answers
//! its function like any other that it does not know.

use core::hint::black_box;

use crate::isolation::isolated;
use crate::layout::{ISOLATED_BASE as BASE, ISOLATED_SIZE as SIZE};

/// The function: x1 says how the work ends. Returns in x1 whether it was abandoned, in x2 how many
/// words of the stack are not zero, and in x3 how many bytes that were lent to it are not.
pub const FUNCTION: u64 = 0xc400_02cf;

const PANICS: u64 = 1;
const OVERFLOWS: u64 = 2;
/// Bytes of a frame of the work.
const FRAME: usize = 4096;

/// Runs one piece of work.
pub fn run<P>(platform: &P, end: u64) -> [u64; 8] {
    let mut state = [0x5a_u8; 64];
    let mut bytes = [0x5a_u8; 64];
    let outcome = isolated(
        platform,
        &mut state,
        &mut bytes,
        || [0; 64],
        move |_, state, bytes| {
            state.fill(0xa5);
            bytes.fill(0xa5);
            // Half of the stack.
            let depth = SIZE / FRAME as u64 / 2;
            descend(if end == OVERFLOWS { u64::MAX } else { depth }, end)
        },
    );
    let left = (BASE..BASE + SIZE).step_by(8).filter(|word| {
        // SAFETY: the stack is mapped, and no work runs on it.
        let word = unsafe { (*word as *const u64).read_volatile() };
        word != 0
    });
    let lent = state.iter().chain(&bytes).filter(|byte| **byte != 0);
    [
        0,
        u64::from(outcome.is_err()),
        left.count() as u64,
        lent.count() as u64,
        0,
        0,
        0,
        0,
    ]
}

/// Leaves a pattern in `depth` frames and ends at the deepest.
#[inline(never)]
fn descend(depth: u64, end: u64) -> u64 {
    let mut frame = [0x5a_u8; FRAME];
    black_box(&mut frame);
    match depth {
        0 if end == PANICS => panic!("the work was asked to"),
        0 => 0,
        _ => descend(depth - 1, end) + u64::from(black_box(&frame)[1]),
    }
}
