// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Call numbers, register layouts, status words and shared pages of the TSM.
//!
//! One table per interface ([`rmi`] for the host, [`rsi`] for the guest) yields the decoder that the
//! core uses, the encoder that hosts and guests use, and the rows that [`document`] renders.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
    )
)]

mod call;
pub mod document;
pub mod el3;
pub mod rhi;
pub mod rmi;
pub mod rsi;
mod status;
mod values;
mod wire;

pub use call::Row;
pub use status::{MemoryRequest, RSI_NOT_SUPPORTED, RhiStatus, RmiCode, RmiStatus, RsiStatus};
pub use values::{BitField, Value};
pub use wire::WireField;
