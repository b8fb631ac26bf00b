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
    Bar, Config, Dsm, Event, FaultPlan, FunctionView, KeyUnit, MachineMonitor, serve, start_clock,
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
