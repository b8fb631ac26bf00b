// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! I/O ports that do not go to the host as they are.

use crate::filters::{PortRule, PortUse};

/// Bytes of a permission map: one bit a port, and three more for accesses that run past the end.
pub const MAP_BYTES: usize = 3 * 4096;

/// Sets the bits of all ports of `rules`.
pub fn fill(map: &mut [u8; MAP_BYTES], rules: &[PortRule]) {
    map.fill(0);
    for port in rules.iter().flat_map(|rule| rule.first..=rule.last) {
        if let Some(byte) = map.get_mut(usize::from(port / 8)) {
            *byte |= 1 << (port % 8);
        }
    }
}

/// An access to ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// First port.
    pub port: u16,
    /// Ports: 1, 2 or 4.
    pub bytes: u8,
    /// What is written, or none of a read.
    pub write: Option<u32>,
}

impl PortAccess {
    /// Decodes the first word of exit information (AMD64 APM volume 2, 15.10.2); `rax` is what an
    /// OUT writes. Returns none for instructions that move strings.
    pub const fn decode(information: u64, rax: u64) -> Option<Self> {
        const INPUT: u64 = 1 << 0;
        const STRING: u64 = 1 << 2;
        const REPEATED: u64 = 1 << 3;
        if information & (STRING | REPEATED) != 0 {
            return None;
        }
        let bytes = match information >> 4 & 7 {
            1 => 1,
            2 => 2,
            4 => 4,
            _ => return None,
        };
        let write = if information & INPUT == 0 {
            Some(rax as u32 & ones(bytes))
        } else {
            None
        };
        Some(Self {
            port: (information >> 16) as u16,
            bytes,
            write,
        })
    }

    /// Returns RAX after a read has given `value`.
    pub const fn merge(self, rax: u64, value: u32) -> u64 {
        if self.bytes == 4 {
            // A 32-bit result clears the upper half.
            return value as u64;
        }
        let kept = !(ones(self.bytes) as u64);
        rax & kept | (value & ones(self.bytes)) as u64
    }
}

/// Returns 1 to 4 `bytes` bytes set.
const fn ones(bytes: u8) -> u32 {
    u32::MAX.wrapping_shr(32_u32.wrapping_sub(8 * bytes as u32))
}

/// What becomes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read gives this; of a write there is nothing left to do.
    Done(u32),
    /// It is performed.
    Pass,
    /// It is one to configuration space.
    Config {
        /// Function.
        rid: u16,
        /// Register.
        offset: u16,
    },
    /// The machine goes off. What a reset would have left in memory goes with it.
    PowerOff,
}

/// Reads as ones, takes writes.
const ABSENT: Answer = Answer::Done(u32::MAX);

/// What the filtered ports remember, as the registers do: one for all processors. An access that is
/// performed is so before the next one is decided about.
#[derive(Debug, Default)]
pub struct Ports {
    config_address: u32,
    output_port_follows: bool,
    clock_index: u8,
}

impl Ports {
    /// Remembers nothing yet.
    pub const fn new() -> Self {
        Self {
            config_address: 0,
            output_port_follows: false,
            clock_index: 0,
        }
    }

    /// Decides about an access that `rules` have made leave the guest.
    pub fn answer(&mut self, access: &PortAccess, rules: &[PortRule]) -> Answer {
        let last = access.port.saturating_add(u16::from(access.bytes) - 1);
        // One that is only partly in a range is no access that the registers there know.
        let inside = |rule: &&PortRule| rule.first <= access.port && last <= rule.last;
        let Some(rule) = rules.iter().find(inside) else {
            return ABSENT;
        };
        match rule.usage {
            PortUse::Nothing => ABSENT,
            PortUse::ConfigAddress => self.config_address(access, access.port - rule.first),
            PortUse::ConfigData => self.config_data(access.port - rule.first),
            PortUse::SystemControl => system_control(access),
            PortUse::KeyboardCommand => self.keyboard_command(access),
            PortUse::KeyboardData => self.keyboard_data(access),
            PortUse::ClockIndex => self.clock_index(access),
            PortUse::ClockData => self.clock_data(access),
            PortUse::PowerControl => power_control(access, access.port - rule.first),
        }
    }

    fn config_address(&mut self, access: &PortAccess, place: u16) -> Answer {
        const RESET_CPU: u32 = 1 << 2;
        match (access.bytes, place, access.write) {
            (4, 0, Some(value)) => {
                self.config_address = value;
                Answer::Done(0)
            }
            (4, 0, None) => Answer::Done(self.config_address),
            (1, 1, Some(value)) if value & RESET_CPU != 0 => Answer::PowerOff,
            (1, 1, _) => Answer::Done(0),
            _ => ABSENT,
        }
    }

    fn config_data(&self, place: u16) -> Answer {
        const ENABLE: u32 = 1 << 31;
        let address = self.config_address;
        if address & ENABLE == 0 {
            return ABSENT;
        }
        Answer::Config {
            rid: (address >> 8) as u16,
            offset: (address & 0xfc) as u16 | place,
        }
    }

    fn keyboard_command(&mut self, access: &PortAccess) -> Answer {
        const WRITE_OUTPUT_PORT: u32 = 0xd1;
        const GATE: [u32; 2] = [0xdd, 0xdf];
        if access.bytes != 1 {
            return ABSENT;
        }
        let Some(command) = access.write else {
            return Answer::Pass;
        };
        let follows = command == WRITE_OUTPUT_PORT;
        self.output_port_follows = follows;
        match command {
            _ if follows || GATE.contains(&command) => Answer::Done(0),
            // Pulses of the output port: a clear bit 0 pulls the reset line.
            0xf0..=0xff if command & 1 == 0 => Answer::PowerOff,
            _ => Answer::Pass,
        }
    }

    fn clock_index(&mut self, access: &PortAccess) -> Answer {
        /// The highest bit masks non-maskable interrupts.
        const INDEX: u32 = 0x7f;
        if access.bytes != 1 {
            return ABSENT;
        }
        if let Some(value) = access.write {
            self.clock_index = (value & INDEX) as u8;
        }
        Answer::Pass
    }

    /// Firmware is to find that it was not told to continue anywhere.
    fn clock_data(&self, access: &PortAccess) -> Answer {
        const SHUTDOWN_STATUS: u8 = 0x0f;
        match access.write {
            _ if access.bytes != 1 => ABSENT,
            Some(_) if self.clock_index == SHUTDOWN_STATUS => Answer::Done(0),
            _ => Answer::Pass,
        }
    }

    /// The command to write the output port never reached the controller, so what follows is none of
    /// its data.
    fn keyboard_data(&mut self, access: &PortAccess) -> Answer {
        const NO_RESET: u32 = 1;
        match access.write {
            _ if access.bytes != 1 => ABSENT,
            Some(value) if core::mem::take(&mut self.output_port_follows) => {
                if value & NO_RESET == 0 {
                    Answer::PowerOff
                } else {
                    Answer::Done(0)
                }
            }
            _ => Answer::Pass,
        }
    }
}

/// The A20 gate masks addresses below nested paging too, so it stays open.
fn system_control(access: &PortAccess) -> Answer {
    const RESET: u32 = 1;
    const GATE_OPEN: u32 = 2;
    match access.write {
        Some(value) if value & RESET != 0 => Answer::PowerOff,
        _ => Answer::Done(GATE_OPEN),
    }
}

/// Every sleeping state ends in the off state: the others would start the platform's firmware again
/// with memory as it was.
fn power_control(access: &PortAccess, place: u16) -> Answer {
    const SLEEP: u32 = 1 << 13;
    let shift = u32::from(place).saturating_mul(8);
    let value = access.write.unwrap_or(0).checked_shl(shift).unwrap_or(0);
    if value & SLEEP == 0 {
        Answer::Pass
    } else {
        Answer::PowerOff
    }
}

#[cfg(test)]
mod tests {
    use super::{ABSENT, Answer, MAP_BYTES, PortAccess, Ports, fill};
    use crate::filters::{PortRule, PortUse};

    const RULES: &[PortRule] = &[
        PortRule::new(0x60, 0x60, PortUse::KeyboardData),
        PortRule::new(0x64, 0x64, PortUse::KeyboardCommand),
        PortRule::new(0x70, 0x70, PortUse::ClockIndex),
        PortRule::new(0x71, 0x71, PortUse::ClockData),
        PortRule::new(0x92, 0x92, PortUse::SystemControl),
        PortRule::new(0x510, 0x51b, PortUse::Nothing),
        PortRule::new(0x604, 0x605, PortUse::PowerControl),
        PortRule::new(0xcf8, 0xcfb, PortUse::ConfigAddress),
        PortRule::new(0xcfc, 0xcff, PortUse::ConfigData),
    ];

    fn write(ports: &mut Ports, port: u16, bytes: u8, value: u32) -> Answer {
        let access = PortAccess {
            port,
            bytes,
            write: Some(value),
        };
        ports.answer(&access, RULES)
    }

    fn read(ports: &mut Ports, port: u16, bytes: u8) -> Answer {
        let access = PortAccess {
            port,
            bytes,
            write: None,
        };
        ports.answer(&access, RULES)
    }

    #[test]
    fn the_map_has_one_bit_for_each_filtered_port() {
        let mut map = [0xff; MAP_BYTES];
        fill(&mut map, RULES);
        assert_eq!(map[0x510 / 8], 0xff);
        assert_eq!(map[0x518 / 8], 0x0f);
        assert_eq!(map[0x92 / 8], 1 << 2);
        let set: u32 = map.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(set, 5 + 12 + 2 + 8);
    }

    #[test]
    fn exit_information_tells_port_width_and_direction() {
        let access = PortAccess::decode(0xcf8 << 16 | 1 << 6, 0x1_8000_0000);
        let out = PortAccess {
            port: 0xcf8,
            bytes: 4,
            write: Some(0x8000_0000),
        };
        assert_eq!(access, Some(out));
        let input = PortAccess::decode(0x64 << 16 | 1 << 4 | 1, 0x55).unwrap();
        assert_eq!((input.port, input.bytes, input.write), (0x64, 1, None));
        assert_eq!(
            input.merge(0xffff_ffff_1234_5678, 0xff9a),
            0xffff_ffff_1234_569a
        );
        assert_eq!(out.merge(u64::MAX, 7), 7);
        // INS, REP OUTS, and no width.
        for information in [1 << 4 | 1 | 1 << 2, 1 << 4 | 3 << 2, 0] {
            assert_eq!(PortAccess::decode(information, 0), None);
        }
    }

    #[test]
    fn the_platforms_door_to_memory_is_closed() {
        let mut ports = Ports::new();
        assert_eq!(write(&mut ports, 0x518, 4, 1), ABSENT);
        assert_eq!(read(&mut ports, 0x511, 1), ABSENT);
        // One that starts before the range and ends in it.
        assert_eq!(write(&mut ports, 0x50f, 2, 1), ABSENT);
        assert_eq!(write(&mut ports, 0x602, 4, 0x2000_0000), ABSENT);
        assert_eq!(write(&mut ports, 0x604, 4, 0x2000), ABSENT);
    }

    #[test]
    fn configuration_space_is_found_by_its_address_register() {
        let mut ports = Ports::new();
        assert_eq!(read(&mut ports, 0xcfc, 4), ABSENT);
        write(&mut ports, 0xcf8, 4, 0x8001_0310);
        assert_eq!(read(&mut ports, 0xcf8, 4), Answer::Done(0x8001_0310));
        let at = |offset| Answer::Config { rid: 0x103, offset };
        assert_eq!(write(&mut ports, 0xcfc, 4, 0), at(0x10));
        assert_eq!(write(&mut ports, 0xcfe, 2, 0), at(0x12));
        // As Linux looks for the register.
        assert_eq!(write(&mut ports, 0xcfb, 1, 1), ABSENT);
        assert_eq!(read(&mut ports, 0xcf8, 4), Answer::Done(0x8001_0310));
    }

    #[test]
    fn nothing_closes_the_gate_of_address_line_20() {
        let mut ports = Ports::new();
        assert_eq!(write(&mut ports, 0x92, 1, 0), Answer::Done(2));
        assert_eq!(read(&mut ports, 0x92, 1), Answer::Done(2));
        assert_eq!(write(&mut ports, 0x64, 1, 0xdd), Answer::Done(0));
        assert_eq!(write(&mut ports, 0x64, 1, 0xd1), Answer::Done(0));
        assert_eq!(write(&mut ports, 0x60, 1, 0xdd), Answer::Done(0));
        assert_eq!(write(&mut ports, 0x60, 1, 0xdd), Answer::Pass);
        // Another command between the two.
        write(&mut ports, 0x64, 1, 0xd1);
        assert_eq!(write(&mut ports, 0x64, 1, 0xae), Answer::Pass);
        assert_eq!(write(&mut ports, 0x60, 1, 0xdd), Answer::Pass);
        assert_eq!(write(&mut ports, 0x64, 2, 0xd1), ABSENT);
        assert_eq!(read(&mut ports, 0x64, 1), Answer::Pass);
    }

    #[test]
    fn firmware_is_never_told_where_to_continue() {
        let mut ports = Ports::new();
        for index in [0x0f, 0x8f] {
            assert_eq!(write(&mut ports, 0x70, 1, index), Answer::Pass);
            assert_eq!(write(&mut ports, 0x71, 1, 0x0a), Answer::Done(0));
            assert_eq!(read(&mut ports, 0x71, 1), Answer::Pass);
        }
        // Both registers at once.
        assert_eq!(write(&mut ports, 0x70, 2, 0x0a0f), ABSENT);
        assert_eq!(write(&mut ports, 0x70, 1, 0x0b), Answer::Pass);
        assert_eq!(write(&mut ports, 0x71, 1, 0x0a), Answer::Pass);
    }

    #[test]
    fn every_reset_and_every_sleep_turns_the_machine_off() {
        let mut ports = Ports::new();
        assert_eq!(write(&mut ports, 0x92, 1, 1), Answer::PowerOff);
        assert_eq!(write(&mut ports, 0x64, 1, 0xfe), Answer::PowerOff);
        write(&mut ports, 0x64, 1, 0xd1);
        assert_eq!(write(&mut ports, 0x60, 1, 0xfe), Answer::PowerOff);
        assert_eq!(write(&mut ports, 0xcf9, 1, 0x0f), Answer::PowerOff);
        assert_eq!(write(&mut ports, 0xcf9, 1, 0x02), Answer::Done(0));
        for kind in 0..8 {
            let value = 1 << 13 | kind << 10 | 1;
            assert_eq!(write(&mut ports, 0x604, 2, value), Answer::PowerOff);
            assert_eq!(write(&mut ports, 0x605, 1, value >> 8), Answer::PowerOff);
            assert_eq!(write(&mut ports, 0x604, 2, value & 0x1fff), Answer::Pass);
        }
        assert_eq!(read(&mut ports, 0x604, 2), Answer::Pass);
    }
}
