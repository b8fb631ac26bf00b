// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The machine: device process, disks, QEMU, and the console of the host.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha384};

use crate::board::{Board, Load};
use crate::command::{Owned, target};
use crate::images::build_all;
use crate::logs;
use crate::qemu::{self, Qemu};
use crate::report::{Line, Report};
use crate::secrets::Secret;
use crate::{Responder, RunArguments, evidence, secrets};

/// How long one whole run may take. A quiet machine needs a small part of it.
const LIMIT: Duration = Duration::from_secs(240);
/// Size of each disk, in bytes.
const DISK_BYTES: usize = 4 << 20;
/// Size of one logical block, in bytes.
const BLOCK: usize = 512;
/// Where the known data lie, in logical blocks, and how long they are, in bytes.
const KNOWN_BLOCK: usize = 8;
const KNOWN_BYTES: usize = 4096;
/// Where the guest writes, in logical blocks.
const WRITE_BLOCK: usize = 16;
/// Name of the device that has a security manager, in QEMU's object tree.
const DEVICE: &str = "nvme0";

/// What the host payload does.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// The whole flow with its attacks.
    Flow = 0,
    /// Counting instructions.
    Bench = 1,
    /// The on-target tests.
    Test = 2,
    /// Cryptography of the TSM that fails.
    Failing = 3,
    /// The flow with a device that misbehaves on order.
    Faults = 4,
}

/// How one run differs from another.
pub struct Plan<'a> {
    /// What the host payload does.
    pub mode: Mode,
    /// The TSM to load instead of the one that is shipped.
    pub tsm: Option<&'a Path>,
    /// A responder that is already running.
    pub responder: Responder,
    /// What the device does wrong.
    pub faults: Option<PathBuf>,
    /// Stop at reset and serve a debugger.
    pub gdb: bool,
    /// Number of CPUs.
    pub cpus: u32,
    /// Called with each line as it comes.
    pub show: &'a mut dyn FnMut(&str, Option<&Line>),
}

/// Runs the flow, prints it and ends with its verdict.
///
/// # Errors
///
/// If anything is not as it must be.
pub fn run(arguments: &RunArguments) -> Result<()> {
    let board = arguments.board;
    let device = build_all(&[board])?;
    let qemu = qemu::find(board, arguments.qemu.qemu.as_deref())?;
    println!("{}", qemu.describe());
    let start = Instant::now();
    let mut show = |raw: &str, line: Option<&Line>| match line {
        Some(Line::Evidence { .. }) => {}
        Some(line) => println!("{line}"),
        None if !raw.is_empty() => println!("      {raw}"),
        None => {}
    };
    let mode = match &arguments.fault_plan {
        Some(_) => Mode::Faults,
        None => Mode::Flow,
    };
    let plan = Plan {
        mode,
        tsm: None,
        responder: arguments.responder.clone(),
        faults: arguments.fault_plan.clone(),
        gdb: arguments.gdb,
        cpus: 2,
        show: &mut show,
    };
    let (report, port) = boot(board, &qemu, &device, "run", plan)?;
    if arguments.verbose {
        println!("firmware logs:");
        for line in logs::decode(board, &port)? {
            println!("      {line}");
        }
    }
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let (passed, failed) = report.counts();
    let seconds = start.elapsed().as_secs_f32();
    if let Some(reason) = &report.broken {
        println!("verdict: FAIL {reason}");
    }
    println!("{passed} passed, {failed} failed, {seconds:.1} s");
    if !report.verdict() {
        bail!("the run is not as it must be");
    }
    Ok(())
}

/// Returns the folder of what a run of `board` leaves.
pub fn place(board: &Board, name: &str) -> PathBuf {
    target().join("machine").join(board.name).join(name)
}

/// Boots the machine once; returns what the host told and the bytes of the firmware's log port.
pub fn boot(
    board: &Board,
    qemu: &Qemu,
    device: &Path,
    name: &str,
    plan: Plan<'_>,
) -> Result<(Report, Vec<u8>)> {
    let place = place(board, name);
    // What an earlier run left would be taken for this one's.
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place)?;
    let files = Files::create(&place, &plan.responder)?;
    let (process, endpoint) = match &plan.responder.dsm {
        Some(address) => (None, address.clone()),
        None => {
            let (process, endpoint) = start_device(device, &files, &plan)?;
            (Some(process), endpoint)
        }
    };
    files.write_policy()?;
    let mut command = qemu.command();
    command_line(&mut command, board, &files, &endpoint, &plan)?;
    if plan.gdb {
        print_attach_line(board);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(place.join("qemu.log"))?)
        .spawn()
        .context("QEMU does not start")?;
    let output = child.stdout.take().context("QEMU has no console")?;
    let mut child = Owned(child);
    let console = File::create(place.join("console.log"))?;
    let (mut report, reader) = listen(output, console, plan.show, plan.gdb);
    evidence::keep(&report, &place.join("evidence"), &files.root_certificate)?;
    if matches!(report.lines.last(), Some(Line::Verdict { .. })) {
        let ended = wait(&mut child, Duration::from_secs(10));
        if !ended {
            report.broken = Some("the machine did not power off after the verdict".into());
        }
    } else if report.broken.is_none() {
        let log = fs::read_to_string(place.join("qemu.log")).unwrap_or_default();
        report.broken = Some(format!(
            "the console closed without a verdict {}",
            log.trim()
        ));
    }
    drop(child);
    drop(process);
    let _ = reader.join();
    let port = fs::read(&files.port).unwrap_or_default();
    let told = files.search(board, &place, &report, &port, &plan)?;
    (plan.show)(&told, Line::parse(&told).as_ref());
    report.insert_check(Line::parse(&told));
    Ok((report, port))
}

/// Reads the console to the verdict or to the time limit. The thread keeps all of it to its end.
pub fn listen(
    output: impl Read + Send + 'static,
    mut console: File,
    show: &mut dyn FnMut(&str, Option<&Line>),
    patient: bool,
) -> (Report, JoinHandle<()>) {
    let (sender, receiver) = channel();
    let reader = thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            let kept = console.write_all(&bytes);
            bytes.clear();
            // After the verdict nobody listens any more.
            if sender.send(line).is_err() && kept.is_err() {
                break;
            }
        }
    });
    let mut report = Report::default();
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = if patient {
            Duration::from_secs(86_400)
        } else {
            deadline.saturating_duration_since(Instant::now())
        };
        match receiver.recv_timeout(left) {
            Ok(raw) => {
                let line = Line::parse(&raw);
                show(&raw, line.as_ref());
                report.lines.extend(line.clone());
                if matches!(line, Some(Line::Verdict { .. })) {
                    return (report, reader);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return (report, reader),
            Err(RecvTimeoutError::Timeout) => {
                report.broken = Some(format!("no verdict within {} s", LIMIT.as_secs()));
                return (report, reader);
            }
        }
    }
}

/// Waits for the end of a process; returns whether it came in time.
pub fn wait(child: &mut Owned, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if matches!(child.0.try_wait(), Ok(Some(_))) {
            return true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// The files of one run.
struct Files {
    disk: PathBuf,
    plain_disk: PathBuf,
    keys: PathBuf,
    policy: PathBuf,
    port: PathBuf,
    monitor_socket: PathBuf,
    root_certificate: PathBuf,
    measurement: PathBuf,
    device_log: PathBuf,
    key_log: PathBuf,
}

impl Files {
    fn create(place: &Path, responder: &Responder) -> Result<Self> {
        let mut files = Self {
            disk: place.join("disk.img"),
            plain_disk: place.join("plain.img"),
            keys: place.join("keys.shm"),
            policy: place.join("policy.bin"),
            port: place.join("firmware.log"),
            monitor_socket: place.join("qmp.sock"),
            root_certificate: place.join("root.der"),
            measurement: place.join("measurement.bin"),
            device_log: place.join("device.log"),
            key_log: place.join(secrets::KEY_LOG),
        };
        fs::write(&files.disk, disk(0x5a))?;
        fs::write(&files.plain_disk, disk(0xc3))?;
        match &responder.dsm_keys {
            Some(keys) => files.keys = fs::canonicalize(keys).context("the key file")?,
            None => fs::write(&files.keys, vec![0; 1 << 20])?,
        }
        for (given, place) in [
            (&responder.dsm_root, &files.root_certificate),
            (&responder.dsm_measurement, &files.measurement),
        ] {
            if let Some(given) = given {
                fs::copy(given, place).with_context(|| given.display().to_string())?;
            }
        }
        Ok(files)
    }

    /// Writes what the guest's owner expects: root certificate, data and firmware measurement.
    fn write_policy(&self) -> Result<()> {
        let mut page = vec![0_u8; 4096];
        page[..8].copy_from_slice(b"PCPOLICY");
        page[8..12].copy_from_slice(&1_u32.to_le_bytes());
        // Without it the guest trusts no root, and refuses the device at its certificates.
        if let Ok(root) = fs::read(&self.root_certificate) {
            page[0x10..0x40].copy_from_slice(&Sha384::digest(root));
        }
        let image = fs::read(&self.disk)?;
        let known = &image[KNOWN_BLOCK * BLOCK..][..KNOWN_BYTES];
        page[0x40..0x70].copy_from_slice(&Sha384::digest(known));
        if let Ok(measurement) = fs::read(&self.measurement) {
            let room = &mut page[0x70..0xa0];
            if measurement.len() != room.len() {
                bail!("the device's measurement has {} bytes", measurement.len());
            }
            room.copy_from_slice(&measurement);
        }
        page[0xa0..0xa8].copy_from_slice(&(KNOWN_BLOCK as u64).to_le_bytes());
        page[0xa8..0xb0].copy_from_slice(&(WRITE_BLOCK as u64).to_le_bytes());
        fs::write(&self.policy, page)?;
        Ok(())
    }

    /// Searches what the run left for secrets; returns the line of a check.
    fn search(
        &self,
        board: &Board,
        place: &Path,
        report: &Report,
        port: &[u8],
        plan: &Plan<'_>,
    ) -> Result<String> {
        let mut logs = secrets::logs_in(place)?;
        logs.push(("report".into(), serde_json::to_vec(report)?));
        logs.extend(logs::forms(board, port)?);
        // Another process's device keeps its secrets to itself.
        let mut secrets = match plan.responder.dsm {
            Some(_) => Vec::new(),
            None => secrets::read(&self.key_log)?,
        };
        if plan.mode == Mode::Flow && plan.responder.dsm.is_none() {
            let missing = FLOW_SECRETS
                .iter()
                .find(|name| !secrets.iter().any(|secret| secret.name == **name));
            if let Some(name) = missing.filter(|_| report.broken.is_none()) {
                return Ok(secrets::failure(&format!("the device told no {name}")));
            }
        }
        let image = fs::read(&self.disk)?;
        for (name, block) in [("known-data", KNOWN_BLOCK), ("written-data", WRITE_BLOCK)] {
            secrets.push(Secret::new(name, &image[block * BLOCK..][..KNOWN_BYTES]));
        }
        Ok(secrets::check(&logs, &secrets))
    }
}

/// What a device's secrets are called of which the whole flow must have seen at least one each.
const FLOW_SECRETS: [&str; 6] = [
    "identity-key",
    "shared-secret",
    "handshake-request-key",
    "application-response-key",
    "link-key",
    "start-nonce",
];

/// Returns a disk whose content differs in every byte position of a block and between blocks.
fn disk(seed: u8) -> Vec<u8> {
    (0..DISK_BYTES)
        .map(|at| (at as u8).wrapping_mul(7) ^ ((at / BLOCK) as u8) ^ ((at >> 17) as u8) ^ seed)
        .collect()
}

/// Starts the device process on a free port; returns it and its address.
fn start_device(program: &Path, files: &Files, plan: &Plan<'_>) -> Result<(Owned, String)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let endpoint = format!("127.0.0.1:{port}");
    let mut command = Command::new(program);
    if let Some(suite) = &plan.responder.suite {
        command.args(["--suite", suite]);
    }
    if let Some(versions) = &plan.responder.spdm_version {
        command.args(["--spdm-version", versions]);
    }
    if let Some(faults) = &plan.faults {
        command.arg("--fault-plan").arg(faults);
    }
    let child = command
        .args(["--listen", &endpoint])
        .arg("--qmp")
        .arg(&files.monitor_socket)
        .args(["--qdev-id", DEVICE])
        .arg("--kcu")
        .arg(&files.keys)
        .arg("--key-log")
        .arg(&files.key_log)
        .arg("--root-out")
        .arg(&files.root_certificate)
        .arg("--measurements-out")
        .arg(&files.measurement)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&files.device_log)?)
        .spawn()
        .with_context(|| format!("{} does not start", program.display()))?;
    let child = Owned(child);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !(files.root_certificate.exists() && files.measurement.exists()) {
        if Instant::now() > deadline {
            let log = fs::read_to_string(&files.device_log).unwrap_or_default();
            bail!("the device process is not ready: {}", log.trim());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok((child, endpoint))
}

fn command_line(
    command: &mut Command,
    board: &Board,
    files: &Files,
    endpoint: &str,
    plan: &Plan<'_>,
) -> Result<()> {
    let port = match endpoint.rsplit_once(':') {
        Some(("127.0.0.1" | "localhost", port)) => port.parse::<u16>().context("a bad port")?,
        _ => bail!("QEMU connects to a responder on this machine only: use 127.0.0.1:PORT"),
    };
    hardware(command, board, plan.cpus, &files.port);
    if plan.mode == Mode::Bench {
        // One virtual nanosecond an instruction, and a 1 GHz counter: one tick is one instruction.
        command.args(["-icount", "shift=0"]);
        // A whole GiB that nothing else lies in. All of it is below 4 GiB on each board: SeaBIOS would
        // place registers at the end of the address space otherwise.
        command.args(["-m", "2560M"]);
    }
    for image in board.images {
        let other = plan.tsm.filter(|_| image.name == "tsm");
        let binary = other.map_or_else(|| board.binary(image), Path::to_path_buf);
        load(command, &image.load, &binary);
    }
    load(command, &Load::Memory(board.policy), &files.policy);
    command.arg("-device").arg(format!(
        "loader,addr={:#x},data={},data-len=4",
        board.mode, plan.mode as u32
    ));
    devices(command, files, port);
    command.arg("-qmp");
    command.arg(format!(
        "unix:{},server=on,wait=off",
        files.monitor_socket.display()
    ));
    if plan.gdb {
        command.args(["-S", "-gdb", "tcp:127.0.0.1:1234"]);
    }
    Ok(())
}

/// Names the machine itself: the host's console is standard output, the firmware's log is `log`.
pub fn hardware(command: &mut Command, board: &Board, cpus: u32, log: &Path) {
    command.args(board.machine).args(["-m", "1G"]);
    command.args(["-smp", &cpus.to_string()]);
    command.args(["-display", "none", "-monitor", "none", "-net", "none"]);
    command.args(["-serial", "stdio"]).args(board.log_port);
    command.arg(format!("file:{}", log.display()));
    for device in board.devices {
        command.args(["-device", device]);
    }
}

/// Adds the same devices to any machine: key configuration unit, a root port with the device that
/// has a security manager below it, and a device without one.
fn devices(command: &mut Command, files: &Files, port: u16) {
    command.arg("-object").arg(format!(
        "memory-backend-file,id=kcu,share=on,size=1M,mem-path={}",
        files.keys.display()
    ));
    command.args(["-device", "ivshmem-plain,memdev=kcu,bus=pcie.0,addr=10.0"]);
    command.args([
        "-device",
        "pcie-root-port,id=rp0,bus=pcie.0,addr=2.0,chassis=1",
    ]);
    for (id, disk) in [("nv", &files.disk), ("nv2", &files.plain_disk)] {
        command.arg("-drive");
        command.arg(format!(
            "if=none,id={id},format=raw,file={}",
            disk.display()
        ));
    }
    command.arg("-device");
    command.arg(format!(
        "nvme,id={DEVICE},drive=nv,serial=portcullis,bus=rp0,spdm_port={port}"
    ));
    command.args(["-device", "nvme,drive=nv2,serial=plain,bus=pcie.0,addr=3.0"]);
}

/// Puts a file into the machine.
pub fn load(command: &mut Command, how: &Load, file: &Path) {
    let file = file.display();
    match how {
        Load::Flash => command.args(["-bios", &file.to_string()]),
        Load::Kernel => command.args(["-kernel", &file.to_string()]),
        Load::Memory(address) => command
            .arg("-device")
            .arg(format!("loader,file={file},addr={address:#x},force-raw=on")),
        Load::File(name) => command
            .arg("-fw_cfg")
            .arg(format!("name={name},file={file}")),
    };
}

fn print_attach_line(board: &Board) {
    let mut line = String::from("gdb-multiarch -ex 'target remote 127.0.0.1:1234'");
    for image in board.images {
        let linked = board.elf(image);
        line.push_str(&format!(" -ex 'add-symbol-file {}'", linked.display()));
    }
    println!("waiting for a debugger at reset; attach with\n  {line}");
}
