// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The code of a linked image: its functions, and who calls whom.

mod decode;
mod graph;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::{SHF_ALLOC, SHF_EXECINSTR, SHT_NOBITS};
use elf::endian::LittleEndian;

use self::decode::{Meaning, decode};
pub use self::graph::{Depth, Graph};
pub use self::rules::Firmware;

/// A function, or a labelled piece of assembly.
#[derive(Debug, Default)]
pub struct Function {
    /// Its name, as a programmer wrote it.
    pub name: String,
    /// First address.
    pub start: u64,
    /// Functions that it calls or jumps to.
    pub calls: Vec<Call>,
    /// Addresses of calls and jumps through a register, except jumps of a switch.
    pub indirect: Vec<u64>,
    /// Addresses of instructions that trap.
    pub traps: Vec<u64>,
    /// Bytes of stack that it takes, over all its paths.
    pub frame: u64,
    /// Whether it moves the stack pointer by an amount that is not in the code.
    pub dynamic: bool,
}

/// A way from one function into another.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Address of the instruction.
    pub at: u64,
    /// The other function.
    pub callee: usize,
    /// Whether it is a jump, which leaves nothing of the first on the stack.
    pub jump: bool,
}

/// The functions of an image, by address.
pub struct Code {
    /// The functions.
    pub functions: Vec<Function>,
    /// Functions whose address is somewhere in the image as a value.
    pub taken: BTreeSet<usize>,
}

/// What the file says of one symbol.
struct Symbol {
    start: u64,
    name: String,
    /// Whether what follows is data inside code.
    data: bool,
    /// Whether it is a mapping symbol, which names nothing.
    mapping: bool,
}

struct Section {
    number: u16,
    base: u64,
    bytes: Vec<u8>,
    code: bool,
}

impl Code {
    /// Reads the image at `path`.
    ///
    /// # Errors
    ///
    /// If it is no ELF file with symbols.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let file = ElfBytes::<LittleEndian>::minimal_parse(&bytes)?;
        let mut sections = Vec::new();
        for (number, header) in (0..).zip(file.section_headers().context("no sections")?) {
            let loaded = header.sh_flags & u64::from(SHF_ALLOC) != 0;
            if loaded && header.sh_type != SHT_NOBITS {
                sections.push(Section {
                    number,
                    base: header.sh_addr,
                    bytes: file.section_data(&header)?.0.to_vec(),
                    code: header.sh_flags & u64::from(SHF_EXECINSTR) != 0,
                });
            }
        }
        let symbols = symbols(&file, &sections)?;
        Ok(Self::build(&sections, &symbols))
    }

    fn build(sections: &[Section], symbols: &[Symbol]) -> Self {
        let mut code = Self {
            functions: Vec::new(),
            taken: BTreeSet::new(),
        };
        let mut index = BTreeMap::new();
        for symbol in symbols.iter().filter(|symbol| !symbol.mapping) {
            index.entry(symbol.start).or_insert_with(|| {
                code.functions.push(Function {
                    name: symbol.name.clone(),
                    start: symbol.start,
                    ..Function::default()
                });
                code.functions.len() - 1
            });
        }
        let marks: BTreeMap<u64, bool> = symbols
            .iter()
            .map(|symbol| (symbol.start, symbol.data))
            .collect();
        for section in sections {
            if section.code {
                code.scan(section, &index, &marks);
            } else {
                for word in section.bytes.chunks_exact(8) {
                    code.take(
                        &index,
                        u64::from_le_bytes(word.try_into().unwrap_or_default()),
                    );
                }
            }
        }
        code
    }

    /// Notes that `value` stands in the image; it may be the address of a function.
    fn take(&mut self, index: &BTreeMap<u64, usize>, value: u64) {
        self.taken.extend(index.get(&value));
    }

    /// Reads the instructions of one section.
    fn scan(
        &mut self,
        section: &Section,
        index: &BTreeMap<u64, usize>,
        marks: &BTreeMap<u64, bool>,
    ) {
        let mut function = None;
        let mut data = false;
        let mut state = State::default();
        for (number, word) in section.bytes.chunks_exact(4).enumerate() {
            let at = section.base + 4 * number as u64;
            let word = u32::from_le_bytes(word.try_into().unwrap_or_default());
            data = marks.get(&at).copied().unwrap_or(data);
            if let Some(next) = index.get(&at) {
                if let (Some(before), true) = (function, state.falls_through) {
                    let before: &mut Function = &mut self.functions[before];
                    before.calls.push(Call {
                        at: at - 4,
                        callee: *next,
                        jump: true,
                    });
                }
                function = Some(*next);
                state = State::default();
            }
            let Some(current) = function else { continue };
            if data {
                let pair = section.bytes.get(4 * number..4 * number + 8);
                let value = pair.and_then(|pair| pair.try_into().ok());
                self.take(index, value.map_or(0, u64::from_le_bytes));
                continue;
            }
            let meaning = decode(word, at);
            if let Meaning::Add { from, value, .. } = meaning
                && let Some(page) = state.pages.get(&from)
            {
                self.take(index, page.wrapping_add(value));
            }
            let end = index
                .range(at + 1..)
                .next()
                .map_or(u64::MAX, |next| *next.0);
            state.apply(&mut self.functions[current], index, meaning, at, end);
        }
    }

    /// Returns the functions whose name holds `part`.
    pub fn named(&self, part: &str) -> Vec<usize> {
        let all = self.functions.iter().enumerate();
        all.filter(|(_, function)| function.name.contains(part))
            .map(|(index, _)| index)
            .collect()
    }
}

/// What is known on the way through a function.
#[derive(Default)]
struct State {
    /// Registers that hold the address of a page.
    pages: BTreeMap<u32, u64>,
    /// Registers that hold the stack pointer less so much.
    below: BTreeMap<u32, u64>,
    /// Whether an address inside the function was made, as a switch does.
    switches: bool,
    falls_through: bool,
}

impl State {
    fn apply(
        &mut self,
        function: &mut Function,
        index: &BTreeMap<u64, usize>,
        meaning: Meaning,
        at: u64,
        end: u64,
    ) {
        self.falls_through = !matches!(
            meaning,
            Meaning::Return
                | Meaning::Trap
                | Meaning::JumpRegister(_)
                | Meaning::Jump { always: true, .. }
                // A call of what never returns may be the last instruction.
                | Meaning::Call(_)
                | Meaning::CallRegister(_)
        );
        match meaning {
            Meaning::Call(to) | Meaning::Jump { to, .. } => {
                let own = (function.start..end).contains(&to) && to != function.start;
                let callee = index.range(..=to).next_back();
                let jump = matches!(meaning, Meaning::Jump { .. });
                if let Some((_, callee)) = callee
                    && !own
                    && !(jump && to == function.start)
                {
                    function.calls.push(Call {
                        at,
                        callee: *callee,
                        jump,
                    });
                }
            }
            Meaning::CallRegister(_) => function.indirect.push(at),
            Meaning::JumpRegister(_) if !self.switches => function.indirect.push(at),
            Meaning::JumpRegister(_) => self.switches = false,
            Meaning::Trap => function.traps.push(at),
            Meaning::Address {
                register,
                value,
                page,
            } => {
                if page {
                    self.pages.insert(register, value);
                } else {
                    self.switches |= (function.start..end).contains(&value);
                }
            }
            Meaning::Grow(bytes) => function.frame += bytes,
            Meaning::BelowStack { register, bytes } => {
                self.below.insert(register, bytes);
            }
            Meaning::Probe(register) => match self.below.get(&register) {
                Some(bytes) => function.frame += bytes,
                None => function.dynamic = true,
            },
            Meaning::Dynamic => function.dynamic = true,
            Meaning::Add { .. } | Meaning::Return | Meaning::Other => {}
        }
    }
}

fn symbols(file: &ElfBytes<'_, LittleEndian>, sections: &[Section]) -> Result<Vec<Symbol>> {
    let (table, names) = file.symbol_table()?.context("no symbols")?;
    let mut symbols = Vec::new();
    for symbol in table {
        let start = symbol.st_value;
        let inside = sections
            .iter()
            .any(|section| section.code && section.number == symbol.st_shndx);
        // Linker scripts name addresses that no section holds, and places between functions.
        let name = names.get(symbol.st_name as usize)?;
        if !inside || symbol.is_undefined() || name.is_empty() || name.starts_with("__") {
            continue;
        }
        symbols.push(Symbol {
            start,
            name: format!("{:#}", rustc_demangle::demangle(name)),
            data: name.starts_with("$d"),
            mapping: name.starts_with('$'),
        });
    }
    symbols.sort_by(|a, b| (a.start, &a.name).cmp(&(b.start, &b.name)));
    Ok(symbols)
}
