// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Finding a QEMU that can emulate a board and an NVMe DOE mailbox, or fetching one.
//!
//! A distribution's stable QEMU may be too old. Its own package client then gets a newer one, from
//! the suites next to those already configured, and it is unpacked into the build directory without
//! being installed. No root is needed.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::board::Board;
use crate::command::{quietly, target};

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

/// Downloads QEMU and what it needs with a private package state, and unpacks it.
fn fetch(place: &Path) -> Result<()> {
    let lists = place.join("state/lists/partial");
    let archives = place.join("cache/archives");
    fs::create_dir_all(&lists)?;
    fs::create_dir_all(archives.join("partial"))?;
    fs::write(place.join("status"), "")?;
    let (codename, sources) = sources()?;
    fs::write(place.join("sources.list"), sources)?;
    let apt = |suite: Option<&str>| {
        let mut command = Command::new("apt-get");
        for (key, value) in [
            ("Dir::State", place.join("state")),
            ("Dir::State::status", place.join("status")),
            ("Dir::Cache", place.join("cache")),
            ("Dir::Etc::sourcelist", place.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("/dev/null")),
        ] {
            command.arg("-o").arg(format!("{key}={}", value.display()));
        }
        for option in [
            "APT::Sandbox::User=",
            "Debug::NoLocking=1",
            "Acquire::Languages=none",
        ] {
            command.args(["-o", option]);
        }
        command.args(["-qq", "-y", "--no-install-recommends"]);
        if let Some(suite) = suite {
            command.args(["-t", suite]);
        }
        command
    };
    quietly(apt(None).arg("update"))?;
    let install = ["--download-only", "install"];
    let backports = format!("{codename}-backports");
    let from = |suite| quietly(apt(suite).args(install).args(PACKAGES));
    from(Some(&backports))
        .or_else(|_| from(None))
        .with_context(|| {
            let names = PACKAGES.join(" and ");
            format!("no packages {names}: install QEMU >= 10.0 and pass --qemu PATH")
        })?;
    let root = place.join("root");
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            quietly(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
        }
    }
    fs::remove_dir_all(place.join("cache"))?;
    Ok(())
}

/// Returns the release's code name, and package sources for its suites and its backports, derived
/// from the sources that are configured.
fn sources() -> Result<(String, String)> {
    let release = fs::read_to_string("/etc/os-release").context("not a Linux distribution")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("the distribution has no code name: pass --qemu PATH")?
        .trim_matches('"')
        .to_owned();
    let archives = configured_archives(Path::new("/etc/apt"), &codename);
    if archives.is_empty() {
        bail!("no package source for {codename} is configured: pass --qemu PATH");
    }
    let mut text = String::new();
    for archive in archives {
        let Archive { options, address } = archive;
        for suite in [
            codename.clone(),
            format!("{codename}-updates"),
            format!("{codename}-backports"),
        ] {
            writeln!(text, "deb {options} {address} {suite} main")?;
        }
    }
    Ok((codename, text))
}

/// A package archive that carries the release itself.
#[derive(Debug, PartialEq)]
struct Archive {
    options: String,
    address: String,
}

/// Reads the one-line and the deb822 source files below `etc` for archives of suite `codename`.
fn configured_archives(etc: &Path, codename: &str) -> Vec<Archive> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => found.extend(text.lines().filter_map(|line| one_line(line, codename))),
            Some("sources") => {
                found.extend(text.split("\n\n").filter_map(|part| stanza(part, codename)));
            }
            _ => {}
        }
    }
    found.truncate(1);
    found
}

/// Parses `deb [options] address suite components`.
fn one_line(line: &str, codename: &str) -> Option<Archive> {
    let rest = line.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']').map(|(o, r)| (format!("[{o}]"), r))?,
        None => (String::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let address = words.next()?.to_owned();
    (words.next()? == codename).then_some(Archive { options, address })
}

/// Parses one deb822 stanza.
fn stanza(text: &str, codename: &str) -> Option<Archive> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    if !field("Types")?.split_whitespace().any(|kind| kind == "deb")
        || !field("Suites")?
            .split_whitespace()
            .any(|suite| suite == codename)
        || field("Enabled") == Some("no")
    {
        return None;
    }
    let options = field("Signed-By")
        .filter(|key| key.starts_with('/'))
        .map_or_else(String::new, |key| format!("[signed-by={key}]"));
    let address = field("URIs")?.split_whitespace().next()?.to_owned();
    Some(Archive { options, address })
}

#[cfg(test)]
mod tests {
    use super::{one_line, stanza};

    #[test]
    fn a_stanza_of_another_suite_is_left_out() {
        let text = "Types: deb\nURIs: http://a.example/debian\nSuites: bookworm-security\n";
        assert!(stanza(text, "bookworm").is_none());
    }

    #[test]
    fn a_stanza_keeps_its_key_and_first_address() {
        let text = "Types: deb deb-src\nURIs: http://a.example/d http://b.example/d\n\
                    Suites: bookworm bookworm-updates\nSigned-By: /usr/share/k.gpg\n";
        let archive = stanza(text, "bookworm").unwrap();
        assert_eq!(archive.options, "[signed-by=/usr/share/k.gpg]");
        assert_eq!(archive.address, "http://a.example/d");
    }

    #[test]
    fn a_one_line_source_may_have_options() {
        let archive =
            one_line("deb [arch=amd64] http://a.example/d trixie main", "trixie").unwrap();
        assert_eq!(archive.options, "[arch=amd64]");
        assert!(one_line("# deb http://a.example/d trixie main", "trixie").is_none());
        assert!(one_line("deb http://a.example/d sid main", "trixie").is_none());
    }
}
