// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a virtual CPU of a realm is: how it starts, what it is told of its processor, and what becomes
//! of what it tries. No hardware is touched here.

pub mod cause;
pub mod cpuid;
pub mod event;
pub mod msr;
pub mod start;
