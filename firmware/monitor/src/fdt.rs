// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reading and editing the device tree that the machine hands over.
//!
//! The tree is walked token by token with every offset checked; the edited tree is written to another
//! buffer. What the monitor keeps for itself goes, what the host needs to know of it comes.

use crate::manifest::Region;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const HEADER: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why a tree was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdtError {
    /// Not a device tree of version 17.
    Header,
    /// A token, name or length does not fit.
    Malformed,
    /// The edited tree does not fit into its buffer.
    Space,
    /// A property has a format that this code does not read.
    Unsupported,
}

/// A device tree.
#[derive(Clone, Copy)]
pub struct Fdt<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
    total: u32,
    boot_processor: u32,
}

/// One piece of the structure block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Begin(&'a [u8]),
    Property {
        name: &'a [u8],
        name_offset: u32,
        value: &'a [u8],
    },
    End,
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

fn double(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from(word(bytes, offset)?) << 32 | u64::from(word(bytes, offset + 4)?))
}

fn string(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    rest.get(..rest.iter().position(|byte| *byte == 0)?)
}

const fn padded(length: usize) -> usize {
    (length + 3) & !3
}

struct Tokens<'a> {
    fdt: Fdt<'a>,
    offset: usize,
    depth: usize,
}

impl<'a> Tokens<'a> {
    /// Returns the next token, none after the root node.
    fn next(&mut self) -> Result<Option<Token<'a>>, FdtError> {
        self.advance().ok_or(FdtError::Malformed)
    }

    fn advance(&mut self) -> Option<Option<Token<'a>>> {
        let structure = self.fdt.structure;
        loop {
            let token = word(structure, self.offset)?;
            self.offset += 4;
            match token {
                NOP => {}
                BEGIN_NODE => {
                    let name = string(structure, self.offset)?;
                    self.offset += padded(name.len() + 1);
                    self.depth += 1;
                    return Some(Some(Token::Begin(name)));
                }
                PROPERTY if self.depth > 0 => {
                    let length = word(structure, self.offset)? as usize;
                    let name_offset = word(structure, self.offset + 4)?;
                    self.offset += 8;
                    let value = structure.get(self.offset..self.offset.checked_add(length)?)?;
                    self.offset += padded(length);
                    let name = string(self.fdt.strings, name_offset as usize)?;
                    return Some(Some(Token::Property {
                        name,
                        name_offset,
                        value,
                    }));
                }
                END_NODE => {
                    self.depth = self.depth.checked_sub(1)?;
                    return Some(Some(Token::End));
                }
                END if self.depth == 0 => return Some(None),
                _ => return None,
            }
        }
    }

    /// Passes the rest of the node that has just begun.
    fn skip(&mut self) -> Result<(), FdtError> {
        let outside = self.depth.checked_sub(1).ok_or(FdtError::Malformed)?;
        while self.depth > outside {
            if self.next()?.is_none() {
                return Err(FdtError::Malformed);
            }
        }
        Ok(())
    }
}

/// What the tree says about the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Memory, as far as there is some, in the order of the tree.
    pub memory: [Region; 4],
    /// Number of processors.
    pub processors: usize,
}

/// What to change.
#[derive(Clone, Copy, Debug)]
pub struct Edits<'a> {
    /// Memory that the host must not touch.
    pub reserved: Region,
    /// Address space that no BAR of the host may take.
    pub reserved_mmio: Region,
    /// Nodes to delete wherever they are: the part of their name before the `@`.
    pub nodes: &'a [&'a [u8]],
    /// Properties to delete wherever they are.
    pub properties: &'a [&'a [u8]],
}

/// Names of the properties that are added; they follow the tree's own strings.
const NEW_STRINGS: &[u8] =
    b"#address-cells\0#size-cells\0ranges\0reg\0no-map\0compatible\0method\0enable-method\0";
const ADDRESS_CELLS: u32 = 0;
const SIZE_CELLS: u32 = 15;
const RANGES: u32 = 27;
const REG: u32 = 34;
const NO_MAP: u32 = 38;
const COMPATIBLE: u32 = 45;
const METHOD: u32 = 56;
const ENABLE_METHOD: u32 = 63;

impl<'a> Fdt<'a> {
    /// Reads the header of the tree at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FdtError> {
        let field = |offset| word(bytes, offset).ok_or(FdtError::Header);
        if field(0)? != MAGIC || field(20)? < VERSION || field(24)? > VERSION {
            return Err(FdtError::Header);
        }
        let total = field(4)?;
        let bytes = bytes.get(..total as usize).ok_or(FdtError::Header)?;
        let block = |offset: u32, size: u32| {
            let end = offset.checked_add(size).ok_or(FdtError::Header)?;
            bytes
                .get(offset as usize..end as usize)
                .ok_or(FdtError::Header)
        };
        let rest = bytes.get(field(16)? as usize..).ok_or(FdtError::Header)?;
        // The list of reservations ends with an empty one.
        let mut count = 0;
        loop {
            let entry = rest
                .get(count * 16..count * 16 + 16)
                .ok_or(FdtError::Header)?;
            count += 1;
            if entry.iter().all(|byte| *byte == 0) {
                break;
            }
        }
        Ok(Self {
            structure: block(field(8)?, field(36)?)?,
            strings: block(field(12)?, field(32)?)?,
            reservations: rest.get(..count * 16).ok_or(FdtError::Header)?,
            total,
            boot_processor: field(28)?,
        })
    }

    /// Returns the size of the space that the tree may fill, in bytes.
    #[must_use]
    pub const fn total_size(&self) -> u32 {
        self.total
    }

    fn tokens(self) -> Tokens<'a> {
        Tokens {
            fdt: self,
            offset: 0,
            depth: 0,
        }
    }

    /// Reads what the monitor must know of the machine.
    pub fn machine(self) -> Result<Machine, FdtError> {
        let mut machine = Machine::default();
        let mut banks = machine.memory.iter_mut();
        let mut tokens = self.tokens();
        let mut parent: &[u8] = b"";
        let mut node: &[u8] = b"";
        while let Some(token) = tokens.next()? {
            match token {
                Token::Begin(name) => {
                    (parent, node) = if tokens.depth <= 2 {
                        (name, name)
                    } else {
                        (parent, name)
                    };
                    if tokens.depth == 3 && parent == b"cpus" && base_name(name) == b"cpu" {
                        machine.processors += 1;
                    }
                }
                Token::Property {
                    name: b"#address-cells" | b"#size-cells",
                    value,
                    ..
                } if tokens.depth == 1 && value != 2_u32.to_be_bytes() => {
                    return Err(FdtError::Unsupported);
                }
                Token::Property {
                    name: b"reg",
                    value,
                    ..
                } if tokens.depth == 2 && base_name(node) == b"memory" => {
                    for range in value.chunks_exact(16) {
                        let bank = banks.next().ok_or(FdtError::Unsupported)?;
                        let read = |offset| double(range, offset).ok_or(FdtError::Malformed);
                        *bank = Region {
                            base: read(0)?,
                            size: read(8)?,
                        };
                    }
                }
                _ => {}
            }
        }
        Ok(machine)
    }

    /// Writes the edited tree to `out` and returns its size. It claims as much space as this one.
    pub fn edit(self, out: &mut [u8], edits: &Edits) -> Result<usize, FdtError> {
        let structure_offset = HEADER + self.reservations.len();
        let new_strings = u32::try_from(self.strings.len()).map_err(|_| FdtError::Space)?;
        let mut writer = Writer {
            out,
            used: HEADER,
            new_strings,
        };
        writer.bytes(self.reservations)?;
        self.copy_nodes(&mut writer, edits)?;
        writer.word(END)?;
        let strings_offset = writer.used;
        writer.bytes(self.strings)?;
        writer.bytes(NEW_STRINGS)?;
        let size = writer.used;
        let total = self.total.max(as_word(size)?);
        let header = [
            MAGIC,
            total,
            as_word(structure_offset)?,
            as_word(strings_offset)?,
            as_word(HEADER)?,
            VERSION,
            16,
            self.boot_processor,
            as_word(size - strings_offset)?,
            as_word(strings_offset - structure_offset)?,
        ];
        writer.used = 0;
        for field in header {
            writer.word(field)?;
        }
        Ok(size)
    }

    fn copy_nodes(self, writer: &mut Writer, edits: &Edits) -> Result<(), FdtError> {
        let mut tokens = self.tokens();
        let mut top: &[u8] = b"";
        let mut reserved = false;
        while let Some(token) = tokens.next()? {
            match token {
                Token::Begin(name) => {
                    let depth = tokens.depth;
                    if edits.nodes.contains(&base_name(name)) || depth == 2 && name == b"psci" {
                        tokens.skip()?;
                        continue;
                    }
                    writer.begin(name)?;
                    if depth == 2 {
                        top = name;
                    }
                    if depth == 3 && top == b"cpus" && base_name(name) == b"cpu" {
                        writer.property(ENABLE_METHOD, b"psci\0")?;
                    }
                }
                Token::Property { name, .. }
                    if edits.properties.contains(&name)
                        || name == b"enable-method" && tokens.depth == 3 && top == b"cpus" => {}
                Token::Property {
                    name,
                    name_offset,
                    value,
                } => {
                    let at = writer.copied_property(name_offset, value)?;
                    if name == b"ranges" && base_name(top) == b"pcie" && tokens.depth == 2 {
                        let copy = writer
                            .out
                            .get_mut(at..at + value.len())
                            .ok_or(FdtError::Space)?;
                        shrink_windows(copy, edits.reserved_mmio)?;
                    }
                }
                Token::End => {
                    if tokens.depth == 1 && top == b"reserved-memory" {
                        reserved_child(writer, edits.reserved)?;
                        reserved = true;
                    }
                    if tokens.depth == 1 {
                        top = b"";
                    }
                    if tokens.depth == 0 {
                        root_children(writer, if reserved { None } else { Some(edits.reserved) })?;
                    }
                    writer.word(END_NODE)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the part of a node's name before its unit address.
fn base_name(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == b'@').next().unwrap_or(name)
}

fn as_word(value: usize) -> Result<u32, FdtError> {
    u32::try_from(value).map_err(|_| FdtError::Space)
}

/// Writes a tree front to back.
struct Writer<'a> {
    out: &'a mut [u8],
    used: usize,
    /// Where the new strings start in the strings block.
    new_strings: u32,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), FdtError> {
        let end = self.used.checked_add(bytes.len()).ok_or(FdtError::Space)?;
        self.out
            .get_mut(self.used..end)
            .ok_or(FdtError::Space)?
            .copy_from_slice(bytes);
        self.used = end;
        Ok(())
    }

    fn word(&mut self, value: u32) -> Result<(), FdtError> {
        self.bytes(&value.to_be_bytes())
    }

    fn pad(&mut self) -> Result<(), FdtError> {
        let missing = padded(self.used) - self.used;
        self.bytes([0; 3].get(..missing).unwrap_or_default())
    }

    fn begin(&mut self, name: &[u8]) -> Result<(), FdtError> {
        self.word(BEGIN_NODE)?;
        self.bytes(name)?;
        self.bytes(&[0])?;
        self.pad()
    }

    fn copied_property(&mut self, name_offset: u32, value: &[u8]) -> Result<usize, FdtError> {
        self.word(PROPERTY)?;
        self.word(as_word(value.len())?)?;
        self.word(name_offset)?;
        let at = self.used;
        self.bytes(value)?;
        self.pad()?;
        Ok(at)
    }

    fn property(&mut self, new_string: u32, value: &[u8]) -> Result<(), FdtError> {
        let name = self
            .new_strings
            .checked_add(new_string)
            .ok_or(FdtError::Space)?;
        self.copied_property(name, value)?;
        Ok(())
    }

    /// Writes a node's name with a unit address in lower-case hexadecimal.
    fn begin_at(&mut self, name: &[u8], address: u64) -> Result<(), FdtError> {
        self.word(BEGIN_NODE)?;
        self.bytes(name)?;
        let digits = (16 - address.leading_zeros() / 4).max(1);
        for digit in (0..digits).rev() {
            let nibble = (address >> (4 * digit)) as u8 & 0xf;
            self.bytes(&[if nibble < 10 {
                b'0' + nibble
            } else {
                b'a' + nibble - 10
            }])?;
        }
        self.bytes(&[0])?;
        self.pad()
    }
}

fn reserved_child(writer: &mut Writer, region: Region) -> Result<(), FdtError> {
    writer.begin_at(b"tsm@", region.base)?;
    let mut reg = [0; 16];
    let (base, size) = reg.split_at_mut(8);
    base.copy_from_slice(&region.base.to_be_bytes());
    size.copy_from_slice(&region.size.to_be_bytes());
    writer.property(REG, &reg)?;
    writer.property(NO_MAP, &[])?;
    writer.word(END_NODE)
}

fn root_children(writer: &mut Writer, reserved: Option<Region>) -> Result<(), FdtError> {
    writer.begin(b"psci")?;
    writer.property(COMPATIBLE, b"arm,psci-1.0\0arm,psci-0.2\0")?;
    writer.property(METHOD, b"smc\0")?;
    writer.word(END_NODE)?;
    let Some(region) = reserved else {
        return Ok(());
    };
    writer.begin(b"reserved-memory")?;
    writer.property(ADDRESS_CELLS, &2_u32.to_be_bytes())?;
    writer.property(SIZE_CELLS, &2_u32.to_be_bytes())?;
    writer.property(RANGES, &[])?;
    reserved_child(writer, region)?;
    writer.word(END_NODE)
}

/// Ends each window of a PCI host bridge where `reserved` begins, if it reaches into it.
///
/// A window is seven cells: PCI address (3), processor address (2), size (2).
fn shrink_windows(ranges: &mut [u8], reserved: Region) -> Result<(), FdtError> {
    if !ranges.len().is_multiple_of(28) {
        return Err(FdtError::Unsupported);
    }
    for window in ranges.chunks_exact_mut(28) {
        let read = |offset| double(window, offset).ok_or(FdtError::Malformed);
        let (base, size) = (read(12)?, read(20)?);
        if reserved.size != 0
            && base < reserved.base
            && reserved.base < base.saturating_add(size)
            && let Some(field) = window.get_mut(20..28)
        {
            field.copy_from_slice(&(reserved.base - base).to_be_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{
        BEGIN_NODE, END, END_NODE, Edits, Fdt, FdtError, HEADER, MAGIC, NOP, PROPERTY, Region,
        Token, VERSION,
    };
    use std::{string::String, vec, vec::Vec};

    /// A small tree, written by hand.
    #[derive(Default)]
    struct Tree {
        structure: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Tree {
        fn word(&mut self, word: u32) {
            self.structure.extend(word.to_be_bytes());
        }
        fn padded(&mut self, bytes: &[u8]) {
            self.structure.extend(bytes);
            self.structure
                .resize(self.structure.len().next_multiple_of(4), 0);
        }
        fn begin(&mut self, name: &str) {
            self.word(BEGIN_NODE);
            let mut name = name.as_bytes().to_vec();
            name.push(0);
            self.padded(&name);
        }
        fn property(&mut self, name: &str, value: &[u8]) {
            self.word(PROPERTY);
            self.word(value.len() as u32);
            self.word(self.strings.len() as u32);
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            self.padded(value);
        }
        fn end(&mut self) {
            self.word(END_NODE);
        }
        fn bytes(mut self, total: usize) -> Vec<u8> {
            self.word(END);
            let reservations = [0_u8; 16];
            let structure = HEADER + reservations.len();
            let strings = structure + self.structure.len();
            let mut out = Vec::new();
            for field in [
                MAGIC,
                total as u32,
                structure as u32,
                strings as u32,
                HEADER as u32,
                VERSION,
                16,
                0,
                self.strings.len() as u32,
                self.structure.len() as u32,
            ] {
                out.extend(field.to_be_bytes());
            }
            out.extend(reservations);
            out.extend(self.structure);
            out.extend(self.strings);
            out.resize(total, 0);
            out
        }
    }

    fn cells(values: &[u32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect()
    }

    fn board() -> Tree {
        let mut tree = Tree::default();
        tree.begin("");
        tree.property("#address-cells", &cells(&[2]));
        tree.property("#size-cells", &cells(&[2]));
        tree.begin("fw-cfg@9020000");
        tree.property("reg", &cells(&[0, 0x0902_0000, 0, 0x18]));
        tree.begin("child");
        tree.end();
        tree.end();
        tree.begin("virtio_mmio@a000000");
        tree.end();
        tree.word(NOP);
        tree.begin("pcie@10000000");
        tree.property("iommu-map", &cells(&[0, 1, 0, 0x10000]));
        tree.property(
            "ranges",
            &cells(&[
                0x0100_0000,
                0,
                0,
                0,
                0x3eff_0000,
                0,
                0x1_0000,
                0x0200_0000,
                0,
                0x1000_0000,
                0,
                0x1000_0000,
                0,
                0x2eff_0000,
            ]),
        );
        tree.end();
        tree.begin("memory@40000000");
        tree.property("reg", &cells(&[0, 0x4000_0000, 0, 0x4000_0000]));
        tree.end();
        tree.begin("cpus");
        tree.property("#address-cells", &cells(&[1]));
        tree.begin("cpu-map");
        tree.end();
        for name in ["cpu@0", "cpu@1"] {
            tree.begin(name);
            tree.property("reg", &cells(&[0]));
            tree.end();
        }
        tree.end();
        tree.end();
        tree
    }

    const EDITS: Edits = Edits {
        reserved: Region {
            base: 0x7f00_0000,
            size: 0x0100_0000,
        },
        reserved_mmio: Region {
            base: 0x3e00_0000,
            size: 0x0020_0000,
        },
        nodes: &[b"fw-cfg", b"virtio_mmio"],
        properties: &[b"iommu-map"],
    };

    fn print(bytes: &[u8]) -> Result<String, FdtError> {
        let fdt = Fdt::new(bytes)?;
        let mut tokens = fdt.tokens();
        let mut text = String::new();
        while let Some(token) = tokens.next()? {
            match token {
                Token::Begin(name) => {
                    text += &std::format!("{}{{", std::str::from_utf8(name).unwrap())
                }
                Token::Property { name, value, .. } => {
                    text += std::str::from_utf8(name).unwrap();
                    text += "=";
                    for byte in value {
                        text += &std::format!("{byte:02x}");
                    }
                    text += ";";
                }
                Token::End => text += "}",
            }
        }
        Ok(text)
    }

    fn edited(tree: Tree) -> String {
        let bytes = tree.bytes(0x2000);
        let mut out = vec![0xaa; 0x2000];
        let size = Fdt::new(&bytes).unwrap().edit(&mut out, &EDITS).unwrap();
        assert!(size < out.len());
        print(&out).unwrap()
    }

    #[test]
    fn the_machine_is_read_from_the_tree() {
        let bytes = board().bytes(0x1000);
        let machine = Fdt::new(&bytes).unwrap().machine().unwrap();
        assert_eq!(machine.processors, 2);
        assert_eq!(
            machine.memory[0],
            Region {
                base: 0x4000_0000,
                size: 0x4000_0000
            }
        );
        assert_eq!(machine.memory[1], Region::default());
    }

    #[test]
    fn what_the_monitor_keeps_is_gone() {
        let text = edited(board());
        for gone in ["fw-cfg", "virtio_mmio", "iommu-map", "child"] {
            assert!(!text.contains(gone), "{gone} in {text}");
        }
        for kept in ["pcie@10000000{", "memory@40000000{", "cpu-map{}"] {
            assert!(text.contains(kept), "{kept} not in {text}");
        }
    }

    #[test]
    fn what_the_host_must_know_is_there() {
        let text = edited(board());
        let psci = "psci{compatible=61726d2c707363692d312e300061726d2c707363692d302e3200;method=736d6300;}";
        assert!(text.contains(psci), "{text}");
        for cpu in ["cpu@0", "cpu@1"] {
            assert!(
                text.contains(&std::format!(
                    "{cpu}{{enable-method=7073636900;reg=00000000;}}"
                )),
                "{text}"
            );
        }
        let reserved = "reserved-memory{#address-cells=00000002;#size-cells=00000002;ranges=;\
            tsm@7f000000{reg=000000007f0000000000000001000000;no-map=;}}";
        assert!(text.contains(reserved), "{text}");
        // The 32-bit window ends where the key configuration unit begins.
        assert!(
            text.contains(
                "02000000000000001000000000000000100000000000000 02e000000"
                    .replace(' ', "")
                    .as_str()
            )
        );
    }

    #[test]
    fn an_existing_list_of_reserved_memory_is_extended() {
        let mut tree = Tree::default();
        tree.begin("");
        tree.begin("reserved-memory");
        tree.property("ranges", &[]);
        tree.begin("other@1");
        tree.end();
        tree.end();
        tree.begin("psci");
        tree.property("method", b"hvc\0");
        tree.end();
        tree.end();
        let text = edited(tree);
        assert_eq!(text.matches("reserved-memory{").count(), 1);
        assert!(
            text.contains("reserved-memory{ranges=;other@1{}tsm@7f000000{reg="),
            "{text}"
        );
        assert_eq!(text.matches("psci{").count(), 1);
        assert!(!text.contains("68766300"), "{text}");
    }

    #[test]
    fn the_edited_tree_keeps_its_room_to_grow() {
        let bytes = board().bytes(0x2000);
        let mut out = vec![0; 0x2000];
        Fdt::new(&bytes).unwrap().edit(&mut out, &EDITS).unwrap();
        assert_eq!(Fdt::new(&out).unwrap().total_size(), 0x2000);
    }

    #[test]
    fn a_buffer_that_is_too_small_is_an_error() {
        let bytes = board().bytes(0x1000);
        let fdt = Fdt::new(&bytes).unwrap();
        let size = fdt.edit(&mut vec![0; 0x1000], &EDITS).unwrap();
        for length in 0..size {
            assert_eq!(fdt.edit(&mut vec![0; length], &EDITS), Err(FdtError::Space));
        }
        assert_eq!(fdt.edit(&mut vec![0; size], &EDITS), Ok(size));
    }

    #[test]
    fn a_damaged_tree_is_refused_or_read_but_never_a_panic() {
        let bytes = board().bytes(0x600);
        for offset in 0..bytes.len() {
            for value in [0, 1, 3, 9, 0x40, 0xff] {
                let mut damaged = bytes.clone();
                damaged[offset] = value;
                if let Ok(fdt) = Fdt::new(&damaged) {
                    let _ = fdt.machine();
                    let _ = fdt.edit(&mut vec![0; 0x1000], &EDITS);
                }
            }
        }
        for length in 0..bytes.len() {
            assert!(Fdt::new(&bytes[..length]).is_err());
        }
    }
}
