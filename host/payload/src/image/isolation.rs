// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Cryptography of the TSM that panics, or runs out of stack, costs nothing but itself. The TSM is an
//! image for tests, which goes wrong on request.

use tsm_abi::rmi::{self as abi, Call};
use tsm_payload_support::arch;

use super::report::check;
use super::rmi;

/// The function of the image for tests.
const FUNCTION: u64 = 0xc400_02cf;

/// Makes isolated work end in every way, twice.
pub fn run() {
    for _ in 0..2 {
        for (name, end, abandoned, lent) in [
            ("isolated-work-ends", 0, 0, 128),
            ("isolated-work-panics", 1, 1, 0),
            ("isolated-work-runs-out-of-stack", 2, 1, 0),
        ] {
            let [code, seen, left, kept, ..] = arch::call(FUNCTION, &[end]);
            check(
                name,
                format_args!("abandoned {seen}, {left} words of stack and {kept} bytes lent left"),
                code == 0 && seen == abandoned && left == 0 && kept == lent,
            );
            let alive = rmi::call(&Call::Version {
                requested: abi::VERSION,
            });
            check(
                "the-tsm-lives-on",
                format_args!("{:?}", alive.status()),
                alive.status() == Some(tsm_abi::RmiStatus::SUCCESS),
            );
        }
    }
}
