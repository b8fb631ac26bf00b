// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `portcullis-dsm`: the device's security manager as a process.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use std::{env, fs, process, thread};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use tsm_devices::{
    Bar, Cipher, Confidant, Config, ControlListener, Dsm, Event, FaultPlan, Function, FunctionView,
    Identity, IdentityPlan, KeyUnit, Layout, MachineMonitor, Offer, Signing, Version, serve,
    serve_control, start_clock,
};

/// Answers SPDM, IDE_KM and TDISP for devices behind DOE mailboxes.
///
/// Faults on order and the control socket are described in docs/device.md.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    first: DeviceArguments,
    /// Another device: its address, then options of a device as `name=value`, separated by commas.
    #[arg(long, value_name = "HOST:PORT[,OPTION=VALUE]...", value_parser = parse_device)]
    device: Vec<DeviceArguments>,
    /// Logs each answered request, too.
    #[arg(long)]
    verbose: bool,
    /// For tests only, and the end of all secrecy: writes every secret of every device, one line
    /// `name hexadecimal` each.
    #[arg(long, value_name = "FILE")]
    key_log: Option<PathBuf>,
}

/// One device.
#[derive(Clone, Parser)]
struct DeviceArguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2323")]
    listen: SocketAddr,
    /// Writes the address that is listened on.
    #[arg(long, value_name = "FILE")]
    listen_out: Option<PathBuf>,
    /// QEMU's machine protocol socket, to learn where the function's BARs are.
    #[arg(long, value_name = "SOCKET")]
    qmp: Option<PathBuf>,
    /// The function's id in QEMU; without it the NVMe controller that is not on root bus 0.
    #[arg(long, value_name = "ID", requires = "qmp")]
    qdev_id: Option<String>,
    /// BAR 0 where there is no machine to ask.
    #[arg(long, value_name = "ADDRESS:SIZE", value_parser = parse_bar, conflicts_with = "qmp")]
    bar: Option<Bar>,
    /// Another function of the device: requester id and BAR 0.
    #[arg(long, value_name = "RID:ADDRESS:SIZE", value_parser = parse_function)]
    function: Vec<FunctionView>,
    /// File of the key configuration unit that the machine maps, too.
    #[arg(long, value_name = "FILE")]
    kcu: Option<PathBuf>,
    /// Writes the root certificate, DER.
    #[arg(long, value_name = "FILE")]
    root_out: Option<PathBuf>,
    /// Writes the digest of measurement block 1: hexadecimal, or raw if the name ends in `.bin`.
    #[arg(long, value_name = "FILE")]
    measurements_out: Option<PathBuf>,
    /// Seconds between heartbeats that a requester owes; 0 for none.
    #[arg(long, value_name = "SECONDS", default_value_t = 240)]
    heartbeat: u8,
    /// SPDM versions to offer, separated by commas: 1.2, 1.3, 1.4. Without it 1.2, and 1.4 for ML-DSA.
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',')]
    spdm_version: Vec<Version>,
    /// Signature algorithm, with hash and key agreement of the same strength: ecdsa-p256,
    /// ecdsa-p384, ml-dsa-65, ml-dsa-87.
    #[arg(long, value_name = "SUITE", default_value = "ecdsa-p384")]
    suite: Signing,
    /// Cipher of records: aes-128-gcm, aes-256-gcm, chacha20-poly1305.
    #[arg(long, value_name = "CIPHER", default_value = "aes-256-gcm")]
    cipher: Cipher,
    /// Certificate slots, 0 to 7, separated by commas.
    #[arg(long, value_name = "SLOTS", value_delimiter = ',', default_value = "0",
        value_parser = clap::value_parser!(u8).range(0..8))]
    slots: Vec<u8>,
    /// Makes each certificate chain about this long, in bytes (at most 65535).
    #[arg(long, value_name = "BYTES")]
    chain_size: Option<usize>,
    /// Derives all keys from this text: the same text, the same keys.
    #[arg(long, value_name = "TEXT")]
    seed: Option<String>,
    /// Largest message in one piece that the device takes, in bytes: 42 to 4352.
    #[arg(long, value_name = "BYTES", default_value_t = 4096,
        value_parser = clap::value_parser!(u16).range(42..=0x1100))]
    transfer_size: u16,
    /// What goes wrong, and where: TOML.
    #[arg(long, value_name = "FILE")]
    fault_plan: Option<PathBuf>,
    /// Control socket: a path, or a port of this machine. Takes one JSON object a line, with
    /// `command` one of state, reset, flr (`function`), link-down, lose-session, remove, hang,
    /// load (`plan`), clear, quit.
    #[arg(long, value_name = "PATH|PORT")]
    control: Option<String>,
    /// Keeps sessions, keys and locks when the requester leaves the socket.
    #[arg(long)]
    keep_state: bool,
}

/// Reads another device: what the options of the first one are, on one line.
fn parse_device(text: &str) -> Result<DeviceArguments, clap::Error> {
    let mut words = vec!["--device".to_owned(), "--listen".to_owned()];
    for (index, part) in text.split(',').enumerate() {
        if index == 0 {
            words.push(part.to_owned());
        } else {
            words.push(format!("--{part}"));
        }
    }
    DeviceArguments::try_parse_from(words)
}

fn parse_number(text: &str) -> Result<u64> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    value.with_context(|| format!("`{text}` is not a number"))
}

fn parse_bar(text: &str) -> Result<Bar> {
    let (address, size) = text.split_once(':').context("expected ADDRESS:SIZE")?;
    let bar = Bar {
        index: 0,
        address: parse_number(address)?,
        size: parse_number(size)?,
    };
    if bar.size == 0 || !bar.size.is_power_of_two() || !bar.address.is_multiple_of(bar.size) {
        return Err(anyhow!(
            "a BAR has a power of two as size and is aligned to it"
        ));
    }
    Ok(bar)
}

fn parse_function(text: &str) -> Result<FunctionView> {
    let (rid, bar) = text.split_once(':').context("expected RID:ADDRESS:SIZE")?;
    Ok(FunctionView {
        rid: Some(u16::try_from(parse_number(rid)?).context("a requester id has 16 bits")?),
        bars: vec![parse_bar(bar)?],
    })
}

fn fault_plan(path: &Path) -> Result<FaultPlan> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    text.parse().with_context(|| format!("{}", path.display()))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // What is measured is the program that answers.
    let program = env::current_exe()
        .and_then(fs::read)
        .context("cannot read the own program")?;
    let log = Log {
        started: Instant::now(),
        verbose: arguments.verbose,
    };
    let confidant = match &arguments.key_log {
        Some(path) => key_log(path)?,
        None => Confidant::default(),
    };
    let (end, ended) = channel();
    for (number, device) in [arguments.first]
        .iter()
        .chain(&arguments.device)
        .enumerate()
    {
        let config = configure(device, &program, confidant.clone())?;
        start(number, device, config, log, &end)?;
    }
    ended.recv().context("every device has failed")?
}

/// What goes to the standard error output.
#[derive(Clone, Copy)]
struct Log {
    started: Instant,
    verbose: bool,
}

impl Log {
    /// Writes a line about the device with this number. The first one is the device, for others.
    fn line(self, number: usize, text: &dyn Display) {
        let seconds = self.started.elapsed().as_secs_f64();
        match number {
            0 => eprintln!("[dsm {seconds:8.3}] {text}"),
            _ => eprintln!("[dsm {seconds:8.3}] device {number}: {text}"),
        }
    }
}

/// Makes a device and serves it on threads of its own, which say at `end` why they ended.
fn start(
    number: usize,
    arguments: &DeviceArguments,
    mut config: Config,
    log: Log,
    end: &Sender<Result<()>>,
) -> Result<()> {
    config.observer = Box::new(move |event: &Event| {
        if log.verbose || !matches!(event, Event::Answered { .. }) {
            log.line(number, event);
        }
    });
    let dsm = Dsm::new(config);
    let listener = TcpListener::bind(arguments.listen)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = listener.local_addr()?;
    if let Some(path) = &arguments.listen_out {
        write(path, format!("{address}\n").as_bytes())?;
    }
    log.line(number, &format_args!("listening on {address}"));
    // Whoever waits for these files may connect as soon as they are there.
    publish(arguments, &dsm)?;
    let dsm = Arc::new(Mutex::new(dsm));
    start_clock(&dsm);
    if let Some(place) = &arguments.control {
        let listener = control_listener(place)?;
        let (dsm, end) = (dsm.clone(), end.clone());
        thread::spawn(move || {
            let _ = end.send(serve_control(&listener, &dsm).context("the control socket failed"));
        });
    }
    let end = end.clone();
    thread::spawn(move || end.send(serve(&listener, &dsm).context("the socket failed")));
    Ok(())
}

/// Opens the file that every secret is written into.
fn key_log(path: &Path) -> Result<Confidant> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = File::create(path).with_context(cannot)?;
    Ok(Confidant::new(move |name, secret| {
        let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        // In one piece: who reads a line reads all of it, whenever this process is ended.
        if let Err(error) = file.write_all(format!("{name} {digits}\n").as_bytes()) {
            // A log with gaps would let a leak pass.
            eprintln!("cannot write the key log: {error}");
            process::exit(1);
        }
    }))
}

fn configure(arguments: &DeviceArguments, program: &[u8], confidant: Confidant) -> Result<Config> {
    let function = FunctionView {
        rid: None,
        bars: arguments.bar.into_iter().collect(),
    };
    let mut config = Config::new(program, function)?;
    config.heartbeat_period = arguments.heartbeat;
    config.keeps_state = arguments.keep_state;
    config.offer = offer(arguments)?;
    config.identity = identity(arguments, &confidant)?;
    config.confidant = confidant;
    if let Some(socket) = &arguments.qmp {
        config.function = Box::new(MachineMonitor::watch(socket, arguments.qdev_id.as_deref()));
    }
    for view in &arguments.function {
        config.others.push(Function {
            layout: Layout::QEMU_NVME,
            source: Box::new(view.clone()),
        });
    }
    if let Some(path) = &arguments.kcu {
        let unit =
            KeyUnit::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        config.link = Box::new(unit);
    }
    if let Some(path) = &arguments.fault_plan {
        config.faults = fault_plan(path)?;
    }
    Ok(config)
}

fn control_listener(place: &str) -> Result<ControlListener> {
    let cannot = || format!("cannot listen on {place}");
    if let Ok(port) = place.parse::<u16>() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(cannot)?;
        return Ok(ControlListener::Tcp(listener));
    }
    // A socket that a process left behind is in the way of the next one.
    let _ = fs::remove_file(place);
    let listener = UnixListener::bind(place).with_context(cannot)?;
    Ok(ControlListener::Unix(listener))
}

/// Returns what the device offers in SPDM.
fn offer(arguments: &DeviceArguments) -> Result<Offer> {
    let post_quantum = matches!(arguments.suite, Signing::MlDsa65 | Signing::MlDsa87);
    let mut versions = arguments.spdm_version.clone();
    if versions.is_empty() {
        versions.push(if post_quantum {
            Version::V1_4
        } else {
            Version::V1_2
        });
    }
    if post_quantum && !versions.contains(&Version::V1_4) {
        return Err(anyhow!("ML-DSA needs SPDM 1.4"));
    }
    versions.sort();
    versions.dedup();
    let mut offer = Offer::suite(arguments.suite, &versions);
    offer.ciphers = vec![arguments.cipher];
    offer.transfer_size = arguments.transfer_size.into();
    Ok(offer)
}

/// Makes the device's keys and certificates.
fn identity(arguments: &DeviceArguments, confidant: &Confidant) -> Result<Identity> {
    let mut plan = IdentityPlan::new(arguments.suite)?;
    plan.slots = arguments.slots.clone();
    plan.slots.sort_unstable();
    plan.slots.dedup();
    plan.chain_size = arguments.chain_size;
    if let Some(seed) = &arguments.seed {
        plan.seed = IdentityPlan::seed_of(seed);
    }
    confidant.tell("identity-seed", &plan.seed);
    Ok(Identity::new(&plan))
}

/// Writes what the guest's owner compares with.
fn publish(arguments: &DeviceArguments, dsm: &Dsm) -> Result<()> {
    if let Some(path) = &arguments.root_out {
        write(path, dsm.identity().root_certificate())?;
    }
    if let Some(path) = &arguments.measurements_out {
        let digest = dsm.measurements().firmware_digest();
        if path.extension().is_some_and(|extension| extension == "bin") {
            write(path, digest)?;
        } else {
            let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            write(path, format!("{text}\n").as_bytes())?;
        }
    }
    Ok(())
}

/// Writes a file that nobody can see half written.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, content)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
