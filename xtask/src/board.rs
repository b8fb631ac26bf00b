// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The boards: what each is built of, and the machine that QEMU makes of it.

use std::path::PathBuf;

use clap::Args;

use crate::command::target;
use crate::toolchain::{AARCH64, X86_64};

/// One bare-metal image.
pub struct Image {
    /// Name of the binary.
    pub name: &'static str,
    /// Package that builds it.
    pub package: &'static str,
    /// How it gets into the machine.
    pub load: Load,
    /// What it may take of text and constants together, in KiB. A budget goes up only with a reason
    /// in the commit that raises it.
    pub budget: u64,
}

/// How an image gets into the machine.
pub enum Load {
    /// The machine starts in it, from flash.
    Flash,
    /// QEMU starts the linked image as it would a kernel.
    Kernel,
    /// It is in memory at this address.
    Memory(u64),
    /// The firmware finds it as the file of this name among those of QEMU's configuration device.
    File(&'static str),
}

/// The log of the firmware on its way to a file.
pub enum Log {
    /// Several images write frames; a tag says whose.
    Frames(&'static [(u8, &'static str)]),
    /// All is of this image.
    Plain(&'static str),
}

/// A machine that QEMU emulates, and what runs on it.
pub struct Board {
    /// Its name, which is that of the package of its firmware too.
    pub name: &'static str,
    /// The Rust target of its images.
    pub triple: &'static str,
    /// The QEMU program.
    pub program: &'static str,
    /// Machine, processor and IOMMU, as QEMU takes them. Memory is 1 GiB.
    pub machine: &'static [&'static str],
    /// What a QEMU must have for it, for people.
    pub needs: &'static str,
    /// Words before the place to which QEMU writes the firmware's log.
    pub log_port: &'static [&'static str],
    /// What the log is made of.
    pub log: Log,
    /// Devices of this board alone.
    pub devices: &'static [&'static str],
    /// The images, in the order in which they run.
    pub images: &'static [Image],
    /// Where the page is that says what the guest's owner expects.
    pub policy: u64,
    /// Where the word is that tells the host payload what to do.
    pub mode: u64,
}

/// Arm with FEAT_RME: monitor at EL3, TSM at R-EL2.
pub static QEMU_VIRT: Board = Board {
    name: "qemu-virt",
    triple: AARCH64,
    program: "qemu-system-aarch64",
    machine: &[
        "-M",
        "virt,secure=on,virtualization=on,gic-version=3,iommu=smmuv3,its=on",
        "-cpu",
        "max,x-rme=on,sme=off,pauth-impdef=on",
    ],
    needs: "FEAT_RME (x-rme)",
    log_port: &["-serial"],
    log: Log::Frames(&[(b'M', "monitor"), (b'T', "tsm")]),
    devices: &[],
    // The aim is 40 KiB for the monitor (signing a platform token takes 50) and 200 for the TSM.
    images: &[
        Image {
            name: "monitor",
            package: "qemu-virt",
            load: Load::Flash,
            budget: 112,
        },
        Image {
            name: "tsm",
            package: "qemu-virt",
            load: Load::Memory(0x7f00_0000),
            budget: 448,
        },
        Image {
            name: "host-payload",
            package: "host-payload",
            load: Load::Memory(0x4800_0000),
            budget: 256,
        },
        Image {
            name: "guest-payload",
            package: "guest-payload",
            load: Load::Memory(0x4c00_0000),
            budget: 256,
        },
    ],
    policy: 0x4e00_0000,
    mode: 0x4e00_1000,
};

/// x86_64 with SVM and VT-d: TSM in SVM root mode.
pub static QEMU_Q35: Board = Board {
    name: "qemu-q35",
    triple: X86_64,
    program: "qemu-system-x86_64",
    // HPET and SMM would let the host write any memory.
    machine: &[
        "-M",
        "q35,hpet=off,smm=off",
        "-accel",
        "tcg",
        "-cpu",
        "max,svm=on,enforce",
        "-no-reboot",
        "-vga",
        "none",
        "-global",
        "ICH9-LPC.disable_s3=1",
        "-device",
        "intel-iommu,intremap=off,caching-mode=on,aw-bits=48",
    ],
    needs: "SVM and VT-d (intel-iommu)",
    log_port: &["-global", "isa-debugcon.iobase=0xe9", "-debugcon"],
    log: Log::Plain("tsm"),
    // A device that copies memory wherever its driver says.
    devices: &["edu,bus=pcie.0,addr=4.0,dma_mask=0xffffffffffff"],
    images: &[
        Image {
            name: "tsm",
            package: "qemu-q35",
            load: Load::Kernel,
            budget: 512,
        },
        Image {
            name: "host-payload",
            package: "host-payload",
            load: Load::File("opt/portcullis/host"),
            budget: 256,
        },
        Image {
            name: "guest-payload",
            package: "guest-payload",
            load: Load::Memory(0x2000_0000),
            budget: 256,
        },
    ],
    policy: 0x2200_0000,
    mode: 0x2200_1000,
};

/// Every board.
pub static BOARDS: &[&Board] = &[&QEMU_VIRT, &QEMU_Q35];

/// Which boards to work on.
#[derive(Args, Clone, Default)]
pub struct Choice {
    /// Only this board: qemu-virt or qemu-q35.
    #[arg(long, value_name = "BOARD", value_parser = named)]
    board: Option<&'static Board>,
}

impl Choice {
    /// Returns the board that is named, or all.
    pub fn boards(&self) -> Vec<&'static Board> {
        self.board
            .map_or_else(|| BOARDS.to_vec(), |board| vec![board])
    }
}

/// Returns the board called `name`.
///
/// # Errors
///
/// If there is none.
pub fn named(name: &str) -> Result<&'static Board, String> {
    let found = BOARDS.iter().find(|board| board.name == name);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = BOARDS.iter().map(|board| board.name).collect();
        format!("there are {}", names.join(" and "))
    })
}

impl Board {
    /// Returns its image of this name.
    pub fn image(&self, name: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.name == name)
    }

    /// Returns the packages of its images.
    pub fn packages(&self) -> Vec<&'static str> {
        let mut packages: Vec<_> = self.images.iter().map(|image| image.package).collect();
        packages.dedup();
        packages
    }

    /// Returns the path of a linked image with its symbols.
    pub fn elf(&self, image: &Image) -> PathBuf {
        target().join(self.triple).join("release").join(image.name)
    }

    /// Returns the path of the file that is loaded.
    pub fn binary(&self, image: &Image) -> PathBuf {
        match image.load {
            Load::Kernel => self.elf(image),
            _ => self.folder().join(image.name).with_extension("bin"),
        }
    }

    /// Returns the folder of what is made of linked images.
    pub fn folder(&self) -> PathBuf {
        target().join("images").join(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::{BOARDS, Log, named};

    #[test]
    fn a_board_is_found_by_its_name_only() {
        for board in BOARDS {
            assert!(named(board.name).is_ok_and(|found| found.name == board.name));
        }
        assert!(named("qemu").is_err());
    }

    #[test]
    fn every_log_is_of_an_image() {
        for board in BOARDS {
            let names = match board.log {
                Log::Frames(tags) => tags.iter().map(|tag| tag.1).collect(),
                Log::Plain(name) => vec![name],
            };
            assert!(names.iter().all(|name| board.image(name).is_some()));
        }
    }
}
