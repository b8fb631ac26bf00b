// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reading and editing the device tree that the machine hands over.
//!
//! The tree is walked token by token with every offset checked; the edited tree is written to another
//! buffer. What the monitor keeps for itself goes, what the host needs to know of it comes.

mod edit;
#[cfg(test)]
mod tests;

use crate::manifest::Region;

pub use edit::Edits;

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
    Some(u64::from(word(bytes, offset)?) << 32 | u64::from(word(bytes, offset.checked_add(4)?)?))
}

fn string(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    rest.get(..rest.iter().position(|byte| *byte == 0)?)
}

const fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
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
            self.pass(4)?;
            match token {
                NOP => {}
                BEGIN_NODE => {
                    let name = string(structure, self.offset)?;
                    self.pass(padded(name.len().saturating_add(1)))?;
                    self.depth = self.depth.checked_add(1)?;
                    return Some(Some(Token::Begin(name)));
                }
                PROPERTY if self.depth > 0 => {
                    let length = word(structure, self.offset)? as usize;
                    self.pass(4)?;
                    let name_offset = word(structure, self.offset)?;
                    self.pass(4)?;
                    let value = structure.get(self.offset..self.offset.checked_add(length)?)?;
                    self.pass(padded(length))?;
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

    fn pass(&mut self, bytes: usize) -> Option<()> {
        self.offset = self.offset.checked_add(bytes)?;
        Some(())
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
        let mut end = 0_usize;
        for entry in rest.chunks_exact(16) {
            end = end.saturating_add(16);
            if entry.iter().all(|byte| *byte == 0) {
                break;
            }
        }
        let reservations = rest.get(..end).filter(|list| list.ends_with(&[0; 16]));
        Ok(Self {
            structure: block(field(8)?, field(36)?)?,
            strings: block(field(12)?, field(32)?)?,
            reservations: reservations.ok_or(FdtError::Header)?,
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
                        machine.processors = machine.processors.saturating_add(1);
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
}

/// Returns the part of a node's name before its unit address.
fn base_name(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == b'@').next().unwrap_or(name)
}
