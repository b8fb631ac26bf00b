// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Writing the edited tree.

use super::{
    BEGIN_NODE, END, END_NODE, Fdt, FdtError, HEADER, MAGIC, PROPERTY, Token, VERSION, base_name,
    double, padded,
};
use crate::manifest::Region;

/// What to change.
#[derive(Clone, Copy, Debug)]
pub struct Edits<'a> {
    /// Memory that the host must not touch.
    pub reserved: Region,
    /// Address space that no BAR of the host may take.
    pub reserved_mmio: Region,
    /// No window of a PCI host bridge starts here or above: device memory there could not be
    /// delegated.
    pub window_limit: u64,
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

impl Fdt<'_> {
    /// Writes the edited tree to `out` and returns its size. It claims as much space as this one.
    pub fn edit(self, out: &mut [u8], edits: &Edits) -> Result<usize, FdtError> {
        let structure_offset = HEADER.saturating_add(self.reservations.len());
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
            as_word(size.saturating_sub(strings_offset))?,
            as_word(strings_offset.saturating_sub(structure_offset))?,
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
                    if name == b"ranges" && base_name(top) == b"pcie" && tokens.depth == 2 {
                        writer.windows(name_offset, value, edits)?;
                    } else {
                        writer.copied_property(name_offset, value)?;
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
        let missing = padded(self.used).saturating_sub(self.used);
        self.bytes([0; 3].get(..missing).unwrap_or_default())
    }

    fn begin(&mut self, name: &[u8]) -> Result<(), FdtError> {
        self.word(BEGIN_NODE)?;
        self.bytes(name)?;
        self.bytes(&[0])?;
        self.pad()
    }

    fn copied_property(&mut self, name_offset: u32, value: &[u8]) -> Result<(), FdtError> {
        self.word(PROPERTY)?;
        self.word(as_word(value.len())?)?;
        self.word(name_offset)?;
        self.bytes(value)?;
        self.pad()
    }

    /// Writes the windows of a PCI host bridge: those below the limit, each ending where the reserved
    /// addresses begin if it reaches into them.
    ///
    /// A window is seven cells: PCI address (3), processor address (2), size (2).
    fn windows(&mut self, name_offset: u32, value: &[u8], edits: &Edits) -> Result<(), FdtError> {
        const WINDOW: usize = 28;
        const BASE: usize = 12;
        const SIZE: usize = 20;
        let reserved = edits.reserved_mmio;
        let kept = || {
            let windows = value.chunks_exact(WINDOW);
            windows
                .filter(|window| double(window, BASE).is_some_and(|base| base < edits.window_limit))
        };
        if !value.len().is_multiple_of(WINDOW) {
            return Err(FdtError::Unsupported);
        }
        self.word(PROPERTY)?;
        self.word(as_word(
            kept().map(<[u8]>::len).fold(0, usize::saturating_add),
        )?)?;
        self.word(name_offset)?;
        for window in kept() {
            let read = |offset| double(window, offset).ok_or(FdtError::Malformed);
            let (base, mut size) = (read(BASE)?, read(SIZE)?);
            let reaches = base < reserved.base && reserved.base < base.saturating_add(size);
            if reserved.size != 0 && reaches {
                size = reserved.base - base;
            }
            self.bytes(window.get(..SIZE).ok_or(FdtError::Malformed)?)?;
            self.bytes(&size.to_be_bytes())?;
        }
        Ok(())
    }

    fn property(&mut self, new_string: u32, value: &[u8]) -> Result<(), FdtError> {
        let name = self
            .new_strings
            .checked_add(new_string)
            .ok_or(FdtError::Space)?;
        self.copied_property(name, value)
    }

    /// Writes a node's name with a unit address in lower-case hexadecimal.
    fn begin_at(&mut self, name: &[u8], address: u64) -> Result<(), FdtError> {
        self.word(BEGIN_NODE)?;
        self.bytes(name)?;
        let digits = (16 - address.leading_zeros() / 4).max(1);
        for digit in (0..digits).rev() {
            let nibble = address.wrapping_shr(4 * digit) as u8 & 0xf;
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
