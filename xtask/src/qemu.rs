// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Finding a QEMU that can emulate a board and an NVMe DOE mailbox, or fetching one.
//!
//! A distribution's stable QEMU may be too old. Its own package client then gets a newer one, from
//! the suites next to those already configured, and it is unpacked into the build directory without
//! being installed. No root is needed.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::board::Board;
use crate::command::{quietly, target};
use crate::packages::{self, Client};

/// The oldest major version that has `spdm_port`.
const OLDEST: u32 = 10;
/// Packages that have the programs of all boards.
const PACKAGES: [&str; 2] = ["qemu-system-arm", "qemu-system-x86"];

/// A QEMU and the words that start it.
pub struct Qemu {
    words: Vec<String>,
    version: String,
}

impl Qemu {
    /// Returns a command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        command
    }

    /// Returns one line that says which QEMU this is.
    pub fn describe(&self) -> String {
        format!("using {}", self.version)
    }
}

/// Returns a QEMU that has what `board` needs. A `wanted` folder is where its program is.
///
/// # Errors
///
/// If `wanted` is given and does not have it, or if none is found and none can be fetched.
pub fn find(board: &Board, wanted: Option<&Path>) -> Result<Qemu> {
    if let Some(path) = wanted {
        let program = match path.is_dir() {
            true => path.join(board.program),
            false => path.to_path_buf(),
        };
        return examine(board, vec![program.display().to_string()])
            .with_context(|| format!("{} cannot run {}", program.display(), board.name));
    }
    if let Ok(qemu) = examine(board, vec![board.program.into()]) {
        return Ok(qemu);
    }
    let place = target().join("qemu");
    let private = || examine(board, private_words(&place, board.program));
    if let Ok(qemu) = private() {
        return Ok(qemu);
    }
    println!("fetching QEMU >= {OLDEST}.0 by the distribution's package client (once)");
    fetch(&place)?;
    private().with_context(|| format!("the QEMU that was fetched cannot run {}", board.name))
}

/// Checks that the program starts, is new enough and can emulate the board and the mailbox.
fn examine(board: &Board, words: Vec<String>) -> Result<Qemu> {
    let mut qemu = Qemu {
        words,
        version: String::new(),
    };
    let text = quietly(qemu.command().arg("--version"))?;
    let line = text.lines().next().unwrap_or_default();
    let major = line
        .split("version ")
        .nth(1)
        .and_then(|rest| rest.split('.').next())
        .and_then(|digits| digits.parse::<u32>().ok())
        .context("no version number")?;
    if major < OLDEST {
        bail!("{line} is older than {OLDEST}.0");
    }
    if !quietly(qemu.command().args(["-device", "nvme,help"]))?.contains("spdm_port") {
        bail!("{line} has no NVMe DOE mailbox (spdm_port)");
    }
    let mut machine = qemu.command();
    machine.args(board.machine);
    machine.args(["-nodefaults", "-display", "none", "-S", "-monitor", "stdio"]);
    let mut child = machine
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A QEMU that refuses the machine has closed the pipe already; its status tells.
        let _ = input.write_all(b"quit\n");
    }
    if !child.wait()?.success() {
        bail!("{line} has no {}", board.needs);
    }
    qemu.version = line.to_owned();
    Ok(qemu)
}

/// Returns the words that start a QEMU unpacked below `place` with its own libraries.
fn private_words(place: &Path, program: &str) -> Vec<String> {
    let root = place.join("root");
    let at = |path: &str| root.join(path).display().to_string();
    let loader = [
        "lib64/ld-linux-x86-64.so.2",
        "usr/lib64/ld-linux-x86-64.so.2",
    ]
    .iter()
    .map(|path| root.join(path))
    .find(|path| path.exists())
    .unwrap_or_else(|| root.join("no-loader"));
    let mut words = vec![
        loader.display().to_string(),
        "--library-path".into(),
        format!(
            "{}:{}",
            at("usr/lib/x86_64-linux-gnu"),
            at("lib/x86_64-linux-gnu")
        ),
        at(&format!("usr/bin/{program}")),
    ];
    // All three, or QEMU would read firmware of another version from the host.
    for path in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        words.extend(["-L".into(), at(path)]);
    }
    words
}

/// Downloads QEMU and what it needs, and unpacks it.
fn fetch(place: &Path) -> Result<()> {
    let release = packages::codename().context("pass --qemu PATH")?;
    let backports = format!("{release}-backports");
    let suites = [&*release, &format!("{release}-updates"), &backports];
    let client = Client::open(place, &suites, &[]).context("or pass --qemu PATH")?;
    let root = place.join("root");
    client
        .unpack(Some(&backports), &PACKAGES, &root)
        .or_else(|_| client.unpack(None, &PACKAGES, &root))
        .with_context(|| {
            let names = PACKAGES.join(" and ");
            format!("no packages {names}: install QEMU >= 10.0 and pass --qemu PATH")
        })?;
    client.close()
}
