// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! General-purpose registers, of which the control block holds two.

use super::Save;

/// General-purpose registers that a control block does not hold, in the order of `svm.S`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gprs {
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// RBP.
    pub rbp: u64,
    /// R8 to R15.
    pub r8_15: [u64; 8],
}

impl Gprs {
    /// All zero.
    pub const ZERO: Self = Self {
        rbx: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        rbp: 0,
        r8_15: [0; 8],
    };

    /// Returns the register that `number` encodes in an instruction (0 is RAX, 4 is RSP); the two
    /// that the control block holds are taken from there.
    pub fn by_encoding<'a>(&'a mut self, save: &'a mut Save, number: u8) -> &'a mut u64 {
        let [r8, r9, r10, r11, r12, r13, r14, r15] = &mut self.r8_15;
        match number & 0xf {
            0 => &mut save.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => &mut save.rsp,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => r8,
            9 => r9,
            10 => r10,
            11 => r11,
            12 => r12,
            13 => r13,
            14 => r14,
            _ => r15,
        }
    }

    /// Returns the registers of a call, in the order of [`Self::by_call`].
    pub const fn call(&self, save: &Save) -> [u64; 15] {
        let [r8, r9, r10, r11, r12, r13, r14, r15] = self.r8_15;
        [
            save.rax, self.rdi, self.rsi, self.rdx, self.rcx, r8, r9, r10, r11, r12, r13, r14, r15,
            self.rbx, self.rbp,
        ]
    }

    /// Returns register `index` of a call: RAX, RDI, RSI, RDX, RCX, R8 to R15, RBX, RBP.
    pub fn by_call<'a>(&'a mut self, save: &'a mut Save, index: usize) -> Option<&'a mut u64> {
        const ORDER: [u8; 15] = [0, 7, 6, 2, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 5];
        let number = *ORDER.get(index)?;
        Some(self.by_encoding(save, number))
    }
}

#[cfg(test)]
mod tests {
    use super::{Gprs, Save};

    #[test]
    fn registers_of_a_call_have_the_order_of_the_contract() {
        let mut gprs = Gprs::ZERO;
        let mut save = Save::ZERO;
        for index in 0..15 {
            *gprs.by_call(&mut save, index).unwrap() = index as u64 + 100;
        }
        assert!(gprs.by_call(&mut save, 15).is_none());
        assert_eq!(save.rax, 100);
        assert_eq!(
            (gprs.rdi, gprs.rsi, gprs.rdx, gprs.rcx),
            (101, 102, 103, 104)
        );
        assert_eq!(gprs.r8_15, [105, 106, 107, 108, 109, 110, 111, 112]);
        assert_eq!((gprs.rbx, gprs.rbp, save.rsp), (113, 114, 0));
        assert_eq!(
            gprs.call(&save),
            core::array::from_fn(|index| index as u64 + 100)
        );
    }

    #[test]
    fn registers_of_an_instruction_have_the_order_of_the_manual() {
        let mut gprs = Gprs::ZERO;
        let mut save = Save::ZERO;
        for number in 0..16 {
            *gprs.by_encoding(&mut save, number) = u64::from(number) + 1;
        }
        assert_eq!((save.rax, save.rsp), (1, 5));
        assert_eq!((gprs.rcx, gprs.rdx, gprs.rbx), (2, 3, 4));
        assert_eq!((gprs.rbp, gprs.rsi, gprs.rdi), (6, 7, 8));
        assert_eq!(gprs.r8_15, [9, 10, 11, 12, 13, 14, 15, 16]);
    }
}
