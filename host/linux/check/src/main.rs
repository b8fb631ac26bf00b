// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Shows from Linux as host what the TSM does for it and against it, line by line.

#[cfg(target_arch = "x86_64")]
mod attacks;
mod attempt;
mod calls;
mod confinement;
#[cfg(target_arch = "x86_64")]
mod cpu;
mod disks;
mod report;
mod sys;

use std::process::ExitCode;

use report::Tally;

fn main() -> ExitCode {
    let mut tally = Tally::default();
    system(&mut tally);
    disks::check(&mut tally);
    match sys::Door::open() {
        Ok(door) => {
            calls::check(&mut tally, &door);
            confinement::check(&mut tally, &door);
        }
        Err(error) => tally.check("door", format!("/dev/portcullis: {error}"), false),
    }
    tally.verdict()
}

/// Checks the kernel and its processors.
fn system(tally: &mut Tally) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let version = read("/proc/version");
    let version = version.split(" (").next().unwrap_or_default();
    tally.check("kernel", version.to_owned(), !version.is_empty());
    let online = std::thread::available_parallelism().map_or(0, usize::from);
    let wanted = std::env::var("portcullis_cpus").unwrap_or_default();
    tally.check(
        "processors",
        format!("{online} of {wanted} are online"),
        wanted.parse() == Ok(online),
    );
}
