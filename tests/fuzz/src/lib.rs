// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What strangers can send to the firmware, as functions of bytes.
//!
//! A target must not panic and must end, whatever the bytes. `cargo xtask fuzz` runs each under an
//! engine that looks for new paths; the tests of this crate run the seeds and what a few thousand
//! small changes make of them.

#![forbid(unsafe_code)]

mod calls;
mod config;
mod evidence;
mod requester;
mod wire;

/// One thing to try.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Takes bytes of a stranger.
    pub run: fn(&[u8]),
    /// Makes inputs that reach far.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "decode",
        run: calls::decode,
        seeds: calls::decode_seeds,
    },
    Target {
        name: "sequence",
        run: calls::sequence,
        seeds: calls::sequence_seeds,
    },
    Target {
        name: "config",
        run: config::run,
        seeds: config::seeds,
    },
    Target {
        name: "wire",
        run: wire::run,
        seeds: wire::seeds,
    },
    Target {
        name: "requester",
        run: requester::run,
        seeds: requester::seeds,
    },
    Target {
        name: "evidence",
        run: evidence::run,
        seeds: evidence::seeds,
    },
];

/// Returns the target called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Takes `count` bytes from the front; fewer at the end.
fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (first, rest) = data.split_at(count.min(data.len()));
    *data = rest;
    first
}

/// Takes a number of up to eight bytes, little endian, from the front.
fn number(data: &mut &[u8], bytes: usize) -> u64 {
    let taken = take(data, bytes).iter().rev();
    taken.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Takes a part that has its length, in two bytes, in front of it.
fn part<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let length = number(data, 2);
    take(data, usize::try_from(length).unwrap_or(0))
}

/// Puts a part with its length in front.
fn put(seed: &mut Vec<u8>, part: &[u8]) {
    let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
    seed.extend(length.to_le_bytes());
    seed.extend(&part[..usize::from(length)]);
}
