// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bare-metal confidential guest at R-EL1.

#![no_std]
