// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `portcullis-dsm`: the device's security manager as a process.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use tsm_devices::{
    Bar, Cipher, Config, Dsm, Event, FaultPlan, FunctionView, Identity, IdentityPlan, KeyUnit,
    MachineMonitor, Offer, Signing, Version, serve, start_clock,
};

/// Answers SPDM, IDE_KM and TDISP for a device behind a DOE mailbox.
#[derive(Parser)]
#[command(version)]
struct Arguments {
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
    /// What goes wrong, and where: see docs/device.md.
    #[arg(long, value_name = "FILE")]
    fault_plan: Option<PathBuf>,
    /// Logs each answered request, too.
    #[arg(long)]
    verbose: bool,
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
    let function = FunctionView {
        rid: None,
        bars: arguments.bar.into_iter().collect(),
    };
    let mut config = Config::new(&program, function)?;
    config.heartbeat_period = arguments.heartbeat;
    config.offer = offer(&arguments)?;
    config.identity = identity(&arguments)?;
    if let Some(socket) = &arguments.qmp {
        config.function = Box::new(MachineMonitor::watch(socket, arguments.qdev_id.as_deref()));
    }
    if let Some(path) = &arguments.kcu {
        let unit =
            KeyUnit::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        config.link = Box::new(unit);
    }
    if let Some(path) = &arguments.fault_plan {
        config.faults = fault_plan(path)?;
    }
    let started = Instant::now();
    let verbose = arguments.verbose;
    config.observer = Box::new(move |event: &Event| {
        if verbose || !matches!(event, Event::Answered { .. }) {
            eprintln!("[dsm {:8.3}] {event}", started.elapsed().as_secs_f64());
        }
    });
    let dsm = Dsm::new(config);
    let listener = TcpListener::bind(arguments.listen)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let address = listener.local_addr()?;
    if let Some(path) = &arguments.listen_out {
        write(path, format!("{address}\n").as_bytes())?;
    }
    eprintln!(
        "[dsm {:8.3}] listening on {address}",
        started.elapsed().as_secs_f64()
    );
    // Whoever waits for these files may connect as soon as they are there.
    publish(&arguments, &dsm)?;
    let dsm = Arc::new(Mutex::new(dsm));
    start_clock(&dsm);
    serve(&listener, &dsm).context("the socket failed")
}

/// Returns what the device offers in SPDM.
fn offer(arguments: &Arguments) -> Result<Offer> {
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
fn identity(arguments: &Arguments) -> Result<Identity> {
    let mut plan = IdentityPlan::new(arguments.suite)?;
    plan.slots = arguments.slots.clone();
    plan.slots.sort_unstable();
    plan.slots.dedup();
    plan.chain_size = arguments.chain_size;
    if let Some(seed) = &arguments.seed {
        plan.seed = IdentityPlan::seed_of(seed);
    }
    Ok(Identity::new(&plan))
}

/// Writes what the guest's owner compares with.
fn publish(arguments: &Arguments, dsm: &Dsm) -> Result<()> {
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
