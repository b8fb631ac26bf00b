// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entry from the firmware before the TSM: the assembly, and the numbers that it shares with Rust.

use core::arch::global_asm;

use super::segments::VECTOR_BYTES;
use crate::layout::{STACK_SIZE, STACK_STRIDE, STACK_WINDOW};

// AT&T syntax: LLVM's other one has no far jump to a constant.
global_asm!(
    include_str!("entry.S"),
    stack_size = const STACK_SIZE,
    stack_window = const STACK_WINDOW,
    options(att_syntax),
);

global_asm!(include_str!("vectors.S"), vector_bytes = const VECTOR_BYTES);

const _: () = assert!(STACK_STRIDE > STACK_SIZE);
