// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The processor: registers, exception vectors, world switch.

#![allow(unsafe_code)]

pub mod el3;
pub mod registers;
mod vectors;

pub use vectors::{enter, vector_table};
