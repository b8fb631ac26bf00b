// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The distribution's stock kernel as host, under the TSM or, to compare with, without it.

mod build;
mod cpio;
mod kernel;
mod measure;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::RunArguments;
use crate::board::{Board, Load};
use crate::command::Owned;
use crate::images;
use crate::logs;
use crate::machine::{self, hardware, load, place};
use crate::qemu::{self, Qemu};
use crate::report::{Line, Report};
use crate::toolchain::{self, AARCH64};
use kernel::Kit;

pub use measure::run as measure;

/// Where the initramfs is on Arm. On x86_64 the firmware finds it as QEMU's.
const INITRAMFS: u64 = 0x5000_0000;
/// Size of each disk, in bytes.
const DISK_BYTES: u64 = 4 << 20;
/// Bytes of a disk's block.
const BLOCK: usize = 512;

/// Everything that is booted.
pub struct Host {
    board: &'static Board,
    kit: Kit,
    initramfs: PathBuf,
}

/// What the first program does: the word `portcullis=` of the kernel's command line.
#[derive(Clone, Copy, PartialEq)]
pub enum Task {
    /// Checks the host's view, and powers off.
    Check,
    /// Checks the host's view, and starts a shell.
    Shell,
    /// Powers off.
    Boot,
}

impl Task {
    const fn word(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Shell => "shell",
            Self::Boot => "boot",
        }
    }
}

impl Host {
    /// Fetches and builds what the host of `board` needs.
    ///
    /// # Errors
    ///
    /// If something cannot be fetched or does not build.
    pub fn prepare(board: &'static Board) -> Result<Self> {
        let kit = kernel::kit(board)?;
        let initramfs = build::initramfs(&kit, kernel::architecture(board))?;
        Ok(Self {
            board,
            kit,
            initramfs,
        })
    }

    fn is_arm(&self) -> bool {
        self.board.triple == AARCH64
    }

    /// Returns the kernel's command line, but for where its initramfs is.
    fn words(&self, task: Task, cpus: u32) -> String {
        let console = if self.is_arm() { "ttyAMA0" } else { "ttyS0" };
        format!(
            "console={console} panic=-1 portcullis={} portcullis_cpus={cpus}",
            task.word()
        )
    }

    /// Puts firmware, kernel and initramfs into the machine.
    fn images(&self, command: &mut Command, task: Task, cpus: u32) -> Result<()> {
        for image in self.board.images {
            match image.name {
                "host-payload" => load(command, &image.load, &self.kit.kernel),
                "guest-payload" => {}
                _ => load(command, &image.load, &self.board.binary(image)),
            }
        }
        let mut words = self.words(task, cpus);
        if self.is_arm() {
            load(command, &Load::Memory(INITRAMFS), &self.initramfs);
            let size = fs::metadata(&self.initramfs)?.len();
            words.push_str(&format!(" initrd={INITRAMFS:#x},{size}"));
            // QEMU takes a command line for a kernel only, and puts it into the device tree. The
            // kernel that runs is the one above: nobody reads this one from fw_cfg.
            command.arg("-kernel").arg(&self.kit.kernel);
        } else {
            command.arg("-initrd").arg(&self.initramfs);
        }
        command.args(["-append", &words]);
        Ok(())
    }
}

/// The files of one run.
pub struct Files {
    place: PathBuf,
    keys: PathBuf,
    disks: [PathBuf; 2],
    port: PathBuf,
}

impl Files {
    /// Makes a folder with new disks.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn create(place: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place)?;
        let files = Self {
            keys: place.join("keys.shm"),
            disks: ["disk.img", "plain.img"].map(|name| place.join(name)),
            port: Self::port(&place),
            place,
        };
        File::create(&files.keys)?.set_len(1 << 20)?;
        for disk in &files.disks {
            fs::write(disk, content())?;
        }
        Ok(files)
    }

    /// Returns where the firmware's log is in the folder of a run.
    fn port(place: &Path) -> PathBuf {
        place.join("firmware.log")
    }

    /// Adds the devices that both boards have.
    pub fn devices(&self, command: &mut Command) {
        command.arg("-object").arg(format!(
            "memory-backend-file,id=kcu,share=on,size=1M,mem-path={}",
            self.keys.display()
        ));
        for device in [
            "ivshmem-plain,memdev=kcu,bus=pcie.0,addr=10.0",
            "pcie-root-port,id=rp0,bus=pcie.0,addr=2.0,chassis=1",
            "nvme,drive=disk0,serial=portcullis,bus=rp0",
            "nvme,drive=disk1,serial=plain,bus=pcie.0,addr=3.0",
        ] {
            command.args(["-device", device]);
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let file = disk.display();
            command.arg("-drive");
            command.arg(format!("if=none,id=disk{index},format=raw,file={file}"));
        }
    }

    /// Returns what the disks hold of the program's mark where it writes it: the block before the
    /// last of each.
    fn mark_was_written(&self) -> Result<bool> {
        let start = DISK_BYTES as usize - 2 * BLOCK;
        let mut all = true;
        for disk in &self.disks {
            let bytes = fs::read(disk)?;
            all &= bytes.get(start..start + MARK.len()) == Some(MARK);
        }
        Ok(all)
    }
}

/// What the program writes to each disk.
const MARK: &[u8] = b"written by Linux";

/// Returns what a disk holds at first: the program knows it too.
fn content() -> Vec<u8> {
    (0..DISK_BYTES as usize)
        .map(|at| (at as u8).wrapping_mul(7) ^ ((at / BLOCK) as u8) ^ ((at >> 17) as u8))
        .collect()
}

/// Boots Linux under the TSM as `cargo xtask run --host linux` asks.
///
/// # Errors
///
/// If anything is not as it must be.
pub fn run(arguments: &RunArguments) -> Result<()> {
    let board = arguments.board;
    toolchain::prepare()?;
    images::build_images(board)?;
    let qemu = qemu::find(board, arguments.qemu.qemu.as_deref())?;
    println!("{}", qemu.describe());
    let host = Host::prepare(board)?;
    println!("Linux {} is the host", host.kit.version);
    if arguments.shell {
        return shell(&host, &qemu, arguments.cpus);
    }
    let verbose = arguments.verbose;
    let mut show = |raw: &str, line: Option<&Line>| match line {
        Some(line) => println!("{line}"),
        None if verbose && !raw.is_empty() => println!("      {raw}"),
        None => {}
    };
    let report = check(&host, &qemu, "linux", arguments.cpus, &mut show)?;
    if verbose {
        println!("firmware logs:");
        let port = Files::port(&place(board, "linux"));
        for line in logs::decode(board, &fs::read(port)?)? {
            println!("      {line}");
        }
    }
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(reason) = &report.broken {
        println!("verdict: FAIL {reason}");
    }
    let (passed, failed) = report.counts();
    println!("{passed} passed, {failed} failed");
    if !report.verdict() {
        bail!("Linux as host is not as it must be");
    }
    Ok(())
}

/// Boots to a shell on this terminal.
fn shell(host: &Host, qemu: &Qemu, cpus: u32) -> Result<()> {
    let files = Files::create(place(host.board, "linux-shell"))?;
    let mut command = qemu.command();
    hardware(&mut command, host.board, cpus, &files.port);
    host.images(&mut command, Task::Shell, cpus)?;
    files.devices(&mut command);
    println!("`poweroff -f` ends the machine");
    let status = command.status().context("QEMU does not start")?;
    if !status.success() {
        bail!("QEMU failed ({status})");
    }
    Ok(())
}

/// Boots once, lets the program check, and judges what is seen from outside.
///
/// # Errors
///
/// If QEMU does not start or a file cannot be read.
pub fn check(
    host: &Host,
    qemu: &Qemu,
    name: &str,
    cpus: u32,
    show: &mut dyn FnMut(&str, Option<&Line>),
) -> Result<Report> {
    let files = Files::create(place(host.board, name))?;
    let mut command = qemu.command();
    hardware(&mut command, host.board, cpus, &files.port);
    host.images(&mut command, Task::Check, cpus)?;
    files.devices(&mut command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(files.place.join("qemu.log"))?)
        .spawn()
        .context("QEMU does not start")?;
    let output = child.stdout.take().context("QEMU has no console")?;
    let mut child = Owned(child);
    let console = File::create(files.place.join("console.log"))?;
    let (mut report, reader) = machine::listen(output, console, show, false);
    if matches!(report.lines.last(), Some(Line::Verdict { .. })) {
        if !machine::wait(&mut child, Duration::from_secs(30)) {
            report.broken = Some("the machine did not power off after the verdict".into());
        }
    } else if report.broken.is_none() {
        report.broken = Some("the console closed without a verdict".into());
    }
    drop(child);
    let _ = reader.join();
    for line in [written(&files)?, quiet(host.board, &files.port)?] {
        show(&line.to_string(), Some(&line));
        report.insert_check(Some(line));
    }
    Ok(report)
}

/// The disks' images must hold what Linux wrote.
fn written(files: &Files) -> Result<Line> {
    let pass = files.mark_was_written()?;
    Ok(Line::Check {
        name: "disks-hold-what-was-written".into(),
        seen: if pass { "both" } else { "not both" }.into(),
        pass,
    })
}

/// Returns whether a line of the firmware's log says that something was not as it must be.
fn is_trouble(line: &str) -> bool {
    [": ERROR ", ": WARN ", "malformed", "of no image"]
        .iter()
        .any(|words| line.contains(words))
}

/// The firmware must have met nothing that it does not expect.
fn quiet(board: &Board, port: &Path) -> Result<Line> {
    let lines = logs::decode(board, &fs::read(port)?)?;
    let trouble = lines.iter().find(|line| is_trouble(line));
    Ok(Line::Check {
        name: "no-unexpected-trap".into(),
        seen: match trouble {
            Some(line) => line.clone(),
            None => format!(
                "{} lines of the firmware's log, none of trouble",
                lines.len()
            ),
        },
        pass: trouble.is_none() && !lines.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::is_trouble;

    #[test]
    fn an_error_of_the_firmware_is_no_quiet_run() {
        assert!(is_trouble(
            "monitor: ERROR R-EL2 caused an exception: 0x96000045"
        ));
        assert!(is_trouble("tsm: a malformed log frame"));
        assert!(!is_trouble("monitor: INFO processor 1 was started"));
    }
}
