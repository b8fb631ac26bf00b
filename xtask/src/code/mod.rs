// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The code of a linked image: its functions, and who calls whom.

mod a64;
mod decode;
mod graph;
mod rules;
mod x86;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::{SHF_ALLOC, SHF_EXECINSTR, SHT_NOBITS};
use elf::endian::LittleEndian;

use self::decode::{Decoded, Instructions, Meaning};
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
        let instructions = Instructions::of(file.ehdr.e_machine)?;
        Ok(Self::build(instructions, &sections, &symbols))
    }

    fn build(instructions: Instructions, sections: &[Section], symbols: &[Symbol]) -> Self {
        let mut code = Self {
            functions: Vec::new(),
        };
        let mut index = BTreeMap::new();
        for symbol in symbols.iter().filter(|symbol| !symbol.mapping) {
            index.entry(symbol.start).or_insert_with(|| {
                code.functions.push(Function {
                    name: symbol.name.clone(),
                    start: symbol.start,
                    frame: instructions.call_bytes(),
                    ..Function::default()
                });
                code.functions.len() - 1
            });
        }
        let marks = symbols.iter().map(|symbol| (symbol.start, symbol.data));
        let image = Image {
            instructions,
            sections,
            index,
            marks: marks.collect(),
        };
        for section in sections.iter().filter(|section| section.code) {
            code.scan(section, &image);
        }
        code
    }

    /// Reads the instructions of one section.
    fn scan(&mut self, section: &Section, image: &Image<'_>) {
        let index = &image.index;
        let mut function = None;
        let mut data = false;
        let mut state = State::default();
        let mut offset = 0;
        while offset < section.bytes.len() {
            let at = section.base + offset as u64;
            data = image.marks.get(&at).copied().unwrap_or(data);
            if let Some(next) = index.get(&at) {
                if let (Some(before), true) = (function, state.falls_through) {
                    let before: &mut Function = &mut self.functions[before];
                    before.calls.push(Call {
                        at: state.last,
                        callee: *next,
                        jump: true,
                    });
                }
                function = Some(*next);
                state = State::default();
            }
            let end = index.range(at + 1..).next();
            let end = end.map_or(u64::MAX, |next| *next.0);
            // What is no code may look like an instruction that reaches into the next function.
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let bytes = &section.bytes[offset..];
            if data {
                offset += 4;
                continue;
            }
            let bytes = &bytes[..bytes.len().min(left)];
            let decoded = image.instructions.decode(bytes, at);
            offset += decoded.length;
            if let Some(current) = function {
                let function = &mut self.functions[current];
                state.arrive(at);
                let meaning = State::resolve(&decoded, image, function.start..end);
                if let Meaning::Jump { to, .. } = meaning
                    && to > at
                {
                    merge(state.ahead.entry(to).or_default(), state.pointers.clone());
                }
                state.apply(function, index, meaning, at, end);
                state.follow(&decoded, image);
            }
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

/// What an image is made of.
struct Image<'a> {
    instructions: Instructions,
    sections: &'a [Section],
    /// Functions by address.
    index: BTreeMap<u64, usize>,
    /// Where data inside code begins, and where code goes on.
    marks: BTreeMap<u64, bool>,
}

impl Image<'_> {
    /// Returns the function whose address the linker wrote at `place`.
    fn function(&self, place: u64) -> Option<u64> {
        let address = self.constant(place).map(u64::from_le_bytes);
        address.filter(|address| self.index.contains_key(address))
    }

    /// Reads what is at `address` outside of code.
    fn constant<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let data = self.sections.iter().filter(|section| !section.code);
        let mut found = data.filter_map(|section| {
            let offset = usize::try_from(address.checked_sub(section.base)?).ok()?;
            section.bytes.get(offset..)?.first_chunk().copied()
        });
        found.next()
    }
}

/// Functions whose addresses registers may hold.
type Pointers = BTreeMap<u32, BTreeSet<u64>>;

fn merge(into: &mut Pointers, from: Pointers) {
    for (register, functions) in from {
        into.entry(register).or_default().extend(functions);
    }
}

/// What is known on the way through a function.
#[derive(Default)]
struct State {
    /// Registers that hold the stack pointer less so much.
    below: BTreeMap<u32, u64>,
    /// Registers that hold the address of a function, and of which it may be.
    pointers: Pointers,
    /// The same where jumps forward go to. What is reached otherwise is taken as the compiler has laid
    /// it out.
    ahead: BTreeMap<u64, Pointers>,
    /// Whether an address inside the function was made, as a switch does.
    switches: bool,
    falls_through: bool,
    /// Address of the last instruction.
    last: u64,
}

impl State {
    /// Looks up what an instruction in the function `own` takes from memory that nobody writes: the
    /// address of a function, or the first entry of a table, which tells a switch from a table of
    /// functions.
    fn resolve(decoded: &Decoded, image: &Image<'_>, own: Range<u64>) -> Meaning {
        let inside = |to: &u64| own.contains(to);
        match decoded.meaning {
            // Entries of 32 bits, relative to the table.
            Meaning::Address(table) => {
                let entry = image.constant(table).map(i32::from_le_bytes);
                let to = entry.map(|entry| table.wrapping_add_signed(entry.into()));
                Meaning::Address(to.filter(inside).unwrap_or(table))
            }
            Meaning::JumpTable(table) => {
                let to = image.constant(table).map(u64::from_le_bytes);
                to.filter(inside)
                    .map_or(Meaning::JumpRegister, |to| Meaning::Jump {
                        to,
                        always: true,
                    })
            }
            Meaning::CallThrough(place) => image
                .function(place)
                .map_or(Meaning::CallRegister(None), Meaning::Call),
            Meaning::JumpThrough(place) => {
                image
                    .function(place)
                    .map_or(Meaning::JumpRegister, |to| Meaning::Jump {
                        to,
                        always: true,
                    })
            }
            other => other,
        }
    }

    /// Takes in what is known at `at` of the ways that lead there.
    fn arrive(&mut self, at: u64) {
        if let Some(pointers) = self.ahead.remove(&at) {
            if !self.falls_through {
                self.pointers.clear();
            }
            merge(&mut self.pointers, pointers);
        }
    }

    /// Follows the registers over an instruction.
    fn follow(&mut self, decoded: &Decoded, image: &Image<'_>) {
        let became = match decoded.meaning {
            Meaning::Load { register, from } => {
                let to = image.function(from);
                to.map(|to| (register, BTreeSet::from([to])))
            }
            Meaning::Constant { register, value } => {
                let known = image.index.contains_key(&value);
                known.then(|| (register, BTreeSet::from([value])))
            }
            Meaning::Copy { register, from } => {
                let pointers = self.pointers.get(&from);
                pointers.map(|pointers| (register, pointers.clone()))
            }
            _ => None,
        };
        match became {
            // Of two ways to here, each may have set it.
            Some(became) => merge(&mut self.pointers, Pointers::from([became])),
            None => self
                .pointers
                .retain(|register, _| decoded.written >> register & 1 == 0),
        }
    }

    fn apply(
        &mut self,
        function: &mut Function,
        index: &BTreeMap<u64, usize>,
        meaning: Meaning,
        at: u64,
        end: u64,
    ) {
        self.last = at;
        self.falls_through = match meaning {
            Meaning::End
            | Meaning::ExceptionReturn(_)
            | Meaning::JumpRegister
            | Meaning::JumpTable(_)
            | Meaning::JumpThrough(_)
            | Meaning::Jump { always: true, .. }
            // A call of what never returns may be the last instruction.
            | Meaning::Call(_)
            | Meaning::CallThrough(_)
            | Meaning::CallRegister(_) => false,
            Meaning::Padding => self.falls_through,
            _ => true,
        };
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
            Meaning::CallRegister(Some(register)) if self.pointers.contains_key(&register) => {
                let callees = self.pointers[&register].iter();
                let callees = callees.filter_map(|to| index.get(to));
                function.calls.extend(callees.map(|callee| Call {
                    at,
                    callee: *callee,
                    jump: false,
                }));
            }
            Meaning::CallRegister(_) | Meaning::CallThrough(_) => function.indirect.push(at),
            Meaning::JumpRegister if !self.switches => function.indirect.push(at),
            Meaning::JumpRegister => self.switches = false,
            Meaning::Address(value) => self.switches |= (function.start..end).contains(&value),
            Meaning::Grow(bytes) | Meaning::ExceptionReturn(bytes) => function.frame += bytes,
            Meaning::BelowStack { register, bytes } => {
                self.below.insert(register, bytes);
            }
            Meaning::Lower { register, bytes } => {
                if let Some(below) = self.below.get_mut(&register) {
                    *below += bytes;
                }
            }
            Meaning::Probe(register) => match self.below.get(&register) {
                Some(bytes) => function.frame += bytes,
                None => function.dynamic = true,
            },
            Meaning::Dynamic => function.dynamic = true,
            Meaning::JumpTable(_)
            | Meaning::JumpThrough(_)
            | Meaning::Load { .. }
            | Meaning::Constant { .. }
            | Meaning::Copy { .. }
            | Meaning::End
            | Meaning::Padding
            | Meaning::Other => {}
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
