// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bare-metal host that drives the TSM at NS-EL2.

#![no_std]
