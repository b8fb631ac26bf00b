// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The interrupt command register of x2APIC mode (AMD64 APM volume 2, 16.13).

/// What the TSM does with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is written to the local APIC.
    Forward,
    /// The targets get a non-maskable interrupt, which the TSM's own are told from.
    NonMaskable,
    /// The targets stop and wait for a start.
    Stop,
    /// The targets that wait start in real mode at this page.
    Start(u8),
    /// Nothing happens: there is no system management mode, and no INIT is ever deasserted.
    Nothing,
    /// The command has a reserved bit: general protection.
    Refuse,
}

/// A command as the host wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(pub u64);

const RESERVED: u64 = 0xfff3_2000 | 1 << 12;
const LEVEL_ASSERT: u64 = 1 << 14;
const TRIGGER_LEVEL: u64 = 1 << 15;
const LOGICAL: u64 = 1 << 11;
const EVERYBODY: u32 = u32::MAX;

impl Command {
    /// Decides what becomes of the command.
    ///
    /// An INIT that a processor gets while it is the TSM's, or a start after it, would run code of
    /// the host outside its virtual CPU. So none of them is ever sent.
    pub const fn action(self) -> Action {
        if self.0 & RESERVED != 0 {
            return Action::Refuse;
        }
        match self.0 >> 8 & 7 {
            0 | 1 => Action::Forward,
            4 => Action::NonMaskable,
            5 if self.0 & TRIGGER_LEVEL != 0 && self.0 & LEVEL_ASSERT == 0 => Action::Nothing,
            5 => Action::Stop,
            6 => Action::Start(self.0 as u8),
            _ => Action::Nothing,
        }
    }

    /// Returns whether the command of the processor `own` is for the processor `other`; both are
    /// x2APIC ids.
    pub const fn targets(self, own: u32, other: u32) -> bool {
        let destination = (self.0 >> 32) as u32;
        match self.0 >> 18 & 3 {
            0 if destination == EVERYBODY => true,
            // A logical id is the cluster of 16 processors and one bit for the place in it.
            0 if self.0 & LOGICAL != 0 => {
                destination >> 16 == other >> 4 && destination & 1 << (other & 0xf) != 0
            }
            0 => destination == other,
            1 => own == other,
            2 => true,
            _ => own != other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Command};

    fn targets(command: u64) -> Vec<u32> {
        let hit = |other: &u32| Command(command).targets(1, *other);
        (0..20).filter(hit).collect()
    }

    #[test]
    fn no_init_start_or_management_interrupt_is_forwarded() {
        // As Linux starts a processor: INIT asserted, deasserted, then two starts.
        let all = [
            (0x1_0000_c500, Action::Stop),
            (0x1_0000_4500, Action::Stop),
            (0x1_0000_8500, Action::Nothing),
            (0x1_0000_4699, Action::Start(0x99)),
            (0xc_4500, Action::Stop),
            (0x1_0000_0400, Action::NonMaskable),
            (0x1_0000_0202, Action::Nothing),
            (0x1_0000_0300, Action::Nothing),
            (0x1_0000_0700, Action::Nothing),
            (0x1_0000_40fd, Action::Forward),
            (0xc_01fd, Action::Forward),
            (0x1_0000_10fd, Action::Refuse),
            (0x1_0010_00fd, Action::Refuse),
        ];
        for (command, action) in all {
            assert_eq!(Command(command).action(), action, "{command:#x}");
        }
        for command in 0..0x10000 {
            let mode = command >> 8 & 7;
            if Command(command).action() == Action::Forward {
                assert!(mode <= 1);
            }
        }
    }

    #[test]
    fn a_command_reaches_the_processors_it_names() {
        assert_eq!(targets(2 << 32), [2]);
        assert_eq!(targets(0x1_0000), Vec::<u32>::from([0]));
        assert_eq!(targets(0x4_0000), [1]);
        assert_eq!(targets(0x8_0000).len(), 20);
        assert_eq!(targets(0xc_0000).len(), 19);
        assert_eq!(targets(0xffff_ffff << 32).len(), 20);
        assert_eq!(targets(0xffff_ffff << 32 | 0x800).len(), 20);
        assert_eq!(targets(0x0000_0005 << 32 | 0x800), [0, 2]);
        assert_eq!(targets(0x0001_0009 << 32 | 0x800), [16, 19]);
    }
}
