// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The setup header of an image, and the boot parameters made of it.

use crate::arch::pvh::{MemoryRange, RESERVED, USABLE};

use super::{PAGE, place};

/// Type of a memory range that holds ACPI tables and can be used once they were read.
const ACPI_TABLES: u32 = 3;

/// Offsets of the setup header and of the boot parameters.
mod offset {
    pub const ACPI_ROOT: usize = 0x070;
    pub const RAMDISK_HIGH: usize = 0x0c0;
    pub const RAMDISK_SIZE_HIGH: usize = 0x0c4;
    pub const MAP_COUNT: usize = 0x1e8;
    pub const HEADER: usize = 0x1f1;
    pub const SECTORS: usize = 0x1f1;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const JUMP: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const LOADER: usize = 0x210;
    pub const START: usize = 0x214;
    pub const RAMDISK: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const COMMAND_LINE: usize = 0x228;
    pub const FLAGS: usize = 0x236;
    pub const COMMAND_LINE_SIZE: usize = 0x238;
    pub const PREFERRED: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
    /// First byte that the header must have to be of use here.
    pub const END: usize = 0x264;
    pub const MAP: usize = 0x2d0;
}

/// Protocol that has all fields that are used.
const OLDEST: u16 = 0x20c;
/// Flag: there is a 64-bit entry, 0x200 bytes after the start.
const HAS_64_BIT_ENTRY: u16 = 1;
const ENTRY: u64 = 0x200;
/// "A loader without a number".
const UNKNOWN_LOADER: u8 = 0xff;
const SECTOR: u64 = 512;
/// Bytes of a range of the memory map in the boot parameters.
const RANGE_BYTES: usize = 20;
/// Most ranges of the memory map in the boot parameters.
const MOST_RANGES: usize = 128;

/// Says that an image cannot be started, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no image of the boot protocol, or one without a 64-bit entry.
    NotAnImage,
    /// What it says of itself is not what there is.
    Damaged,
    /// There is no usable memory where it has to be, or something else is there.
    NoRoom,
    /// The command line is longer than the image takes.
    CommandLine,
}

/// An image, as its setup header describes it.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The header with its place in the file.
    header: &'a [u8],
    /// First byte of the file that is loaded.
    pub offset: u32,
    /// Bytes of the file that are loaded.
    pub bytes: u32,
    /// Where they are loaded.
    pub load: u64,
    /// Bytes that the image needs there until it has read its memory map.
    pub needed: u64,
    command_line: u32,
}

impl<'a> Image<'a> {
    /// Reads the setup header in `head`, the first page of a file of `bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAnImage`] and [`Refusal::Damaged`].
    pub fn parse(head: &'a [u8; PAGE], bytes: u64) -> Result<Self, Refusal> {
        let half = |at| u16::from_le_bytes(take(head, at));
        let word = |at| u32::from_le_bytes(take(head, at));
        if half(offset::BOOT_FLAG) != 0xaa55
            || &take::<4>(head, offset::MAGIC) != b"HdrS"
            || half(offset::VERSION) < OLDEST
            || half(offset::FLAGS) & HAS_64_BIT_ENTRY == 0
        {
            return Err(Refusal::NotAnImage);
        }
        let end = offset::MAGIC + usize::from(head[offset::JUMP]);
        let header = head.get(..end).ok_or(Refusal::Damaged)?;
        let sectors = match head[offset::SECTORS] {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let first = (sectors + 1) * SECTOR;
        let loaded = bytes.checked_sub(first).ok_or(Refusal::Damaged)?;
        let load = u64::from_le_bytes(take(head, offset::PREFERRED));
        let needed = u64::from(word(offset::INIT_SIZE)).max(loaded);
        if end < offset::END || loaded <= ENTRY || !load.is_multiple_of(PAGE as u64) {
            return Err(Refusal::Damaged);
        }
        Ok(Self {
            header,
            offset: first as u32,
            bytes: u32::try_from(loaded).map_err(|_| Refusal::Damaged)?,
            load,
            needed,
            command_line: word(offset::COMMAND_LINE_SIZE),
        })
    }

    /// Returns the address of the 64-bit entry.
    pub const fn entry(&self) -> u64 {
        self.load.saturating_add(ENTRY)
    }

    /// Checks that image, ramdisk and what the TSM hands over lie in usable memory, apart from each
    /// other and from the TSM.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoRoom`] and [`Refusal::CommandLine`].
    pub fn fits(&self, host: &Handover<'_>) -> Result<(), Refusal> {
        if host.command_line > self.command_line as usize || host.command_line >= PAGE {
            return Err(Refusal::CommandLine);
        }
        let handed = (place::PARAMETERS, place::END - place::PARAMETERS);
        const RAMDISK: usize = 2;
        let (ramdisk, bytes) = host.ramdisk.unwrap_or((0, 0));
        let region = (host.region.0, host.region.1.saturating_sub(host.region.0));
        let parts = [handed, (self.load, self.needed), (ramdisk, bytes), region];
        for (number, part) in parts.iter().enumerate() {
            let others = parts.iter().skip(number + 1);
            // The platform may have put the end of the ramdisk where its firmware was.
            let checked = if number == RAMDISK {
                (part.0, part.1.min(PAGE as u64))
            } else {
                *part
            };
            if !host.is_usable(checked) || others.into_iter().any(|other| overlap(*part, *other)) {
                return Err(Refusal::NoRoom);
            }
        }
        Ok(())
    }
}

fn overlap((first, bytes): (u64, u64), (other, others): (u64, u64)) -> bool {
    first < other.saturating_add(others) && other < first.saturating_add(bytes)
}

/// What the host is told.
#[derive(Clone, Copy, Debug)]
pub struct Handover<'a> {
    /// The memory map as the platform gave it.
    pub memory: &'a [MemoryRange],
    /// First byte of the TSM's region, and the first after it.
    pub region: (u64, u64),
    /// Address and size of the ramdisk.
    pub ramdisk: Option<(u64, u64)>,
    /// Bytes of the command line, without a zero at the end.
    pub command_line: usize,
    /// Whether there are ACPI tables at [`place::ACPI`].
    pub acpi: bool,
}

impl Handover<'_> {
    fn is_usable(&self, (first, bytes): (u64, u64)) -> bool {
        let inside = |range: &MemoryRange| {
            range.kind == USABLE
                && range.base <= first
                && first.saturating_add(bytes) <= range.base.saturating_add(range.size)
        };
        bytes == 0 || self.memory.iter().any(inside)
    }

    /// Makes the boot parameters.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoRoom`] if the memory map has more ranges than there is room for.
    pub fn parameters(&self, image: &Image<'_>) -> Result<[u8; PAGE], Refusal> {
        let mut page = [0; PAGE];
        let header = image.header.get(offset::HEADER..).unwrap_or(&[]);
        put(&mut page, offset::HEADER, header);
        put(&mut page, offset::LOADER, &[UNKNOWN_LOADER]);
        put(&mut page, offset::START, &(image.load as u32).to_le_bytes());
        let line = place::COMMAND_LINE as u32;
        put(&mut page, offset::COMMAND_LINE, &line.to_le_bytes());
        if self.acpi {
            put(&mut page, offset::ACPI_ROOT, &place::ACPI.to_le_bytes());
        }
        if let Some((address, bytes)) = self.ramdisk {
            let halves = [
                (offset::RAMDISK, offset::RAMDISK_HIGH, address),
                (offset::RAMDISK_SIZE, offset::RAMDISK_SIZE_HIGH, bytes),
            ];
            for (low, high, value) in halves {
                put(&mut page, low, &(value as u32).to_le_bytes());
                put(&mut page, high, &((value >> 32) as u32).to_le_bytes());
            }
        }
        self.put_map(&mut page)?;
        Ok(page)
    }

    /// Writes the memory map: what the TSM keeps is reserved in it.
    fn put_map(&self, page: &mut [u8; PAGE]) -> Result<(), Refusal> {
        let holes = [
            (place::ACPI, place::ACPI + PAGE as u64, ACPI_TABLES),
            (self.region.0, self.region.1, RESERVED),
        ];
        let mut count = 0_usize;
        let mut at = offset::MAP;
        let mut entry = |base: u64, top: u64, kind: u32| {
            if base >= top {
                return Ok(());
            }
            if count >= MOST_RANGES {
                return Err(Refusal::NoRoom);
            }
            let mut range = [0; RANGE_BYTES];
            range[..8].copy_from_slice(&base.to_le_bytes());
            range[8..16].copy_from_slice(&top.saturating_sub(base).to_le_bytes());
            range[16..].copy_from_slice(&kind.to_le_bytes());
            put(page, at, &range);
            at = at.saturating_add(RANGE_BYTES);
            count = count.saturating_add(1);
            Ok(())
        };
        for range in self.memory {
            let mut base = range.base;
            let top = range.base.saturating_add(range.size);
            // In the order of their addresses.
            for (first, end, kind) in holes {
                if range.kind == USABLE && base <= first && end <= top {
                    entry(base, first, USABLE)?;
                    entry(first, end, kind)?;
                    base = end;
                }
            }
            entry(base, top, range.kind)?;
        }
        put(page, offset::MAP_COUNT, &[count as u8]);
        Ok(())
    }
}

/// Returns `N` bytes of a page; offsets are constants that lie inside.
fn take<const N: usize>(page: &[u8; PAGE], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(found) = page.get(at..at + N) {
        bytes.copy_from_slice(found);
    }
    bytes
}

/// Puts bytes into a page; offsets are constants that lie inside.
fn put(page: &mut [u8; PAGE], at: usize, bytes: &[u8]) {
    let rest = page.get_mut(at..);
    if let Some(place) = rest.and_then(|rest| rest.get_mut(..bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{Handover, Image, MemoryRange, PAGE, Refusal, offset, put};

    fn image() -> [u8; PAGE] {
        let mut head = [0; PAGE];
        put(&mut head, offset::SECTORS, &[39]);
        put(&mut head, offset::BOOT_FLAG, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(&mut head, offset::MAGIC, b"HdrS\x0f\x02");
        put(&mut head, offset::FLAGS, &[0x7f, 0]);
        put(
            &mut head,
            offset::COMMAND_LINE_SIZE,
            &2047_u32.to_le_bytes(),
        );
        put(&mut head, offset::PREFERRED, &0x100_0000_u64.to_le_bytes());
        put(&mut head, offset::INIT_SIZE, &0x3c4_e000_u32.to_le_bytes());
        head
    }

    /// As QEMU gives it for 1 GiB.
    const MEMORY: &[MemoryRange] = &[
        MemoryRange {
            base: 0,
            size: 0x9_fc00,
            kind: 1,
        },
        MemoryRange {
            base: 0x9_fc00,
            size: 0x400,
            kind: 2,
        },
        MemoryRange {
            base: 0x10_0000,
            size: 0x3fed_f000,
            kind: 1,
        },
        MemoryRange {
            base: 0xb000_0000,
            size: 0x1000_0000,
            kind: 2,
        },
    ];

    const HOST: Handover<'_> = Handover {
        memory: MEMORY,
        region: (0x1000_0000, 0x1400_0000),
        ramdisk: Some((0x3fe3_5000, 0x1000)),
        command_line: 20,
        acpi: true,
    };

    #[test]
    fn a_kernel_image_says_where_it_belongs() {
        let head = image();
        let image = Image::parse(&head, 14_500_000).unwrap();
        assert_eq!((image.offset, image.bytes), (0x5000, 14_500_000 - 0x5000));
        assert_eq!((image.load, image.entry()), (0x100_0000, 0x100_0200));
        assert_eq!(image.needed, 0x3c4_e000);
        assert_eq!(image.fits(&HOST), Ok(()));
        let host = Handover {
            ramdisk: Some((0x3ffd_e000, 0x1800)),
            ..HOST
        };
        assert_eq!(image.fits(&host), Ok(()));
    }

    #[test]
    fn what_is_no_image_or_a_damaged_one_is_refused() {
        let parse = |at: usize, byte: u8, bytes| {
            let mut head = image();
            head[at] = byte;
            Image::parse(&head, bytes).err()
        };
        let large = 14_500_000;
        assert_eq!(parse(0, 0, large), None);
        for (at, byte) in [
            (offset::BOOT_FLAG, 0),
            (offset::MAGIC, b'h'),
            (offset::VERSION, 0x0b),
            (offset::FLAGS, 0x7e),
        ] {
            assert_eq!(parse(at, byte, large), Some(Refusal::NotAnImage), "{at:#x}");
        }
        assert_eq!(parse(offset::JUMP, 0x20, large), Some(Refusal::Damaged));
        assert_eq!(parse(offset::PREFERRED, 1, large), Some(Refusal::Damaged));
        assert_eq!(parse(0, 0, 0x5000), Some(Refusal::Damaged));
        assert_eq!(parse(0, 0, 0x5200), Some(Refusal::Damaged));
        assert_eq!(parse(0, 0, 1 << 33), Some(Refusal::Damaged));
    }

    #[test]
    fn nothing_is_loaded_over_the_tsm_or_over_each_other() {
        let head = image();
        let image = Image::parse(&head, 14_500_000).unwrap();
        for (region, ramdisk) in [
            ((0x200_0000, 0x600_0000), None),
            (HOST.region, Some((0x100_0000, 0x1000))),
            (HOST.region, Some((0x13ff_f000, 0x2000))),
            (HOST.region, Some((0x1_5000, 0x1000))),
            (HOST.region, Some((0x4000_0000, 0x1000))),
            (HOST.region, Some((u64::MAX - 5, 0x1000))),
        ] {
            let host = Handover {
                region,
                ramdisk,
                ..HOST
            };
            assert_eq!(
                image.fits(&host),
                Err(Refusal::NoRoom),
                "{region:x?} {ramdisk:x?}"
            );
        }
        let host = Handover {
            command_line: 2048,
            ..HOST
        };
        assert_eq!(image.fits(&host), Err(Refusal::CommandLine));
    }

    #[test]
    fn the_memory_map_keeps_the_host_off_the_tsm() {
        let head = image();
        let image = Image::parse(&head, 14_500_000).unwrap();
        let page = HOST.parameters(&image).unwrap();
        let entries: Vec<_> = (0..usize::from(page[offset::MAP_COUNT]))
            .map(|number| {
                let at = offset::MAP + 20 * number;
                let long = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
                (long(at), long(at + 8), page[at + 16])
            })
            .collect();
        let expected = [
            (0, 0x1_4000, 1),
            (0x1_4000, 0x1000, 3),
            (0x1_5000, 0x8_ac00, 1),
            (0x9_fc00, 0x400, 2),
            (0x10_0000, 0xff0_0000, 1),
            (0x1000_0000, 0x400_0000, 2),
            (0x1400_0000, 0x2bfd_f000, 1),
            (0xb000_0000, 0x1000_0000, 2),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn the_parameters_hold_the_header_and_what_a_loader_adds() {
        let head = image();
        let image = Image::parse(&head, 14_500_000).unwrap();
        let page = HOST.parameters(&image).unwrap();
        assert_eq!(
            page[offset::MAGIC..offset::LOADER],
            head[offset::MAGIC..offset::LOADER]
        );
        assert_eq!(page[offset::LOADER], 0xff);
        assert_eq!(page[offset::ACPI_ROOT..][..8], 0x1_4000_u64.to_le_bytes());
        assert_eq!(page[offset::RAMDISK..][..4], 0x3fe3_5000_u32.to_le_bytes());
        assert_eq!(page[offset::RAMDISK_SIZE..][..4], 0x1000_u32.to_le_bytes());
        assert_eq!(
            page[offset::COMMAND_LINE..][..4],
            0x1_5000_u32.to_le_bytes()
        );
        // Nothing but what is named is set: Linux takes other fields as valid, too.
        assert!(page[..offset::ACPI_ROOT].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_memory_map_of_too_many_ranges_is_refused() {
        let head = image();
        let image = Image::parse(&head, 14_500_000).unwrap();
        let memory = [MemoryRange {
            base: 0,
            size: 0x1000,
            kind: 2,
        }; 129];
        let host = Handover {
            memory: &memory,
            ..HOST
        };
        assert!(host.parameters(&image).is_err());
        let host = Handover {
            memory: &memory[..128],
            ..HOST
        };
        assert!(host.parameters(&image).is_ok());
    }
}
