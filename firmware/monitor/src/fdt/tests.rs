// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

extern crate std;
use super::{
    BEGIN_NODE, END, END_NODE, Edits, Fdt, FdtError, HEADER, MAGIC, NOP, PROPERTY, Region, Token,
    VERSION,
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
            0x0300_0000,
            0x80,
            0,
            0x80,
            0,
            0x80,
            0,
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
    window_limit: 1 << 32,
    nodes: &[b"fw-cfg", b"virtio_mmio"],
    properties: &[b"iommu-map"],
};

fn print(bytes: &[u8]) -> Result<String, FdtError> {
    let fdt = Fdt::new(bytes)?;
    let mut tokens = fdt.tokens();
    let mut text = String::new();
    while let Some(token) = tokens.next()? {
        match token {
            Token::Begin(name) => text += &std::format!("{}{{", std::str::from_utf8(name).unwrap()),
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
    let psci =
        "psci{compatible=61726d2c707363692d312e300061726d2c707363692d302e3200;method=736d6300;}";
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
    // The 32-bit window ends where the key configuration unit begins, and it is the last one.
    let window =
        "02000000_00000000_10000000_00000000_10000000_00000000_2e000000;}".replace('_', "");
    assert!(text.contains(&window), "{text}");
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
