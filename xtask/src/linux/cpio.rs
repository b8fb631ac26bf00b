// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Archives in the format of an initramfs: cpio, "newc" (Linux: early-userspace/buffer-format.rst).

const FOLDER: u32 = 0o04_0755;
const PROGRAM: u32 = 0o10_0755;
const CHARACTERS: u32 = 0o02_0600;

/// An archive that grows.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder; those above it must be there.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER, &[], (0, 0));
    }

    /// Adds a file that anybody may read and run.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, PROGRAM, data, (0, 0));
    }

    /// Adds a character device for root.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTERS, &[], (major, minor));
    }

    /// Returns the whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8], (major, minor): (u32, u32)) {
        self.entries += 1;
        let inode = self.entries;
        // Owner, group, time and the device that it lies on are 0, as is the checksum; one link.
        let fields = [
            inode,
            mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    /// Header with name, and data, each end at a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    /// Name, mode, data and device of each entry, read as the format says.
    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>, u32)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let digits = &bytes[6 + 8 * index..][..8];
                u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (size, length) = (field(6) as usize, field(11) as usize);
            let name = &bytes[110..110 + length];
            assert_eq!(name.last(), Some(&0));
            let name = String::from_utf8(name[..length - 1].to_vec()).unwrap();
            let start = (110 + length).next_multiple_of(4);
            let data = bytes[start..start + size].to_vec();
            found.push((name, field(1), data, field(9) << 16 | field(10)));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn what_is_written_is_read_by_the_format() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/sh", b"#!12345");
        archive.device("console", 5, 1);
        let found = entries(&archive.finish());
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], ("bin".into(), 0o40755, vec![], 0));
        assert_eq!(
            found[1],
            ("bin/sh".into(), 0o100_755, b"#!12345".to_vec(), 0)
        );
        assert_eq!(found[2], ("console".into(), 0o20600, vec![], 5 << 16 | 1));
        assert_eq!(found[3].0, "TRAILER!!!");
    }
}
