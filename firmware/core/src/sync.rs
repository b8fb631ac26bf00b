// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Words that CPUs share: the machine's or, built with `--cfg loom`, those of a checker that tries
//! every order in which CPUs can see them.

#[cfg(not(loom))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
};
#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
};
