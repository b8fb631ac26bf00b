// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a boot of Linux costs under the TSM and without it: processor time of QEMU, as a ratio. Wall
//! time says more of the machine that emulates than of what is emulated.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Files, Host, Task};
use crate::machine::{hardware, place};
use crate::qemu::{self, Qemu};
use crate::{BenchArguments, images, toolchain};

/// Boots of each kind, one after the other in turn, so that what disturbs one disturbs the other.
const ROUNDS: usize = 5;

/// The machines without firmware and without what firmware alone uses.
const PLAIN_ARM: [&str; 4] = [
    "-M",
    "virt,virtualization=on,gic-version=3,its=on",
    "-cpu",
    "max,sme=off,pauth-impdef=on",
];
const PLAIN_X86: [&str; 6] = ["-M", "q35,hpet=off,smm=off", "-accel", "tcg", "-cpu", "max"];

/// Prints the ratio for one and two processors.
///
/// # Errors
///
/// If something does not boot.
pub fn run(arguments: &BenchArguments) -> Result<()> {
    for board in arguments.choice.boards() {
        toolchain::prepare()?;
        images::build_images(board)?;
        let qemu = qemu::find(board, arguments.qemu.qemu.as_deref())?;
        let host = Host::prepare(board)?;
        println!(
            "{}: Linux {} from power-on to its first program and off",
            board.name, host.kit.version
        );
        for cpus in [1, 2] {
            let mut ratios = Vec::new();
            for _ in 0..ROUNDS {
                let with = seconds(&host, &qemu, cpus, true)?;
                let without = seconds(&host, &qemu, cpus, false)?;
                ratios.push(with / without);
            }
            ratios.sort_by(f64::total_cmp);
            println!(
                "  {cpus} CPU: user time of QEMU with the TSM to without: median {:.2}, {:.2} to {:.2} in {ROUNDS} pairs",
                ratios[ROUNDS / 2],
                ratios[0],
                ratios[ROUNDS - 1]
            );
        }
    }
    Ok(())
}

/// Boots and powers off; returns the user time that QEMU took, in seconds.
fn seconds(host: &Host, qemu: &Qemu, cpus: u32, with: bool) -> Result<f64> {
    let files = Files::create(place(host.board, "linux-bench"))?;
    let mut machine = qemu.command();
    if with {
        hardware(&mut machine, host.board, cpus, &files.port);
        host.images(&mut machine, Task::Boot, cpus)?;
    } else {
        plain_hardware(&mut machine, host, cpus);
        machine.arg("-kernel").arg(&host.kit.kernel);
        machine.arg("-initrd").arg(&host.initramfs);
        machine.args(["-append", &host.words(Task::Boot, cpus)]);
    }
    files.devices(&mut machine);
    // The shell says what its children took.
    let console = files.place.join("console.log");
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\" >\"$0\" || exit 1; times"]);
    shell.arg(&console);
    shell.arg(machine.get_program()).args(machine.get_args());
    let output = shell
        .stdin(Stdio::null())
        .output()
        .context("sh is missing")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    // A kernel that gives up would be quick.
    if !String::from_utf8_lossy(&fs::read(&console)?).contains("reboot: Power down") {
        bail!("Linux did not come to its end: {}", console.display());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    user_time(&text).with_context(|| format!("times says {text}"))
}

/// Names the same machine without firmware, as it starts a kernel itself.
fn plain_hardware(command: &mut Command, host: &Host, cpus: u32) {
    command.args(if host.is_arm() {
        &PLAIN_ARM[..]
    } else {
        &PLAIN_X86[..]
    });
    command.args(["-m", "1G", "-smp", &cpus.to_string()]);
    command.args(["-display", "none", "-monitor", "none", "-net", "none"]);
    command.args(["-serial", "stdio", "-no-reboot", "-vga", "none"]);
}

/// Reads the user time of children from what `times` of a shell prints: `0m3.62s 0m0.20s`, for itself
/// and then for them.
fn user_time(text: &str) -> Option<f64> {
    let (minutes, seconds) = text
        .lines()
        .nth(1)?
        .split_whitespace()
        .next()?
        .split_once('m')?;
    let seconds: f64 = seconds.strip_suffix('s')?.parse().ok()?;
    Some(minutes.parse::<f64>().ok()? * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::user_time;

    #[test]
    fn the_time_of_children_is_read() {
        let text = "0m0.010s 0m0.000s\n1m2.500s 0m0.300s\n";
        assert_eq!(user_time(text), Some(62.5));
        assert_eq!(user_time("0m0.010s 0m0.000s\n"), None);
    }
}
