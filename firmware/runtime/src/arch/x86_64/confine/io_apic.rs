// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The registers of an I/O APIC (Intel 82093AA, 3.0): an index and a window. An entry that delivers
//! INIT or a management interrupt would take a processor from the TSM, so none is written.

const INDEX: u16 = 0x00;
const WINDOW: u16 = 0x10;
/// Ends an interrupt (82093AA's successors).
const END: u16 = 0x40;
/// First register of the table of entries, two registers each.
const TABLE: u32 = 0x10;

/// What is known of an I/O APIC. All writes come by way of it, one at a time.
#[derive(Debug)]
pub struct IoApic {
    index: u32,
}

impl IoApic {
    /// Describes one after a reset.
    pub const fn new() -> Self {
        Self { index: 0 }
    }

    /// Performs a write of the host to the register at `offset` of the page by writes that `perform`
    /// makes, or drops it. Some units do not decode all of the offset, so one that names none of the
    /// registers may be another name of the window.
    pub fn write(&mut self, offset: u16, value: u32, mut perform: impl FnMut(u16, u32)) {
        match offset {
            INDEX => {
                self.index = value & 0xff;
                perform(INDEX, self.index);
            }
            WINDOW => {
                let is_low = self.index >= TABLE && self.index & 1 == 0;
                if is_low && !is_harmless(value) {
                    return;
                }
                // Whatever the host has made of the index is of no account.
                perform(INDEX, self.index);
                perform(WINDOW, value);
            }
            END => perform(END, value),
            _ => {}
        }
    }
}

/// Returns whether the low half of an entry delivers an interrupt that a processor of the TSM takes
/// notice of only when it is the host's again.
const fn is_harmless(entry: u32) -> bool {
    // Fixed, lowest priority, non-maskable and external.
    matches!(entry >> 8 & 7, 0 | 1 | 4 | 7)
}

#[cfg(test)]
mod tests {
    use super::IoApic;

    fn writes(all: &[(u16, u32)]) -> Vec<(u16, u32)> {
        let mut made = Vec::new();
        let mut apic = IoApic::new();
        for (offset, value) in all {
            apic.write(*offset, *value, |at, value| made.push((at, value)));
        }
        made
    }

    #[test]
    fn no_entry_delivers_init_or_a_management_interrupt() {
        for mode in 0..8 {
            let entry = mode << 8 | 0x31;
            let made = writes(&[(0, 0x12), (0x10, entry)]);
            let passed = made.contains(&(0x10, entry));
            assert_eq!(passed, [0, 1, 4, 7].contains(&mode), "mode {mode}");
        }
    }

    #[test]
    fn destinations_and_other_registers_are_written_as_they_are() {
        assert_eq!(
            writes(&[(0, 0x13), (0x10, 0x500)]),
            [(0, 0x13), (0, 0x13), (0x10, 0x500)]
        );
        assert_eq!(
            writes(&[(0, 0), (0x10, 0x0500_0000)])[2],
            (0x10, 0x0500_0000)
        );
        assert_eq!(writes(&[(0x40, 0x31)]), [(0x40, 0x31)]);
    }

    #[test]
    fn no_register_has_a_second_name() {
        for offset in (0..0x1000).step_by(4) {
            let made = writes(&[(0, 0x10), (offset, 0x500)]);
            // A new index, or the end of an interrupt, or nothing.
            let more = match offset {
                0 => vec![(0, 0)],
                0x40 => vec![(0x40, 0x500)],
                _ => vec![],
            };
            assert_eq!(made[1..], more, "{offset:#x}");
        }
    }

    #[test]
    fn the_entry_that_is_checked_is_the_one_that_is_written() {
        // The index has eight bits, and is written again right before the entry.
        let made = writes(&[(0, 0x110), (0x10, 0x500)]);
        assert_eq!(made, [(0, 0x10)]);
    }
}
