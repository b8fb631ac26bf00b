// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The distribution's package client, with a state of its own: packages are downloaded and unpacked
//! into the build directory, not installed. No root is needed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::quietly;

/// A package client whose lists are current.
pub struct Client {
    place: PathBuf,
    architectures: Vec<&'static str>,
}

impl Client {
    /// Reads the lists of `suites` into `place`, from the archive that this machine gets its own
    /// packages from: for this machine, and for `architectures` too.
    ///
    /// # Errors
    ///
    /// If there is no such client or archive, or a suite cannot be read.
    pub fn open(place: &Path, suites: &[&str], architectures: &[&'static str]) -> Result<Self> {
        fs::create_dir_all(place.join("state/lists/partial"))?;
        fs::write(place.join("status"), "")?;
        let archive = archive()?;
        let mut sources = String::new();
        for suite in suites {
            let Archive { options, address } = &archive;
            writeln!(sources, "deb {options} {address} {suite} main")?;
        }
        fs::write(place.join("sources.list"), sources)?;
        let client = Self {
            place: place.into(),
            architectures: architectures.into(),
        };
        quietly(client.command("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("the package client cannot read {}", suites.join(", ")))?;
        Ok(client)
    }

    /// Returns a program of the client that uses this state and no other.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (key, path) in [
            ("Dir::State", self.place.join("state")),
            ("Dir::State::status", self.place.join("status")),
            ("Dir::Cache", self.place.join("cache")),
            ("Dir::Etc::sourcelist", self.place.join("sources.list")),
            ("Dir::Etc::sourceparts", PathBuf::from("/dev/null")),
        ] {
            command.arg("-o").arg(format!("{key}={}", path.display()));
        }
        for option in [
            "APT::Sandbox::User=",
            "Debug::NoLocking=1",
            "Acquire::Languages=none",
        ] {
            command.args(["-o", option]);
        }
        for architecture in &self.architectures {
            let option = format!("APT::Architectures::={architecture}");
            command.arg("-o").arg(option);
        }
        command
    }

    /// Returns the names of all packages that start with `start`.
    ///
    /// # Errors
    ///
    /// If the client fails.
    pub fn names(&self, start: &str) -> Result<Vec<String>> {
        let mut search = self.command("apt-cache");
        let text = quietly(search.args(["pkgnames", start]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Downloads packages with all that they need, and unpacks them into `root`.
    ///
    /// # Errors
    ///
    /// If one is not there, or does not unpack.
    pub fn unpack(&self, suite: Option<&str>, packages: &[&str], root: &Path) -> Result<()> {
        let archives = self.place.join("cache/archives");
        fs::create_dir_all(archives.join("partial"))?;
        let mut install = self.command("apt-get");
        install.args(["-qq", "-y", "--no-install-recommends", "--download-only"]);
        if let Some(suite) = suite {
            install.args(["-t", suite]);
        }
        quietly(install.arg("install").args(packages))?;
        for entry in fs::read_dir(&archives)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                extract(&path, root, &[])?;
            }
        }
        fs::remove_dir_all(self.place.join("cache"))?;
        Ok(())
    }

    /// Downloads one package alone, and unpacks those of its files that match `patterns`, or all.
    ///
    /// # Errors
    ///
    /// If it is not there, or does not have them.
    pub fn take(&self, package: &str, root: &Path, patterns: &[&str]) -> Result<()> {
        let folder = self.place.join("one");
        fs::create_dir_all(&folder)?;
        let mut download = self.command("apt-get");
        download.args(["-qq", "download", package]);
        quietly(download.current_dir(&folder))?;
        for entry in fs::read_dir(&folder)? {
            extract(&entry?.path(), root, patterns)?;
        }
        fs::remove_dir_all(&folder)?;
        Ok(())
    }

    /// Deletes the lists.
    ///
    /// # Errors
    ///
    /// If they cannot be deleted.
    pub fn close(self) -> Result<()> {
        fs::remove_dir_all(self.place.join("state"))?;
        Ok(())
    }
}

/// Unpacks those files of a package that match `patterns`, or all; links to folders stay links.
fn extract(package: &Path, root: &Path, patterns: &[&str]) -> Result<()> {
    fs::create_dir_all(root)?;
    let mut unpack = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(crate::command::missing("dpkg-deb"))?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"]);
    tar.arg(root).args(["--wildcards", "-f", "-"]);
    // Nobody reads them here.
    for papers in ["./usr/share/doc", "./usr/share/man", "./usr/share/locale"] {
        tar.arg(format!("--exclude={papers}"));
    }
    let output = tar
        .args(patterns)
        .stdin(unpack.stdout.take().context("no pipe")?)
        .output()
        .context("tar is missing")?;
    let unpacked = unpack.wait()?.success();
    if !output.status.success() || !unpacked {
        let name = package.file_name().unwrap_or_default();
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{} does not unpack: {}", name.display(), words.trim());
    }
    Ok(())
}

/// Returns the code name of the release that this machine runs.
///
/// # Errors
///
/// If it has none.
pub fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("not a Linux distribution")?;
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("the distribution has no code name")?;
    Ok(name.trim_matches('"').to_owned())
}

/// Returns the archive that this machine's packages come from.
fn archive() -> Result<Archive> {
    let codename = codename()?;
    configured_archives(Path::new("/etc/apt"), &codename)
        .pop()
        .with_context(|| format!("no package source for {codename} is configured"))
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
